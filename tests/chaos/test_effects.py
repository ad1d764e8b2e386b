"""Commands at a provider that drops answers, hangs, throttles and goes away, while all else is killed: one effect each.

Two workers share them. The clock of one is an hour off and jumps to the other side while it runs. The oracle is the
sandbox's own ledger of what was applied, compared with what was commanded, both ways.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chassis.db.connection import is_unavailable
from chassis.kafka.producer import Publisher
from chassis.kafka.rows import Row, row
from chassis.testing.harness import rows
from chassis.testing.processes import Process
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.orchestrator import RunOperation
from contracts.ids import effect_key
from contracts.topics import ORCHESTRATOR_COMMANDS, Lane
from providers import registry
from tests.conftest import Platform
from tools.dev.packages import faketime_library

pytestmark = [pytest.mark.asyncio, pytest.mark.chaos, pytest.mark.timeout(3600)]

COMMANDS = int(os.environ.get("PATCHBAY_CHAOS_COMMANDS", "600"))
ACCOUNTS = 12
STRIKE_EVERY_S = 5.0
# Commands come for as long as one round of strikes takes; a long run is struck until its end.
CHUNK, CHUNK_EVERY_S = (max(COMMANDS // 40, 1), 2.0) if COMMANDS <= 5_000 else (1000, 2.0)
OUTAGE_S = 30.0 if COMMANDS > 50_000 else 8.0
# A hang ends later than any attempt may take.
FAULTS = (
    {"mode": "drop_after_apply", "rate": 0.01},
    {"mode": "hang", "rate": 0.005, "latency_ms": 30_000},
    {"mode": "throttle", "rate": 0.02, "retry_after_s": 0},
)
MAX_ATTEMPTS = 60
PATIENCE_S = 120 + COMMANDS / 50
# Natural: the request names what it is about. It cannot have a second effect, and is sent until it is answered.
PROVIDER, OPERATION = "pagerduty", "alert.trigger"


@dataclass(frozen=True)
class Sent:
    """One command: its saga, the account it goes to, and the words by which the oracle knows it."""

    saga: uuid.UUID
    connection: uuid.UUID
    tenant: str
    alias: str

    @property
    def key(self) -> str:
        return effect_key(str(self.saga), "step", "do")

    def row(self, attempt: int) -> Row:
        command = RunOperation(
            saga_id=self.saga,
            step="step",
            effect_key=self.key,
            attempt=attempt,
            tenant=self.tenant,
            operation=OPERATION,
            connection=self.connection,
            arguments={"alias": self.alias, "title": "chaos"},
        )
        envelope = Envelope(f"{self.key}:{attempt}", "patchbay/chaos", command.TYPE, encode(command))
        topic = ORCHESTRATOR_COMMANDS[Lane.STANDARD].name
        return row(topic, f"{self.saga}:step".encode(), envelope.data, envelope.headers())


def connect(platform: Platform, tenant: str, number: int) -> uuid.UUID:
    """Connect one account and return the connection."""
    manifest = registry.get(PROVIDER).manifest
    secrets = {
        name: f"chaos-{number}-{name}" for name, spec in manifest.secrets.items() if spec.required or "api" in spec.use
    }
    body = {"provider": PROVIDER, "tenant": tenant, "account_ref": f"acct-{number}", "secrets": secrets}
    answer = platform.api.post(f"{platform.env['SYNC_URL']}/v1/connections", json=body)
    assert answer.status_code == 201, answer.text
    return uuid.UUID(answer.json()["id"])


def spoil(platform: Platform, faults: Sequence[dict[str, Any]]) -> None:
    url = f"{platform.env['SANDBOX_URL']}/_control/faults/{PROVIDER}"
    platform.api.delete(url)
    for fault in faults:
        assert platform.api.post(url, json=fault).status_code == 201


@dataclass
class OtherWorker:
    """A second worker whose clock is an hour off; only the wall clock, as on a machine whose clock is set wrong."""

    platform: Platform
    folder: Path
    offset_s: int = 3600
    process: Process | None = field(default=None, init=False)

    def start(self) -> None:
        library = faketime_library()
        assert library is not None, "Debian's package faketime is missing: make setup"
        self._set()
        self.process = self.platform.stack.join(
            "sync-worker",
            "1",
            {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_CACHE_DURATION": "1",
            },
        )

    def jump(self) -> None:
        """Set the clock to the other side of the truth, while the worker runs."""
        self.offset_s = -self.offset_s
        self._set()

    def crash(self) -> None:
        """Kill it in the middle of what it does, and start it again."""
        if self.process is not None:
            self.process.kill()
        self.start()

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop(30)

    def _set(self) -> None:
        written = self.folder / "clock.new"
        written.write_text(f"{self.offset_s:+d}\n")
        written.replace(self.folder / "clock")


async def strike(platform: Platform, other: OtherWorker, done: list[str], round_over: asyncio.Event) -> None:
    """Break one thing after the other: workers, clock, provider, each of the stores. In a long run again and again."""
    stack = platform.stack
    while not done or COMMANDS > 5_000:
        for what in ("worker", "outage", "clock", "redis", "other worker", "worker", "postgres", "clock", "broker"):
            await asyncio.sleep(STRIKE_EVERY_S)  # lint-skip: PB011 the rhythm of the strikes is what is tested
            if what == "worker":
                await asyncio.to_thread(stack.kill, "sync-worker")
                await asyncio.to_thread(stack.start, "sync-worker")
            elif what == "clock":
                other.jump()
            elif what == "other worker":
                await asyncio.to_thread(other.crash)
            elif what == "outage":
                await asyncio.to_thread(spoil, platform, [{"mode": "outage"}])
                await asyncio.sleep(OUTAGE_S)  # lint-skip: PB011 the length of the outage is what is tested
                await asyncio.to_thread(spoil, platform, FAULTS)
            else:
                server = {"redis": stack.redis, "postgres": stack.postgres, "broker": stack.kafka}[what]
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            done.append(what)
        round_over.set()


async def stored(dsn: str, sql: str, *args: object) -> list[Any]:
    """Return rows; an empty list while the database is away."""
    try:
        return list(await rows(dsn, sql, *args))
    except Exception as error:
        if not is_unavailable(error):
            raise
        return []


async def send(publisher: Publisher, records: Sequence[Row]) -> None:
    """Send records, for as long as the broker is away again and again: a command that was not taken was not given."""
    while True:
        try:
            return await publisher.send_rows(records)
        except Transient:
            await asyncio.sleep(1)  # lint-skip: PB011 the broker is being restarted


async def retry(publisher: Publisher, dsn: str, commands: dict[str, Sent]) -> Counter[str]:
    """Do what the orchestrator does: ask again for what was not done, until all is; return the states."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = await stored(
            dsn,
            """SELECT key, state, attempt, answered, updated_at < now() - interval '1 second' AS rests FROM effects
               WHERE key = ANY($1::text[])""",
            list(commands),
        )
        states = Counter(one["state"] for one in found)
        if states["applied"] + states["refused"] == len(commands) or time.monotonic() > deadline:
            return states
        again = [
            commands[one["key"]].row(one["attempt"] + 1)
            for one in found
            if one["state"] not in ("applied", "refused")
            and one["attempt"] == one["answered"] < MAX_ATTEMPTS
            and one["rests"]
        ]
        await send(publisher, again)
        await asyncio.sleep(1)  # lint-skip: PB011 an orchestrator waits as long as it is told to


async def carried_out(dsn: str, keys: Sequence[str]) -> Counter[str]:
    """Return how many effects were last marked by a clock that is far from the database's."""
    found = await rows(
        dsn,
        """SELECT CASE WHEN abs(extract(epoch FROM updated_at - clock_timestamp())) > 1800 THEN 'skewed' ELSE 'true' END
               AS clock, count(*) AS number FROM effects WHERE key = ANY($1::text[]) GROUP BY 1""",
        keys,
    )
    return Counter({one["clock"]: one["number"] for one in found})


async def test_every_command_has_one_effect(platform: Platform, tmp_path: Path) -> None:
    tenant = f"effects-{uuid.uuid4().hex[:8]}"
    accounts = [await asyncio.to_thread(connect, platform, tenant, number) for number in range(ACCOUNTS)]
    commands = [
        Sent(uuid.uuid4(), accounts[number % ACCOUNTS], tenant, f"{tenant}-{number:06d}") for number in range(COMMANDS)
    ]
    await asyncio.to_thread(spoil, platform, FAULTS)
    publisher = Publisher(platform.env["KAFKA_BOOTSTRAP"])
    await publisher.start()
    done: list[str] = []
    other = OtherWorker(platform, tmp_path)
    await asyncio.to_thread(other.start)
    round_over = asyncio.Event()
    striking = asyncio.create_task(strike(platform, other, done, round_over))
    try:
        for start in range(0, COMMANDS, CHUNK):
            if start + CHUNK >= COMMANDS:
                # The last ones come after everything broke once, however slow the machine is.
                async with asyncio.timeout(PATIENCE_S):
                    await round_over.wait()
            await send(publisher, [one.row(1) for one in commands[start : start + CHUNK]])
            await asyncio.sleep(CHUNK_EVERY_S)  # lint-skip: PB011 the pace of the commands
        by_key = {one.key: one for one in commands}
        states = await retry(publisher, platform.stack.database_url("sync-worker"), by_key)
    finally:
        striking.cancel()
        await asyncio.gather(striking, return_exceptions=True)
        await publisher.stop()
        await asyncio.to_thread(spoil, platform, [])
        await asyncio.to_thread(platform.stack.start, "sync-worker")
        await asyncio.to_thread(other.stop)
    assert {"worker", "outage", "clock", "other worker", "redis", "postgres", "broker"} <= set(done), (
        "it was over before everything broke once"
    )
    assert states == {"applied": COMMANDS}, states
    dsn = platform.stack.database_url("sync-worker")
    assert await carried_out(dsn, list(by_key)) == {"true": COMMANDS}, "no worker wrote its own clock's time"
    url = f"{platform.env['SANDBOX_URL']}/_control/effects"
    answer = await asyncio.to_thread(platform.api.get, url, params={"provider": PROVIDER, "operation": OPERATION})
    applied = Counter(one["subject"] for one in answer.json()["items"] if one["subject"].startswith(tenant))
    assert applied == Counter(one.alias for one in commands), "sent set is not effect set, or something was done twice"
