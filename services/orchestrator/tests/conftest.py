"""A runtime on the orchestrator's own database, without Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, service_database
from contracts.events.orchestrator import RefundPayment, SendMessage
from contracts.events.sync import AnswerStatus, CommandAnswered
from contracts.ids import effect_key
from contracts.topics import ORCHESTRATOR_COMMANDS
from orchestrator import repository
from orchestrator.catalogue import StartRequest, all_sagas
from orchestrator.engine import Answered
from orchestrator.models import Saga
from orchestrator.runtime import Runtime, TimerPoller

START = datetime(2026, 3, 1, tzinfo=UTC)
NAME = "refund-and-notify"
MODELS = {model.TYPE: model for model in (RefundPayment, SendMessage)}


def answer(saga_id: UUID, step: str, status: str, attempt: int = 1, **facts: Any) -> CommandAnswered:
    """Return an answer to a step's command."""
    return CommandAnswered(
        saga_id=saga_id,
        step=step,
        direction=facts.pop("direction", "do"),
        effect_key=effect_key(str(saga_id), step, "do"),
        attempt=attempt,
        status=AnswerStatus(status),
        answered_at=START,
        **facts,
    )


@dataclass
class Bench:
    """Runs, their answers and their timers, with time that tests move; jitter is none."""

    database: Database
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))

    def __post_init__(self) -> None:
        self.runtime = Runtime(self.clock, jitter=lambda: 0.0)
        self.poller = TimerPoller(self.database, self.runtime, self.clock, interval_s=1)

    async def start(self, payment: UUID | None = None, **given: Any) -> tuple[Saga, bool]:
        saga = all_sagas()[NAME]
        wanted = saga.input_model(tenant="t1", payment_id=payment or uuid4(), **given)
        async with self.database.unit_of_work() as uow:
            return await self.runtime.start(
                uow, StartRequest(saga.definition, wanted, "a test"), started_by="ann", trace=""
            )

    async def answer(self, saga_id: UUID, step: str, status: str, attempt: int = 1, **facts: Any) -> None:
        async with self.database.unit_of_work() as uow:
            await self.runtime.feed(uow, saga_id, Answered(answer(saga_id, step, status, attempt, **facts)), None)

    async def commands(self) -> list[Any]:
        """Return all commands given so far, in order."""
        names = [topic.name for topic in ORCHESTRATOR_COMMANDS.values()]
        found = await rows(self.database.dsn, "SELECT value FROM outbox WHERE topic = ANY($1) ORDER BY id", names)
        models = [MODELS["message.send.v1" if b'"text"' in row["value"] else "payment.refund.v1"] for row in found]
        return [model.model_validate_json(row["value"]) for model, row in zip(models, found, strict=True)]

    async def show(self, saga_id: UUID) -> dict[str, Any]:
        async with self.database.connection() as connection:
            found = await repository.show(connection, saga_id)
        assert found is not None
        return found


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)


@pytest_asyncio.fixture(scope="session")
async def migrated(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "orchestrator") as opened:
        yield opened


@pytest_asyncio.fixture
async def database(migrated: Database) -> Database:
    """Give the service's database, emptied."""
    async with migrated.connection() as connection:
        await connection.execute("TRUNCATE timers, saga_events, sagas, inbox, outbox, idempotent_answers")
    return migrated


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database)
