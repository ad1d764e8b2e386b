"""What the workers know of limits: policies in memory, and the buckets that a call passes on its way to a provider.

Must never invent a limit that neither the vendor, an operator nor an answer stated, nor let one mode spend the other's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from chassis.telemetry.logs import logger
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.health import RESERVES, CallClass, QuotaPolicy, QuotaWindow
from contracts.modes import Mode, keyed
from providers.manifest.api import Rate, Window
from providers.quotas import published_windows

log = logger(__name__)

# Leases may be spent a little after they were counted, so less than the limit is issued (sync-worker.md §4.1).
ISSUED: Final = 0.98
# In counted windows critical and interactive calls hold back this part from bulk (sync-worker.md §4.1).
HELD_BACK: Final = 0.3
RANKS: Final[dict[CallClass, int]] = {"critical": 0, "interactive": 1, "probe": 2, "bulk": 3}
Turn = Literal["pull", "reconcile", "backfill"]
"""What goes before what inside of the class `bulk` (sync-worker.md §4.1): pulls, reconciliation, everything else."""
TURNS: Final[dict[Turn, int]] = {"pull": 0, "reconcile": 1, "backfill": 2}


@dataclass(frozen=True, slots=True)
class Bucket:
    """One concrete bucket, e.g. `<provider>|account|<credential>`; `kind` is its place as in `QuotaPolicy.bucket`."""

    name: str
    kind: str
    windows: tuple[QuotaWindow, ...] = ()
    reserves: dict[CallClass, float] = field(default_factory=lambda: dict(RESERVES))
    trim: dict[CallClass, float] = field(default_factory=dict)

    def reserve(self, window: QuotaWindow, call_class: CallClass) -> float:
        """Return the part of a window that a class leaves alone; a counted one is held back from bulk only."""
        if window.shape == "gcra":
            return self.reserves.get(call_class, RESERVES[call_class])
        return HELD_BACK if call_class == "bulk" else 0.0

    @property
    def only_window_s(self) -> float | None:
        """The length of the one window that a header without a length can mean."""
        counted = [window.seconds for window in self.windows if window.shape != "concurrent"]
        return counted[0] if len(counted) == 1 else None


# Compared by identity: the book returns the same object for the same place, and pools are looked up by it.
@dataclass(slots=True, eq=False)
class CallPath:
    """The buckets that a call passes, the widest first. `version` grows when their limits change.

    `concurrent` says whether calls hold slots that they must give back.
    """

    provider: str
    names: tuple[tuple[str, str], ...]  # (kind, name)
    mode: Mode = "live"
    buckets: tuple[Bucket, ...] = ()
    version: int = 0
    concurrent: bool = False

    def set_buckets(self, buckets: tuple[Bucket, ...]) -> None:
        """Take new limits."""
        self.buckets = buckets
        self.version += 1
        self.concurrent = any(one.shape == "concurrent" for bucket in buckets for one in bucket.windows)

    @property
    def scope(self) -> str:
        """What shares workers, retries and state in the store: the provider in one mode."""
        return keyed(self.provider, mode=self.mode)

    @property
    def narrowest(self) -> str:
        """The bucket that a 429 concerns when it does not say which: the endpoint class, else the account."""
        kinds = [name for kind, name in self.names if kind == "account" or kind.startswith("endpoint:")]
        return kinds[-1]

    @property
    def greatest_cost(self) -> float:
        """Units that one call may cost at most; more would never be granted."""
        return min((capacity(window) for bucket in self.buckets for window in bucket.windows), default=math.inf)

    def place(self, name: str) -> tuple[str, str]:
        """Return the kind of one of the path's buckets and whose it is: what reports and policies call it by."""
        kind = next(kind for kind, known in self.names if known == name)
        return kind, name.removeprefix(f"{self.scope}|{kind}|")

    def named(self, kind: str) -> str:
        """Return the bucket of a kind; the narrowest one when the path has none of it."""
        return next((name for known, name in self.names if known == kind), self.narrowest)


def capacity(window: QuotaWindow) -> float:
    """Return how many units a window can ever give at once."""
    return window.burst if window.shape == "gcra" else window.limit * (ISSUED if window.shape == "fixed" else 1)


class PolicyBook:
    """The newest policy per (provider, kind of bucket, mode), and the interned paths that are made of them."""

    def __init__(self) -> None:
        self._policies: dict[tuple[str, str, Mode], QuotaPolicy] = {}
        self._declared: dict[tuple[str, str], QuotaPolicy] = {}
        self._learned: dict[str, dict[float, float]] = {}
        self._paths: dict[tuple[str, ...], CallPath] = {}

    def apply(self, _key: str, envelope: Envelope | None) -> None:
        """Take one record of `health.quotas.v1`; one whose version is not greater than the known one is dropped."""
        if envelope is None:
            return
        policy = decode(QuotaPolicy, envelope.data)
        known = self._policies.get((policy.provider, policy.bucket, policy.mode))
        # Trims come and go with each busy account; limits are news.
        if self.put(policy) and (known is None or known.windows != policy.windows):
            log.info("quota_policy_changed", provider=policy.provider, bucket=policy.bucket, source=policy.source)

    def put(self, policy: QuotaPolicy) -> bool:
        """Take a policy and return True, unless one that is as new is known."""
        place = (policy.provider, policy.bucket, policy.mode)
        known = self._policies.get(place)
        if known is None and policy.source == "published":
            # The health monitor's first record says of the manifest's rate what this worker has read itself.
            known = self._declared.get((policy.provider, policy.bucket))
        if known is not None and known.version >= policy.version:
            return False
        self._policies[place] = policy
        self._refresh(policy.provider)
        return True

    def declare(self, provider: str, rate: Rate | None, windows: Sequence[Window] = ()) -> None:
        """Take a manifest's limits, for both modes, until the health monitor sends others. Safe to repeat."""
        for kind, known in published_windows(rate, windows).items():
            self._declared[provider, kind] = QuotaPolicy(
                provider=provider,
                bucket=kind,
                windows=known,
                reason="the vendor publishes this limit",
                version=1,
                decided_at=datetime(1970, 1, 1, tzinfo=UTC),
            )
        self._refresh(provider)

    def learn(self, provider: str, bucket: str, seconds: float, limit: float | None) -> None:
        """Take what answers say of one concrete bucket's window: it then counts if lower; None forgets it."""
        known = self._learned.setdefault(bucket, {})
        if known.get(seconds) == limit:
            return
        if limit is None:
            known.pop(seconds, None)
        else:
            known[seconds] = limit
        self._refresh(provider)

    def path(
        self,
        provider: str,
        credential: str,
        *,
        app: str = "",
        endpoint: str = "",
        address: str = "",
        mode: Mode = "live",
    ) -> CallPath:
        """Return the path of a call: the same object for the same place. `endpoint` is a class of endpoints."""
        place = (provider, credential, app, endpoint, address, mode)
        path = self._paths.get(place)
        if path is None:
            scope = keyed(provider, mode=mode)
            names = [("app", f"{scope}|app|{app}"), ("account", f"{scope}|account|{credential}")]
            if endpoint:
                names.append((f"endpoint:{endpoint}", f"{scope}|endpoint:{endpoint}|{credential}"))
            if address:
                names.append(("address", f"{scope}|address|{address}"))
            path = self._paths[place] = CallPath(provider, tuple(names), mode)
            path.set_buckets(self._buckets(path))
        return path

    def paths(self, provider: str) -> list[CallPath]:
        """Return the known paths of a provider."""
        return [path for path in self._paths.values() if path.provider == provider]

    def _refresh(self, provider: str) -> None:
        for path in self.paths(provider):
            # What a policy takes from one owner is no news to the paths of the others.
            if (buckets := self._buckets(path)) != path.buckets:
                path.set_buckets(buckets)

    def _buckets(self, path: CallPath) -> tuple[Bucket, ...]:
        return tuple(self._bucket(self._policy(path, kind), *path.place(name), name) for kind, name in path.names)

    def _policy(self, path: CallPath, kind: str) -> QuotaPolicy | None:
        """Return what holds for a bucket: its own policy, in the sandbox else the live one, else the manifest's.

        What live calls taught, and what a forecast takes from them, says nothing of the sandbox.
        """
        own = self._policies.get((path.provider, kind, path.mode))
        if own is not None:
            return own
        live = self._policies.get((path.provider, kind, "live"))
        if live is None or live.source == "learned":
            return self._declared.get((path.provider, kind))
        return live.model_copy(update={"trim": {}, "trims": {}})

    def _bucket(self, policy: QuotaPolicy | None, kind: str, owner: str, name: str) -> Bucket:
        learned = self._learned.get(name, {})
        known = policy.windows if policy else ()
        windows = [_lower(window, learned) for window in known]
        counted = {window.seconds for window in known}
        windows += [
            QuotaWindow(limit=limit, seconds=seconds, shape="fixed")
            for seconds, limit in learned.items()
            if seconds not in counted
        ]
        if policy is None:
            return Bucket(name, kind, tuple(windows))
        return Bucket(name, kind, tuple(windows), policy.reserves, policy.trims.get(owner, {}))


def _lower(window: QuotaWindow, learned: dict[float, float]) -> QuotaWindow:
    """Return the window with the learned limit where that is the lower one."""
    limit = learned.get(window.seconds)
    if limit is None or limit >= window.limit or window.shape == "concurrent":
        return window
    return window.model_copy(update={"limit": limit, "burst": max(1.0, min(window.burst, limit))})
