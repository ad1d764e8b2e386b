"""The age check API on a real database: answers, attempts, cache, bad input."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, migrated_dsn, schema_differences, write_keyring
from contracts.codec import decode
from contracts.errors import Transient
from contracts.events.platform import AuditRecorded
from contracts.events.verification import AttestationChanged
from contracts.topics import PLATFORM_AUDIT, VERIFICATION_ATTESTATIONS
from verification import routes
from verification.checks import CheckResult, Identity, MockCheck
from verification.tags import Tagger
from verification.verify import AgeVerifier, Limits

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

VERIFY = "/v1/age-verification/verify"
STATUS = "/v1/age-verification/status"
LIMITS = Limits(attempts=3, attempt_window=timedelta(hours=24), attestation=timedelta(days=365), check_timeout_s=0.05)


def body(**changes: Any) -> dict[str, Any]:
    return {
        "customerId": "cust-1",
        "fullName": "Ada Test",
        "dateOfBirth": "1990-04-01",
        "idNumberLast4": "1234",
        "state": "CA",
    } | changes


async def verify(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await client.post(VERIFY, json=body(**changes))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def used(database: Database) -> list[int]:
    return [row["used"] for row in await rows(database.dsn, "SELECT used FROM attempts ORDER BY used")]


async def outgoing(database: Database, topic: str) -> list[bytes]:
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", topic)
    return [row["value"] for row in found]


async def test_models_and_migrations_describe_the_same_tables(postgres_server: PostgresAdmin) -> None:
    assert await schema_differences(await migrated_dsn(postgres_server, "verification"), "verification") == []


async def test_an_adult_passes_and_the_status_says_thresholds_and_no_age(client: httpx.AsyncClient) -> None:
    answer = await verify(client)
    assert set(answer) == {"success", "verified", "verificationId", "method", "processingTime"}
    assert (answer["success"], answer["verified"], answer["method"]) == (True, True, "mock")
    status = (await client.get(f"{STATUS}/cust-1")).json()
    assert status == {
        "verified": True,
        "expired": False,
        "verifiedAt": "2026-06-15T12:00:00+00:00",
        "expiresAt": "2027-06-15T12:00:00+00:00",
        "verificationId": answer["verificationId"],
        "ageOver21": True,
        "thresholds": [18, 21],
    }


async def test_a_nineteen_year_old_is_over_18_and_not_over_21(client: httpx.AsyncClient) -> None:
    assert (await verify(client, dateOfBirth="2007-01-01"))["verified"] is True
    status = (await client.get(f"{STATUS}/cust-1")).json()
    assert (status["verified"], status["ageOver21"], status["thresholds"]) == (True, False, [18])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dateOfBirth": "2015-01-01"}, (True, "underage", "mock")),
        ({"idNumberLast4": "0000"}, (False, "no_match", "mock")),
        ({"idNumberLast4": "0002"}, (False, "needs_document", "mock")),
        ({"fullName": "X"}, (False, "implausible_name", "rules")),
        ({"dateOfBirth": "2030-01-01"}, (False, "implausible_date_of_birth", "rules")),
        ({"state": "ZZ"}, (False, "implausible_state", "rules")),
    ],
)
async def test_a_refusal_says_why_counts_and_leaves_no_status(
    client: httpx.AsyncClient, database: Database, changes: dict[str, str], expected: tuple[bool, str, str]
) -> None:
    answer = await verify(client, **changes)
    assert answer["verified"] is False
    assert (answer["success"], answer["reason"], answer["method"]) == expected
    assert await used(database) == [1, 1]
    assert (await client.get(f"{STATUS}/cust-1")).status_code == 404


async def test_a_repeat_of_the_same_identity_comes_from_the_cache_and_costs_nothing(
    client: httpx.AsyncClient, database: Database
) -> None:
    first = await verify(client)
    for _ in range(5):
        again = await verify(client, fullName="  ADA   test")
        assert (again["method"], again["verified"], again["verificationId"]) == ("cache", True, first["verificationId"])
    assert await used(database) == [1, 1]


async def test_the_cache_needs_the_identity_and_not_only_the_customer(client: httpx.AsyncClient) -> None:
    await verify(client)
    other = await verify(client, fullName="Bob Test", dateOfBirth="2015-01-01")
    assert (other["method"], other["verified"]) == ("mock", False)
    assert (await verify(client, customerId="cust-2"))["method"] == "mock", "nor the identity without the customer"
    assert (await verify(client, tenant="other"))["method"] == "mock", "nor another tenant's"


async def test_a_refusal_does_not_take_a_live_pass_away(client: httpx.AsyncClient, database: Database) -> None:
    first = await verify(client)
    await verify(client, idNumberLast4="0000")
    assert (await client.get(f"{STATUS}/cust-1")).json()["verificationId"] == first["verificationId"]
    assert len(await outgoing(database, VERIFICATION_ATTESTATIONS.name)) == 1


async def test_the_fourth_attempt_of_a_customer_is_too_many_until_the_window_ends(
    client: httpx.AsyncClient, clock: ManualClock
) -> None:
    for digits in ("0000", "0002", "0003"):
        await verify(client, idNumberLast4=digits)
    refused = await client.post(VERIFY, json=body())
    problem = refused.json()
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
    assert "Too many" in problem["detail"]
    assert problem["resetAt"] == "2026-06-16T12:00:00+00:00"
    assert refused.headers["retry-after"] == str(24 * 3600)
    clock.advance(24 * 3600 - 1)
    assert (await client.post(VERIFY, json=body())).status_code == 429
    clock.advance(1)
    assert (await verify(client))["verified"] is True


async def test_a_new_account_does_not_give_an_identity_more_attempts(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await verify(client, customerId=f"account-{number}", idNumberLast4="0000")
    assert (await client.post(VERIFY, json=body(customerId="account-3", idNumberLast4="0000"))).status_code == 429
    assert (await verify(client, customerId="account-3"))["verified"] is True, "the refusal charged account-3 nothing"


async def test_concurrent_requests_never_get_more_than_the_limit(client: httpx.AsyncClient, database: Database) -> None:
    requests = [client.post(VERIFY, json=body(idNumberLast4="0000")) for _ in range(12)]
    statuses = [response.status_code for response in await asyncio.gather(*requests)]
    assert sorted(statuses) == [200] * 3 + [429] * 9
    assert await used(database) == [3, 3]


async def test_a_fault_of_the_provider_costs_no_attempt(client: httpx.AsyncClient, database: Database) -> None:
    for _ in range(5):
        response = await client.post(VERIFY, json=body(idNumberLast4="0001"))
        assert (response.status_code, response.json()["code"]) == (503, "provider_error")
        assert response.headers["retry-after"]
    assert await used(database) == [0, 0]
    assert await rows(database.dsn, "SELECT 1 FROM outbox") == []


class BadCheck:
    """A provider that hangs, raises an expected failure, or has a bug."""

    name = "bad"
    assurance = "none"

    def __init__(self, fault: Exception | None) -> None:
        self.fault = fault

    async def check(self, identity: Identity, reference: UUID) -> CheckResult:
        if self.fault is not None:
            raise self.fault
        await asyncio.Event().wait()
        raise AssertionError((identity, reference))


async def test_a_hang_or_an_exception_of_the_provider_costs_no_attempt_either(
    database: Database, keyring: Keyring, clock: ManualClock, issuer: LocalIssuer
) -> None:
    faults = [(None, 503), (Transient("provider_away", "x"), 503), (RuntimeError("a bug"), 500)]
    for fault, status in faults:
        verifier = AgeVerifier(database, BadCheck(fault), Tagger(keyring), clock, LIMITS)
        served = routes.routes(verifier, issuer.verifier(), clock)
        async with api_client(served, issuer.headers(Role.SERVICE)) as client:
            assert (await client.post(VERIFY, json=body())).status_code == status
        assert await used(database) == [0, 0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"age": 30}, "age"),
        ({"customerId": 17}, "customerId"),
        ({"customerId": ""}, "customerId"),
        ({"fullName": None}, "fullName"),
        ({"dateOfBirth": "01/02/1990"}, "dateOfBirth"),
        ({"dateOfBirth": "1990-02-30"}, "dateOfBirth"),
        ({"dateOfBirth": 631152000}, "dateOfBirth"),
        ({"idNumberLast4": 1234}, "idNumberLast4"),
        ({"idNumberLast4": "12345"}, "idNumberLast4"),
        ({"state": "California"}, "state"),
        ({"tenant": "No Slug"}, "tenant"),
    ],
)
async def test_a_wrong_field_is_named_its_value_is_not_and_no_attempt_counts(
    client: httpx.AsyncClient, database: Database, changes: dict[str, Any], field: str
) -> None:
    response = await client.post(VERIFY, json=body(**changes))
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]
    assert "1990-02-30" not in response.text
    assert await used(database) == []


async def test_a_missing_field_and_no_json_are_422(client: httpx.AsyncClient) -> None:
    assert (await client.post(VERIFY, json={})).status_code == 422
    assert (await client.post(VERIFY, content=b"{")).status_code == 422


async def test_an_idempotency_key_gives_the_first_answer_again_without_another_check(
    client: httpx.AsyncClient, database: Database
) -> None:
    headers = {"idempotency-key": "k-1"}
    first = await client.post(VERIFY, json=body(idNumberLast4="0000"), headers=headers)
    again = await client.post(VERIFY, json=body(idNumberLast4="0000"), headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert await used(database) == [1, 1]
    assert (await client.post(VERIFY, json=body(), headers=headers)).status_code == 409


async def test_twins_with_one_idempotency_key_are_one_attempt(client: httpx.AsyncClient, database: Database) -> None:
    headers = {"idempotency-key": "k-2"}
    twins = [client.post(VERIFY, json=body(idNumberLast4="0000"), headers=headers) for _ in range(3)]
    answers = await asyncio.gather(*twins)
    assert len({answer.json()["verificationId"] for answer in answers}) == 1
    assert await used(database) == [1, 1]


async def test_an_expired_pass_says_so_and_is_checked_again_under_the_same_subject(
    client: httpx.AsyncClient, database: Database, clock: ManualClock
) -> None:
    await verify(client)
    clock.advance(timedelta(days=365).total_seconds())
    status = (await client.get(f"{STATUS}/cust-1")).json()
    assert (status["verified"], status["expired"], status["ageOver21"], status["thresholds"]) == (
        False,
        True,
        False,
        [],
    )
    assert (await verify(client))["method"] == "mock"
    changes = [decode(AttestationChanged, value) for value in await outgoing(database, VERIFICATION_ATTESTATIONS.name)]
    assert [(c.epoch, c.status, c.thresholds) for c in changes] == [
        (1, "verified", (18, 21)),
        (2, "verified", (18, 21)),
    ]
    assert len({c.subject for c in changes}) == 1


async def test_a_birthday_is_noticed_when_the_person_asks_again(client: httpx.AsyncClient, clock: ManualClock) -> None:
    await verify(client, dateOfBirth="2005-06-16")
    assert (await client.get(f"{STATUS}/cust-1")).json()["thresholds"] == [18]
    clock.advance(timedelta(days=1).total_seconds())
    assert (await verify(client, dateOfBirth="2005-06-16"))["method"] == "mock"
    assert (await client.get(f"{STATUS}/cust-1")).json()["thresholds"] == [18, 21]


async def test_attestation_and_audit_are_published_with_keys_and_reasons(
    client: httpx.AsyncClient, database: Database
) -> None:
    answer = await verify(client)
    found = await rows(database.dsn, "SELECT topic, key, value FROM outbox ORDER BY topic")
    assert [row["topic"] for row in found] == [PLATFORM_AUDIT.name, VERIFICATION_ATTESTATIONS.name]
    audit, changed = decode(AuditRecorded, found[0]["value"]), decode(AttestationChanged, found[1]["value"])
    assert found[1]["key"].decode() == str(changed.subject)
    assert (changed.status, changed.thresholds, changed.epoch) == ("verified", (18, 21), 1)
    assert (audit.actor, audit.action, audit.target) == (
        "op-1",
        "age.verified",
        f"verification:{answer['verificationId']}",
    )
    assert audit.detail["subject"] == str(changed.subject)


async def test_a_rotated_key_still_finds_the_customer_and_tags_anew(
    client: httpx.AsyncClient, database: Database, clock: ManualClock, issuer: LocalIssuer, tmp_path_factory: Any
) -> None:
    first = await verify(client)
    before = (await rows(database.dsn, "SELECT customer_ref FROM verification"))[0][0]
    rotated = Tagger(Keyring.load(write_keyring(tmp_path_factory.mktemp("rotated"), versions=2)))
    verifier = AgeVerifier(database, MockCheck(clock), rotated, clock, LIMITS)
    async with api_client(routes.routes(verifier, issuer.verifier(), clock), issuer.headers(Role.OPERATOR)) as later:
        assert (await later.get(f"{STATUS}/cust-1")).json()["verificationId"] == first["verificationId"]
        assert (await verify(later))["method"] == "cache"
        await verify(later, fullName="Ada Newname")
    after = await rows(database.dsn, "SELECT customer_ref FROM verification")
    assert len(after) == 1
    assert after[0][0] != before


@pytest.mark.parametrize("path", [VERIFY, f"{STATUS}/cust-1"])
async def test_only_operators_and_services_may_ask(client: httpx.AsyncClient, issuer: LocalIssuer, path: str) -> None:
    method = "POST" if path == VERIFY else "GET"
    assert (await client.request(method, path, headers={"authorization": ""})).status_code == 401
    assert (await client.request(method, path, headers=issuer.headers(Role.VIEWER))).status_code == 403
    assert (await client.request(method, path, json=body(), headers=issuer.headers(Role.SERVICE))).status_code in (
        200,
        404,
    )


async def test_customers_of_one_tenant_are_unknown_to_another(client: httpx.AsyncClient) -> None:
    await verify(client, tenant="acme")
    assert (await client.get(f"{STATUS}/cust-1?tenant=acme")).status_code == 200
    assert (await client.get(f"{STATUS}/cust-1")).status_code == 404
    assert (await client.get(f"{STATUS}/cust-1?tenant=acme&x=1")).status_code == 422
