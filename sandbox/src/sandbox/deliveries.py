"""Webhooks on their way: signed anew for each attempt, sent, and repeated as the vendor would.

Must never send to a host outside of loopback unless it was allowed by name.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr

from chassis.clock import Clock
from chassis.telemetry.metrics import counter
from contracts.errors import Invalid
from contracts.events.base import Slug
from contracts.ids import uuid7
from providers import registry
from providers.manifest import Retries
from providers.provider import Provider
from providers.sdk import InboundRequest
from sandbox.metrics import ATTEMPTS
from sandbox.signing import Draft, Tamper, sign
from sandbox.variants import changed, fixture_of
from sandbox.world import World

# Vendors give a receiver between 5 and 30 s; the shortest published one is the fairest judge.
ANSWER_TIMEOUT_S: Final = 10.0
KEPT_DELIVERIES: Final = 1000
MAX_COPIES: Final = 100
# Where only the horizon of retries is published, waits double from a minute on: our choice, like most vendors' curve.
FIRST_WAIT_S: Final = 60
HOUR_S: Final = 3600


class NewDelivery(BaseModel):
    """Body of `POST /_control/deliveries`; exactly one of `fixture` and `body`.

    `secret` is the sender's half of the endpoint's key. `changes` are JSON pointers with new values. `retry` repeats
    what was not answered with 2xx on the vendor's schedule, its waits multiplied by `time_factor`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Slug
    url: str = Field(pattern=r"^https?://", max_length=2000)
    secret: SecretStr
    fixture: str | None = None
    body: str | None = None
    content_type: str = "application/json"
    message_id: str | None = None
    changes: dict[str, JsonValue] = Field(default_factory=dict)
    copies: int = Field(default=1, ge=1, le=MAX_COPIES)
    tamper: Tamper = "none"
    retry: bool = False
    time_factor: float = Field(default=1.0, ge=0, le=1)
    headers: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request: when, what came back (`status` is None when nothing did), and how long that took."""

    at: datetime
    status: int | None
    latency_ms: float
    error: str = ""


@dataclass(slots=True)
class Delivery:
    """One webhook and its attempts."""

    id: UUID
    provider: str
    url: str
    fixture: str
    tamper: Tamper
    state: Literal["delivered", "retrying", "failed"] = "failed"
    attempts: list[Attempt] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the delivery for JSON; secrets and headers are not kept."""
        attempts = [
            {"at": one.at, "status": one.status, "latency_ms": round(one.latency_ms, 3), "error": one.error}
            for one in self.attempts
        ]
        shown = {name: getattr(self, name) for name in ("id", "provider", "url", "fixture", "tamper", "state")}
        return shown | {"attempts": attempts}


def waits_s(retries: Retries | None) -> list[float]:
    """Return the waits between a vendor's attempts in seconds; empty for one that never repeats or does not say."""
    if retries is None:
        return []
    if retries.schedule_s:
        return [float(wait) for wait in retries.schedule_s]
    waits: list[float] = []
    while sum(waits) + FIRST_WAIT_S * 2 ** len(waits) <= retries.horizon_h * HOUR_S:
        waits.append(float(FIRST_WAIT_S * 2 ** len(waits)))
    return waits


class DeliveryDesk:
    """Sends webhooks. Close it at the end: retries that still wait are dropped, as nobody keeps them."""

    def __init__(self, world: World, clock: Clock, allowed_hosts: frozenset[str]) -> None:
        self._world = world
        self._clock = clock
        self._allowed_hosts = allowed_hosts
        self._client = httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, follow_redirects=False, trust_env=False)
        self._retries: set[asyncio.Task[None]] = set()
        self.sent: deque[Delivery] = deque(maxlen=KEPT_DELIVERIES)

    async def close(self) -> None:
        """Drop waiting retries and close the connections."""
        for task in self._retries:
            task.cancel()
        await asyncio.gather(*self._retries, return_exceptions=True)
        await self._client.aclose()

    async def send(self, new: NewDelivery) -> list[Delivery]:
        """Send the copies one after the other and return them after their first attempt.

        Raises `Invalid` for an unknown provider or fixture, a target that is not allowed, a change that does not fit,
        a secret that cannot sign.
        """
        provider = registry.get(new.provider)
        draft = self._draft(provider, new)
        sign(draft, self._clock.now(), new.tamper)
        if new.tamper == "none":
            self._learn(draft)
        deliveries = []
        for _ in range(new.copies):
            delivery = Delivery(uuid7(), provider.slug, new.url, new.fixture or "", new.tamper)
            deliveries.append(delivery)
            self.sent.append(delivery)
            await self._attempt(delivery, draft)
            if delivery.state == "failed" and new.retry:
                self._repeat(delivery, draft, [wait * new.time_factor for wait in waits_s(provider.webhook.retries)])
        return deliveries

    def _draft(self, provider: Provider, new: NewDelivery) -> Draft:
        self._check_target(new.url)
        if (new.fixture is None) == (new.body is None):
            raise Invalid("fixture_or_body", "give a fixture or a body, not both", field="fixture")
        secret = new.secret.get_secret_value()
        if new.fixture is None:
            body = changed((new.body or "").encode(), new.content_type, new.changes)
            message_id = new.message_id or f"msg_{uuid7().hex}"
            return Draft(provider, new.url, secret, body, new.content_type, message_id, new.headers)
        fixture = fixture_of(provider, new.fixture)
        body = changed(fixture.body, fixture.content_type, new.changes)
        message_id = new.message_id or fixture.message_id
        unsigned = {**fixture.headers, **new.headers}
        return Draft(provider, new.url, secret, body, fixture.content_type, message_id, unsigned)

    def _check_target(self, url: str) -> None:
        host = (urlsplit(url).hostname or "").lower()
        if host == "localhost" or host in self._allowed_hosts:
            return
        try:
            allowed = ipaddress.ip_address(host).is_loopback
        except ValueError:
            allowed = False
        if not allowed:
            detail = "only loopback, and the hosts in PATCHBAY_SANDBOX_ALLOW_HOSTS"
            raise Invalid("target_not_allowed", detail, field="url")

    def _learn(self, draft: Draft) -> None:
        """Let the simulated API know the payments that its webhooks speak of; a body of another shape says nothing."""
        signed = sign(draft, self._clock.now())
        headers = {name.lower(): [value] for name, value in signed.headers.items()}
        try:
            for item in draft.provider.split(InboundRequest("POST", signed.url, headers, draft.body)):
                for one in draft.provider.normalise(item.event_type, item.data):
                    if one.amount:
                        self._world.learn_payment(draft.provider.slug, one.external_id, one.amount)
        except Invalid:
            return

    def _repeat(self, delivery: Delivery, draft: Draft, waits: list[float]) -> None:
        if not waits:
            return
        delivery.state = "retrying"
        task = asyncio.create_task(self._retry(delivery, draft, waits))
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    async def _retry(self, delivery: Delivery, draft: Draft, waits: list[float]) -> None:
        for number, wait in enumerate(waits, start=1):
            await self._clock.sleep(wait)
            await self._attempt(delivery, draft)
            if delivery.state == "delivered":
                return
            delivery.state = "retrying" if number < len(waits) else "failed"

    async def _attempt(self, delivery: Delivery, draft: Draft) -> None:
        """Send once, stamped now; only 2xx counts as delivered, redirects included in what does not."""
        at, started = self._clock.now(), self._clock.monotonic()
        signed = sign(draft, at, delivery.tamper)
        status, error = None, ""
        try:
            answer = await self._client.post(signed.url, content=signed.body, headers=signed.headers)
            status = answer.status_code
            delivery.state = "delivered" if answer.is_success else "failed"
        except httpx.HTTPError as failure:
            error = type(failure).__name__
            delivery.state = "failed"
        counter(ATTEMPTS).labels(delivery.provider, str(status) if status else error).inc()
        latency_ms = (self._clock.monotonic() - started) * 1000
        delivery.attempts.append(Attempt(at, status, latency_ms, error))
