"""Deliveries through gateway, sync worker and `sync.changes.v1` while processes are killed and the broker restarts.

The oracle is the set of what was sent: every acknowledged delivery has one effect, none has two, order holds per key.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import pytest

from chassis.testing.harness import Seen, read_topic, rows, until
from contracts.topics import SYNC_CHANGES
from providers import registry
from tests.conftest import Platform

pytestmark = [pytest.mark.asyncio, pytest.mark.chaos, pytest.mark.timeout(600)]

SLUG = "stripe"
PAYMENTS, EVENTS_EACH = 400, 50  # 20,000 deliveries
KILLS, SENDERS = 12, 8
SENDER_PATIENCE_S, SENDER_WAIT_S = 120.0, 0.25
SECRET = "whsec_chaos_test_secret"


@dataclass
class Sent:
    """What was acknowledged, in order per payment, and how often a sender had to repeat itself."""

    events: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    repeats: int = 0

    @property
    def count(self) -> int:
        return sum(len(events) for events in self.events.values())


def delivery(payment: str, number: int) -> tuple[str, bytes]:
    """Return the id and body of the n-th event of a payment, a second later than the one before."""
    event_id = f"evt_{payment}_{number:04d}"
    body: dict[str, Any] = {
        "id": event_id,
        "object": "event",
        "type": "payment_intent.succeeded",
        "created": 1_760_000_000 + number,
        "data": {
            "object": {"id": payment, "object": "payment_intent", "amount": 1000 + number, "currency": "eur",
                       "status": "succeeded", "amount_received": 1000 + number}
        },
    }  # fmt: skip
    return event_id, json.dumps(body).encode()


class Sender:
    """One connection of a provider's delivery machine; a plain one, so that it leaves the cores to the platform."""

    def __init__(self, url: str, sent: Sent) -> None:
        self._url = url
        self._where = urlsplit(url)
        self._sent = sent
        self._verifier = registry.get(SLUG).verifier()
        self._connection = HTTPConnection(self._where.netloc, timeout=10)

    def send_all(self, payments: SimpleQueue[str]) -> None:
        """Deliver payments until none is left. Blocking."""
        with closing(self._connection), suppress(Empty):
            while True:
                self._send_payment(payments.get_nowait())

    def _send_payment(self, payment: str) -> None:
        """Deliver a payment's events in order, repeating each until it is acknowledged, as the provider would."""
        for number in range(EVENTS_EACH):
            event_id, body = delivery(payment, number)
            deadline = time.monotonic() + SENDER_PATIENCE_S
            while not self._acknowledged(body):
                assert time.monotonic() < deadline, f"{event_id} was never acknowledged"
                self._sent.repeats += 1
                time.sleep(SENDER_WAIT_S)  # lint-skip: PB011 a provider waits before it sends again
            self._sent.events[payment].append(event_id)

    def _acknowledged(self, body: bytes) -> bool:
        headers = self._verifier.sign(body, url=self._url, secret=SECRET, now=datetime.now(UTC))
        try:
            self._connection.request("POST", self._where.path, body, dict(headers))
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, HTTPException):
            self._connection.close()
            return False
        # 404: the gateway has not heard of the endpoint yet. 503: the broker is away.
        assert answer.status in (200, 404, 503), answer.status
        return answer.status == 200


@asynccontextmanager
async def killer(platform: Platform, sent: Sent) -> AsyncIterator[list[str]]:
    """Kill the sync worker again and again while deliveries flow, and restart the broker once half-way."""
    done: list[str] = []
    chooser = random.Random(7)

    async def strike() -> None:
        total = PAYMENTS * EVENTS_EACH
        for kill in range(KILLS):
            mark = total * (kill + chooser.random()) / (KILLS + 1)

            async def reached(mark: float = mark) -> bool:
                return sent.count >= mark

            await until(reached, f"{mark:.0f} deliveries", 240)
            await asyncio.to_thread(platform.stack.kill, "sync-worker")
            done.append("sync-worker")
            if kill == KILLS // 2:
                await asyncio.to_thread(platform.stack.kafka.kill)
                await asyncio.to_thread(platform.stack.kafka.start)
                done.append("broker")
            await asyncio.to_thread(platform.stack.start, "sync-worker")

    striking = asyncio.create_task(strike())
    try:
        yield done
        await striking
    finally:
        striking.cancel()


async def test_every_delivery_has_one_effect_in_order(platform: Platform) -> None:
    tenant = f"chaos-{uuid.uuid4().hex[:8]}"
    url = await asyncio.to_thread(connect, platform, tenant)
    payments = [f"pi_{tenant.replace('-', '')}{n:04d}" for n in range(PAYMENTS)]
    sent = Sent()
    queue: SimpleQueue[str] = SimpleQueue()
    for payment in payments:
        queue.put(payment)
    async with killer(platform, sent) as strikes, asyncio.TaskGroup() as senders:
        for _ in range(SENDERS):
            senders.create_task(asyncio.to_thread(Sender(url, sent).send_all, queue))
    assert strikes.count("sync-worker") >= 10
    assert strikes.count("broker") == 1
    assert sent.count == PAYMENTS * EVENTS_EACH >= 20_000

    changes = await until(lambda: _all_changes(platform, tenant, sent.count), "every delivery's change", 180)
    causes: dict[str, list[str]] = defaultdict(list)
    versions: dict[str, list[int]] = defaultdict(list)
    for change in changes:
        causes[change["external_id"]].append(change["cause"])
        versions[change["external_id"]].append(change["version"])
    wrong = [payment for payment, events in sent.events.items() if causes[payment] != events]
    # With the versions it shows whether they were processed or published in another order.
    shown = {
        one: [f"{event[-4:]} v{at}" for event, at in zip(causes[one], versions[one], strict=True)] for one in wrong
    }
    assert not wrong, f"sent set is not effect set, or order was not kept: {shown}"
    assert causes.keys() == sent.events.keys()
    assert all(found == list(range(1, EVENTS_EACH + 1)) for found in versions.values()), "a second or missing effect"
    stored = await rows(
        platform.stack.database_url("sync-worker"),
        "SELECT count(*), sum(version) FROM payments WHERE tenant = $1",
        tenant,
    )
    assert tuple(stored[0]) == (PAYMENTS, sent.count)


def connect(platform: Platform, tenant: str) -> str:
    """Connect the tenant's account and wait until the gateway serves its endpoint."""
    answer = platform.api.post(
        f"{platform.env['SYNC_URL']}/v1/connections",
        json={"provider": SLUG, "tenant": tenant, "account_ref": "acct_chaos", "secrets": {"webhook": SECRET}},
    )
    assert answer.status_code == 201, answer.text
    url: str = answer.json()["endpoints"][0]["url"]
    return url


async def _all_changes(platform: Platform, tenant: str, wanted: int) -> list[dict[str, Any]] | None:
    """Return the tenant's change events in order per key, each once, when there are as many as wanted."""
    first: dict[str, Seen] = {}
    for seen in await read_topic(platform.env["KAFKA_BOOTSTRAP"], SYNC_CHANGES.name):
        headers = dict(seen.headers)
        if headers.get("ce_tenant") == tenant.encode():
            first.setdefault(headers["ce_id"].decode(), seen)
    if len(first) < wanted:
        await asyncio.sleep(1)  # lint-skip: PB011 reading the whole topic in a tight loop would starve the platform
        return None
    return [json.loads(seen.value or b"{}") for seen in first.values()]
