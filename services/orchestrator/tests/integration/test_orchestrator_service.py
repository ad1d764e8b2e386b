"""The whole orchestrator on a real broker, with somebody who answers its commands as the sync worker would."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr

from chassis.http.auth import Role
from chassis.testing.harness import Seen, read_topic, until
from chassis.testing.ports import free_port
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, declared_topics, migrated_dsn, produce, running
from contracts.codec import decode
from contracts.events.orchestrator import Command
from contracts.events.sync import CommandAnswered
from contracts.topics import (
    ORCHESTRATOR_COMMANDS,
    ORCHESTRATOR_SAGA_EVENTS,
    PLATFORM_AUDIT,
    SYNC_CHANGES,
    SYNC_RESULTS,
    Lane,
)
from orchestrator.app import create
from orchestrator.settings import Settings

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

COMMANDS = ORCHESTRATOR_COMMANDS[Lane.CRITICAL]


async def test_a_saga_survives_an_outage_of_the_message_provider(
    kafka_bootstrap: str, postgres_server: PostgresAdmin, issuer: LocalIssuer
) -> None:
    topics = (*ORCHESTRATOR_COMMANDS.values(), ORCHESTRATOR_SAGA_EVENTS, PLATFORM_AUDIT, SYNC_CHANGES, SYNC_RESULTS)
    await declared_topics(kafka_bootstrap, *topics)
    settings = Settings(
        **issuer.settings(),
        kafka_bootstrap=kafka_bootstrap,
        http_port=free_port(),
        database_url=SecretStr(await migrated_dsn(postgres_server, "orchestrator")),
        timer_poll_s=0.05,
    )
    # What the other side says to each command, by step and attempt.
    script: dict[tuple[str, int], dict[str, Any]] = {
        ("refund", 1): {"status": "applied", "provider_ref": "re_1"},
        ("notify", 1): {"status": "parked", "code": "route_shut", "retry_after_s": 0.01},
        ("notify", 2): {"status": "applied", "provider_ref": "SM1"},
    }

    async with (
        running(create(settings)) as url,
        httpx.AsyncClient(base_url=url, headers=issuer.headers(Role.OPERATOR)) as client,
    ):
        started = await client.post("/v1/sagas/refund-and-notify", json={"tenant": "t1", "payment_id": str(uuid4())})
        saga_id = started.json()["id"]

        async def commands() -> list[tuple[Seen, Command]]:
            seen = [
                (one, decode(Command, one.value or b"")) for one in await read_topic(kafka_bootstrap, COMMANDS.name)
            ]
            return [(one, command) for one, command in seen if str(command.saga_id) == saga_id]

        async def given(step: str, attempt: int) -> Command | None:
            found = [c for _, c in await commands() if (c.step, c.attempt) == (step, attempt)]
            return found[0] if found else None

        for (step, attempt), facts in script.items():
            command = await until(partial(given, step, attempt), f"{step} {attempt}")
            answer = CommandAnswered(
                saga_id=command.saga_id,
                step=step,
                direction="do",
                effect_key=command.effect_key,
                attempt=attempt,
                answered_at="2026-03-01T00:00:00Z",
                **facts,
            )
            # Every answer comes twice, as two facts: what the inbox cannot catch, the engine must.
            await produce(kafka_bootstrap, SYNC_RESULTS, saga_id, answer, answer)

        async def completed() -> Any:
            shown = (await client.get(f"/v1/sagas/{saga_id}")).json()
            return shown if shown["status"] == "completed" else None

        shown = await until(completed, "the saga completes")
        assert [entry["entry"] for entry in shown["timeline"]].count("step_waiting") == 1
        keys = {(one.key, one.header("ce_id")) for one, _ in await commands()}
        assert {key for key, _ in keys} == {f"{saga_id}:{step}".encode() for step in ("refund", "notify")}
        assert len(keys) == len(await commands()) == 3, "one command per attempt"
