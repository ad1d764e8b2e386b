"""The claim-check store in a bucket of anything that speaks S3.

A body is one object, written whole in one request, over whatever is under its name: that is the same bytes, and its
age starts again. Must never delete an object whose key is not a body's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from obstore.exceptions import BaseError
from obstore.store import S3Store

from chassis.claims.store import checked, is_name, missing, name_of, unavailable, undamaged

if TYPE_CHECKING:  # exists for type checkers only
    from obstore.store import S3Config

_PREFIX: Final = "claims/"
# One attempt more, at once: a connection that the other side closed while it was idle is not an outage.
_RETRIES: Final = 1
_BACKOFF: Final = timedelta(milliseconds=50)
# What S3 lists, and deletes, by one request.
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where the bucket is and who may use it; without an endpoint it is Amazon's."""

    name: str
    region: str
    access_key: str
    secret_key: str
    endpoint: str = ""
    allow_http: bool = False


class BucketClaims:
    """Bodies as objects of a bucket, below one prefix. `timeout_s` bounds each call as a whole."""

    def __init__(self, bucket: Bucket, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        limit = timedelta(seconds=timeout_s)
        config: S3Config = {
            "region": bucket.region,
            "access_key_id": bucket.access_key,
            "secret_access_key": bucket.secret_key,
            # Whatever is not Amazon's seldom has a host name per bucket.
            "virtual_hosted_style_request": not bucket.endpoint,
        }
        if bucket.endpoint:
            config["endpoint"] = bucket.endpoint
        self._store = S3Store(
            bucket.name,
            config=config,
            client_options={"allow_http": bucket.allow_http, "timeout": limit, "connect_timeout": limit},
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": limit,
                "backoff": {"init_backoff": _BACKOFF, "max_backoff": _BACKOFF, "base": 2},
            },
        )

    async def put(self, body: bytes) -> str:
        """Store a body and return its name; the server has it when it returns. See `ClaimStore`."""
        name = name_of(body)
        async with self._call():
            await self._store.put_async(_key(name), body, use_multipart=False)
        return name

    async def get(self, name: str) -> bytes:
        """Return a body by its name. See `ClaimStore`."""
        key = _key(checked(name))
        async with self._call():
            try:
                found = await self._store.get_async(key)
                return undamaged(name, bytes(await found.bytes_async()))
            except FileNotFoundError:
                # A bucket that is not there says the same of each object, and is a fault of ours, not of the claim.
                await self._store.list_with_delimiter_async(key)
                raise missing() from None

    async def sweep(self, older_than_s: float) -> int:
        """Delete old bodies. See `ClaimStore`; here the time limit is one page's."""
        # lint-skip: PB003 the ages of objects are by the server's clock, whatever clock the service runs on
        limit = datetime.now(UTC) - timedelta(seconds=older_than_s)
        swept = 0
        pages = aiter(self._store.list(_PREFIX, chunk_size=_PAGE))
        while True:
            async with self._call():
                page = await anext(pages, None)
                if page is None:
                    return swept
                old = [one["path"] for one in page if one["last_modified"] < limit and _is_ours(one["path"])]
                await self._store.delete_async(old)
                swept += len(old)

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except (BaseError, OSError) as error:
            raise unavailable(error) from error


def _key(name: str) -> str:
    return f"{_PREFIX}{name[:2]}/{name}"


def _is_ours(key: str) -> bool:
    name = key.rpartition("/")[2]
    return is_name(name) and key == _key(name)
