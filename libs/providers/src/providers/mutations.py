"""What a hostile or clumsy sender does to a signed request, for conformance cases.

Must never be used on a production path.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, urlencode

from contracts.errors import Invalid
from providers.reading import parse_json
from providers.sdk import InboundRequest
from providers.signing.draft import Draft, with_value
from providers.sources import Reading, every

_EPOCH: Final = datetime(2020, 1, 1, tzinfo=UTC)
_FORMATS: Final = ("json", "form", "multipart")

# What happens to the text of a signature or token; each must be refused.
DAMAGES: Final[dict[str, Callable[[str], str]]] = {
    "truncated_signature": lambda text: text[:-1],
    "extended_signature": lambda text: f"{text}0",
    "non_ascii_signature": lambda text: f"{text[:-1]}\u00e9",
    "undecodable_signature": lambda text: f"{text[:-1]}!",
}


def header_of(place: str) -> str | None:
    """Return the lower-case header that a place stands for, None when it is in the body or query."""
    if place in {"bearer", "basic"}:
        return "authorization"
    return place.removeprefix("header:").lower() if place.startswith("header:") else None


def text_at(request: InboundRequest, place: str) -> str:
    """Return the (first) text at a place."""
    header = header_of(place)
    if header is not None:
        return (request.headers.get(header) or [""])[0]
    try:
        found = [text for one in place.split("|") for text in every(one, {})(Reading(request, _FORMATS))]
    except Invalid:
        return ""
    return next((text for text in found if text), "")


def with_text(request: InboundRequest, place: str, text: str) -> InboundRequest:
    """Return the request with another text at a place, in every element if the place is in all of them."""
    header = header_of(place)
    if header is not None:
        return with_header(request, header, [text])
    draft = Draft(request, "", _EPOCH, "")
    draft.put(place, text)
    return draft.request


def with_header(request: InboundRequest, name: str, values: list[str]) -> InboundRequest:
    """Return the request with these values of a header; none removes it."""
    rest = {key: list(found) for key, found in request.headers.items() if key != name}
    return replace(request, headers={**rest, name: values} if values else rest)


def without(request: InboundRequest, place: str) -> InboundRequest:
    """Return the request without what stands at a place."""
    header = header_of(place)
    if header is not None:
        return with_header(request, header, [])
    kind, _, name = place.split("|", maxsplit=1)[0].partition(":")
    if kind == "query":
        pairs = [pair for pair in parse_qsl(request.query_string, keep_blank_values=True) if pair[0] != name]
        return replace(request, query_string=urlencode(pairs))
    return with_text(request, place, "")


def shadowed(request: InboundRequest, header: str) -> InboundRequest:
    """Return the request with the header moved to the query and a cookie, where it must not be looked for."""
    value = text_at(request, f"header:{header}")
    moved = with_header(with_header(request, header, []), "cookie", [f"{header}={value}"])
    return replace(moved, query_string=urlencode([*parse_qsl(moved.query_string), (header, value)]))


def reserialised(request: InboundRequest) -> InboundRequest | None:
    """Return the request with the same JSON in other bytes, None when the body is no JSON."""
    try:
        document = parse_json(request.body)
    except Invalid:
        return None
    body = json.dumps(document, indent=1, ensure_ascii=False).encode()
    return replace(request, body=body if body != request.body else body + b"\n")


def flipped(body: bytes) -> bytes:
    """Return the body with one bit of its middle changed."""
    changed = bytearray(body)
    changed[len(body) // 2] ^= 1
    return bytes(changed)


def with_field(request: InboundRequest, pointer: str) -> InboundRequest:
    """Return the request with another value in a field of its JSON body."""
    return replace(request, body=with_value(request.body, pointer, "tampered"))
