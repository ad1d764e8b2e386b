"""What the webhook gateway says: a delivery was accepted, or refused.

An accepted delivery's value is the provider's body as received, so its facts travel as CloudEvents extensions
(`DeliveryAttributes`), and no reader has to parse a body to route it.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, Final, Literal, get_args
from urllib.parse import parse_qsl

from pydantic import Field
from pydantic_core import from_json, to_json

from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.events.base import Event, Instant

DELIVERY_ACCEPTED: Final = "delivery.accepted.v1"
# A verified body that its manifest cannot read is still the provider's word: it is kept under this type.
UNREADABLE_TYPE: Final = "unreadable"

# Why a delivery was refused; the same words are the `reason` label of the gateway's metrics.
RejectionReason = Literal[
    "missing_signature",
    "malformed_signature",
    "bad_signature",
    "stale_timestamp",
    "future_timestamp",
    "no_secret",
    "body_too_large",
    "bad_encoding",
    "method_not_allowed",
    "slow_body",
    "undecodable_body",
    "key_unavailable",
    "address_not_allowed",
    "rate_limited",
    "shed",
    "endpoint_retired",
    "too_many_items",
    "handshake_refused",
]

# Where an accepted delivery came from: pushed, sent again by an operator, or fetched because it was missed.
DeliverySource = Literal["webhook", "replay", "reconcile"]
# Words of `DeliveryAttributes.place`.
FORM: Final = "form:"
BESIDE: Final = "beside"
# Why an accepted delivery is held back from the lanes: its endpoint is paused, or its id came before with another body.
Quarantine = Literal["", "paused", "conflict"]


# Not frozen, though nobody changes one: the frozen constructor costs 4 µs for so many fields, and runs per webhook.
@dataclass(slots=True)
class DeliveryAttributes:
    """Facts about one accepted delivery, or about one item of a batch that came in one request.

    `delivery` names the HTTP request; with `item` it names the record. `items` counts the events of a batch and is 0
    when the body itself is the event. Item 0 of a batch carries the whole raw request
    as its value, the others only their own bytes, so that the request can be verified again. `event` and `eventtype`
    are the provider's own words; `entity` is `kind:id` when the manifest could name the canonical entity. `signed` are
    the headers that the signature covers or consists of, lower-case. `origin` is webhook, replay or reconcile, and
    `replay` names the operator's act. `apiversion` is the provider's own, where its events say it. `quarantine` says
    why the delivery is not in a lane. `cards` counts the card numbers that were found in the body. `claim` is the
    SHA-256 under which a body too large for the broker lies in the claim-check store; the record's value is empty then.
    `place` is where the event stands in a body that is more than the event: a JSON pointer, `form:` and a field, or
    `beside` when the value is the event and the body lies in the claim-check store, `beside:` and a SHA-256 when the
    event lies there too. Of another item than 0, `claim` is the item's own. `fingerprint` is what two bodies of
    one event are compared by, without the fields that a vendor varies between repeats; empty when nobody knows it.
    """

    delivery: str
    provider: str
    endpoint: str
    connection: str
    tenant: str
    lane: str
    event: str
    eventtype: str
    receivedat: datetime
    verifiedat: datetime
    keyid: str
    bodysha256: str
    method: str = "POST"
    entity: str = ""
    item: int = 0
    items: int = 0
    encoding: Literal["", "gzip"] = ""
    signed: tuple[tuple[str, str], ...] = ()
    apiversion: str = ""
    origin: DeliverySource = "webhook"
    replay: str = ""
    quarantine: Quarantine = ""
    cards: int = 0
    claim: str = ""
    place: str = ""
    fingerprint: str = ""

    def extensions(self) -> dict[str, str]:
        """Return the attributes as CloudEvents extensions; what has its default value is left out."""
        out = {
            "delivery": self.delivery,
            "provider": self.provider,
            "endpoint": self.endpoint,
            "connection": self.connection,
            "tenant": self.tenant,
            "lane": self.lane,
            "event": self.event,
            "eventtype": self.eventtype,
            "receivedat": self.receivedat.isoformat(),
            "verifiedat": self.verifiedat.isoformat(),
            "keyid": self.keyid,
            "bodysha256": self.bodysha256,
        }
        if self.signed:
            out["signed"] = to_json(self.signed).decode()
        if self.method != "POST":
            out["method"] = self.method
        if self.origin != "webhook":
            out["origin"] = self.origin
        for name in (
            "entity",
            "item",
            "items",
            "encoding",
            "apiversion",
            "replay",
            "quarantine",
            "cards",
            "claim",
            "place",
            "fingerprint",
        ):
            value = getattr(self, name)
            if value:
                out[name] = str(value)
        return out

    @classmethod
    def of(cls, envelope: Envelope) -> DeliveryAttributes:
        """Return the attributes of an accepted delivery; raises `Invalid` (`bad_delivery`) if one is wrong."""
        raw = envelope.extensions
        try:
            text = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
            signed = tuple((str(name), str(value)) for name, value in json.loads(raw.get("signed", "[]")))
            values: dict[str, Any] = text | {
                "receivedat": _instant(raw["receivedat"]),
                "verifiedat": _instant(raw["verifiedat"]),
                "item": int(raw.get("item", "0")),
                "items": int(raw.get("items", "0")),
                "encoding": _word(raw, "encoding", ("", "gzip"), ""),
                "signed": signed,
                "origin": _word(raw, "origin", get_args(DeliverySource), "webhook"),
                "quarantine": _word(raw, "quarantine", get_args(Quarantine), ""),
                "cards": int(raw.get("cards", "0")),
            }
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid("bad_delivery", f"extension {error}", field="extensions") from error

    def payload(self, data: bytes) -> bytes:
        """Return this item's own bytes out of the record's value.

        The value of a single event is the body as received; that of item 0 of a batch is the whole body. Both are in
        the request's content coding, which the gateway has bounded. Raises `Invalid` (`bad_delivery`).
        """
        if self.item > 0 or self.place.startswith(BESIDE):
            return data
        try:
            body = gzip.decompress(data) if self.encoding else data
            if self.place.startswith(FORM):
                return dict(parse_qsl(body.decode("ascii"), strict_parsing=True))[self.place[len(FORM) :]].encode()
            if self.items == 0:
                return body
            item: Any = from_json(body)
            for step in self.place.split("/")[1:] or ["0"]:
                item = item[int(step)] if isinstance(item, list) else item[step.replace("~1", "/").replace("~0", "~")]
        except (OSError, EOFError, zlib.error, ValueError, LookupError, TypeError) as error:
            raise Invalid(
                "bad_delivery", "the value is not in its coding, or has no such item", field="data"
            ) from error
        return json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode()


def _word(raw: Mapping[str, str], name: str, words: tuple[str, ...], default: str) -> str:
    word = raw.get(name, default)
    if word not in words:
        raise ValueError(f"{name} is not one of ours")
    return word


def _instant(text: str) -> datetime:
    """Return an RFC 3339 time; raises `ValueError` when it is none, or has no offset."""
    parsed = datetime.fromisoformat(text)
    if parsed.tzinfo is None:
        raise ValueError("a time has no offset")
    return parsed


def delivery_source(provider: str, connection: str) -> str:
    """Return the CloudEvents source of a connection's deliveries; with the event's id it is what consumers know it by.

    Equal for whoever writes the delivery, so that an event that is fetched later is absorbed if it did arrive.
    """
    return f"patchbay/webhook-gateway/{provider}/{connection}"


class DeliveryRejected(Event):
    """A delivery was refused; kept so that an operator can see why and verify it again after a fix.

    `body` is base64 and at most 64 KiB of what came; credentials are never among `headers`.
    """

    TYPE: ClassVar[str] = "delivery.rejected.v1"

    delivery: str
    endpoint: str
    provider: str
    tenant: str
    connection: str
    reason: RejectionReason
    status: int
    method: str
    received_at: Instant
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    body_bytes: int = 0


class DeliveryRepeated(Event):
    """A provider sent an event again whose first delivery is durable: acknowledged, and not written to a lane again.

    `item` is its place in the delivery that repeats it.
    """

    TYPE: ClassVar[str] = "delivery.repeated.v1"

    delivery: str
    first_delivery: str
    item: int = 0
    endpoint: str
    provider: str
    tenant: str
    connection: str
    event: str
    event_type: str
    key_id: str
    received_at: Instant
    body_sha256: str


class SourceFellSilent(Event):
    """An endpoint that normally speaks has not for longer than its rhythm explains; what it missed should be fetched.

    `last_at` is when its last delivery came.
    """

    TYPE: ClassVar[str] = "source.silent.v1"

    endpoint: str
    tenant: str
    provider: str
    last_at: Instant
    at: Instant


class AdmissionChanged(Event):
    """How the gateway must treat bulk deliveries from now on; the newest record counts, critical is never affected.

    `emergency` is an operator's switch and sheds all bulk. `bulk_per_s` is what all gateways together let in
    while the consumers lag; None means no limit. `reason` is for people.
    """

    TYPE: ClassVar[str] = "admission.changed.v1"

    emergency: bool
    bulk_per_s: float | None = Field(default=None, ge=0)
    reason: str
    by: str
    at: Instant


class EndpointCodeOffered(Event):
    """A provider posted a code to an endpoint that is being set up; an operator may make it the endpoint's secret.

    It came unverified, so nothing uses it by itself. `sealed` is base64, sealed for `endpoint_code_place`.
    """

    TYPE: ClassVar[str] = "endpoint.code.v1"

    endpoint: str
    tenant: str
    provider: str
    sealed: str
    received_at: Instant


def endpoint_code_place(tenant: str, endpoint: str) -> str:
    """Return the place that an offered code is sealed for."""
    return f"code|{tenant}|{endpoint}"
