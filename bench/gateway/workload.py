"""Ready-made requests: signed as their vendors do, each with an id of its own."""

from __future__ import annotations

import copy
import json
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench.gateway.load import Request
from bench.gateway.world import Target
from chassis.testing.ports import LOOPBACK
from providers import registry
from providers.provider import Provider

# gateway.md §5: shares of body sizes in bytes. The largest go through the claim-check store.
SIZES = ((60, 1_000, 2_000), (30, 8_000, 16_000), (9, 64_000, 128_000), (1, 1_000_000, 5_000_000))


@dataclass(frozen=True)
class Shape:
    """A provider's fixture to make requests of, and the pointers that make each one another event."""

    provider: Provider
    document: dict[str, Any]
    content_type: str
    headers: dict[str, str]


def shape(slug: str, fixture: str = "") -> Shape:
    """Return the named JSON fixture of a provider, or its first."""
    provider = registry.get(slug)
    found = next(f for f in provider.fixtures() if fixture in (f.name, ""))
    return Shape(provider, json.loads(found.body), found.content_type, dict(found.headers))


def request(target: Target, shown: Shape, *, group: str, size: int = 0, spoil: bool = False) -> Request:
    """Return one request with a new event id, padded to about `size` bytes, with a wrong signature if `spoil`."""
    document = copy.deepcopy(shown.document)
    identifier = uuid.uuid4().hex
    webhook = shown.provider.webhook
    # Another event of another entity each time: events of one entity share a partition, and so would all of these.
    for source in (*webhook.event_id, *(source for rule in webhook.entities for source in rule.id)):
        if isinstance(source, str) and source.startswith("body:"):
            _put(document, source.removeprefix("body:"), identifier)
    body = json.dumps(document, separators=(",", ":")).encode()
    if len(body) < size:
        document["bench_padding"] = "x" * (size - len(body) - 20)
        body = json.dumps(document, separators=(",", ":")).encode()
    headers = {
        **shown.headers,
        **shown.provider.verifier(target.options).sign(
            body,
            url=target.url,
            secret=target.keys.signing,
            now=datetime.now(UTC),
            content_type=shown.content_type,
            message_id=identifier,
        ),
    }
    if spoil:
        body = body[:-1] + b" }"
    return Request(_raw(target.endpoint, headers, body), group)


def mixed_sizes(rng: random.Random) -> Iterator[int]:
    """Yield body sizes in the shares of `SIZES`."""
    while True:
        _, low, high = rng.choices(SIZES, [share for share, _, _ in SIZES])[0]
        yield rng.randint(low, high)


def total_bytes(requests: Sequence[Request]) -> int:
    """Return how many bytes the requests have."""
    return sum(len(request.raw) for request in requests)


def _raw(endpoint: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST /hooks/{endpoint} HTTP/1.1", f"Host: {LOOPBACK}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _put(document: dict[str, Any], pointer: str, value: str) -> None:
    *path, last = pointer.split("/")[1:]
    for step in path:
        document = document.setdefault(step, {})
    document[last] = value
