"""A sync worker without Kafka: commands in, answers out, on a real database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from chassis.db.database import Database
from chassis.effects import table
from chassis.effects.desk import EffectDesk
from chassis.effects.executor import Executor
from chassis.effects.states import Effect
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.events.health import RouteChanged, RouteState
from contracts.events.orchestrator import Command, RefundPayment, SendMessage
from contracts.events.sync import CommandAnswered
from contracts.ids import effect_key, uuid7
from contracts.modes import Mode
from contracts.topics import SYNC_RESULTS
from providers.provider import Provider
from sync_worker import payments as rule
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.effects.participant import ProviderEffects
from sync_worker.effects.targets import Targets
from sync_worker.endpoints.desk import Endpoints
from sync_worker.models import Connection
from sync_worker.outbound.route_table import RouteTable
from sync_worker.repository import connections, payments
from sync_worker_support.calls import FreeLimiter, ScriptedClient, path_of
from sync_worker_support.fakes import LIMITS, PAYER, START, TENANT, snapshot


@dataclass
class Desk:
    """A sync worker without Kafka: commands in, answers out, provider calls as scripted."""

    database: Database
    keyring: Keyring
    client: ScriptedClient = field(default_factory=ScriptedClient)
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    routes: RouteTable = field(default_factory=RouteTable)
    saga: UUID = field(default_factory=uuid7)

    def __post_init__(self) -> None:
        acts = Endpoints(self.keyring, self.clock, "https://gateway.test", LIMITS)
        parts = Parts.build(self.database, self.keyring, acts, self.clock, Surroundings("https://api.patchbay.test"))
        self.vault, self.tokens = parts.vault, parts.tokens
        self.limiter = FreeLimiter()
        self.path = path_of(parts.tokens, self.client, self.routes, self.clock, self.limiter)
        self.targets = Targets(self.keyring, self.routes, self.clock)
        self.participant = ProviderEffects(self.targets, parts.tokens, self.path)
        self.desk = EffectDesk(self.participant, SYNC_RESULTS, self.clock)
        self.executor = self.new_executor()

    def new_executor(self, width: int = 4) -> Executor:
        return Executor(self.database, self.desk, self.participant, self.clock, width=width)

    async def connect(self, provider: Provider, account_ref: str = "acct", **knobs: Any) -> UUID:
        """Store a connection that is called; `mode`, `options` and `secrets` may be given."""
        connection = Connection(
            id=uuid7(),
            tenant=knobs.get("tenant", TENANT),
            provider=provider.slug,
            account_ref=account_ref,
            mode=knobs.get("mode", "live"),
            state="live",
            options=knobs.get("options", {}),
            created_at=self.clock.now(),
            created_by="test",
        )
        secrets = knobs.get("secrets", {"webhook": "w", "api_key": "canary-api-key"})
        async with self.database.unit_of_work() as uow:
            sealed = self.vault.seal(connection.tenant, connection.id, secrets)
            assert await connections.insert(uow.connection, connection, sealed)
        return connection.id

    async def pay(self, provider: Provider, connection: UUID, phone: str = "", **known: Any) -> UUID:
        """Store a canonical payment."""
        shot = snapshot(**known)
        place = rule.contact_place(TENANT, provider.slug, shot.external_id)
        contact = self.keyring.seal(json.dumps({"phone": phone}), place) if phone else None
        payment = rule.merge(None, rule.Seen(TENANT, provider.slug, connection, shot, contact), self.clock.now())
        assert payment is not None
        async with self.database.unit_of_work() as uow:
            await payments.upsert(uow.connection, [payment])
        return payment.id

    async def refundable(self, provider: Provider = PAYER, account_ref: str = "acct", **knobs: Any) -> UUID:
        return await self.pay(provider, await self.connect(provider, account_ref, **knobs))

    def refund(self, payment: UUID, attempt: int = 1, **fields: Any) -> RefundPayment:
        direction = fields.get("direction", "do")
        key = effect_key(str(self.saga), "refund", direction)
        known = {"saga_id": self.saga, "step": "refund", "effect_key": key, "attempt": attempt, "tenant": TENANT}
        return RefundPayment(**(known | {"payment_id": payment} | fields))

    def message(self, payment: UUID, attempt: int = 1) -> SendMessage:
        key = effect_key(str(self.saga), "notify", "do")
        known = {"saga_id": self.saga, "step": "notify", "effect_key": key, "attempt": attempt, "tenant": TENANT}
        return SendMessage(**known, payment_id=payment, text="Refunded.")

    async def take(self, command: Command) -> None:
        async with self.database.unit_of_work() as uow:
            await self.desk.take(uow, [(command, "")])

    async def run(self, command: Command, *script: Any) -> CommandAnswered:
        """Take a command, let the executor work until nothing is left to do, and return the newest answer."""
        self.client.script += script
        await self.take(command)
        await self.work(command.effect_key)
        return (await self.answers())[-1]

    async def work(self, key: str) -> None:
        for _ in range(2):  # a look-up that finds nothing is followed by a new request at once
            await self.execute(key)

    async def execute(self, key: str, executor: Executor | None = None) -> None:
        """Let an executor take an effect one step further, as it stands in the table."""
        async with self.database.connection() as connection:
            found = await table.get(connection, key)
        if found is not None:
            await (executor or self.executor).execute(found)

    async def answers(self) -> list[CommandAnswered]:
        found = await rows(
            self.database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", SYNC_RESULTS.name
        )
        return [decode(CommandAnswered, row["value"]) for row in found]

    async def effect(self, command: Command) -> Effect:
        async with self.database.connection() as connection:
            found = await table.get(connection, command.effect_key)
        assert found is not None
        return found

    def route(self, state: RouteState, epoch: int, provider: Provider = PAYER, mode: Mode = "live") -> None:
        """Apply a route as the state reader would."""
        changed = RouteChanged(
            provider=provider.slug,
            capability=provider.manifest.capabilities[0],
            mode=mode,
            epoch=(1, epoch),
            state=state,
            share=0 if state is RouteState.DOWN else 100,
            reason="test",
            decided_at=START,
        )
        self.routes.apply("", Envelope(id="1", source="test", type=changed.TYPE, data=encode(changed)))

    def later(self, **delta: float) -> None:
        self.clock.advance(timedelta(**delta).total_seconds())
