"""The whole service on a real broker: a check in, an attestation out, and its own audit event in the chain."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from chassis.http.auth import Role
from chassis.testing.harness import read_topic, until
from chassis.testing.ports import free_port
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import (
    LocalIssuer,
    declared_topics,
    migrated_dsn,
    produce,
    running,
    write_keyring,
)
from contracts.codec import decode
from contracts.events.platform import AuditRecorded
from contracts.events.verification import AttestationChanged
from contracts.ids import uuid7
from contracts.topics import PLATFORM_AUDIT, VERIFICATION_ATTESTATIONS
from verification.app import create
from verification.settings import Settings

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


async def test_a_check_reaches_the_attestations_topic_and_the_audit_chain(
    kafka_bootstrap: str, postgres_server: PostgresAdmin, issuer: LocalIssuer, tmp_path: Path
) -> None:
    await declared_topics(kafka_bootstrap, VERIFICATION_ATTESTATIONS, PLATFORM_AUDIT)
    tenant = f"t{uuid.uuid4().hex[:8]}"
    settings = Settings(
        **issuer.settings(),
        kafka_bootstrap=kafka_bootstrap,
        http_port=free_port(),
        database_url=SecretStr(await migrated_dsn(postgres_server, "verification")),
        keyring=write_keyring(tmp_path),
    )
    foreign = AuditRecorded(
        audit_id=uuid7(),
        tenant=tenant,
        service="another",
        actor="ada",
        action="thing.done",
        target="thing:1",
        at=datetime.now(UTC),
    )
    body = {
        "tenant": tenant,
        "customerId": "canary-customer",
        "fullName": "Zebediah Quillfeather",
        "dateOfBirth": "1987-03-14",
        "idNumberLast4": "7319",
        "state": "WY",
    }
    async with running(create(settings)) as url, httpx.AsyncClient(headers=issuer.headers(Role.OPERATOR)) as client:
        await produce(kafka_bootstrap, PLATFORM_AUDIT, tenant, foreign, tenant=tenant)
        answer = (await client.post(f"{url}/v1/age-verification/verify", json=body)).json()
        assert answer["verified"] is True

        async def both_in_the_chain() -> bool:
            found = (await client.get(f"{url}/v1/audit", params={"tenant": tenant})).json()["items"]
            return {item["action"] for item in found} == {"thing.done", "age.verified"}

        await until(both_in_the_chain, "both audit events are sequenced")
        assert (await client.get(f"{url}/v1/audit/verify")).json()["intact"] is True

        async def published() -> list[AttestationChanged]:
            seen = await read_topic(kafka_bootstrap, VERIFICATION_ATTESTATIONS.name)
            changes = [decode(AttestationChanged, record.value or b"") for record in seen]
            return [change for change in changes if change.tenant == tenant]

        change = (await until(published, "the attestation is published"))[0]
    assert (change.status, change.thresholds, change.epoch) == ("verified", (18, 21), 1)
    for topic in (VERIFICATION_ATTESTATIONS, PLATFORM_AUDIT):
        for record in await read_topic(kafka_bootstrap, topic.name):
            text = repr((record.key, record.value, record.headers)).lower()
            assert not any(canary in text for canary in ("canary-customer", "quillfeather", "1987-03-14"))
