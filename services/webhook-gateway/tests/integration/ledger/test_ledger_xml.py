"""Events out of XML bodies: replayed one by one and as a batch, verified again, and read by whoever gets them.

Records come from the gateway's own request path; the provider is chosen by its shape.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from chassis.claims import event_bytes
from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.testing.service_kit import api_client
from contracts.envelope import Envelope
from contracts.errors import Invalid, Transient
from contracts.events.gateway import BESIDE, DeliveryAttributes
from providers import registry
from providers.conformance import fixtures_for, variants
from providers.fixtures import Fixture
from providers.sdk import WebhookItem
from webhook_gateway.ledger.api import LedgerApi
from webhook_gateway.ledger.table import routes
from webhook_gateway.reverify import Reverifier

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

PROVIDER = next(
    one
    for one in registry.all_providers()
    if one.manifest.webhook and one.webhook.formats == ("xml",) and one.webhook.items == "array"
)


@dataclass
class Batch:
    """Several events that came in one XML body: the gateway that took it, and its records, which the ledger has."""

    bench: Any
    body: bytes
    events: list[WebhookItem]

    @property
    def delivery(self) -> str:
        return str(self.bench.accepted[0].attributes.delivery)

    async def read(self, envelope: Envelope) -> bytes:
        """Return what a consumer reads of a record."""
        return await event_bytes(self.bench.claims, DeliveryAttributes.of(envelope), envelope.data)


def several(options: dict[str, str]) -> Fixture:
    found = fixtures_for(PROVIDER, options)
    return max(found, key=lambda one: len(PROVIDER.split(one.request({}), {**options, **one.options})))


@pytest_asyncio.fixture
async def batch(make_bench: Callable[..., Any], ledger: Any) -> Batch:
    bench = make_bench()
    fixture = several(variants(PROVIDER)[0])
    signer = bench.connect(PROVIDER, {**variants(PROVIDER)[0], **fixture.options})
    request = signer.request(fixture)
    assert (await bench.send(signer.endpoint, request)).status == PROVIDER.webhook.success_status
    events = PROVIDER.split(request, signer.options)
    assert len(bench.accepted) == len(events) > 1
    await ledger.store(
        *(
            Message(one.envelope, one.key.encode(), Origin(one.topic, 0, n), one.envelope.headers())
            for n, one in enumerate(bench.accepted)
        )
    )
    return Batch(bench, request.body, events)


async def replay(ledger: Any, **body: Any) -> list[tuple[str, str, Envelope]]:
    answer = await ledger.post("/v1/replays", {"reason": "a test"} | body)
    assert answer.status_code == 201, answer.text
    await ledger.run_jobs()
    done = await ledger.get(f"/v1/replays/{answer.json()['id']}")
    assert (done["state"], done["missing"]) == ("done", 0)
    written: list[tuple[str, str, Envelope]] = await ledger.outbox()
    return written


async def test_a_whole_batch_is_replayed_as_it_was(ledger: Any, batch: Batch) -> None:
    written = await replay(ledger, delivery_ids=[batch.delivery])
    assert len(written) == len(batch.events)
    for (topic, key, again), first, event in zip(written, batch.bench.accepted, batch.events, strict=True):
        assert (topic, key, again.dedupe_id, again.data) == (
            first.topic,
            first.key,
            first.envelope.dedupe_id,
            first.envelope.data,
        )
        assert await batch.read(again) == event.data
        before, after = dict(first.envelope.extensions), dict(again.extensions)
        assert (after.pop("origin"), bool(after.pop("replay"))) == ("replay", True)
        assert after == before
    # The first one still leads to what was signed, for whoever verifies it again.
    attributes = DeliveryAttributes.of(written[0][2])
    assert attributes.place == BESIDE
    assert await batch.bench.claims.get(attributes.claim) == batch.body


async def test_what_comes_back_of_a_batch_is_known(ledger: Any, batch: Batch) -> None:
    written = await replay(ledger, delivery_ids=[batch.delivery])
    before = await ledger.search()
    await ledger.store(
        *(Message(again, key.encode(), Origin(topic, 1, n), []) for n, (topic, key, again) in enumerate(written))
    )
    assert await ledger.search() == before
    assert {one["outcome"] for one in before} == {"accepted"}


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
async def test_one_event_of_a_batch_is_replayed_alone(ledger: Any, batch: Batch, place: int) -> None:
    """The first one's record carries the request, the others only themselves: both must come back readable."""
    event = batch.events[place]
    [(_, _, again)] = await replay(ledger, query={"event": event.event_id})
    assert (again.id, await batch.read(again)) == (event.event_id, event.data)


async def test_events_outlive_their_body_and_may_be_processed_anew(ledger: Any, batch: Batch) -> None:
    assert await batch.bench.claims.sweep(-60) >= 1
    with pytest.raises(Invalid, match="claim_missing"):
        await batch.bench.claims.get(DeliveryAttributes.of(batch.bench.accepted[0].envelope).claim)
    written = await replay(ledger, delivery_ids=[batch.delivery], new_event_id=True)
    assert [await batch.read(again) for _, _, again in written] == [event.data for event in batch.events]
    known = {event.event_id for event in batch.events}
    assert all(again.id not in known and again.id.partition("+")[0] in known for _, _, again in written)


async def test_large_events_of_a_batch_travel_by_reference_and_come_back(
    make_bench: Callable[..., Any], ledger: Any
) -> None:
    """Each one is larger than a record may be: the gateway's limit is a few bytes here."""
    bench = make_bench(inline_bytes=50)
    fixture = several(variants(PROVIDER)[0])
    signer = bench.connect(PROVIDER, {**variants(PROVIDER)[0], **fixture.options})
    request = signer.request(fixture)
    assert (await bench.send(signer.endpoint, request)).status == PROVIDER.webhook.success_status
    events = PROVIDER.split(request, signer.options)
    assert [one.envelope.data for one in bench.accepted] == [b""] * len(events)
    batch = Batch(bench, request.body, events)
    assert [await batch.read(one.envelope) for one in bench.accepted] == [event.data for event in events]
    assert await bench.claims.get(bench.accepted[0].attributes.claim) == request.body
    await ledger.store(
        *(
            Message(one.envelope, one.key.encode(), Origin(one.topic, 0, n), one.envelope.headers())
            for n, one in enumerate(bench.accepted)
        )
    )
    written = await replay(ledger, delivery_ids=[batch.delivery])
    assert [await batch.read(again) for _, _, again in written] == [event.data for event in events]


# --- verified again ---------------------------------------------------------------------------------------------------


class PureGate:
    """The scheme alone: this one needs no key of the vendor's."""

    async def verify(self, arrival: Any) -> Any:
        verifier = arrival.endpoint.provider.verifier(arrival.endpoint.configured.options)
        return verifier.verify(arrival.request, arrival.endpoint.secrets_at(arrival.received_at), arrival.received_at)


class Full:
    """A claim-check store that takes nothing."""

    async def put(self, _body: bytes) -> str:
        raise Transient("claim_store_unavailable", "OSError")


@dataclass
class Refused:
    """A refused XML batch, whose secret has been corrected since."""

    id: str
    reverifier: Reverifier
    events: list[WebhookItem]
    bench: Any


@pytest_asyncio.fixture
async def refused(ledger: Any, make: Any, make_bench: Callable[..., Any]) -> AsyncIterator[Refused]:
    bench = make_bench()
    # Proven by a header: what proves itself in the query is not recorded, and cannot be verified again.
    options = next(one for one in variants(PROVIDER) if PROVIDER.signature(one).scheme == "mtls")
    fixture = several(options)
    signer = bench.connect(PROVIDER, {**options, **fixture.options})
    request = signer.request(fixture)
    address = bench.endpoints.get(signer.endpoint)
    ledger.configure(address.endpoint.configured)
    headers = tuple((name, value) for name, values in request.headers.items() for value in values)
    refusal = make.rejected(body=request.body, headers=headers, provider=PROVIDER.slug, endpoint=signer.endpoint)
    await ledger.store(refusal)
    reverifier = Reverifier(
        ledger.database, ledger.clock, ledger.book, keyring=bench.keyring, gate=PureGate(), claims=bench.claims
    )
    api = LedgerApi(ledger.database, ledger.clock, ledger.book, ledger.issuer.verifier(), reverifier)
    async with api_client(routes(api), ledger.issuer.headers(Role.OPERATOR)) as client:
        ledger.client = client
        yield Refused(str(refusal.envelope.id), reverifier, PROVIDER.split(request, signer.options), bench)


async def test_a_refused_batch_is_injected_as_the_gateway_would_have(ledger: Any, refused: Refused) -> None:
    answer = await ledger.post(f"/v1/deliveries/{refused.id}/reverify")
    assert (answer.status_code, answer.json().get("events")) == (200, len(refused.events)), answer.text
    written = [envelope for _, _, envelope in await ledger.outbox()]
    for envelope, event in zip(written, refused.events, strict=True):
        attributes = DeliveryAttributes.of(envelope)
        assert await event_bytes(refused.bench.claims, attributes, envelope.data) == event.data
        assert (attributes.origin, attributes.replay, bool(attributes.fingerprint)) == ("replay", refused.id, True)
    story = await ledger.get(f"/v1/deliveries/{refused.id}", raw="false")
    assert story["items"][0]["settled"] == "reverified"


async def test_a_store_that_takes_no_body_leaves_the_refusal_as_it_was(ledger: Any, refused: Refused) -> None:
    full: Any = Full()
    refused.reverifier._claims = full
    answer = await ledger.post(f"/v1/deliveries/{refused.id}/reverify")
    assert await ledger.refusal(answer) == (503, "claim_store_unavailable")
    assert await ledger.outbox() == []
    assert (await ledger.get(f"/v1/deliveries/{refused.id}"))["items"][0]["settled"] == ""
