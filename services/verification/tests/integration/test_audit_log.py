"""The audit log on a real database: gapless, append-only, and it knows when somebody changed it anyway."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.testing.harness import rows
from chassis.testing.service_kit import LocalIssuer
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.events.platform import AuditRecorded
from verification import audit
from verification.handlers import sequence

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


def event(number: int, tenant: str = "t", action: str = "thing.done") -> AuditRecorded:
    return AuditRecorded(
        audit_id=UUID(int=number),
        tenant=tenant,
        service="test",
        actor="ada",
        action=action,
        target=f"thing:{number}",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        detail={"why": "ünïcode"},
    )


def message(recorded: AuditRecorded) -> Message:
    envelope = Envelope(id=str(uuid4()), source="test", type=AuditRecorded.TYPE, data=encode(recorded))
    return Message(envelope, b"t", Origin("topic", 0, 0), [])


async def append(database: Database, *events: AuditRecorded) -> None:
    async with database.unit_of_work() as uow:
        await sequence(uow, [message(one) for one in events])


async def tamper(database: Database, sql: str) -> None:
    """Change the log as a thief with the role's password would: without the trigger."""
    async with database.connection() as connection:
        await connection.execute("ALTER TABLE audit_log DISABLE TRIGGER append_only")
        await connection.execute(sql)
        await connection.execute("ALTER TABLE audit_log ENABLE TRIGGER append_only")


async def verified(client: httpx.AsyncClient) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get("/v1/audit/verify")).json()
    return answer


async def test_events_become_a_gapless_chain_each_once(client: httpx.AsyncClient, database: Database) -> None:
    await append(database, *(event(number) for number in range(5)))
    await append(database, event(3), event(5), event(5))
    indices = await rows(database.dsn, "SELECT index, audit_id FROM audit_log ORDER BY index")
    assert [(row["index"], row["audit_id"].int) for row in indices] == [(n + 1, n) for n in range(6)]
    last = await rows(database.dsn, "SELECT hash FROM audit_log WHERE index = 6")
    assert await verified(client) == {
        "entries": 6,
        "head": last[0]["hash"].hex(),
        "intact": True,
        "firstBroken": None,
    }


async def test_an_empty_log_is_intact(client: httpx.AsyncClient) -> None:
    assert await verified(client) == {"entries": 0, "head": "00" * 32, "intact": True, "firstBroken": None}


async def test_concurrent_writers_make_one_chain(client: httpx.AsyncClient, database: Database) -> None:
    await asyncio.gather(*(append(database, *(event(w * 10 + n) for n in range(10))) for w in range(6)))
    assert (await verified(client))["intact"] is True
    assert (await rows(database.dsn, "SELECT max(index) AS last, count(*) AS n FROM audit_log"))[0]["last"] == 60


@pytest.mark.parametrize("sql", ["UPDATE audit_log SET actor = 'eve'", "DELETE FROM audit_log", "TRUNCATE audit_log"])
async def test_the_database_refuses_to_change_the_log(database: Database, sql: str) -> None:
    await append(database, event(1))
    async with database.connection() as connection:
        with pytest.raises(asyncpg.PostgresError, match="append-only"):
            await connection.execute(sql)
    assert len(await rows(database.dsn, "SELECT 1 FROM audit_log")) == 1


@pytest.mark.parametrize(
    ("sql", "broken"),
    [
        ("UPDATE audit_log SET actor = 'eve' WHERE index = 4", 4),
        ("UPDATE audit_log SET detail = '{}' WHERE index = 7", 7),
        ("DELETE FROM audit_log WHERE index = 5", 5),
        ("DELETE FROM audit_log WHERE index = 1", 1),
    ],
)
async def test_a_forced_change_is_found_across_chunks(
    client: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch, sql: str, broken: int
) -> None:
    monkeypatch.setattr(audit, "CHUNK_ENTRIES", 3)
    await append(database, *(event(number) for number in range(10)))
    assert (await verified(client))["intact"] is True
    await tamper(database, sql)
    answer = await verified(client)
    assert (answer["intact"], answer["firstBroken"]) == (False, broken)


async def test_the_list_is_filtered_and_paged_newest_first(client: httpx.AsyncClient, database: Database) -> None:
    await append(database, *(event(n, tenant="ab"[n % 2], action=f"thing.{'xy'[n % 2]}") for n in range(10)))
    seen: list[int] = []
    after = ""
    while True:
        body = (await client.get(f"/v1/audit?limit=2&tenant=a&action=thing.x{after}")).json()
        seen += [item["index"] for item in body["items"]]
        if body["next"] is None:
            break
        after = f"&after={body['next']}"
    assert seen == [9, 7, 5, 3, 1]
    item = (await client.get("/v1/audit?limit=1")).json()["items"][0]
    assert (item["target"], len(item["hash"]), len(item["prev_hash"])) == ("thing:9", 64, 64)


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "after=x", "colour=red", "after=WyJ4Il0="])
async def test_bad_queries_are_422(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/v1/audit?{query}")).status_code == 422


@pytest.mark.parametrize("path", ["/v1/audit", "/v1/audit/verify"])
async def test_the_log_is_for_operators(client: httpx.AsyncClient, issuer: LocalIssuer, path: str) -> None:
    assert (await client.get(path, headers=issuer.headers(Role.VIEWER))).status_code == 403
    assert (await client.get(path, headers={"authorization": ""})).status_code == 401


async def test_an_event_that_postgres_cannot_store_is_invalid_at_once(database: Database) -> None:
    with pytest.raises(Invalid):
        await append(database, event(1).model_copy(update={"detail": {"a": "\x00"}}))
    assert await rows(database.dsn, "SELECT 1 FROM audit_log") == []
