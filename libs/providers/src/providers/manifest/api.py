"""The API side of a manifest: how it is called, how its health and its changes are found.

Must never hold a limit that a vendor does not publish.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from contracts.errors import Invalid
from providers.manifest.auth import AuthMethod, MethodName
from providers.manifest.base import HeaderName, Strict
from providers.manifest.operations import Codes


class Rate(Strict):
    """A published request limit, and what it counts for."""

    per_s: float = Field(gt=0)
    burst: int = Field(default=1, ge=1)
    scope: Literal["account", "app", "ip"]


class Window(Strict):
    """A published limit that counts: `limit` units in `seconds`, or in flight at once.

    `quota` names the class of operations that it counts for; empty counts all of them.
    """

    limit: float = Field(gt=0)
    seconds: float = Field(default=1, gt=0)
    shape: Literal["fixed", "concurrent"] = "fixed"
    scope: Literal["account", "app", "ip"] = "account"
    quota: str = Field(default="", pattern=r"^[a-z0-9_.-]*$")


class VersionHeader(Strict):
    """The header that pins the API version, and the version that the folder was written for."""

    header: HeaderName
    value: str


class Api(Strict):
    """How the provider's API is called; `rate` and `windows` are absent where nothing is published.

    `base_url` may hold `{option}` of an option whose pattern keeps it inside of the vendor's domain.
    `sandbox_base_url` is the vendor's address for sandbox connections; without one it has no sandbox.
    `auth` are the ways to authenticate by name; the first in the file is taken where nobody names one.
    """

    base_url: str = Field(pattern=r"^https://[^/]+$")
    sandbox_base_url: str = Field(default="", pattern=r"^(https://[^/]+)?$")
    auth: dict[MethodName, AuthMethod] = Field(min_length=1)
    rate: Rate | None = None
    windows: tuple[Window, ...] = ()
    version: VersionHeader | None = None
    errors: Codes = Codes()

    def method(self, name: str = "") -> AuthMethod:
        """Return a way to authenticate, the first one without a name; raises `Invalid` (`unknown_method`)."""
        if name and name not in self.auth:
            raise Invalid(
                "unknown_method", f"there is no such way to authenticate; known: {', '.join(self.auth)}", field="method"
            )
        return self.auth[name] if name else next(iter(self.auth.values()))


class Probe(Strict):
    """A cheap read with real credentials; `{account_ref}` in the path stands for the connection's account."""

    method: Literal["GET"] = "GET"
    path: str = Field(pattern=r"^/")
    query: dict[str, str] = Field(default_factory=dict)
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
