"""A refused delivery, verified again after its secret was corrected. A real scheme, no broker."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chassis.claims.directory import DirectoryClaims
from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.sealing import Keyring
from chassis.testing.service_kit import api_client
from contracts.events.gateway import DeliveryAttributes
from contracts.events.sync import SealedSecret, endpoint_secret_place
from contracts.ids import uuid7
from contracts.topics import GATEWAY_EVENTS, GATEWAY_QUARANTINE, Lane
from providers import registry
from webhook_gateway.ledger.api import LedgerApi
from webhook_gateway.ledger.table import routes
from webhook_gateway.reverify import Reverifier

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

PROVIDER = registry.get("standard_webhooks")
BODY = b'{"type": "invoice.paid", "id": 1}'
URL = "https://hooks.test/hooks/ep-1"


class PureGate:
    """The scheme alone: this one needs no key of the vendor's."""

    async def verify(self, arrival: Any) -> Any:
        verifier = arrival.endpoint.provider.verifier(arrival.endpoint.configured.options)
        return verifier.verify(arrival.request, arrival.endpoint.secrets_at(arrival.received_at), arrival.received_at)


@dataclass
class Desk:
    """A ledger with a keyring, and a refusal to verify again."""

    ledger: Any
    make: Any
    keyring: Keyring
    version: int = 0

    def secret(self, value: str, key_id: str, **validity: Any) -> SealedSecret:
        sealed = self.keyring.seal(value, endpoint_secret_place("t1", "ep-1", key_id))
        return SealedSecret(key_id=key_id, sealed=base64.b64encode(sealed).decode(), **validity)

    def configure(self, *secrets: SealedSecret, **facts: Any) -> None:
        self.version += 1
        self.ledger.configure(
            self.make.endpoint(provider=PROVIDER.slug, url=URL, secrets=secrets, version=self.version, **facts)
        )

    async def refuse(self, signing: str, **facts: Any) -> str:
        """Store a refusal of a delivery that is signed with `signing`, and return its id."""
        signed = PROVIDER.verifier().sign(BODY, url=URL, secret=signing, now=self.make.start, message_id="msg_1")
        headers = tuple((name.lower(), value) for name, value in signed.items())
        refusal = self.make.rejected(body=facts.pop("body", BODY), headers=headers, provider=PROVIDER.slug, **facts)
        await self.ledger.store(refusal)
        return str(refusal.envelope.id)

    async def verify(self, delivery: str) -> Any:
        return await self.ledger.post(f"/v1/deliveries/{delivery}/reverify")


@pytest_asyncio.fixture
async def desk(ledger: Any, make: Any, tmp_path: Path) -> AsyncIterator[Desk]:
    keyring = Keyring({1: b"\x01" * 32}, 1)
    claims = DirectoryClaims(tmp_path / "claims")
    reverifier = Reverifier(ledger.database, ledger.clock, ledger.book, keyring=keyring, gate=PureGate(), claims=claims)
    api = LedgerApi(ledger.database, ledger.clock, ledger.book, ledger.issuer.verifier(), reverifier)
    async with api_client(routes(api), ledger.issuer.headers(Role.OPERATOR)) as client:
        ledger.client = client
        yield Desk(ledger, make, keyring)


async def test_it_verifies_with_the_corrected_secret_and_goes_into_its_lane(desk: Desk) -> None:
    pair, wrong = PROVIDER.verifier().generate(), PROVIDER.verifier().generate()
    desk.configure(desk.secret(wrong.verifying, "k1"))
    delivery = await desk.refuse(pair.signing)
    still = await desk.verify(delivery)
    assert await desk.ledger.refusal(still) == (409, "still_refused")
    assert "bad_signature" in still.json()["detail"]
    # The corrected secret is younger than the delivery, and the replay window is long over by now.
    desk.ledger.clock.advance(86400)
    desk.configure(desk.secret(pair.verifying, "k2", not_before=desk.ledger.clock.now() - timedelta(minutes=1)))
    answer = await desk.verify(delivery)
    assert (answer.status_code, answer.json()["key_id"], answer.json()["events"]) == (200, "k2", 1)
    [(topic, key, envelope)] = await desk.ledger.outbox()
    attributes = DeliveryAttributes.of(envelope)
    assert (topic, envelope.id, envelope.data) == (GATEWAY_EVENTS[Lane.STANDARD].name, "msg_1", BODY)
    assert (attributes.origin, attributes.replay, attributes.receivedat) == ("replay", delivery, desk.make.start)
    [act] = await desk.ledger.audited()
    assert (act.action, act.detail["was"], act.detail["made"]) == (
        "delivery.reverified",
        "bad_signature",
        attributes.delivery,
    )
    await desk.ledger.store(Message(envelope, key.encode(), Origin(topic, 0, 1), []))
    story = await desk.ledger.get(f"/v1/deliveries/{delivery}")
    assert [(one["id"], one["outcome"]) for one in story["attempts"]] == [(attributes.delivery, "accepted")]
    assert story["items"][0]["settled"] == "reverified"


async def test_it_is_injected_once(desk: Desk) -> None:
    pair = PROVIDER.verifier().generate()
    desk.configure(desk.secret(pair.verifying, "k1"))
    delivery = await desk.refuse(pair.signing)
    answers = await asyncio.gather(*(desk.verify(delivery) for _ in range(3)))
    assert sorted(one.status_code for one in answers) == [200, 409, 409]
    assert len(await desk.ledger.outbox()) == 1


async def test_a_paused_endpoint_holds_it_back(desk: Desk) -> None:
    pair = PROVIDER.verifier().generate()
    desk.configure(desk.secret(pair.verifying, "k1"), state="paused")
    await desk.verify(await desk.refuse(pair.signing))
    assert [topic for topic, _, _ in await desk.ledger.outbox()] == [GATEWAY_QUARANTINE.name]


async def test_what_cannot_be_verified_says_why(desk: Desk) -> None:
    pair = PROVIDER.verifier().generate()
    stranger = await desk.refuse(pair.signing)
    assert await desk.ledger.refusal(await desk.verify(stranger)) == (409, "no_endpoint")
    expired = desk.secret(pair.verifying, "k1", not_after=desk.make.start)
    desk.configure(expired, SealedSecret(key_id="k0", sealed="bm90IHNlYWxlZA=="))
    for facts, code in (
        ({}, "still_refused"),
        ({"body_bytes": 100_000}, "truncated_body"),
    ):
        assert await desk.ledger.refusal(await desk.verify(await desk.refuse(pair.signing, **facts))) == (409, code)
    desk.configure(desk.secret(pair.verifying, "k1"))
    tampered = await desk.refuse(pair.signing, body=BODY + b" ")
    stale = await desk.refuse(pair.signing, at=desk.make.start + timedelta(hours=1))
    for delivery in (tampered, stale):
        assert await desk.ledger.refusal(await desk.verify(delivery)) == (409, "still_refused")
    good = uuid7()
    await desk.ledger.store(desk.make.accepted("e1", delivery=good))
    assert await desk.ledger.refusal(await desk.verify(str(good))) == (409, "not_rejected")
    assert (await desk.verify(str(uuid7()))).status_code == 404
    assert await desk.ledger.outbox() == []
    assert await desk.ledger.audited() == []


async def test_a_ledger_without_a_keyring_says_so(ledger: Any, make: Any) -> None:
    refusal = make.rejected()
    await ledger.store(refusal)
    answer = await ledger.post(f"/v1/deliveries/{refusal.envelope.id}/reverify")
    assert await ledger.refusal(answer) == (409, "no_keyring")
