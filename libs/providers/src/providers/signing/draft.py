"""The sender's side: a request in the making, and the base of all schemes that fills it.

Used by tests, the sandbox and the CLI; production paths only verify.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from contracts.errors import Invalid
from providers.reading import parse_json
from providers.sdk import InboundRequest, KeyPair, Secret, Verified


@dataclass(slots=True)
class Draft:
    """A delivery before it is signed; `message_id` fills signed headers that the request does not bring."""

    request: InboundRequest
    secret: str
    now: datetime
    message_id: str
    headers: dict[str, str] = field(default_factory=dict)

    def header(self, name: str, text: str) -> None:
        """Set a header, keeping the case of its name for whoever sends it."""
        self.headers[name] = text
        self.request = replace(self.request, headers={**self.request.headers, name.lower(): [text]})

    def keep(self, name: str, data: bytes) -> None:
        """Put a key beside the request that the receiver would have to fetch under this name."""
        self.request = replace(self.request, keys={**self.request.keys, name: data})

    def bind(self, url: str) -> None:
        """Send to another URL than the registered one: its query was extended by the sender."""
        self.request = replace(self.request, url=url, query_string=urlsplit(url).query)

    def put(self, place: str, text: str) -> None:
        """Write a value at a place of the request: the first of several that the request already has, else the first.

        Raises `ValueError` for a place that cannot be written.
        """
        kind, _, name = self._chosen(place).partition(":")
        if kind == "header":
            self.header(name, text)
        elif kind == "query":
            pairs = [pair for pair in parse_qsl(self.request.query_string, keep_blank_values=True) if pair[0] != name]
            self.request = replace(self.request, query_string=urlencode([*pairs, (name, text)]))
        elif kind == "form":
            pairs = [pair for pair in parse_qsl(self.request.body.decode(), keep_blank_values=True) if pair[0] != name]
            self.request = replace(self.request, body=urlencode([*pairs, (name, text)]).encode())
        elif kind == "body":
            self.request = replace(self.request, body=with_value(self.request.body, name, text))
        else:
            raise ValueError(f"nothing can be written at {place}")

    def _chosen(self, place: str) -> str:
        places = place.split("|")
        is_form = (self.request.header("content-type") or "").startswith("application/x-www-form-urlencoded")
        wanted = "form:" if is_form else "body:"
        return next((one for one in places if one.startswith(wanted)), places[0])


def with_value(body: bytes, pointer: str, text: str) -> bytes:
    """Return a JSON body with text at a pointer; `*` stands for every element, absent objects are made.

    A number at that place stays a number when the text is one. A body that is no JSON stays as it is.
    """
    try:
        document = parse_json(body)
    except Invalid:
        return body
    _set(document, pointer.split("/")[1:], text)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _set(node: Any, steps: Sequence[str], text: str) -> None:
    step, rest = steps[0], steps[1:]
    for key in _keys(node, step):
        if not rest:
            is_number = isinstance(node, dict) and isinstance(node.get(key), int)
            node[key] = int(text) if is_number and text.isdigit() else text
            continue
        if isinstance(node, dict):
            node.setdefault(key, {})
        _set(node[key], rest, text)


def _keys(node: Any, step: str) -> list[Any]:
    """Return the keys of a node that a step of a pointer stands for."""
    if isinstance(node, dict):
        return list(node) if step == "*" else [step.replace("~1", "/").replace("~0", "~")]
    if isinstance(node, list):
        if step == "*":
            return list(range(len(node)))
        return [int(step)] if step.isdigit() and int(step) < len(node) else []
    return []


class Scheme(ABC):
    """The base of all verifiers: `sign` and `sign_request` in terms of one method."""

    @abstractmethod
    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return the matching key; see `Verifier.verify`."""

    @abstractmethod
    def generate(self) -> KeyPair:
        """Return fresh keys; see `Verifier.generate`."""

    @abstractmethod
    def check_secret(self, value: str) -> None:
        """Raise `Invalid` for a secret that can never verify; see `Verifier.check_secret`."""

    @abstractmethod
    def _sign(self, draft: Draft) -> None:
        """Write the signature, and whatever it covers that the request lacks, into the draft."""

    def sign_request(
        self, request: InboundRequest, *, secret: str, now: datetime, message_id: str = ""
    ) -> InboundRequest:
        """Return the request as the provider would send it; see `Verifier.sign_request`."""
        draft = Draft(request, secret, now, message_id)
        self._sign(draft)
        return draft.request

    def sign(
        self,
        body: bytes,
        *,
        url: str,
        secret: str,
        now: datetime,
        content_type: str = "application/json",
        message_id: str = "",
    ) -> dict[str, str]:
        """Return the headers of a delivery; see `Verifier.sign`."""
        request = InboundRequest("POST", url, {"content-type": [content_type]}, body)
        draft = Draft(request, secret, now, message_id, {"Content-Type": content_type})
        self._sign(draft)
        if draft.request.body != body or draft.request.query_string:
            raise ValueError("this scheme signs inside of the body or the query: use sign_request")
        return draft.headers


def headers_of(headers: Mapping[str, str]) -> dict[str, list[str]]:
    """Return headers as an `InboundRequest` holds them."""
    return {name.lower(): [text] for name, text in headers.items()}
