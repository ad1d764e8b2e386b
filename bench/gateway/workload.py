"""Ready-made requests: signed as their vendors do, each with an id of its own."""

from __future__ import annotations

import copy
import gzip
import json
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.gateway.load import Request
from bench.gateway.world import Target
from chassis.testing.ports import LOOPBACK
from providers import registry
from providers.provider import Provider

# gateway.md §5: shares of body sizes in bytes. The largest go through the claim-check store.
SIZES = ((60, 1_000, 2_000), (30, 8_000, 16_000), (9, 64_000, 128_000), (1, 1_000_000, 5_000_000))
# The same page's shares of schemes, in percent, by a provider that has each.
SCHEMES = {
    "stripe": 25,
    "github": 20,
    "shopify": 20,
    "slack": 10,
    "standard_webhooks": 10,
    "hubspot": 5,
    "discord": 5,
    "opsgenie": 5,
}
# And of what is mixed in: bad signatures, repeats after a while and at once, conflicts, codings, stale stamps.
KINDS = {"usual": 83.5, "bad": 5, "again": 3, "at once": 2, "conflict": 0.5, "chunked": 5, "gzip": 2, "stale": 1}
NAMED_IN_BODY = ("body:/id", "body:/event_id")
SMALL_SHARE = 2 / 3
AGAIN_AFTER = 500


@dataclass(frozen=True)
class Shape:
    """A provider's fixture to make requests of, and the pointers that make each one another event."""

    provider: Provider
    document: Any
    content_type: str
    headers: dict[str, str]


def shape(slug: str, fixture: str = "") -> Shape:
    """Return the named JSON fixture of a provider, or its first."""
    provider = registry.get(slug)
    found = next(f for f in provider.fixtures() if fixture in (f.name, ""))
    return Shape(provider, json.loads(found.body), found.content_type, dict(found.headers))


@dataclass(frozen=True)
class Twist:
    """What is unusual about a request. `age_s` is how long ago it was signed; `identifier` names an event again."""

    spoil: bool = False
    age_s: float = 0.0
    gzip: bool = False
    chunked: bool = False
    identifier: str = ""


PLAIN = Twist()


def request(target: Target, shown: Shape, *, group: str, size: int = 0, twist: Twist = PLAIN) -> Request:
    """Return one signed request of about `size` bytes: a new event of another entity, unless the twist names one.

    Events of one entity share a partition, and so would all of these.
    """
    document = copy.deepcopy(shown.document)
    identifier = twist.identifier or uuid.uuid4().hex
    webhook = shown.provider.webhook
    items = document if isinstance(document, list) else [document]
    for source in (*webhook.event_id, *(source for rule in webhook.entities for source in rule.id)):
        if isinstance(source, str) and source.startswith("body:"):
            for item in items:
                _put(item, source.removeprefix("body:"), identifier)
    # Of its own even where no pointer leads to the id: then the event is named by the digest of its body.
    items[0]["bench_padding"] = uuid.uuid4().hex
    body = json.dumps(document, separators=(",", ":")).encode()
    if len(body) < size:
        items[0]["bench_padding"] += "x" * (size - len(body))
        body = json.dumps(document, separators=(",", ":")).encode()
    if twist.gzip:
        body = gzip.compress(body, compresslevel=1)
    headers = {
        **shown.headers,
        **shown.provider.verifier(target.options).sign(
            body,
            url=target.url,
            secret=target.keys.signing,
            now=datetime.now(UTC) - timedelta(seconds=twist.age_s),
            content_type=shown.content_type,
            message_id=identifier,
        ),
    }
    if twist.gzip:
        headers["Content-Encoding"] = "gzip"
    if twist.spoil:
        body = body[:-1] + b" }"
    return Request(_raw(target.endpoint, headers, body, chunked=twist.chunked), group)


def mixture(targets: Mapping[str, Target], count: int, rng: random.Random) -> list[Request]:
    """Return the workload of gateway.md §5: its shares of schemes, sizes, bad signatures, repeats and codings.

    Groups are what an answer must be: `accepted` or `refused`. Bodies are of the two smaller sizes, so that it is the
    number of deliveries that counts; the larger ones are the scenario `sizes`.
    """
    shapes = {slug: shape(slug) for slug in SCHEMES}
    named = [slug for slug, shown in shapes.items() if shown.provider.webhook.event_id[0] in NAMED_IN_BODY]
    out: list[Request] = []
    while len(out) < count:
        slug = rng.choices(list(SCHEMES), list(SCHEMES.values()))[0]
        target, shown = targets[slug], shapes[slug]
        size = rng.randint(1_000, 2_000) if rng.random() < SMALL_SHARE else rng.randint(8_000, 16_000)
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "conflict":
            # Only where the body itself names the event can another body claim the same name.
            slug = rng.choice(named)
            identifier = uuid.uuid4().hex
            out += [
                request(targets[slug], shapes[slug], group="accepted", size=size, twist=Twist(identifier=identifier))
                for _ in range(2)
            ]
            continue
        traits = shown.provider.traits(target.options)
        age_s = 3600.0 if kind == "stale" and traits is not None and traits.stale_after_s else 0.0
        # A token says nothing of the body.
        spoil = kind == "bad" and traits is not None and traits.covers == "body"
        twist = Twist(spoil=spoil, age_s=age_s, gzip=kind == "gzip", chunked=kind == "chunked")
        made = request(target, shown, group="refused" if twist.spoil or age_s else "accepted", size=size, twist=twist)
        out += [made] * (2 if kind == "at once" else 1)
        if kind == "again" and len(out) > AGAIN_AFTER:
            out.append(replace(out[-AGAIN_AFTER]))
    return out[:count]


def mixed_sizes(rng: random.Random) -> Iterator[int]:
    """Yield body sizes in the shares of `SIZES`."""
    while True:
        _, low, high = rng.choices(SIZES, [share for share, _, _ in SIZES])[0]
        yield rng.randint(low, high)


def total_bytes(requests: Sequence[Request]) -> int:
    """Return how many bytes the requests have."""
    return sum(len(request.raw) for request in requests)


def _raw(endpoint: str, headers: dict[str, str], body: bytes, *, chunked: bool) -> bytes:
    lines = [f"POST /hooks/{endpoint} HTTP/1.1", f"Host: {LOOPBACK}"]
    lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if chunked:
        half = len(body) // 2
        pieces = (body[:half], body[half:], b"")
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _put(document: dict[str, Any], pointer: str, value: str) -> None:
    *path, last = pointer.split("/")[1:]
    for step in path:
        document = document.setdefault(step, {})
    if isinstance(document, dict):
        document[last] = value
