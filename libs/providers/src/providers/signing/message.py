"""The bytes that are signed: a manifest's template, compiled once, filled from a request.

Must never decode and re-encode the body: `{body}` is the bytes as received.
"""

from __future__ import annotations

import re
import secrets as random
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from contracts.errors import Invalid
from providers.manifest.signatures import TimestampUnit
from providers.sdk import InboundRequest, Refused
from providers.signing.base import only, raw
from providers.signing.draft import Draft
from providers.signing.stamps import within, written
from providers.sources import Reader, Reading, reader


@dataclass(frozen=True, slots=True)
class Reads:
    """How a provider's bodies are read, and the endpoint's options: what places depend on."""

    options: Mapping[str, str]
    formats: tuple[str, ...] = ("json",)
    form_json: str = ""
    folder: Path | None = None

    def file(self, name: str) -> bytes:
        """Return a file of the provider's folder, empty without a name."""
        return (self.folder / name).read_bytes() if self.folder is not None and name else b""

    def of(self, request: InboundRequest) -> Reading:
        """Return the reading of a request."""
        return Reading(request, self.formats, self.form_json)


# (reading, timestamp, secret) -> bytes
Piece = Callable[[Reading, bytes, bytes], bytes]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_WORDS: Final[dict[str, Piece]] = {
    "body": lambda one, _stamp, _secret: one.request.body,
    "url": lambda one, _stamp, _secret: _utf8(one.request.url),
    "url_decoded": lambda one, _stamp, _secret: _utf8(unquote(one.request.url)),
    "method": lambda one, _stamp, _secret: _utf8(one.request.method),
    "timestamp": lambda _one, stamp, _secret: stamp,
    "secret": lambda _one, _stamp, secret: secret,
    "crc32": lambda one, _stamp, _secret: b"%d" % zlib.crc32(one.request.body),
}


class Template:
    """A compiled template. `headers` are the names of the headers that take part, as the manifest writes them."""

    def __init__(self, text: str, reads: Reads) -> None:
        self.headers: list[str] = []
        self.places: list[str] = []
        pieces = re.split(r"\{([^{}]*)\}", text)
        self._pieces = [self._place(one, reads) if i % 2 else _literal(one) for i, one in enumerate(pieces)]
        self.names_secret = "{secret}" in text

    def fill(self, reading: Reading, stamp: bytes, secret: bytes = b"") -> bytes:
        """Return the message; raises `Refused` when a part is absent or the body cannot be read."""
        return b"".join([piece(reading, stamp, secret) for piece in self._pieces])

    def complete(self, draft: Draft) -> None:
        """Give the draft the headers and fields that the template needs and the request lacks."""
        for place in self.places:
            if place.startswith("header:"):
                missing = draft.request.header(place.removeprefix("header:")) is None
            else:
                missing = "option:" not in place and _absent_field(draft.request, place)
            if missing:
                draft.put(place, draft.message_id or random.token_hex(16))

    def _place(self, name: str, reads: Reads) -> Piece:
        if name in _WORDS:
            return _WORDS[name]
        optional = name.endswith("?")
        place = name.removesuffix("?")
        if not optional:
            self.places.append(place)
        if place.startswith("header:"):
            header = place.removeprefix("header:")
            self.headers.append(header)
            if optional:
                return lambda one, _stamp, _secret: raw(one.request.header(header) or "")
            return lambda one, _stamp, _secret: raw(only(one.request, header))
        return _field(reader(place, reads.options), optional=optional)


def _literal(text: str) -> Piece:
    data = text.encode()
    return lambda _one, _stamp, _secret: data


def _field(read: Reader, *, optional: bool) -> Piece:
    def piece(one: Reading, _stamp: bytes, _secret: bytes) -> bytes:
        text = read_or_refuse(read, one)
        if text is None and not optional:
            raise Refused("missing_signature")
        return _utf8(text or "")

    return piece


def _absent_field(request: InboundRequest, place: str) -> bool:
    try:
        return reader(place, {})(Reading(request, ("json", "form"))) is None
    except Invalid:
        return False


def read_or_refuse(read: Reader, one: Reading) -> str | None:
    """Return what a reader finds; a body that cannot be read is refused (`undecodable_body`)."""
    try:
        return read(one)
    except Invalid:
        raise Refused("undecodable_body") from None


def required(place: str, reads: Reads) -> Callable[[Reading], str]:
    """Return the function that reads a place that must have a value; a repeated header is refused as ambiguous."""
    if place.startswith("header:"):
        header = place.removeprefix("header:")
        return lambda one: only(one.request, header)
    read = reader(place, reads.options)

    def value(one: Reading) -> str:
        text = read_or_refuse(read, one)
        if text is None:
            raise Refused("missing_signature")
        return text

    return value


class Stamp:
    """The place and window of a signed time, compiled; without a place there is none."""

    def __init__(self, place: str | None, unit: TimestampUnit, tolerance_s: int | None, reads: Reads) -> None:
        self.place = place
        self.header = place.removeprefix("header:") if place and place.startswith("header:") else None
        self.tolerance_s = tolerance_s
        self._unit = unit
        self._read = required(place, reads) if place else None

    def read(self, reading: Reading) -> str:
        """Return the stamp as written, empty without a place; raises `Refused` when it is missing."""
        return self._read(reading) if self._read is not None else ""

    def check(self, text: str, now: datetime) -> datetime | None:
        """Return the time, None without one; raises `Refused` when it is unreadable or outside of the window."""
        return within(text, self._unit, now, self.tolerance_s) if text else None

    def write(self, now: datetime) -> str:
        """Return now as the sender writes it."""
        return written(now, self._unit)

    def put(self, draft: Draft) -> str:
        """Write the time into the draft and return it; empty without a place."""
        if self.place is None:
            return ""
        text = self.write(draft.now)
        draft.put(self.place, text)
        return text
