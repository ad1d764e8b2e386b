"""What people may see of a stored delivery: redacted fields, masked card numbers, no credentials.

Fails closed: a body that has fields to hide and cannot be taken apart is not shown at all.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from providers import cards
from providers.reading import at
from webhook_gateway.hidden import Hidden

HIDDEN: Final = "[redacted]"
NOT_SHOWN: Final = "[not shown: this body has fields to hide and is neither JSON nor a form]"
FORM_TYPE: Final = "application/x-www-form-urlencoded"
# A body that unpacks to more than the gateway takes was refused there; this only bounds what a stored one may do.
_MAX_PLAIN_BYTES: Final = 16 * 1024 * 1024


def redact(document: Any, pointers: Sequence[str]) -> Any:
    """Return the document with what the JSON pointers (RFC 6901) name replaced; `*` stands for every member.

    The document is changed in place. A pointer that names nothing is ignored.
    """
    for pointer in pointers:
        parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
        if not parts:
            return HIDDEN
        _hide(document, parts)
    return document


def readable(data: bytes, content_type: str, pointers: Sequence[str]) -> Any:
    """Return an event's own bytes as they may be shown: JSON as JSON, a form as its fields, else text.

    Card numbers are masked. With `pointers`, bytes that are neither JSON nor a form are not shown.
    """
    masked = cards.mask(data)
    try:
        return redact(orjson.loads(masked), pointers)
    except orjson.JSONDecodeError:
        text = masked.decode(errors="replace")
    if not pointers:
        return text
    if content_type.partition(";")[0].strip().lower() == FORM_TYPE:
        return redact(dict(parse_qsl(text, keep_blank_values=True)), pointers)
    return NOT_SHOWN


def own_bytes(row: Mapping[str, Any]) -> bytes | None:
    """Return the bytes of the event itself out of a stored row, without content coding.

    Item 0 of a batch is stored as the whole request; None when its own part cannot be found in it.
    """
    body: bytes = row["body"]
    # The items behind the first of a batch are stored by themselves; only the request itself is in its coding.
    if row["item"] != 0:
        return body
    plain = inflate(body) if row["encoding"] else body
    if row["items"] == 0:
        return plain
    try:
        found = at(orjson.loads(plain), row["place"] or "/0")
    except orjson.JSONDecodeError:
        return None
    return None if found is None else orjson.dumps(found)


def inflate(body: bytes) -> bytes:
    """Return a gzip body unpacked, at most `_MAX_PLAIN_BYTES`; as it is when it cannot be unpacked."""
    try:
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(body, _MAX_PLAIN_BYTES)
    except zlib.error:
        return body


def shown(row: Mapping[str, Any], hidden: Hidden) -> dict[str, Any]:
    """Return a stored row as people may see it."""
    own = own_bytes(row)
    if own is not None:
        body = readable(own, row["content_type"], hidden.pointers)
    else:
        body = NOT_SHOWN if hidden.pointers else cards.mask(row["body"]).decode(errors="replace")
    return dict(row) | {"headers": shown_headers(row["headers"], hidden), "body": body}


def shown_headers(headers: Sequence[Sequence[str]], hidden: Hidden) -> list[list[str]]:
    """Return headers without the values of those that are credentials."""
    return [[name, HIDDEN if hidden.hides(name) else value] for name, value in headers]


def _hide(node: Any, parts: Sequence[str]) -> None:
    head, rest = parts[0], parts[1:]
    for key in _members(node, head):
        if rest:
            _hide(node[key], rest)
        else:
            node[key] = HIDDEN


def _members(node: Any, part: str) -> list[Any]:
    if isinstance(node, dict):
        return list(node) if part == "*" and "*" not in node else [part] if part in node else []
    if isinstance(node, list):
        if part == "*":
            return list(range(len(node)))
        return [int(part)] if part.isdecimal() and int(part) < len(node) else []
    return []
