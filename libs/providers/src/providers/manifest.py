"""The model of a provider's `manifest.toml`: what data can say about a provider, checked when it is loaded.

Must never hold a secret, a default that a vendor does not document, or the name of a provider.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from contracts.errors import Invalid
from contracts.events.base import Slug
from contracts.topics import Lane

# An option of these names has the same meaning for every provider that declares it.
TOLERANCE_OPTION = "tolerance_s"
KEY_LIFETIME_OPTION = "idempotency_lifetime_h"

# The folder is imported as `providers.<slug>`, so a slug is a Python identifier too.
FolderName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,39}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$")]
Pointer = Annotated[str, StringConstraints(pattern=r"^(/[^/]*)*$")]
# Where a value is read from; `{name}` inside stands for the option of that name.
Source = Annotated[
    str, StringConstraints(pattern=r"^(body:(/[^/]*)+|header:[A-Za-z0-9-]+|form:.+|const:[\w.-]+|digest)$")
]
# Several sources are one composite value, and only complete ones count.
Choice = Source | tuple[Source, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SecretSpec(_Strict):
    """One secret of a connection. `prefix` is how every value begins; another beginning is refused when it is set."""

    description: str = Field(min_length=10)
    use: tuple[Literal["webhook", "api"], ...] = Field(min_length=1)
    required: bool
    prefix: str = ""


class OptionSpec(_Strict):
    """One setting of a connection that is no secret: text, matched whole against `pattern` when it is set."""

    description: str = Field(min_length=10)
    default: str = ""
    pattern: str = ".*"


class HmacSignature(_Strict):
    """HMAC over a template of parts: `{body}`, `{url}`, `{timestamp}`, `{id}` and literal text.

    `elements` names the keys of a `t=…,v1=…` list in the header; without it the header is `prefix` + digest.
    `tolerance_s` bounds the age and the lead of the timestamp in seconds.
    """

    scheme: Literal["hmac"]
    header: HeaderName
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"]
    key_encoding: Literal["utf8", "hex", "base64"] = "utf8"
    template: str
    prefix: str = ""
    elements: SignatureElements | None = None
    timestamp_header: HeaderName | None = None
    id_header: HeaderName | None = None
    tolerance_s: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _parts_have_sources(self) -> Self:
        names = set(re.findall(r"\{(\w*)\}", self.template))
        stamped = self.elements is not None or self.timestamp_header is not None
        if "body" not in names or names - {"body", "url", "timestamp", "id"}:
            raise ValueError("template needs {body}, and knows {url}, {timestamp} and {id} beside it")
        if ("timestamp" in names) != stamped or (self.tolerance_s is not None) != stamped:
            raise ValueError("{timestamp}, its place and tolerance_s go together")
        if ("id" in names) != (self.id_header is not None):
            raise ValueError("{id} and id_header go together")
        return self


class SignatureElements(_Strict):
    """Keys of a comma-separated `key=value` header."""

    timestamp: str
    signature: str


class StandardWebhooksSignature(_Strict):
    """Standard Webhooks: `id.timestamp.body`, HMAC-SHA256 (`v1`) and Ed25519 (`v1a`), several signatures per header.

    `prefixes` are the beginnings of the three header names; the first that occurs in a request counts.
    """

    scheme: Literal["standard_webhooks"]
    prefixes: tuple[HeaderName, ...] = Field(min_length=1)
    tolerance_s: int = Field(ge=1)


class UrlFormSignature(_Strict):
    """HMAC over the URL and the sorted form fields, or over a URL that carries the SHA-256 of a non-form body.

    `settings_header` may name another algorithm than SHA-1; `body_hash_param` is the query parameter with the hash.
    """

    scheme: Literal["url_form"]
    header: HeaderName
    settings_header: HeaderName
    body_hash_param: str


class EcdsaSignature(_Strict):
    """ECDSA P-256 with SHA-256 over timestamp + body; DER signature in base64, public key as base64 SPKI."""

    scheme: Literal["ecdsa_p256"]
    header: HeaderName
    timestamp_header: HeaderName
    tolerance_s: int = Field(ge=1)


class CustomSignature(_Strict):
    """The folder's `webhook.py` has a function `verifier(options)` for what no scheme can say."""

    scheme: Literal["custom"]


Signature = Annotated[
    HmacSignature | StandardWebhooksSignature | UrlFormSignature | EcdsaSignature | CustomSignature,
    Field(discriminator="scheme"),
]


class LaneRule(_Strict):
    """Event types (globs) that belong to another lane than the default one."""

    match: tuple[str, ...] = Field(min_length=1)
    lane: Lane


class EntityRule(_Strict):
    """Event types (globs) and where the id of the entity that they are about stands; the first one present wins."""

    match: tuple[str, ...] = Field(min_length=1)
    kind: Slug
    id: tuple[Source, ...] = Field(min_length=1)


class Retries(_Strict):
    """How the provider repeats a refused delivery: waits in seconds, or only the horizon in hours if that is all known.

    An empty schedule with horizon 0 means that it never does.
    """

    schedule_s: tuple[int, ...] = ()
    horizon_h: float = Field(ge=0)


class Webhook(_Strict):
    """How deliveries come in. `secret` names the entry of `[secrets]` that verifies them.

    `unsigned` are headers that the signature does not cover, though they are read: they may only hint. `query` lists
    parameters that the provider itself appends to the registered URL. `ack_deadline_ms` is absent if not published.
    """

    secret: str = "webhook"  # noqa: S105 (the name of a secret)
    methods: tuple[Literal["POST", "PUT", "PATCH", "GET"], ...] = ("POST",)
    signature: Signature
    success_status: int = Field(default=200, ge=200, le=299)
    success_body: str = ""
    refused_status: int = Field(default=401, ge=400, le=499)
    formats: tuple[Literal["json", "form"], ...] = ("json",)
    items: Literal["single", "array"] = "single"
    items_pointer: Pointer = ""
    event_id: tuple[Choice, ...] = Field(min_length=1)
    event_type: tuple[Choice, ...] = Field(min_length=1)
    unsigned: tuple[HeaderName, ...] = ()
    query: tuple[str, ...] = ()
    ack_deadline_ms: int | None = Field(default=None, ge=100)
    retries: Retries | None = None
    lane: Lane = Lane.STANDARD
    lanes: tuple[LaneRule, ...] = ()
    entities: tuple[EntityRule, ...] = ()

    def lane_for(self, event_type: str) -> Lane:
        """Return the lane of an event type: the first rule that matches, else the default."""
        for rule in self.lanes:
            if any(fnmatchcase(event_type, glob) for glob in rule.match):
                return rule.lane
        return self.lane

    @model_validator(mode="after")
    def _unsigned_headers_only_hint(self) -> Self:
        # gateway.md §3.3: an unsigned field alone never chooses the critical lane or the dedup identity.
        unsigned = {f"header:{name}".lower() for name in self.unsigned}
        if unsigned & {source.lower() for source in _flat(self.event_id)}:
            raise ValueError("event_id reads an unsigned header: a captured request could come back under a new id")
        critical = self.lane is Lane.CRITICAL or any(rule.lane is Lane.CRITICAL for rule in self.lanes)
        if critical and unsigned & {source.lower() for source in _flat(self.event_type)}:
            raise ValueError("event_type reads an unsigned header, so it cannot choose the critical lane")
        return self


class BearerAuth(_Strict):
    """`Authorization: Bearer <secret>`."""

    kind: Literal["bearer"]
    secret: str


class BasicAuth(_Strict):
    """HTTP basic: the account reference is the user name, the secret the password."""

    kind: Literal["basic"]
    secret: str


class Rate(_Strict):
    """A published request limit, and what it counts for."""

    per_s: float = Field(gt=0)
    burst: int = Field(default=1, ge=1)
    scope: Literal["account", "app", "ip"]


class VersionHeader(_Strict):
    """The header that pins the API version, and the version that the folder was written for."""

    header: HeaderName
    value: str


class Api(_Strict):
    """How the provider's API is called; `rate` is absent where nothing is published."""

    base_url: str = Field(pattern=r"^https://[^/]+$")
    auth: BearerAuth | BasicAuth = Field(discriminator="kind")
    rate: Rate | None = None
    version: VersionHeader | None = None


class Idempotency(_Strict):
    """Where the provider takes an idempotency key: its place, name, greatest length and lifetime in hours if published.

    The option `idempotency_lifetime_h` overrides the lifetime; see `Provider.key_lifetime_h`.
    """

    kind: Literal["header", "body", "none"]
    name: str = ""
    max_length: int | None = Field(default=None, ge=22)
    lifetime_h: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _named_unless_none(self) -> Self:
        if (self.kind == "none") == bool(self.name):
            raise ValueError("a header or body field has a name, `none` has not")
        return self


class OperationSpec(_Strict):
    """A write that sagas may ask for. `retry_class` (in the file: `class`) follows sync-worker.md §4.1.

    `retry_safe` may go to a backup provider, `unsafe` only if it provably never left, `pinned` never leaves the
    provider that holds the object. `read_back` says that the provider can be asked whether the effect exists.
    """

    name: str = Field(pattern=r"^[a-z]+(\.[a-z_]+)+$")
    capability: str = Field(pattern=r"^[a-z]+(\.[a-z]+)*$")
    retry_class: Literal["retry_safe", "unsafe", "pinned"] = Field(alias="class")
    idempotency: Idempotency
    read_back: bool
    timeout_s: float = Field(gt=0, le=60)


class Probe(_Strict):
    """A cheap read with real credentials; `{account_ref}` in the path stands for the connection's account."""

    method: Literal["GET"] = "GET"
    path: str = Field(pattern=r"^/")
    expect: tuple[int, ...] = (200,)
    timeout_ms: int = Field(ge=100, le=30_000)


class Health(_Strict):
    """How the provider's condition is found out."""

    probe: Probe


class Manifest(_Strict):
    """One provider. `tier` is the quality tier that its `quality.toml` justifies."""

    schema_version: Literal[1] = Field(alias="schema")
    slug: FolderName
    name: str
    category: str
    docs: str = Field(pattern=r"^https://")
    owners: tuple[str, ...] = Field(min_length=1)
    tier: Literal["bronze", "silver", "gold"]
    capabilities: tuple[str, ...] = ()
    secrets: dict[str, SecretSpec] = Field(default_factory=dict)
    options: dict[str, OptionSpec] = Field(default_factory=dict)
    webhook: Webhook | None = None
    api: Api | None = None
    operations: tuple[OperationSpec, ...] = ()
    health: Health | None = None

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        if self.webhook is not None:
            self._needs_secret(self.webhook.secret, "webhook")
            self._needs_options(self.webhook)
        if self.api is not None:
            self._needs_secret(self.api.auth.secret, "api")
        elif self.operations or self.health is not None:
            raise ValueError("operations and health need [api]")
        missing = {operation.capability for operation in self.operations} - set(self.capabilities)
        if missing:
            raise ValueError(f"capabilities lack {sorted(missing)}")
        return self

    def _needs_secret(self, name: str, use: Literal["webhook", "api"]) -> None:
        if name not in self.secrets or use not in self.secrets[name].use:
            raise ValueError(f"[secrets.{name}] with use {use} is missing")

    def _needs_options(self, webhook: Webhook) -> None:
        entity_ids = [source for rule in webhook.entities for source in rule.id]
        sources = (*_flat(webhook.event_id), *_flat(webhook.event_type), *entity_ids)
        used = {name for source in sources for name in re.findall(r"\{(\w+)\}", source)}
        if used - set(self.options):
            raise ValueError(f"[options] lack {sorted(used - set(self.options))}")

    def operation(self, name: str) -> OperationSpec | None:
        """Return the declaration of an operation, or None if the provider does not offer it."""
        return next((operation for operation in self.operations if operation.name == name), None)

    def resolve_options(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the given options over the defaults; raises `Invalid` (`unknown_option`, `bad_option`)."""
        for name, value in given.items():
            if name not in self.options:
                raise Invalid("unknown_option", f"{self.slug} has no option {name}", field=f"options.{name}")
            if re.fullmatch(self.options[name].pattern, value) is None:
                detail = f"{name} does not match {self.options[name].pattern}"
                raise Invalid("bad_option", detail, field=f"options.{name}")
        return {name: given.get(name, spec.default) for name, spec in self.options.items()}


def load(path: Path) -> Manifest:
    """Return the manifest in a file; raises `Invalid` (`bad_manifest`) that names the file and the first wrong key."""
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid("bad_manifest", f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise Invalid("bad_manifest", f"{path}: {field}: {first['msg']}", field=field) from error


def _flat(choices: tuple[Choice, ...]) -> list[str]:
    return [source for choice in choices for source in ([choice] if isinstance(choice, str) else choice)]
