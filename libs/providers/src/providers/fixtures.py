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
from urllib.parse import urlencode

from contracts.errors import Invalid
from providers.sdk import (
    Account,
    HttpResponse,
    InboundRequest,
    MessageOperation,
    Operation,
    RefundOperation,
)

EXAMPLE_URL = "https://hooks.example.com/hooks/ep_example"
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_ARGUMENTS: dict[str, type[RefundOperation | MessageOperation]] = {
    "payment.refund": RefundOperation,
    "message.send": MessageOperation,
}


@dataclass(frozen=True, slots=True)
class Fixture:
    """One delivery as the vendor documents it: the body to sign, and the unsigned headers that come along.

    `message_id` is what schemes with a signed id put in the header. `source` says where the shape was taken from.
    """

    name: str
    body: bytes
    content_type: str
    headers: Mapping[str, str]
    message_id: str
    source: str

    def request(self, signed: Mapping[str, str], url: str = EXAMPLE_URL) -> InboundRequest:
        """Return the delivery with the headers that a verifier signed."""
        headers = {name.lower(): [value] for name, value in {**self.headers, **signed}.items()}
        return InboundRequest("POST", url, headers, self.body)


@dataclass(frozen=True, slots=True)
class Vector:
    """A published signature: `request` verifies with `secret` at `now`, or must not."""

    id: str
    source: str
    origin: str
    secret: str = field(repr=False)
    request: InboundRequest
    now: datetime
    valid: bool


@dataclass(frozen=True, slots=True)
class ApiCase:
    """One operation, the request it must become, and answers with what must be read from them.

    `responses` and `read_back_responses` pair an answer with the expected outcome as in the file.
    """

    name: str
    operation_name: str
    operation: Operation
    account: Account
    request: Mapping[str, Any]
    responses: tuple[tuple[HttpResponse, Any], ...]
    read_back: Mapping[str, Any] | None
    read_back_responses: tuple[tuple[HttpResponse, Any], ...]


def webhook_fixtures(folder: Path) -> list[Fixture]:
    """Return `fixtures/webhooks/*.json`, sorted by name."""
    return [_fixture(path) for path in sorted((folder / "fixtures" / "webhooks").glob("*.json"))]


def _fixture(path: Path) -> Fixture:
    raw = _object(path)
    if "form" in raw:
        body, content_type = urlencode(raw["form"]).encode(), _FORM
    else:
        body, content_type = json.dumps(raw["body"], separators=(",", ":"), ensure_ascii=False).encode(), _JSON
    message_id = raw.get("message_id", f"msg_{path.stem}")
    return Fixture(path.stem, body, content_type, raw.get("headers", {}), message_id, raw["source"])


def vectors(folder: Path) -> list[Vector]:
    """Return `fixtures/vectors.toml`."""
    path = folder / "fixtures" / "vectors.toml"
    if not path.is_file():
        return []
    return [_vector(raw) for raw in tomllib.loads(path.read_text(encoding="utf-8")).get("vectors", [])]


def _vector(raw: Mapping[str, Any]) -> Vector:
    headers = {name.lower(): [value] for name, value in raw["headers"].items()}
    body = raw.get("payload", "").encode()
    if "form" in raw:
        body = urlencode([(name, value) for name, value in raw["form"]]).encode()
        headers.setdefault("content-type", [_FORM])
    return Vector(
        id=raw["id"],
        source=raw["source"],
        origin=raw["origin"],
        secret=raw["secret"],
        request=InboundRequest(raw.get("method", "POST"), raw.get("url", EXAMPLE_URL), headers, body),
        now=datetime.fromtimestamp(raw.get("now", 0), UTC),
        valid=raw["valid"],
    )


def api_cases(folder: Path) -> list[ApiCase]:
    """Return `fixtures/api/*.json`, sorted by name."""
    return [_api_case(path) for path in sorted((folder / "fixtures" / "api").glob("*.json"))]


def _api_case(path: Path) -> ApiCase:
    raw = _object(path)
    read_back = raw.get("read_back")
    return ApiCase(
        name=path.stem,
        operation_name=raw["operation"],
        operation=_ARGUMENTS[raw["operation"]](**raw["arguments"]),
        account=Account(**raw["account"]),
        request=raw["request"],
        responses=_responses(raw["responses"]),
        read_back=read_back["request"] if read_back else None,
        read_back_responses=_responses(read_back["responses"]) if read_back else (),
    )


def _responses(items: list[dict[str, Any]]) -> tuple[tuple[HttpResponse, Any], ...]:
    return tuple(
        (HttpResponse(item["status"], item.get("headers", {}), item["json"]), item["expect"]) for item in items
    )


def _object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise Invalid("bad_fixture", f"{path} is no JSON object")
    return value
