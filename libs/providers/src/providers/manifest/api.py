"""The API side of a manifest: how it is called, what it offers to sagas, how its health and its changes are found.

Must never hold a limit that a vendor does not publish.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from providers.manifest.base import HeaderName, Strict


class BearerAuth(Strict):
    """`Authorization: Bearer <secret>`."""

    kind: Literal["bearer"]
    secret: str


class BasicAuth(Strict):
    """HTTP basic: the account reference is the user name, the secret the password."""

    kind: Literal["basic"]
    secret: str


class Rate(Strict):
    """A published request limit, and what it counts for."""

    per_s: float = Field(gt=0)
    burst: int = Field(default=1, ge=1)
    scope: Literal["account", "app", "ip"]


class VersionHeader(Strict):
    """The header that pins the API version, and the version that the folder was written for."""

    header: HeaderName
    value: str


class Api(Strict):
    """How the provider's API is called; `rate` is absent where nothing is published."""

    base_url: str = Field(pattern=r"^https://[^/]+$")
    auth: BearerAuth | BasicAuth = Field(discriminator="kind")
    rate: Rate | None = None
    version: VersionHeader | None = None


class Idempotency(Strict):
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


class OperationSpec(Strict):
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


class Probe(Strict):
    """A cheap read with real credentials; `{account_ref}` in the path stands for the connection's account."""

    method: Literal["GET"] = "GET"
    path: str = Field(pattern=r"^/")
    expect: tuple[int, ...] = (200,)
    timeout_ms: int = Field(ge=100, le=30_000)


class Health(Strict):
    """How the provider's condition is found out."""

    probe: Probe


class Changes(Strict):
    """How changes are found at a provider without webhooks: by polling, from a feed, from a queue, or not at all.

    `path` is the documented request, `source` where it is documented.
    """

    how: Literal["poll", "feed", "queue", "none"]
    path: str = ""
    note: str = ""
    source: str

    @model_validator(mode="after")
    def _a_way_has_a_path(self) -> Self:
        if (self.how == "none") == bool(self.path):
            raise ValueError("poll, feed and queue have a path, `none` has not")
        return self
