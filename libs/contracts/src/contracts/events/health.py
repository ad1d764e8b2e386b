"""What the health monitor says about routes to providers and about the quotas that calls share."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import ClassVar, Final, Literal

from pydantic import Field

from contracts.events.base import Event, Instant, Slug
from contracts.modes import Mode

# Who waits for whom at a provider's limit: critical work first, bulk last (sync-worker.md §4.1).
CallClass = Literal["critical", "interactive", "bulk", "probe"]
RESERVES: Final[dict[CallClass, float]] = {"critical": 0.0, "interactive": 0.2, "bulk": 0.5, "probe": 0.2}
# The kinds of buckets: the places on a call's path. Whose bucket it is (`owner`) is never part of a kind.
_KINDS: Final = r"^(app|account|address|endpoint:[a-z0-9_.-]+)$"
_KIND: Final = re.compile(_KINDS)
# A record holds no more: about 100 KiB, a tenth of what the broker takes. The worst ones are in it.
MAX_TRIMMED_OWNERS: Final = 1_000


def is_kind(bucket: str) -> bool:
    """Tell whether this names a kind of bucket: `app`, `account`, `address` or `endpoint:<class>`."""
    return _KIND.fullmatch(bucket) is not None


class RouteState(StrEnum):
    """State of one provider for one capability in one mode (health-monitor.md §4.4)."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DEGRADED = "degraded"
    DOWN = "down"
    RECOVERING = "recovering"
    MAINTENANCE = "maintenance"
    FORCED_UP = "forced_up"
    FORCED_DOWN = "forced_down"


class RouteChanged(Event):
    """A route as every reader must follow it; a reader drops a record whose epoch is not greater than its own.

    `epoch` is (owner generation, counter), compared lexicographically. `share` is this provider's; `order` are the
    capability's providers, the preferred one first, and `shares` what each of them may take now (percent): where a new
    call goes that may go anywhere, counted among routes of the same `mode`. `probe` says how eagerly workers probe:
    0.2, 3 or 1 times a second.
    """

    TYPE: ClassVar[str] = "route.changed.v1"

    provider: Slug
    capability: str
    mode: Mode = "live"
    epoch: tuple[int, int]
    state: RouteState
    share: int = Field(ge=0, le=100, description="percentage of calls that may take this route")
    order: tuple[Slug, ...] = ()
    shares: dict[Slug, int] = Field(default_factory=dict)
    probe: Literal["idle", "burst", "canary"] = "idle"
    # The first step of a return carries only what may be repeated safely.
    idempotent_only: bool = False
    reason: str
    decided_at: Instant


class QuotaWindow(Event):
    """At most `limit` units of cost in `seconds`.

    `gcra` spreads them evenly after a burst, `fixed` counts from window start to window start as the provider does,
    `concurrent` bounds calls in flight and ignores `seconds`.
    """

    TYPE: ClassVar[str] = "quota.window.v1"

    limit: float = Field(gt=0)
    seconds: float = Field(gt=0)
    burst: float = Field(default=1, ge=1, description="units that may be used at once; for `gcra` only")
    shape: Literal["gcra", "fixed", "concurrent"] = "gcra"


class QuotaPolicy(Event):
    """What workers may spend of one bucket in one mode; key `<provider>:<bucket>`, with `:sandbox` behind it for that.

    `bucket` is a kind, a place on the path provider → app → account → endpoint class → address: `app`, `account`,
    `endpoint:<class>` or `address`. Each owner of such a bucket (`QuotaUsage.owner`) has the windows for itself.
    `reserves` is the part of the burst that a class must leave alone. `trims` has the owners whose quota will not last
    by the forecast, and the part of its rate that each class of theirs loses: 0 nothing, 1 all of it. `trim` is what
    every owner that was seen lately loses. `source` says why we believe the limit, `reason` is about the owner whose
    forecast is worst. A sandbox bucket without a policy of its own has the live one's windows, unless those were
    learned, and none of its trims.
    """

    TYPE: ClassVar[str] = "quota.policy.v1"

    provider: Slug
    mode: Mode = "live"
    bucket: str = Field(pattern=_KINDS)
    windows: tuple[QuotaWindow, ...] = Field(min_length=1)
    reserves: dict[CallClass, float] = Field(default_factory=lambda: dict(RESERVES))
    trim: dict[CallClass, float] = Field(default_factory=dict)
    trims: dict[str, dict[CallClass, float]] = Field(default_factory=dict, max_length=MAX_TRIMMED_OWNERS)
    source: Literal["published", "configured", "learned"] = "published"
    reason: str = ""
    version: int = Field(ge=1)
    decided_at: Instant


class ApiVersion(Event):
    """One version of a provider's API as answers named it; an empty `version` is what a provider without one has.

    `deprecation_at` and `sunset_at` come from the headers of RFC 9745 and RFC 8594; `deprecated` without an instant is
    what older drafts allow. `in_traffic` says whether calls used it within the last week.
    """

    TYPE: ClassVar[str] = "versions.entry.v1"

    version: str
    in_traffic: bool
    deprecated: bool = False
    deprecation_at: Instant | None = None
    sunset_at: Instant | None = None
    source: Literal["header"] = "header"
    first_seen_at: Instant


class ApiVersionsChanged(Event):
    """The versions of a provider's API that its answers named, all of them; key `<provider>`."""

    TYPE: ClassVar[str] = "versions.changed.v1"

    provider: Slug
    versions: tuple[ApiVersion, ...]
    decided_at: Instant
