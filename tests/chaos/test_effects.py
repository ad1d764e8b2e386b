"""Commands at providers that drop answers, hang, throttle and go away, while all else is killed: one effect each.

Three workers share them. The clock of one is an hour off and jumps to the other side while it runs. The oracle is the
sandbox's own ledger of what was applied, compared with what was commanded, both ways.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from chassis.db.connection import is_unavailable
from chassis.kafka.producer import Publisher
from chassis.kafka.rows import Row, row
from chassis.sealing.keyring import Keyring
from chassis.testing.harness import rows
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.orchestrator import RunOperation, operation_place
from contracts.ids import effect_key
from contracts.operations import arguments_of
from contracts.topics import ORCHESTRATOR_COMMANDS, Lane
from providers import registry
from tests.chaos.strikes import Fault, SkewedReplica, Strikes
from tests.conftest import Platform

pytestmark = [pytest.mark.asyncio, pytest.mark.chaos, pytest.mark.timeout(7200)]

COMMANDS = int(os.environ.get("PATCHBAY_CHAOS_COMMANDS", "600"))
# In a second, at most: less than the workers do when nobody kills them.
CHUNK = min(max(COMMANDS // 40, 1), 500)
OUTAGE_S = 30.0 if COMMANDS >= 10_000 else 8.0
# Enough for the lowest published limit: 120 a minute and account.
ACCOUNTS = 12 if COMMANDS < 10_000 else 60
PATIENCE_S = 180 + COMMANDS / 20
# An orchestrator holds back what waits for one provider; to ask for all of it each second would be all there is to do.
MOST_AT_ONCE = 300
OPEN_RETRY_S = 1.0
_STATES = "SELECT key, state FROM effects WHERE tenant = $1"


@dataclass(frozen=True)
class Kind:
    """How a provider lets one know whether something was done; `share` is in a hundred commands."""

    name: str
    provider: str
    operation: str
    share: int
    arguments: Mapping[str, str]
    options: Mapping[str, str]
    dropped: float = 0.01

    @property
    def faults(self) -> list[Fault]:
        """Answers are lost after the deed, never come, or say `later`. A hang ends later than any attempt may take."""
        return [
            {"mode": "drop_after_apply", "rate": self.dropped},
            {"mode": "hang", "rate": 0.005, "latency_ms": 30_000},
            {"mode": "throttle", "rate": 0.02, "retry_after_s": 0},
        ]


TICKET = {"title": "{alias}", "text": "chaos"}
MAIL = {"recipient": "{alias}@example.com", "subject": "{alias}", "text": "chaos", "sender": "clinic@example.com"}
KINDS = (
    Kind("natural", "pagerduty", "alert.trigger", 20, {"alias": "{alias}", "title": "chaos"}, {}),
    Kind("key", "zendesk", "ticket.create", 45, TICKET, {"subdomain": "patchbay"}),
    # Every command has a channel of its own: only the latest hundred messages of one are searched.
    Kind("read-back", "slack", "chat.post", 20, {"channel": "{alias}", "text": "{alias}"}, {}),
    # So many answers are lost that even a short run has some whose outcome nobody knows.
    Kind("neither", "sendgrid", "email.send", 15, MAIL, {}, dropped=0.05),
)


@dataclass(frozen=True)
class Sent:
    """One command: its saga, the account it goes to, and the word by which the oracle knows it."""

    kind: Kind
    saga: uuid.UUID
    connection: uuid.UUID
    tenant: str
    alias: str
    keyring: Keyring

    @property
    def key(self) -> str:
        return effect_key(str(self.saga), "step", "do")

    def row(self, attempt: int) -> Row:
        """Return the command as an orchestrator sends it: personal arguments are sealed."""
        arguments = {name: text.format(alias=self.alias) for name, text in self.kind.arguments.items()}
        hidden = arguments_of(self.kind.operation).personal_fields()
        personal = {name: text for name, text in arguments.items() if name in hidden}
        sealed = self.keyring.seal(json.dumps(personal), operation_place(self.tenant, self.key))
        command = RunOperation(
            saga_id=self.saga,
            step="step",
            effect_key=self.key,
            attempt=attempt,
            tenant=self.tenant,
            operation=self.kind.operation,
            connection=self.connection,
            arguments={name: text for name, text in arguments.items() if name not in hidden},
            personal=base64.b64encode(sealed).decode() if personal else "",
        )
        envelope = Envelope(f"{self.key}:{attempt}", "patchbay/chaos", command.TYPE, encode(command))
        topic = ORCHESTRATOR_COMMANDS[Lane.STANDARD].name
        return row(topic, f"{self.saga}:step".encode(), envelope.data, envelope.headers())


def connect(platform: Platform, kind: Kind, tenant: str, number: int) -> uuid.UUID:
    """Connect one account and return the connection."""
    manifest = registry.get(kind.provider).manifest
    assert manifest.api is not None
    needed = next(iter(manifest.api.auth.values())).secret_names()
    body = {
        "provider": kind.provider,
        "tenant": tenant,
        "account_ref": f"acct-{number}@example.com",
        "secrets": {name: f"chaos-{number}-{name}" for name in needed},
        "options": dict(kind.options),
    }
    answer = platform.api.post(f"{platform.env['SYNC_URL']}/v1/connections", json=body)
    assert answer.status_code == 201, answer.text
    return uuid.UUID(answer.json()["id"])


def commanded(platform: Platform, tenant: str, accounts: Mapping[str, Sequence[uuid.UUID]]) -> Iterator[Sent]:
    """Yield the commands, the kinds mixed by their shares."""
    keyring = Keyring.load(platform.stack.run_dir / "keyring.json")
    mix = [kind for kind in KINDS for _ in range(kind.share)]
    for number in range(COMMANDS):
        # 37 is prime to 100, so that neighbours are of different kinds.
        kind = mix[number * 37 % len(mix)]
        connection = accounts[kind.name][number // len(mix) % ACCOUNTS]
        yield Sent(kind, uuid.uuid4(), connection, tenant, f"{tenant}-{number:06d}", keyring)


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
        except (Transient, KafkaError):
            await asyncio.sleep(1)  # lint-skip: PB011 the broker is being restarted


async def ask_again(publisher: Publisher, dsn: str, tenant: str, commands: Mapping[str, Sent]) -> None:
    """Do what the orchestrator does, for ever: ask again for what was not done, no sooner than it was told to."""
    while True:
        due = await stored(
            dsn,
            """SELECT key, attempt FROM effects WHERE tenant = $1 AND state IN ('reserved', 'unknown')
                   AND attempt = answered AND code <> 'needs_settlement'
                   AND (parked_until IS NULL OR parked_until <= now())
                   AND updated_at < now() - make_interval(secs => least(2 ^ least(attempt, 5) / 2, 15))
               ORDER BY updated_at LIMIT $2""",
            tenant,
            MOST_AT_ONCE,
        )
        await send(publisher, [commands[one["key"]].row(one["attempt"] + 1) for one in due])
        await asyncio.sleep(OPEN_RETRY_S)  # lint-skip: PB011 the rhythm in which an orchestrator looks


async def ended(dsn: str, tenant: str) -> None:
    """Wait until no effect is open any more, or for too long."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        [*found] = await stored(
            dsn,
            """SELECT state, count(*) AS number FROM effects WHERE tenant = $1
                   AND (state IN ('applied', 'refused') OR code = 'needs_settlement') GROUP BY state""",
            tenant,
        )
        if sum(one["number"] for one in found) == COMMANDS or time.monotonic() > deadline:
            return
        await asyncio.sleep(1)  # lint-skip: PB011 the rhythm in which the outcome is looked at


async def clocks(dsn: str, tenant: str, since: datetime) -> Counter[str]:
    """Return how many effects were marked by a clock that was about right, and by one that was not."""
    found = await rows(
        dsn,
        """SELECT CASE WHEN updated_at BETWEEN $2::timestamptz - interval '1 min' AND now() + interval '1 min'
                       THEN 'right' ELSE 'wrong' END AS clock, count(*) AS number
           FROM effects WHERE tenant = $1 GROUP BY 1""",
        tenant,
        since,
    )
    return Counter({one["clock"]: one["number"] for one in found})


def applied(platform: Platform, kind: Kind, tenant: str) -> Counter[str]:
    """Return how often the sandbox did what was asked for, by the word that names a command."""
    url = f"{platform.env['SANDBOX_URL']}/_control/effects"
    answer = platform.api.get(url, params={"provider": kind.provider, "operation": kind.operation}, timeout=120)
    asked = (set(one["detail"]["asked"]) for one in answer.json()["items"])
    return Counter(word for words in asked for word in words if word.startswith(tenant) and "@" not in word)


async def test_every_command_has_one_effect(
    platform: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant, dsn = f"effects-{uuid.uuid4().hex[:8]}", platform.stack.database_url("sync-worker")
    [begun] = await rows(dsn, "SELECT now() AS at")
    accounts: defaultdict[str, list[uuid.UUID]] = defaultdict(list)
    for kind in KINDS:
        for number in range(ACCOUNTS):
            accounts[kind.name].append(await asyncio.to_thread(connect, platform, kind, tenant, number))
    commands = list(commanded(platform, tenant, accounts))
    by_key = {one.key: one for one in commands}
    skewed = SkewedReplica(platform, "1", folder=tmp_path)
    strikes = Strikes(platform, skewed, {kind.provider: kind.faults for kind in KINDS}, outage_s=OUTAGE_S)
    publisher = Publisher(platform.env["KAFKA_BOOTSTRAP"])
    await publisher.start()
    started = time.monotonic()
    try:
        async with strikes.going_on():
            asking = asyncio.create_task(ask_again(publisher, dsn, tenant, by_key))
            for start in range(0, COMMANDS, CHUNK):
                if start + CHUNK >= COMMANDS:
                    # The last ones come after everything broke once, however slow the machine is.
                    async with asyncio.timeout(PATIENCE_S):
                        await strikes.all_once()
                await send(publisher, [one.row(1) for one in commands[start : start + CHUNK]])
                await asyncio.sleep(1)  # lint-skip: PB011 the pace of the commands
            await ended(dsn, tenant)
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
    finally:
        await publisher.stop()
    taken_s = time.monotonic() - started
    states = {one["key"]: one["state"] for one in await rows(dsn, _STATES, tenant)}
    found = Counter((by_key[key].kind.name, state) for key, state in states.items())
    said = f"{COMMANDS} commands in {taken_s:.0f} s under {dict(strikes.done)}: {dict(found)}"
    with capsys.disabled():
        sys.stdout.write(f"\n{said}\n")
    for kind in KINDS:
        mine = Counter(one.alias for one in commands if one.kind is kind)
        done = await asyncio.to_thread(applied, platform, kind, tenant)
        if kind.name == "neither":
            unknown = {by_key[key].alias for key, state in states.items() if state == "unknown"}
            assert unknown, "not one answer was lost for good: nothing was tried"
            assert set(done.values()) == {1}, "something was done twice although nobody could know"
            assert set(done) >= set(mine) - unknown, "something is called done and was not"
            assert set(done) <= set(mine)
            assert found[kind.name, "applied"] + len(unknown) == len(mine), found
        else:
            assert found[kind.name, "applied"] == len(mine), found
            assert done == mine, f"{kind.name}: sent set is not effect set, or something was done twice"
    assert await clocks(dsn, tenant, begun["at"]) == {"right": COMMANDS}, "a worker wrote its own clock's time"
