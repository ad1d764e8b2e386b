"""The ledger's watch: silence, drift and rejections become issues, and the gauges of what is open.

Everything here runs beside the consumers, never in their transactions; one replica looks at a time. Must never call a
source silent while the ledger itself is behind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from chassis.clock import Clock
from chassis.db.connection import Connection, is_retryable, is_unavailable
from chassis.db.database import Database
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.events.gateway import SourceFellSilent
from contracts.topics import GATEWAY_SILENCES
from webhook_gateway.endpoint_book import EndpointBook
from webhook_gateway.metrics import LEDGER_DEAD_LETTERS, LEDGER_ISSUES
from webhook_gateway.repository import analytics, deadletters, issues, shapes
from webhook_gateway.repository.issues import Report
from webhook_gateway.repository.shapes import ShapeKey
from webhook_gateway.shapes import Drift
from webhook_gateway.silence import MAX_HISTORY, Rhythm, floor, learn
from webhook_gateway.stored import Delivery

log = logger(__name__)

INTERVAL_S: Final = 15.0
SHAPE_INTERVAL_S: Final = 2.0
# A rhythm changes by one hour per hour.
RELEARN: Final = timedelta(hours=1)
# The ledger is behind when what it stores arrived longer ago than this; right after a start it cannot know yet.
MAX_LAG: Final = timedelta(minutes=2)
# An hour in which a tenth of an endpoint's deliveries, and no fewer than these, are refused is an issue.
MIN_REJECTED: Final = 20
REJECTED_SHARE: Final = 0.1
# Bodies per kind of event and round: a flood of one kind costs no more than its trickle.
SAMPLES: Final = 20
MAX_KINDS: Final = 200
_LOCK: Final = 7_241_103


class Pulse:
    """Knows whether the ledger is up to date: a listener of what was stored."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock.now()
        self._behind_at: datetime | None = None

    def hear(self, new: Sequence[Delivery], now: datetime) -> None:
        """Note a stored batch."""
        newest = max((one.received_at for one in new if one.origin == "webhook"), default=None)
        if newest is not None:
            self._behind_at = now if now - newest > MAX_LAG else None

    def is_current(self) -> bool:
        """Tell whether silence in the database is silence at the source."""
        now = self._clock.now()
        if now - self._since < MAX_LAG:
            return False
        # Behind and then nothing more: whatever was left to read has been read.
        return self._behind_at is None or now - self._behind_at > MAX_LAG


class ShapeSampler:
    """Collects bodies for the shapes; a listener of what was stored. What a crash loses is seen again soon."""

    def __init__(self) -> None:
        self._samples: dict[ShapeKey, list[Any]] = defaultdict(list)

    def hear(self, new: Sequence[Delivery], _now: datetime) -> None:
        """Keep up to `SAMPLES` bodies per kind of event until they are taken."""
        for one in new:
            if one.document is None or not one.event_type or one.outcome in ("conflict", "duplicate"):
                continue
            key = ShapeKey(one.provider, one.event_type, one.api_version)
            if key in self._samples or len(self._samples) < MAX_KINDS:
                known = self._samples[key]
                if len(known) < SAMPLES:
                    known.append(one.document)

    def take(self) -> Mapping[ShapeKey, list[Any]]:
        """Return what was collected and start anew."""
        taken, self._samples = self._samples, defaultdict(list)
        return taken


class Watch:
    """Background jobs of the ledger that look for trouble. `book` must have been read to its end."""

    def __init__(
        self, database: Database, clock: Clock, book: EndpointBook, *, pulse: Pulse, sampler: ShapeSampler
    ) -> None:
        self._database = database
        self._clock = clock
        self._book = book
        self._pulse = pulse
        self._sampler = sampler
        self._rhythms: dict[str, Rhythm] = {}
        self._learnt_at: datetime | None = None

    async def run(self) -> None:
        """Look for silence and rejections, and set the gauges, until cancelled."""
        await self._every(INTERVAL_S, self.look)

    async def run_shapes(self) -> None:
        """Learn shapes and look for drift until cancelled."""
        await self._every(SHAPE_INTERVAL_S, self.learn_shapes)

    async def look(self) -> None:
        """Do one round of everything but shapes."""
        if self._pulse.is_current():
            await self.look_for_silence()
        await self.look_for_rejections()
        async with self._database.connection() as connection:
            for kind, found in (await issues.open_counts(connection)).items():
                gauge(LEDGER_ISSUES).labels(kind).set(found)
            for service, found in (await deadletters.open_by_service(connection)).items():
                gauge(LEDGER_DEAD_LETTERS).labels(service).set(found)

    async def look_for_silence(self) -> None:
        """Open an issue for every endpoint that is silent against its rhythm, and resolve those that speak again."""
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            if not await _is_mine(uow.connection):
                return
            speakers = await analytics.speakers(uow.connection)
            await self._relearn(uow.connection, speakers, now)
            opened = await issues.unresolved(uow.connection, "silence")
            silent = {one["endpoint"]: report for one in speakers if (report := self._silence(one, now)) is not None}
            fallen = [report for name, report in silent.items() if name not in opened]
            await issues.report(uow.connection, fallen)
            for report in fallen:
                uow.emit(GATEWAY_SILENCES, report.endpoint, _fell_silent(report), tenant=report.tenant)
            over = await issues.resolve(uow.connection, "silence", sorted(opened.keys() - silent.keys()), now)
        for endpoint in silent.keys() - opened.keys():
            log.warning("source_silent", endpoint=endpoint)
        if over:
            # The silence is a span now, which the next rhythm leaves out.
            self._learnt_at = None

    async def look_for_rejections(self) -> None:
        """Open an issue for every endpoint that refuses too much within the hour, and resolve those that recovered."""
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            if not await _is_mine(uow.connection):
                return
            # The hour before counts as well, or every full hour would begin with a clean slate.
            found = await analytics.refusals(uow.connection, floor(now) - timedelta(hours=1))
            bad = {
                one["endpoint"]: Report(
                    kind="rejections",
                    subject=one["endpoint"],
                    at=now,
                    tenant=one["tenant"],
                    provider=one["provider"],
                    endpoint=one["endpoint"],
                    detail={"rejected": one["rejected"], "deliveries": one["deliveries"], "reason": one["reason"]},
                )
                for one in found
                if one["rejected"] >= MIN_REJECTED and one["rejected"] >= REJECTED_SHARE * one["deliveries"]
            }
            opened = await issues.unresolved(uow.connection, "rejections")
            await issues.report(uow.connection, [report for name, report in bad.items() if name not in opened])
            await issues.resolve(uow.connection, "rejections", sorted(opened.keys() - bad.keys()), now)

    async def learn_shapes(self) -> None:
        """Learn from the bodies that were collected, a short transaction per kind of event; drift opens an issue."""
        for key, documents in self._sampler.take().items():
            async with self._database.unit_of_work() as uow:
                now = self._clock.now()
                shape = await shapes.lock(uow.connection, key)
                drift = shape.take(documents)
                await shapes.save(uow.connection, key, shape, now)
                if drift:
                    await issues.report(uow.connection, [_drift_report(key, drift, now)])
                    log.warning("shape_drifted", provider=key.provider, event_type=key.event_type)

    def _silence(self, speaker: Mapping[str, Any], now: datetime) -> Report | None:
        endpoint, last = speaker["endpoint"], speaker["last_at"]
        configured = self._book.get(endpoint)
        if configured is None or configured.arrivals.mode == "off":
            return None
        if configured.arrivals.mode == "fixed" and configured.arrivals.max_gap_s is not None:
            if (now - last).total_seconds() <= configured.arrivals.max_gap_s:
                return None
            detail = {"mode": "fixed", "max_gap_s": configured.arrivals.max_gap_s}
        else:
            rhythm = self._rhythms.get(endpoint)
            if rhythm is None or not rhythm.silent(last, now):
                return None
            detail = {"mode": "learned", "expected_per_month": round(rhythm.per_month, 1)}
        return Report(
            kind="silence",
            subject=endpoint,
            at=now,
            tenant=speaker["tenant"],
            provider=speaker["provider"],
            endpoint=endpoint,
            detail=detail | {"last_at": last.isoformat()},
        )

    async def _relearn(self, connection: Connection, speakers: Sequence[Mapping[str, Any]], now: datetime) -> None:
        if self._learnt_at is not None and now - self._learnt_at < RELEARN:
            return
        since = now - MAX_HISTORY
        hours: dict[str, dict[datetime, int]] = defaultdict(dict)
        for endpoint, hour, count in await analytics.hours_of(connection, since):
            hours[endpoint][hour] = count
        silences: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
        for endpoint, opened, resolved in await issues.spans(connection, "silence", since):
            silences[endpoint].append((opened, resolved or now))
        learnt = {
            one["endpoint"]: learn(hours[one["endpoint"]], one["first_at"], now, silences[one["endpoint"]])
            for one in speakers
        }
        self._rhythms = {endpoint: rhythm for endpoint, rhythm in learnt.items() if rhythm is not None}
        self._learnt_at = now

    async def _every(self, interval_s: float, job: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await job()
            except Exception as error:
                if not (is_unavailable(error) or is_retryable(error)):
                    raise
                log.warning("watch_interrupted", error=type(error).__name__)
            await self._clock.sleep(interval_s)


async def _is_mine(connection: Connection) -> bool:
    """Tell whether no other replica looks at this moment; it is this one's look until the transaction ends."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK))


def _fell_silent(report: Report) -> SourceFellSilent:
    """Return the news for whoever can fetch what was missed."""
    return SourceFellSilent(
        endpoint=report.endpoint,
        tenant=report.tenant,
        provider=report.provider,
        last_at=datetime.fromisoformat(report.detail["last_at"]),
        at=report.at,
    )


def _drift_report(key: ShapeKey, drift: Drift, now: datetime) -> Report:
    changes = {"new": drift.new, "missing": drift.missing, "retyped": drift.retyped}
    return Report(
        kind="drift",
        subject=f"{key.provider}:{key.event_type}:{key.api_version}",
        at=now,
        provider=key.provider,
        detail={name: paths for name, paths in changes.items() if paths},
    )
