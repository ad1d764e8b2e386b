"""Webhooks on their way: signed anew for each attempt, sent, judged, and repeated as the vendor would.

Must never send to an endpoint that its vendor has given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import httpx

from chassis.clock import Clock
from chassis.telemetry.metrics import counter
from contracts.errors import Invalid
from contracts.ids import uuid7
from providers.manifest import EventAnswer, Failure
from providers.sdk import InboundRequest
from sandbox.judging import Judgement, Standing, deadline_s, judge, waits_s
from sandbox.metrics import ATTEMPTS
from sandbox.orders import Drafts, NewDelivery
from sandbox.signing import Draft, Tamper, http_arguments, sign, with_headers
from sandbox.vendor_keys import VendorKeys
from sandbox.world import World

KEPT_DELIVERIES: Final = 1000
# The word for an attempt that the vendor gave up at its deadline.
TOO_LATE: Final = "deadline"

# withheld: the vendor has given the endpoint up, so nothing was sent. lost: it was ordered so.
State = Literal["delivered", "retrying", "failed", "stopped", "withheld", "lost"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: when, what came back (`status` is None when nothing did), how long that took, what it meant."""

    at: datetime
    status: int | None
    latency_ms: float
    judgement: Judgement
    error: str = ""

    @property
    def failure(self) -> Failure:
        """What went wrong, in the manifest's words."""
        if not self.error:
            return "status"
        return "timeout" if self.error == TOO_LATE else "connection"


@dataclass(slots=True)
class Delivery:
    """One webhook and its attempts; `next_at` is when the vendor comes back."""

    id: UUID
    provider: str
    url: str
    fixture: str
    tamper: Tamper
    state: State = "failed"
    attempts: list[Attempt] = field(default_factory=list)
    next_at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the delivery for JSON; secrets and headers are not kept."""
        attempts = [
            {
                "at": one.at,
                "status": one.status,
                "latency_ms": round(one.latency_ms, 3),
                "verdict": one.judgement.verdict,
                "why": one.judgement.why,
                "retry_after_s": one.judgement.retry_after_s,
                "error": one.error,
            }
            for one in self.attempts
        ]
        names = ("id", "provider", "url", "fixture", "tamper", "state", "next_at")
        return {name: getattr(self, name) for name in names} | {"attempts": attempts}


@dataclass(frozen=True, slots=True)
class _Job:
    """A delivery, what it is made of, and how its order wants it sent."""

    delivery: Delivery
    draft: Draft
    order: NewDelivery

    @property
    def deadline_s(self) -> float:
        """How long an answer is waited for."""
        asked = self.order.deadline_ms
        return deadline_s(self.draft.provider.webhook) if asked is None else asked / 1000


class DeliveryDesk:
    """Sends webhooks. Close it at the end: retries that still wait are dropped, as nobody keeps them."""

    def __init__(self, world: World, clock: Clock, keys: VendorKeys, allowed_hosts: frozenset[str]) -> None:
        self._world = world
        self._clock = clock
        self._keys = keys
        self.drafts = Drafts(keys, allowed_hosts)
        self._client = httpx.AsyncClient(timeout=None, follow_redirects=False, trust_env=False)  # noqa: S113 (deadlines)
        self._retries: set[asyncio.Task[None]] = set()
        self._standings: dict[tuple[str, str], Standing] = {}
        self.sent: deque[Delivery] = deque(maxlen=KEPT_DELIVERIES)

    async def close(self) -> None:
        """Drop waiting retries and close the connections."""
        for task in self._retries:
            task.cancel()
        await asyncio.gather(*self._retries, return_exceptions=True)
        await self._client.aclose()

    @property
    def standings(self) -> list[Standing]:
        """What vendors that punish think of the endpoints they have sent to."""
        return list(self._standings.values())

    def forgive(self, url: str) -> None:
        """Let vendors send to an endpoint again, as an operator does in their consoles. Idempotent."""
        for key in [key for key in self._standings if key[1] == url]:
            del self._standings[key]

    async def send(self, new: NewDelivery) -> list[Delivery]:
        """Send what was ordered one after the other and return it, in that order, after the first attempts.

        Raises `Invalid` for an unknown provider or fixture, a target that is not allowed, a change that does not fit,
        a secret that cannot sign, a variant that the scheme cannot have.
        """
        draft = self.drafts.delivery(new, new)
        sign(draft, self._clock.now(), new.tamper)
        queue = [(self.drafts.delivery(new, new.later), new.later)] if new.later else []
        queue += [(draft, new)] * new.copies
        deliveries: list[Delivery] = []
        if new.tamper == "none":
            for made in {id(one): one for one, _ in queue}.values():
                self._world.note_event(new.provider, made.request.body)
        for one, content in queue:
            if new.tamper == "none":
                self._learn(one)
            delivery = Delivery(uuid7(), new.provider, new.url, content.fixture or "", new.tamper)
            deliveries.append(delivery)
            self.sent.append(delivery)
            await self._first(_Job(delivery, one, new))
        return deliveries

    async def ask(self, request: InboundRequest, target: str, seconds: float) -> httpx.Response:
        """Send a request and return what is answered in time; raises `httpx.HTTPError` or `TimeoutError`."""
        async with asyncio.timeout(seconds):
            return await self._client.request(**http_arguments(request, target))

    def _learn(self, draft: Draft) -> None:
        """Let the simulated API know the payments that its webhooks speak of; a body of another shape says nothing."""
        provider = draft.provider
        try:
            for item in provider.split(sign(draft, self._clock.now()), draft.options):
                for one in provider.normalise(item.event_type, item.data):
                    if one.amount:
                        self._world.learn_payment(provider.slug, one.external_id, one.amount)
        except Invalid:
            return

    async def _first(self, job: _Job) -> None:
        if job.order.lost:
            job.delivery.state = "lost"
            return
        if self._standing(job).disabled:
            job.delivery.state = "withheld"
            return
        judgement = await self._attempt(job)
        waits = waits_s(job.draft.provider.webhook.retries)
        if job.delivery.state == "failed" and job.order.retry and waits:
            self._due(job, judgement, waits[0])
            task = asyncio.create_task(self._retry(job, judgement, waits))
            self._retries.add(task)
            task.add_done_callback(self._retries.discard)

    async def _retry(self, job: _Job, judgement: Judgement, waits: list[float]) -> None:
        delivery = job.delivery
        for number, wait in enumerate(waits, start=1):
            await self._clock.sleep(self._due(job, judgement, wait))
            if self._standing(job).disabled:
                delivery.state, delivery.next_at = "withheld", None
                return
            judgement = await self._attempt(job)
            delivery.next_at = None
            if delivery.state != "failed":
                return
            if number < len(waits):
                self._due(job, judgement, waits[number])

    def _due(self, job: _Job, judgement: Judgement, wait_s: float) -> float:
        """Write down when the vendor comes back, and return in how many seconds: never sooner than it was asked to."""
        seconds = max(wait_s * job.order.time_factor, judgement.retry_after_s)
        job.delivery.state = "retrying"
        job.delivery.next_at = self._clock.now() + timedelta(seconds=seconds)
        return seconds

    def _standing(self, job: _Job) -> Standing:
        key = (job.delivery.provider, job.delivery.url)
        return self._standings.get(key) or Standing(*key)

    @staticmethod
    def _repeated(job: _Job) -> Draft:
        """Return what is to be signed: with the headers that this vendor gives a repeat."""
        made, retries = job.delivery.attempts, job.draft.provider.webhook.retries
        if not made or retries is None:
            return job.draft
        return with_headers(job.draft, retries.headers_of(len(made), made[0].at, made[-1].failure))

    async def _attempt(self, job: _Job) -> Judgement:
        """Send once, signed now, and judge the answer."""
        delivery, webhook = job.delivery, job.draft.provider.webhook
        at, started = self._clock.now(), self._clock.monotonic()
        request = sign(self._repeated(job), at, delivery.tamper)
        if delivery.tamper != "signature":
            self._keys.publish(request.keys)
        status, error, judgement = None, "", Judgement("refused")
        try:
            answer = await self.ask(request, delivery.url, job.deadline_s)
            status, judgement = answer.status_code, judge(webhook, answer, _wanted(job.draft))
        except TimeoutError:
            error = TOO_LATE
        except httpx.HTTPError as failure:
            error = type(failure).__name__
        counter(ATTEMPTS).labels(delivery.provider, str(status) if status else error).inc()
        latency_ms = (self._clock.monotonic() - started) * 1000
        delivery.attempts.append(Attempt(at, status, latency_ms, judgement, error))
        ends: dict[str, State] = {"delivered": "delivered", "stopped": "stopped"}
        delivery.state = ends.get(judgement.verdict, "failed")
        if webhook.throttle == "punish":
            standing = self._standings.setdefault((delivery.provider, delivery.url), self._standing(job))
            standing.note(delivered=delivery.state == "delivered", disable_after=job.order.disable_after)
        return judgement


def _wanted(draft: Draft) -> EventAnswer | None:
    """Return the answer that this kind of event wants; None for the usual one."""
    webhook = draft.provider.webhook
    if not webhook.answers:
        return None
    try:
        items = draft.provider.split(draft.request, draft.options)
    except Invalid:
        return None
    return webhook.answer_for(items[0].event_type) if items else None
