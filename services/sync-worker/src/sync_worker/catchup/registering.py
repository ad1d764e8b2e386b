"""What a subscription is made of: checked when it is asked for, filled in when it is registered.

Must never log or return the secret that a provider is told.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from chassis.db import connection as db
from chassis.sealing import Keyring, SealError
from contracts.errors import Invalid
from contracts.events.sync import endpoint_secret_place
from providers import registry
from providers.manifest.feeds import SubscriptionSpec
from sync_worker.catchup.calls import Stopped
from sync_worker.models import Connection, EndpointAddress, EndpointKey, Subscription
from sync_worker.repository import endpoints
from sync_worker.repository.endpoints import Stored

_IDS: Final = uuid.UUID("5b8f2c1e-0a6d-5e0c-9f55-6c1f4a7a9d22")


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants to be registered: a stream of the manifest, for a named endpoint or the first one."""

    stream: str
    parameters: Mapping[str, str]
    endpoint: str
    by: str


async def wanted(connection: db.Connection, found: Connection, wish: Wish, now: datetime) -> Subscription:
    """Return a subscription to be stored; raises `Invalid` that names the field for what cannot be registered."""
    stream, parameters, endpoint = wish.stream, wish.parameters, wish.endpoint
    spec = registry.get(found.provider).manifest.subscription(stream)
    if spec is None:
        raise Invalid("unknown_stream", f"{found.provider} has no subscription of this name", field="stream")
    for name in (*spec.parameters, *parameters):
        rule, value = spec.parameters.get(name), parameters.get(name)
        if rule is None:
            raise Invalid("unknown_parameter", "there is no such parameter", field=f"parameters.{name}")
        if value is None or re.fullmatch(rule, value) is None:
            raise Invalid("bad_parameter", f"must match {rule}", field=f"parameters.{name}")
    own = await endpoints.of_connection(connection, found.id)
    if not own or (endpoint and endpoint not in own):
        raise Invalid("unknown_endpoint", "the connection has no such endpoint", field="endpoint")
    return Subscription(
        connection=found.id,
        stream=stream,
        tenant=found.tenant,
        endpoint=endpoint or own[0],
        parameters=dict(parameters),
        due_at=now,
        created_at=now,
        created_by=wish.by,
    )


def values_of(
    one: Subscription, spec: SubscriptionSpec, stored: Stored, keyring: Keyring, now: datetime
) -> dict[str, Any]:
    """Return what the templates of a subscription may name; raises `Stopped` when its endpoint has no key or address.

    The id of our choice is another one for each lease, because vendors want one that was never used.
    """
    addresses = [address.url for address in stored.addresses if _lasts(address, now)]
    keys = [key for key in stored.keys if _lasts(key, now) and key.sealed is not None]
    if not addresses or not keys:
        raise Stopped("ours", "the endpoint has no address or no key", None)
    key = keys[-1]
    try:
        secret = keyring.open(key.sealed or b"", endpoint_secret_place(stored.tenant, one.endpoint, key.key_id))
    except SealError:
        raise Stopped("ours", "the endpoint's key cannot be opened", None) from None
    values = {"url": addresses[-1], "secret": secret, "ext_id": one.ext_id, "more": one.more}
    values |= {"parameter": one.parameters, "id": str(uuid.uuid5(_IDS, f"{one.connection}:{one.stream}:{one.gen}"))}
    return values | ({"expires": now + timedelta(seconds=spec.lifetime_s)} if spec.lifetime_s else {})


def urls_of(stored: Stored) -> list[str]:
    """Return every address that is or was the endpoint's."""
    return [address.url for address in stored.addresses]


def _lasts(one: EndpointKey | EndpointAddress, now: datetime) -> bool:
    return one.not_after is None or now < one.not_after
