"""Writing deliveries again: the jobs, the one place that turns a stored delivery back into a record, and the runner.

A step of a job is one transaction: its records go to the outbox together with how far the job came, so that after a
kill -9 it goes on where it was, and the relay's at-least-once is all that consumers see. Must never write a record that
differs from the first one in anything but `origin`, `replay`, `quarantine` and, when asked for, its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from chassis.clock import Clock
from chassis.db.connection import is_retryable, is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.kafka.rows import Row, row
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter, gauge
from contracts.envelope import Envelope
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes
from contracts.ids import uuid7
from contracts.topics import GATEWAY_EVENTS, Lane
from webhook_gateway import audit
from webhook_gateway.dedup import FINGERPRINT_CHARS
from webhook_gateway.endpoint_book import EndpointBook
from webhook_gateway.metrics import LEDGER_HELD, LEDGER_REPLAYED, LEDGER_REPLAYS_OPEN
from webhook_gateway.models import ReplayJob
from webhook_gateway.repository import deliveries, replays
from webhook_gateway.repository.replays import Choice
from webhook_gateway.selection import DeliveryFilter

log = logger(__name__)

MAX_ITEMS: Final = 1_000_000
# One transaction's worth; bodies of 960 KiB make it 190 MiB at the very worst, of 2 KiB half a megabyte.
STEP_ITEMS: Final = 200
# While the broker is away the outbox must not grow by a whole job.
MAX_UNSENT: Final = 5_000
INTERVAL_S: Final = 0.1
RELEASE_INTERVAL_S: Final = 1.0
# A runner that was late may catch up by this much, never by a flood.
_MAX_BURST_S: Final = 1.0
_RELEASE_LOCK: Final = 7_241_102


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asks for: which deliveries, how fast, why; `new_event_id` makes consumers process them again."""

    choice: Choice
    rate_per_s: float
    reason: str
    by: str
    new_event_id: bool = False
    endpoint: str = ""
    tenant: str = ""


async def create(uow: UnitOfWork, order: Order, now: datetime) -> ReplayJob:
    """Store a job with its items; its `total` is over `MAX_ITEMS` when there are too many, then roll back."""
    wanted = order.choice.wanted.model_dump(mode="json", exclude_none=True)
    named = {"deliveries": [str(one) for one in order.choice.deliveries]} if order.choice.deliveries is not None else {}
    job = ReplayJob(
        id=uuid7(),
        kind=order.choice.kind,
        state="queued",
        tenant=order.tenant,
        endpoint=order.endpoint,
        selection=wanted | named,
        new_event_id=order.new_event_id,
        rate_per_s=order.rate_per_s,
        reason=order.reason,
        created_by=order.by,
        created_at=now,
        started_at=None,
        ended_at=None,
        due_at=now,
        total=0,
        done=0,
        missing=0,
        error="",
    )
    await replays.add(uow.connection, job)
    job.total = await replays.choose(uow.connection, job.id, order.choice, MAX_ITEMS)
    await replays.set_total(uow.connection, job.id, job.total)
    return job


def attributes_of(stored: Mapping[str, Any], *, origin: str, replay: str) -> DeliveryAttributes:
    """Return the attributes that a stored delivery came with, for a lane, marked with what writes it again."""
    values: dict[str, Any] = {
        "delivery": str(stored["id"]),
        "provider": stored["provider"],
        "endpoint": stored["endpoint"],
        "connection": str(stored["connection"]),
        "tenant": stored["tenant"],
        "lane": stored["lane"],
        "event": stored["event_id"],
        "eventtype": stored["event_type"],
        "receivedat": stored["received_at"],
        "verifiedat": stored["verified_at"] or stored["received_at"],
        "keyid": stored["key_id"],
        "bodysha256": stored["body_sha256"],
        "method": stored["method"],
        "entity": stored["entity"],
        "item": stored["item"],
        "items": stored["items"],
        "encoding": stored["encoding"],
        "signed": tuple((name, value) for name, value in stored["headers"]),
        "apiversion": stored["api_version"],
        "origin": origin,
        "replay": replay,
        "quarantine": "",
        "cards": stored["cards"],
        "claim": stored["claim"],
        "place": stored["place"],
        # A whole hash is no fingerprint: the delivery was stored before its events had one, or was never asked for it.
        "fingerprint": stored["event_sha256"] if len(stored["event_sha256"]) == FINGERPRINT_CHARS else "",
    }
    return DeliveryAttributes(**values)


def record_of(stored: Mapping[str, Any], job: ReplayJob) -> Row:
    """Return the record that writes a stored delivery to its lane again.

    Its id is the first one's, so that whoever processed it absorbs it. With `new_event_id`, and for a conflict, which
    has the id of another event, the id carries the job's as its suffix, so that it is processed.
    """
    fresh = job.new_event_id or stored["outcome"] == "conflict"
    # What was never in a lane is no replay: it takes effect for the first time.
    origin = "replay" if job.kind == "replay" else stored["origin"]
    envelope = Envelope(
        id=f"{stored['message_id']}+{job.id}" if fresh else stored["message_id"],
        source=stored["source"],
        type=DELIVERY_ACCEPTED,
        data=stored["body"],
        time=stored["received_at"],
        content_type=stored["content_type"],
        traceparent=stored["traceparent"] or None,
        extensions=attributes_of(stored, origin=origin, replay=str(job.id)).extensions(),
    )
    topic = GATEWAY_EVENTS[Lane(stored["lane"])]
    return row(topic.name, stored["record_key"].encode(), envelope.data, envelope.headers())


class ReplayRunner:
    """Runs open jobs, a step of each in turn; every replica has one, and a job is locked for each step."""

    def __init__(self, database: Database, clock: Clock, book: EndpointBook) -> None:
        self._database = database
        self._clock = clock
        self._book = book

    async def run(self) -> None:
        """Run until cancelled; an outage of the database is waited out."""
        while True:
            try:
                busy = await self.step()
            except Exception as error:
                if not (is_unavailable(error) or is_retryable(error)):
                    raise
                log.warning("replay_step_failed", error=type(error).__name__)
                busy = False
            await self._clock.sleep(0 if busy else INTERVAL_S)

    async def step(self) -> bool:
        """Do what is due of every open job; returns whether anything was written."""
        async with self._database.connection() as connection:
            found = await replays.open_jobs(connection)
            gauge(LEDGER_REPLAYS_OPEN).set(len(found))
            if found and await replays.unsent(connection, MAX_UNSENT) >= MAX_UNSENT:
                return False
        written = [await self._step(job) for job in found]
        return any(written)

    async def _step(self, job_id: UUID) -> int:
        async with self._database.unit_of_work() as uow:
            job = await replays.take(uow.connection, job_id)
            if job is None or self._must_wait(job):
                return 0
            now = self._clock.now()
            count = min(_allowed(job, now), job.total - job.done)
            if count <= 0 and job.done < job.total:
                return 0
            job.state, job.started_at = "running", job.started_at or now
            written = await self._write(uow, job, count)
            if job.done >= job.total or job.state == "failed":
                job.state = "done" if job.state == "running" else job.state
                job.ended_at = now
                log.info("replay_ended", job=str(job.id), state=job.state, written=job.done - job.missing)
            await replays.advance(uow.connection, job)
            uow.after_commit(lambda: counter(LEDGER_REPLAYED).labels(job.kind).inc(written))
        return written

    async def _write(self, uow: UnitOfWork, job: ReplayJob, count: int) -> int:
        found = await replays.next_items(uow.connection, job, count)
        try:
            records = [record_of(stored, job) for stored in found]
        except (ValueError, KeyError, TypeError) as error:
            # One stored delivery that is no longer a record: an operator must look, the others are not written past it.
            log.error("replay_failed", job=str(job.id), done=job.done, exc_info=error)
            job.state, job.error = "failed", f"the delivery behind item {job.done} is not readable"
            return 0
        for record in records:
            uow.publish_raw(record)
        if job.kind == "release":
            await deliveries.settle(
                uow.connection, [(one["id"], one["item"], one["received_at"]) for one in found], "released"
            )
        job.done += count
        job.missing += count - len(found)
        job.due_at += timedelta(seconds=count / job.rate_per_s)
        return len(found)

    def _must_wait(self, job: ReplayJob) -> bool:
        """Tell whether a release stands still because its endpoint was paused again."""
        if job.created_by != audit.SELF:
            return False
        endpoint = self._book.get(job.endpoint)
        return endpoint is None or endpoint.state != "live"


class Releaser:
    """Makes a release job for every live endpoint that still has held deliveries: the end of a pause."""

    def __init__(self, database: Database, clock: Clock, book: EndpointBook, *, rate_per_s: float) -> None:
        self._database = database
        self._clock = clock
        self._book = book
        self._rate_per_s = rate_per_s

    async def run(self) -> None:
        """Look every second until cancelled; an outage of the database is waited out."""
        while True:
            try:
                await self.look()
            except Exception as error:
                if not (is_unavailable(error) or is_retryable(error)):
                    raise
                log.warning("release_not_looked_for", error=type(error).__name__)
            await self._clock.sleep(RELEASE_INTERVAL_S)

    async def look(self) -> None:
        """Make the jobs that are missing."""
        async with self._database.connection() as connection:
            holding = await deliveries.endpoints_with_held(connection)
            counts = await deliveries.held_counts(connection)
        for outcome in ("held", "conflict"):
            gauge(LEDGER_HELD).labels(outcome).set(counts.get(outcome, 0))
        live = [(endpoint, tenant) for endpoint, tenant in holding if self._is_live(endpoint)]
        for endpoint, tenants in _by_endpoint(live).items():
            await self._release(endpoint, tenants)

    async def _release(self, endpoint: str, tenants: Sequence[str]) -> None:
        tenant = tenants[0] if len(tenants) == 1 else ""
        choice = Choice("release", DeliveryFilter(endpoint=endpoint, outcome="held"))
        order = Order(
            choice, self._rate_per_s, "the endpoint is live again", audit.SELF, endpoint=endpoint, tenant=tenant
        )
        async with self._database.unit_of_work() as uow:
            await uow.connection.execute("SELECT pg_advisory_xact_lock($1)", _RELEASE_LOCK)
            if await replays.releasing(uow.connection, endpoint):
                return
            job = await create(uow, order, self._clock.now())
            detail = {"job": str(job.id), "deliveries": str(job.total)}
            audit.record(
                uow, self._clock, audit.Act(audit.SELF, "quarantine.released", f"endpoint:{endpoint}", tenant, detail)
            )

    def _is_live(self, endpoint: str) -> bool:
        found = self._book.get(endpoint)
        return found is not None and found.state == "live"


def _by_endpoint(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for endpoint, tenant in pairs:
        out.setdefault(endpoint, []).append(tenant)
    return out


def _allowed(job: ReplayJob, now: datetime) -> int:
    """Return how many items are due, at most a step's worth; moves a due time that lies far back up to now."""
    job.due_at = max(job.due_at, now - timedelta(seconds=_MAX_BURST_S))
    late_s = (now - job.due_at).total_seconds()
    return min(STEP_ITEMS, int(late_s * job.rate_per_s) + 1) if late_s >= 0 else 0
