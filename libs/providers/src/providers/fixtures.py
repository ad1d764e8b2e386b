"""The files of a provider's `fixtures/` folder as objects, for conformance tests, the sandbox and the CLI.

Production paths never call this.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from contracts.errors import Invalid
from contracts.operations import Arguments, arguments_of
from providers.sdk import Account, HttpResponse, InboundRequest

EXAMPLE_URL = "https://hooks.example.com/hooks/ep_example"
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Fixture:
    """One delivery as the vendor documents it: the body to sign, and the unsigned headers that come along.

    `message_id` is what schemes with a signed id put in the header. `source` says where the shape was taken from.
    `options` are the endpoint's, where the shape depends on one.
    """

    name: str
    body: bytes
    content_type: str
    headers: Mapping[str, str]
    message_id: str
    source: str
    method: str = "POST"
    query: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def request(self, signed: Mapping[str, str], url: str = EXAMPLE_URL) -> InboundRequest:
        """Return the delivery with the headers that a verifier signed."""
        own = {"Content-Type": self.content_type} if self.content_type else {}
        headers = {name.lower(): [value] for name, value in {**own, **self.headers, **signed}.items()}
        return InboundRequest(self.method, url, headers, self.body, self.query)


@dataclass(frozen=True, slots=True)
class HandshakeFixture:
    """One documented handshake and its answer; `signed` says that the vendor signs the request.

    `secret` is the endpoint's where the answer depends on it. `expect` holds what the file says: `status` and any of
    `text`, `json`, `headers`, `confirm_url`, `learned`, or `refused` with the reason.
    """

    name: str
    fixture: Fixture
    secret: str = field(repr=False)
    expect: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Vector:
    """A published signature: `request` verifies with `secret` and `options` at `now`, or must not."""

    id: str
    source: str
    origin: str
    secret: str = field(repr=False)
    request: InboundRequest
    now: datetime
    valid: bool
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiCase:
    """One operation, the request it must become, and answers with what must be read from them.

    `responses` and `read_back_responses` pair an answer with the expected outcome as in the file.
    """

    name: str
    operation_name: str
    arguments: Arguments
    account: Account
    request: Mapping[str, Any]
    responses: tuple[tuple[HttpResponse, Any], ...]
    read_back: Mapping[str, Any] | None
    read_back_responses: tuple[tuple[HttpResponse, Any], ...]


def webhook_fixtures(folder: Path, method: str = "POST") -> list[Fixture]:
    """Return `fixtures/webhooks/*.json`, sorted by name; `method` is that of deliveries unless a file says another."""
    return [_fixture(path.stem, _object(path), method) for path in _files(folder, "webhooks")]


def handshake_fixtures(folder: Path) -> list[HandshakeFixture]:
    """Return `fixtures/handshakes/*.json`, sorted by name."""
    found: list[HandshakeFixture] = []
    for path in _files(folder, "handshakes"):
        raw = _object(path)
        fixture = _fixture(path.stem, raw, raw.get("method", "POST"))
        found.append(HandshakeFixture(path.stem, fixture, raw.get("secret", ""), raw["expect"]))
    return found


def _files(folder: Path, kind: str) -> list[Path]:
    return sorted((folder / "fixtures" / kind).glob("*.json"))


def _fixture(name: str, raw: Mapping[str, Any], method: str) -> Fixture:
    body, content_type = _body(raw)
    return Fixture(
        name=name,
        body=body,
        content_type=raw.get("content_type", content_type),
        headers=raw.get("headers", {}),
        message_id=raw.get("message_id", f"msg_{name}"),
        source=raw["source"],
        method=raw.get("method", method),
        query=urlencode(raw.get("query", {})),
        options=raw.get("options", {}),
    )


def _body(raw: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the bytes and their type: `body` is JSON, `form` an ordinary form, `text` is taken as it is."""
    if "form" in raw:
        # A field that is an object is what vendors send as JSON inside of a form.
        fields = {name: text if isinstance(text, str) else _compact(text) for name, text in raw["form"].items()}
        return urlencode(fields).encode(), _FORM
    if "text" in raw:
        return str(raw["text"]).encode(), ""
    return (_compact(raw["body"]).encode(), _JSON) if "body" in raw else (b"", "")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def vectors(folder: Path) -> list[Vector]:
    """Return `fixtures/vectors.toml`."""
    path = folder / "fixtures" / "vectors.toml"
    if not path.is_file():
        return []
    return [_vector(raw) for raw in tomllib.loads(path.read_text(encoding="utf-8")).get("vectors", [])]


def _vector(raw: Mapping[str, Any]) -> Vector:
    headers = {name.lower(): [value] for name, value in raw.get("headers", {}).items()}
    body = raw.get("payload", "").encode()
    if "form" in raw:
        body = urlencode([(name, value) for name, value in raw["form"]]).encode()
        headers.setdefault("content-type", [_FORM])
    url = raw.get("url", EXAMPLE_URL)
    keys = {name: text.encode() for name, text in raw.get("keys", {}).items()}
    return Vector(
        id=raw["id"],
        source=raw["source"],
        origin=raw["origin"],
        secret=raw["secret"],
        request=InboundRequest(
            raw.get("method", "POST"), url, headers, body, raw.get("query", urlsplit(url).query), keys
        ),
        now=datetime.fromtimestamp(raw.get("now", 0), UTC),
        valid=raw["valid"],
        options=raw.get("options", {}),
    )


def api_cases(folder: Path) -> list[ApiCase]:
    """Return `fixtures/api/*.json`, sorted by name."""
    return [_api_case(path) for path in _files(folder, "api")]


def _api_case(path: Path) -> ApiCase:
    raw = _object(path)
    read_back = raw.get("read_back")
    return ApiCase(
        name=path.stem,
        operation_name=raw["operation"],
        arguments=arguments_of(raw["operation"]).model_validate(raw["arguments"]),
        account=Account(**raw["account"]),
        request=raw["request"],
        responses=_responses(raw["responses"]),
        read_back=read_back["request"] if read_back else None,
        read_back_responses=_responses(read_back["responses"]) if read_back else (),
    )


def _responses(items: list[dict[str, Any]]) -> tuple[tuple[HttpResponse, Any], ...]:
    return tuple(
        (HttpResponse(item["status"], item.get("headers", {}), item.get("json"), _raw(item)), item["expect"])
        for item in items
    )


def _raw(item: Mapping[str, Any]) -> bytes:
    return str(item["text"]).encode() if "text" in item else _compact(item.get("json")).encode()


def _object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise Invalid("bad_fixture", f"{path} is no JSON object")
    return value
