"""The operator's switch and the drain watch's limit: who may, what the gateways are told, what is audited."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, service_database
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.events.gateway import AdmissionChanged
from contracts.topics import GATEWAY_ADMISSION, PLATFORM_AUDIT
from webhook_gateway.endpoint_book import EndpointBook
from webhook_gateway.ledger.admission import AdmissionDesk, routes
from webhook_gateway.ledger.api import LedgerApi

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


@pytest_asyncio.fixture
async def stored(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "webhook_gateway") as database:
        yield database


@pytest.fixture
def admission_desk(stored: Database) -> AdmissionDesk:
    return AdmissionDesk(stored, ManualClock())


@pytest_asyncio.fixture
async def operator(
    stored: Database, admission_desk: AdmissionDesk, issuer: LocalIssuer
) -> AsyncIterator[httpx.AsyncClient]:
    api = LedgerApi(stored, ManualClock(), EndpointBook(), issuer.verifier())
    async with api_client(routes(api, admission_desk), issuer.headers(Role.OPERATOR, subject="ann")) as client:
        yield client


async def told(database: Database, topic: str) -> list[dict[str, object]]:
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY xid, id", topic)
    return [json.loads(row["value"]) for row in found]


async def test_the_switch_reaches_the_gateways_and_the_audit_log_and_keeps_the_limit(
    operator: httpx.AsyncClient, admission_desk: AdmissionDesk, stored: Database
) -> None:
    await admission_desk.limit(12.5, "bulk waits 90 s")
    answer = await operator.put("/v1/admission", json={"emergency": True, "reason": "the database is full"})
    assert (answer.status_code, answer.json()["emergency"], answer.json()["bulk_per_s"]) == (200, True, 12.5)
    await operator.put("/v1/admission", json={"emergency": False, "reason": "space again"})
    changes = await told(stored, GATEWAY_ADMISSION.name)
    assert [(one["emergency"], one["bulk_per_s"], one["by"]) for one in changes] == [
        (False, 12.5, "webhook-gateway"),
        (True, 12.5, "ann"),
        (False, 12.5, "ann"),
    ]
    audited = await told(stored, PLATFORM_AUDIT.name)
    assert [(one["actor"], one["action"]) for one in audited] == [
        ("ann", "emergency.declared"),
        ("ann", "emergency.ended"),
    ]


async def test_the_limit_does_not_end_an_emergency(admission_desk: AdmissionDesk, stored: Database) -> None:
    declared = AdmissionChanged(emergency=True, bulk_per_s=None, reason="test", by="ann", at=ManualClock().now())
    admission_desk.apply("admission", Envelope(id="1", source="t", type=declared.TYPE, data=encode(declared)))
    await admission_desk.limit(5.0, "bulk waits 70 s")
    (change,) = await told(stored, GATEWAY_ADMISSION.name)
    assert (change["emergency"], change["bulk_per_s"]) == (True, 5.0)


async def test_the_newest_decision_is_shown_and_only_operators_change_it(
    operator: httpx.AsyncClient, issuer: LocalIssuer
) -> None:
    assert (await operator.get("/v1/admission")).json()["emergency"] is False
    viewer = issuer.headers(Role.VIEWER)
    wanted = {"emergency": True, "reason": "because"}
    assert (await operator.put("/v1/admission", json=wanted, headers=viewer)).status_code == 403
    assert (await operator.get("/v1/admission", headers=viewer)).status_code == 200
    for body, field in (({"emergency": True}, "reason"), ({"emergency": True, "reason": "x" * 3, "for": 1}, "for")):
        refused = await operator.put("/v1/admission", json=body)
        assert refused.status_code == 422
        assert field in refused.text
