"""Where values of a request stand: one reading of it, shared by splitting, signing and handshakes.

Must never trust what it reads, nor parse a body twice.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from contracts.errors import Invalid
from providers.bodies import multipart_fields, xml_document
from providers.reading import at, parse_json
from providers.sdk import InboundRequest

FORM_TYPE: Final = "application/x-www-form-urlencoded"
# Callbacks have some twenty fields; parsing more is work for a stranger.
MAX_FIELDS: Final = 1000

Reader = Callable[["Reading"], str | None]


class Reading:
    """One request, parsed at most once on first use, and the item of it that is being read.

    `item` is the whole document unless `items` made this reading; `way` are the keys that the `*` of a pointer stood
    for, and the item's own place in its array; `path` is the item's JSON pointer.
    """

    __slots__ = ("_data", "_form", "_form_json", "_formats", "_item", "_parsed", "_root", "path", "request", "way")

    def __init__(self, request: InboundRequest, formats: Sequence[str] = ("json",), form_json: str = "") -> None:
        self.request = request
        self.path = ""
        self.way: tuple[str, ...] = ()
        self._formats = formats
        self._form_json = form_json
        self._parsed = False
        self._root: Any = None
        self._item: Any = None
        self._form: Mapping[str, str] = {}
        self._data: bytes | None = request.body

    @property
    def root(self) -> Any:
        """The body as a document, None for a form or a body that is not read; raises `Invalid` (`undecodable_body`)."""
        if not self._parsed:
            self._parse()
        return self._root

    @property
    def item(self) -> Any:
        """The document of this item; raises `Invalid` (`undecodable_body`)."""
        if not self._parsed:
            self._parse()
        return self._item

    @property
    def form(self) -> Mapping[str, str]:
        """The form's fields, the last one of a name; empty when the body is no form. Raises as `root`."""
        if not self._parsed:
            self._parse()
        return self._form

    @property
    def data(self) -> bytes:
        """The bytes of this item: the body as received, or compact JSON of an element."""
        if self._data is None:
            self._data = json.dumps(self._item, separators=(",", ":"), ensure_ascii=False).encode()
        return self._data

    def items(self, pointers: Sequence[str], *, lists_only: bool = True) -> list[Reading]:
        """Return a reading for each element of the arrays at these pointers; raises `Invalid` when there is no array.

        Without `lists_only` a value that is no array stands for its only element.
        """
        found: list[Reading] = []
        arrays = 0
        for pointer in pointers:
            for value, way, path in _walk(self.root, pointer):
                if isinstance(value, list):
                    arrays += 1
                    elements = [(one, f"{path}/{index}") for index, one in enumerate(value)]
                elif lists_only or value is None:
                    continue
                else:
                    arrays += 1
                    elements = [(value, path)]
                found += [self._element(one, (*way, place.rpartition("/")[2]), place) for one, place in elements]
        if not arrays:
            place = pointers[0]
            raise Invalid("undecodable_body", f"{place or 'the body'} is no array", field=place or "/")
        return found

    def _element(self, item: Any, way: tuple[str, ...], path: str) -> Reading:
        one = Reading(self.request, self._formats, self._form_json)
        one._parsed, one._root, one._form = True, self._root, self._form
        one._item, one._data = item, None
        one.way, one.path = way, path
        return one

    def _parse(self) -> None:
        kind = (self.request.header("content-type") or "").partition(";")[0].strip().lower()
        body, formats = self.request.body, self._formats
        if "form" in formats and kind == FORM_TYPE:
            self._form = _form(body)
            if self._form_json in self._form:
                self._root = parse_json(self._form[self._form_json].encode("utf-8", "surrogatepass"))
                self._data = self._form[self._form_json].encode("utf-8", "surrogatepass")
        elif "multipart" in formats and kind == "multipart/form-data":
            self._form = multipart_fields(body, self.request.header("content-type") or "", MAX_FIELDS)
        elif "xml" in formats and ("json" not in formats or kind.endswith("xml")):
            self._root = xml_document(body)
        elif "json" in formats and (not kind or kind.endswith("json") or "opaque" not in formats):
            self._root = parse_json(body)
        elif "opaque" not in formats:
            raise Invalid("undecodable_body", "the body is no form", field="/")
        self._item = self._root
        self._parsed = True


def _form(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS))
    except ValueError:
        raise Invalid("undecodable_body", "the body is no form", field="/") from None


def _walk(document: Any, pointer: str) -> Iterator[tuple[Any, tuple[str, ...], str]]:
    """Yield what a pointer with `*` steps leads to, in order, with the keys that the stars stood for and its path."""
    head, star, tail = pointer.partition("/*")
    value = at(document, head)
    if not star:
        yield value, (), head
        return
    if isinstance(value, dict):
        pairs = [(key, inner) for key, inner in value.items() if isinstance(key, str)]
    elif isinstance(value, list):
        pairs = [(str(index), inner) for index, inner in enumerate(value)]
    else:
        return
    for key, inner in pairs:
        escaped = key.replace("~", "~0").replace("/", "~1")
        for found, way, path in _walk(inner, tail):
            yield found, (key, *way), f"{head}/{escaped}{path}"


def reader(source: str, options: Mapping[str, str]) -> Reader:
    """Return the function that reads a source (or places, the first with a value), compiled for these options."""
    if "|" in source:
        readers = [reader(one, options) for one in source.split("|")]
        return lambda one: next((value for read in readers if (value := read(one))), None)
    kind, _, place = re.sub(r"\{(\w+)\}", lambda match: options[match[1]], source).partition(":")
    if kind == "option":
        fixed = options[place] or None
        return lambda _: fixed
    if kind == "const":
        return lambda _: place
    if kind == "key":
        return lambda one: one.way[int(place) - 1] if len(one.way) >= int(place) else None
    if kind == "root" and "*" in place:
        return _rooted(place)
    return _plain(kind, place)


def _plain(kind: str, place: str) -> Reader:
    if kind == "body":
        return _of_item(place)
    if kind == "root":
        return lambda one: scalar(at(one.root, place))
    if kind == "header":
        return lambda one: one.request.header(place) or None
    if kind == "form":
        return lambda one: one.form.get(place) or None
    if kind == "query":
        return lambda one: one.request.parameter(place) or None
    return lambda one: hashlib.sha256(one.data).hexdigest()


def _of_item(pointer: str) -> Reader:
    """Return the reader of a pointer into the item: three for each event, so nothing is split or looked up twice."""
    keys = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]

    def read(one: Reading) -> str | None:
        value = one.item
        for key in keys:
            if type(value) is not dict:
                # An array on the way, or nothing: the rare case, read by the general rule.
                return scalar(at(one.item, pointer))
            value = value.get(key)
        return value or None if type(value) is str else scalar(value)

    return read


def _rooted(place: str) -> Reader:
    pieces = place.split("*")

    def read(one: Reading) -> str | None:
        if len(one.way) < len(pieces) - 1:
            return None
        keys = [key.replace("~", "~0").replace("/", "~1") for key in one.way]
        filled = "".join(piece + key for piece, key in zip(pieces, [*keys[: len(pieces) - 1], ""], strict=True))
        return scalar(at(one.root, filled))

    return read


def every(place: str, options: Mapping[str, str]) -> Callable[[Reading], list[str | None]]:
    """Return the function that reads a place whose pointer may hold `*`: one value for each element it stands for."""
    if not place.startswith("body:") or "*" not in place:
        one = reader(place, options)
        return lambda reading: [one(reading)]
    pointer = place.removeprefix("body:")
    return lambda reading: [scalar(value) for value, _, _ in _walk(reading.item, pointer)]


def scalar(value: Any) -> str | None:
    """Return text or an integer as text; None for anything else, and for empty text."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None
