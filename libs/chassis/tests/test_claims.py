"""The claim-check stores: one suite over a real directory and a real server that speaks S3."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from moto.s3.models import FakeBucket, s3_backends
from pydantic import SecretStr, ValidationError

from chassis.claims import ClaimStore, open_claims
from chassis.claims.bucket import Bucket, BucketClaims
from chassis.claims.directory import DirectoryClaims
from chassis.settings import ClaimSettings
from chassis.testing.s3 import private_s3
from contracts.errors import Invalid, Transient

pytestmark = pytest.mark.asyncio

BODY = b"x" * 2_000_000
SECRET = "canary-secret-key"
BUCKET = Bucket("", "eu-central-1", "key-id", SECRET, allow_http=True)
DAY_S = 86_400.0


@dataclass(frozen=True)
class Kit:
    """One store, and what its medium lets a test do behind its back."""

    store: ClaimStore
    count: Callable[[], int]
    overwrite: Callable[[str, bytes], object]
    age: Callable[[str, float], object]
    lose: Callable[[], object]


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with private_s3() as url:
        yield url


def directory_kit(folder: Path) -> Kit:
    def path(name: str) -> Path:
        return folder / name[:2] / name

    def age(name: str, age_s: float) -> None:
        os.utime(path(name), (time.time() - age_s,) * 2)

    def lose() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.write_text("in the way")

    def count() -> int:
        return sum(one.is_file() for one in folder.rglob("*"))

    return Kit(DirectoryClaims(folder), count, lambda name, body: path(name).write_bytes(body), age, lose)


def bucket_kit(s3_url: str) -> Kit:
    bucket = replace(BUCKET, name=f"b-{uuid.uuid4().hex[:8]}", endpoint=s3_url)
    httpx.put(f"{s3_url}/{bucket.name}").raise_for_status()

    def kept() -> FakeBucket:
        (account,) = (one for one in s3_backends.values() if bucket.name in one["aws"].buckets)
        return account["aws"].buckets[bucket.name]

    def key(name: str) -> str:
        return f"claims/{name[:2]}/{name}"

    def age(name: str, age_s: float) -> None:
        kept().keys[key(name)].last_modified = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=age_s)

    def overwrite(name: str, body: bytes) -> None:
        # Who signs nothing may write what is not there yet, to this server.
        if key(name) in kept().keys:
            del kept().keys[key(name)]
        httpx.put(f"{s3_url}/{bucket.name}/{key(name)}", content=body).raise_for_status()

    def lose() -> None:
        kept().keys.clear()
        httpx.delete(f"{s3_url}/{bucket.name}").raise_for_status()

    return Kit(BucketClaims(bucket, timeout_s=5), lambda: len(kept().keys), overwrite, age, lose)


@pytest.fixture(params=["directory", "s3"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Kit:
    if request.param == "directory":
        return directory_kit(tmp_path / "claims")
    return bucket_kit(request.getfixturevalue("s3_url"))


async def test_a_body_comes_back_under_its_hash_and_storing_it_twice_is_harmless(kit: Kit) -> None:
    name = await kit.store.put(BODY)
    assert name == hashlib.sha256(BODY).hexdigest()
    assert await asyncio.gather(*(kit.store.put(BODY) for _ in range(4))) == [name] * 4
    assert await kit.store.get(name) == BODY
    assert kit.count() == 1


@pytest.mark.parametrize("body", [b"", b"\x00\xff<xml/>", b"y" * 10 * 1024 * 1024], ids=["empty", "bytes", "10 MiB"])
async def test_any_body_up_to_the_greatest_comes_back_as_it_was(kit: Kit, body: bytes) -> None:
    assert await kit.store.get(await kit.store.put(body)) == body


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64])
async def test_a_name_without_a_body_is_invalid(kit: Kit, name: str) -> None:
    await kit.store.put(b"another")
    with pytest.raises(Invalid, match="claim_missing"):
        await kit.store.get(name)


async def test_a_damaged_body_is_not_handed_out(kit: Kit) -> None:
    name = await kit.store.put(BODY)
    kit.overwrite(name, b"other")
    with pytest.raises(Invalid, match="damaged"):
        await kit.store.get(name)


async def test_a_store_that_is_gone_is_a_passing_fault_and_no_missing_body(kit: Kit) -> None:
    name = await kit.store.put(BODY)
    kit.lose()
    with pytest.raises(Transient, match="claim_store_unavailable"):
        await kit.store.put(BODY)
    with pytest.raises(Transient, match="claim_store_unavailable"):
        await kit.store.get(name)


async def test_the_sweep_takes_what_is_old_and_a_repeat_makes_a_body_young(kit: Kit) -> None:
    old, repeated, young = [await kit.store.put(body) for body in (b"old", b"repeated", b"young")]
    kit.age(old, 3 * DAY_S)
    kit.age(repeated, 3 * DAY_S)
    kit.age(young, DAY_S)
    await kit.store.put(b"repeated")
    assert await kit.store.sweep(2 * DAY_S) == 1
    assert await kit.store.get(repeated) == b"repeated"
    assert await kit.store.get(young) == b"young"
    with pytest.raises(Invalid):
        await kit.store.get(old)
    assert await kit.store.sweep(2 * DAY_S) == 0


# --- the bucket alone -------------------------------------------------------------------------------------------------


async def test_the_sweep_leaves_alone_what_is_no_body_of_ours(s3_url: str) -> None:
    kit = bucket_kit(s3_url)
    name = await kit.store.put(b"old")
    kit.overwrite("report", b"somebody else's, below the same prefix")
    for one in (name, "report"):
        kit.age(one, 3 * DAY_S)
    assert await kit.store.sweep(DAY_S) == 1
    assert kit.count() == 1


@asynccontextmanager
async def server(handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        handle(reader, writer)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_a_server_that_does_not_answer_costs_the_time_limit_and_no_more() -> None:
    held: list[asyncio.StreamWriter] = []
    async with server(lambda _reader, writer: held.append(writer)) as url:
        store = BucketClaims(replace(BUCKET, name="b", endpoint=url), timeout_s=0.3)
        for call in (store.put(b"x"), store.get("0" * 64), store.sweep(1)):
            started = time.monotonic()
            with pytest.raises(Transient, match="claim_store_unavailable"):
                await call
            assert time.monotonic() - started < 2
        for writer in held:
            writer.close()


async def test_a_refusal_is_a_passing_fault_that_names_no_secret() -> None:
    def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async with server(refuse) as url:
        store = BucketClaims(replace(BUCKET, name="b", endpoint=url), timeout_s=5)
        for call in (store.put(b"x"), store.get("0" * 64)):
            with pytest.raises(Transient, match="claim_store_unavailable: PermissionDenied") as caught:
                await call
            assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}{store!r}"


# --- settings ---------------------------------------------------------------------------------------------------------


def settings(**given: object) -> ClaimSettings:
    needed = {"kafka_bootstrap": "k", "jwks": "j", "jwt_issuer": "i"}
    return ClaimSettings.model_validate(needed | given)


S3 = {
    "claim_store": "s3",
    "claim_s3_bucket": "b",
    "claim_s3_endpoint": "https://s3.test",
    "claim_s3_access_key": SecretStr("a"),
    "claim_s3_secret_key": SecretStr(SECRET),
}


async def test_a_directory_is_the_default_and_a_bucket_is_configuration() -> None:
    assert isinstance(open_claims(settings()), DirectoryClaims)
    assert isinstance(open_claims(settings(**S3)), BucketClaims)
    assert SECRET not in repr(settings(**S3))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"claim_s3_bucket": ""}, "claim_s3_bucket: required"),
        ({"claim_s3_access_key": SecretStr("")}, "claim_s3_access_key: required"),
        ({"claim_s3_secret_key": SecretStr("")}, "claim_s3_secret_key: required"),
        ({"claim_s3_endpoint": "http://s3.test"}, "claim_s3_endpoint: must be https"),
        ({"claim_s3_endpoint": "s3.test/path"}, "claim_s3_endpoint"),
        ({"claim_s3_timeout_s": 0}, "claim_s3_timeout_s"),
        ({"claim_store": "ftp"}, "claim_store"),
    ],
)
async def test_a_bucket_that_could_not_be_used_is_refused_at_the_start(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**(S3 | given))
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
