"""What becomes of a delivery, good or bad, up to the producer. Providers are chosen by shape, never by name."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events.gateway import UNREADABLE_TYPE
from contracts.topics import GATEWAY_EVENTS, GATEWAY_REJECTIONS, Lane
from providers import registry
from providers.conformance import fixtures_for, variants
from providers.fixtures import Fixture
from providers.provider import Provider

pytestmark = pytest.mark.asyncio

LIMIT = 64 * 1024
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WEBHOOKS = [provider for provider in registry.all_providers() if provider.manifest.webhook]
FIRST = {provider.slug: variants(provider)[0] for provider in WEBHOOKS}
TRAITS = {provider.slug: provider.traits(FIRST[provider.slug]) for provider in WEBHOOKS}


def shape(provider: Provider) -> Any:
    """Return what the provider's scheme promises; the test of every provider and case is test_conformance.py."""
    return TRAITS[provider.slug]


# A scheme in a header over the raw body with a signed time, in JSON that holds its own id and type.
PLAIN = next(
    p
    for p in WEBHOOKS
    if shape(p) is not None
    and (shape(p).covers, shape(p).stale_after_s, p.webhook.items, p.webhook.formats)
    == ("body", 300, "single", ("json",))
    and not p.webhook.handshakes
    and not shape(p).fetches
    and all(str(one).startswith("body:") for one in (*p.webhook.event_id, *p.webhook.event_type))
)
# Providers that send an array as their body.
BATCHED = [p for p in WEBHOOKS if p.webhook.items == "array" and p.webhook.pointers == ("",)]


def critical_fixture(provider: Provider) -> Fixture | None:
    """Return a fixture whose first event is critical by the manifest."""
    options = FIRST[provider.slug]
    for fixture in fixtures_for(provider, options):
        keys = provider.verifier(options).generate()
        request = provider.sign(
            fixture.request({}), secret=keys.signing, now=START, message_id=fixture.message_id, options=options
        )
        items = provider.split(request, options)
        if items and provider.webhook.lane_for(items[0].event_type) is Lane.CRITICAL:
            return fixture
    return None


CRITICAL = [(p, fixture) for p in WEBHOOKS if (fixture := critical_fixture(p)) is not None]

each = pytest.mark.parametrize("provider", WEBHOOKS, ids=lambda p: p.slug)
each_batched = pytest.mark.parametrize("provider", BATCHED, ids=lambda p: p.slug)


def tampered(body: bytes) -> bytes:
    return body + (b"&extra=1" if not body.startswith((b"{", b"[")) else b" ")


async def test_until_all_endpoints_are_known_a_token_that_is_not_is_503(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    bench.loaded.clear()
    unknown = await bench.post("not-yet", b"{}", {})
    assert (unknown.status, unknown.code) == (503, "unavailable")
    assert (await bench.deliver(signer)).status == PLAIN.webhook.success_status


@each
async def test_a_signed_delivery_is_produced_with_its_facts_and_answered_as_the_provider_expects(
    bench: Any, provider: Provider
) -> None:
    signer = bench.connect(provider)
    for fixture in fixtures_for(provider, signer.options):
        bench.publisher.records.clear()
        bench.memory.seen.clear()
        request = signer.request(fixture)
        reply = await bench.send(signer.endpoint, request)
        wanted = provider.split(request, signer.options)
        own = provider.webhook.answer_for(wanted[0].event_type) if wanted else None
        if own is None:
            usual = (provider.webhook.success_status, provider.webhook.success_body)
            assert (reply.status, reply.body.decode()) == usual
        else:
            assert (reply.status, json.loads(reply.body)) == (own.status, own.json_body)
            assert reply.headers["content-type"] == "application/json"
        assert not bench.rejected
        assert [record.envelope.id for record in bench.accepted] == [item.event_id for item in wanted]
        for record, item in zip(bench.accepted, wanted, strict=True):
            facts = record.attributes
            assert (facts.eventtype, facts.tenant, facts.keyid) == (item.event_type, "t1", "k1")
            assert facts.apiversion == item.api_version
            assert facts.bodysha256 == hashlib.sha256(request.body).hexdigest()
            assert record.topic == GATEWAY_EVENTS[provider.webhook.lane_for(item.event_type)].name
            assert record.key == (f"t1:{item.entity[0]}:{item.entity[1]}" if item.entity else signer.endpoint)
            assert record.envelope.source.endswith(f"{provider.slug}/{facts.connection}")
            assert record.envelope.time == facts.receivedat == bench.clock.now()
            assert record.payload == item.data
            # Some vendors put the token into the body, which is kept as received.
            if signer.secret.encode() not in request.body:
                assert signer.secret not in str(record)


async def test_an_unknown_endpoint_is_404_and_leaves_no_record(bench: Any) -> None:
    for path in ("nobody", "", "../live", "n/a"):
        reply = await bench.post(path, b"{}", {})
        assert (reply.status, reply.code) == (404, "unknown_endpoint")
    assert not bench.publisher.records


async def test_a_rejection_record_holds_what_came_but_no_secret_and_no_credential(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    body = b"x" * LIMIT
    headers = {
        "Authorization": "Bearer canary-1",
        "Cookie": "session=canary-2",
        "Proxy-Authorization": "Basic canary-3",
        "X-Long": "y" * 2000,
    }
    await bench.post(signer.endpoint, body, headers)
    (record,) = bench.publisher.records
    (rejection,) = bench.rejected
    assert (record.topic, record.key) == (GATEWAY_REJECTIONS.name, signer.endpoint)
    assert (rejection.endpoint, rejection.provider, rejection.body_bytes) == (signer.endpoint, PLAIN.slug, LIMIT)
    assert len(rejection.body) <= 4 * 64 * 1024 // 3 + 4
    assert [(name, len(value)) for name, value in rejection.headers] == [("x-long", 512)]
    assert "canary" not in record.envelope.data.decode()
    assert signer.secret not in record.envelope.data.decode()


async def test_a_body_over_the_limit_is_413_before_it_is_read(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    for declared in (str(LIMIT + 1), "9" * 18, "9" * 4000):
        reply = await bench.request(signer.endpoint, [b"x"], [(b"content-length", declared.encode())])
        assert (reply.status, reply.code, reply.chunks_read) == (413, "body_too_large", 0)
    assert [one.reason for one in bench.rejected] == ["body_too_large"] * 3


async def test_a_chunked_body_over_the_limit_is_413_while_it_streams(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    reply = await bench.request(signer.endpoint, [b"x" * 1024] * 1000, [])
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert reply.chunks_read == LIMIT // 1024 + 1


async def test_a_body_of_exactly_the_limit_is_accepted_raw_and_unpacked(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    body = json.dumps("x" * (LIMIT - 2)).encode()
    packed = gzip.compress(body)
    assert (await bench.post(signer.endpoint, body, signer.headers(body))).status == PLAIN.webhook.success_status
    headers = signer.headers(packed) | {"Content-Encoding": "gzip"}
    assert (await bench.post(signer.endpoint, packed, headers)).status == PLAIN.webhook.success_status


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("gzip", b"no gzip at all", 400, "bad_encoding"),
        ("gzip", gzip.compress(b"{}")[:-4], 400, "bad_encoding"),
        ("gzip", gzip.compress(b"{}") + b"rest", 400, "bad_encoding"),
        ("br", b"{}", 400, "bad_encoding"),
        ("gzip, gzip", gzip.compress(b"{}"), 400, "bad_encoding"),
        ("gzip", gzip.compress(b"0" * (LIMIT + 1)), 413, "body_too_large"),
        ("gzip", gzip.compress(b"0" * (20 * 1024 * 1024)), 413, "body_too_large"),
    ],
    ids=["garbage", "cut", "trailing", "foreign", "twice", "one-over", "bomb"],
)
async def test_a_bad_content_coding_is_refused(bench: Any, coding: str, body: bytes, status: int, code: str) -> None:
    signer = bench.connect(PLAIN)
    reply = await bench.post(signer.endpoint, body, signer.headers(body) | {"Content-Encoding": coding})
    assert (reply.status, reply.code) == (status, code)
    assert [one.reason for one in bench.rejected] == [code]
    assert not bench.accepted


@pytest.mark.parametrize("provider", [PLAIN, *BATCHED], ids=lambda p: p.slug)
async def test_a_gzipped_delivery_is_kept_as_signed_and_read_unpacked(bench: Any, provider: Provider) -> None:
    signer, fixture = bench.connect(provider), provider.fixtures()[0]
    packed = gzip.compress(fixture.body)
    headers = signer.headers(packed, fixture) | {"Content-Encoding": "gzip"}
    assert (await bench.post(signer.endpoint, packed, headers)).status == provider.webhook.success_status
    first = bench.accepted[0]
    assert (first.envelope.data, first.attributes.encoding) == (packed, "gzip")
    document = json.loads(fixture.body)
    items = document if isinstance(document, list) else [document]
    assert [json.loads(record.payload) for record in bench.accepted] == items


async def test_a_wrong_method_is_405_and_says_which_is_right(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    for method in ("DELETE", "HEAD", "BREW"):
        reply = await bench.post(signer.endpoint, b"", {}, method=method)
        assert (reply.status, reply.headers["allow"]) == (405, ", ".join(PLAIN.webhook.methods))
    assert {one.reason for one in bench.rejected} == {"method_not_allowed"}


async def test_a_body_that_takes_too_long_is_408(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(body_timeout_s=0.05)
    signer = bench.connect(PLAIN)
    reply = await bench.request(signer.endpoint, [b"{"], [], then="stall")
    assert (reply.status, reply.code, reply.headers["connection"]) == (408, "slow_body", "close")
    assert [one.reason for one in bench.rejected] == ["slow_body"]


async def test_a_sender_that_leaves_within_the_body_gets_no_verdict(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    for declared in (b"100", b"1000000"):
        limit = (b"content-length", declared if int(declared) <= LIMIT else str(LIMIT).encode())
        reply = await bench.request(signer.endpoint, [b"{"], [limit], then="leave")
        assert reply.status == 0
    assert not bench.publisher.records
    assert len(bench.flights) == 0


async def test_without_the_broker_the_answer_is_503_with_retry_after_inside_two_seconds(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    fixture = signer.fixture
    bench.publisher.fail_from = 0
    reply = await bench.deliver(signer, fixture)
    assert (reply.status, reply.code) == (503, "unavailable")
    assert int(reply.headers["retry-after"]) > 0
    refused = await bench.post(signer.endpoint, fixture.body, {})
    assert refused.status == PLAIN.webhook.refused_status, "a refusal does not need the broker"


async def test_a_broker_that_does_not_answer_costs_a_sender_the_publish_timeout_and_no_more(
    make_bench: Callable[..., Any],
) -> None:
    bench = make_bench(publish_timeout_s=0.1)
    signer = bench.connect(PLAIN)
    bench.publisher.gate.clear()
    reply = await bench.deliver(signer)
    assert (reply.status, reply.code) == (503, "unavailable")
    assert len(bench.flights) == 0
    bench.publisher.gate.set()
    assert (await bench.deliver(signer)).status == PLAIN.webhook.success_status


@each_batched
async def test_a_batch_is_one_record_per_item_and_item_0_carries_the_request(bench: Any, provider: Provider) -> None:
    signer = bench.connect(provider)
    fixture = max(provider.fixtures(), key=lambda one: len(json.loads(one.body)))
    await bench.deliver(signer, fixture)
    items = json.loads(fixture.body)
    assert len(items) > 1
    assert [(r.attributes.item, r.attributes.items) for r in bench.accepted] == [
        (index, len(items)) for index in range(len(items))
    ]
    assert len({r.attributes.delivery for r in bench.accepted}) == 1
    assert bench.accepted[0].envelope.data == fixture.body
    assert [json.loads(record.payload) for record in bench.accepted] == items


@each_batched
async def test_a_batch_is_acknowledged_as_a_whole_or_not_at_all(bench: Any, provider: Provider) -> None:
    signer = bench.connect(provider)
    fixture = max(provider.fixtures(), key=lambda one: len(json.loads(one.body)))
    bench.publisher.fail_from = 1
    assert (await bench.deliver(signer, fixture)).status == 503


@each_batched
async def test_an_empty_batch_is_fine_and_produces_nothing(bench: Any, provider: Provider) -> None:
    signer = bench.connect(provider)
    reply = await bench.post(signer.endpoint, b"[]", signer.headers(b"[]"))
    assert reply.status == provider.webhook.success_status
    assert not bench.publisher.records


@pytest.mark.parametrize("provider", [PLAIN, *BATCHED], ids=lambda p: p.slug)
@pytest.mark.parametrize(
    "body", [b"\xff\x00 no json", b"", b"[1, 2]", b'"text"'], ids=["bytes", "empty", "list", "text"]
)
async def test_a_verified_body_that_cannot_be_read_is_kept_whole(bench: Any, provider: Provider, body: bytes) -> None:
    signer = bench.connect(provider)
    reply = await bench.post(signer.endpoint, body, signer.headers(body))
    assert reply.status == provider.webhook.success_status
    (record,) = bench.accepted
    facts = record.attributes
    assert (record.payload, facts.eventtype, facts.items, record.key) == (body, UNREADABLE_TYPE, 0, signer.endpoint)
    assert record.envelope.id == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(("provider", "fixture"), CRITICAL, ids=[p.slug for p, _ in CRITICAL])
async def test_the_manifest_chooses_the_lane_unless_the_connection_does(
    bench: Any, provider: Provider, fixture: Fixture
) -> None:
    usual, bulk = bench.connect(provider), bench.connect(provider, lane=Lane.BULK)
    await bench.deliver(usual, fixture)
    await bench.deliver(bulk, fixture)
    assert bench.accepted[0].topic == GATEWAY_EVENTS[Lane.CRITICAL].name
    assert bench.accepted[-1].topic == GATEWAY_EVENTS[Lane.BULK].name
    assert (bench.accepted[0].attributes.lane, bench.accepted[-1].attributes.lane) == ("critical", "bulk")


async def test_the_trace_of_the_sender_goes_on(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    fixture = signer.fixture
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = signer.headers(fixture.body, fixture) | {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    await bench.post(signer.endpoint, fixture.body, headers)
    assert bench.accepted[0].envelope.traceparent.split("-")[1] == trace


async def test_a_secret_counts_inside_its_window_only(bench: Any) -> None:
    old, new = (PLAIN.verifier().generate() for _ in range(2))
    change = bench.clock.now() + timedelta(hours=1)
    signer = bench.connect(PLAIN)
    bench.configure(
        PLAIN, signer.endpoint, [("k2", new.verifying, change, None), ("k1", old.verifying, None, change)], version=2
    )
    fixture = PLAIN.fixtures()[0]

    async def status(secret: str) -> int:
        signer.secret = secret
        bench.memory.seen.clear()
        reply: int = (await bench.deliver(signer, fixture)).status
        return reply

    refused, fine = PLAIN.webhook.refused_status, PLAIN.webhook.success_status
    assert [await status(old.signing), await status(new.signing)] == [fine, refused]
    bench.clock.advance(3600)
    assert [await status(old.signing), await status(new.signing)] == [refused, fine]
    assert [record.attributes.keyid for record in bench.accepted] == ["k1", "k2"]


async def test_without_a_secret_that_opens_everything_is_refused(bench: Any) -> None:
    signer = bench.connect(PLAIN)
    fixture = signer.fixture
    pair = PLAIN.verifier().generate()
    bench.configure(PLAIN, signer.endpoint, [("k1", pair.verifying, None, None)], version=2, sealed_for="elsewhere")
    signer.secret = pair.signing
    assert (await bench.deliver(signer, fixture)).status == PLAIN.webhook.refused_status
    assert [one.reason for one in bench.rejected] == ["no_secret"]


@cache
def header_names() -> list[str]:
    """Return the names that mean something to a gateway or to some provider."""
    names = {"content-encoding", "content-length", "content-type", "traceparent", "authorization"}
    for provider in WEBHOOKS:
        options = FIRST[provider.slug]
        draft = fixtures_for(provider, options)[0].request({})
        keys = provider.verifier(options).generate()
        signed = provider.sign(draft, secret=keys.signing, now=START, message_id="msg_1", options=options)
        names |= {name.lower() for name in signed.headers}
    return sorted(names)


@settings(max_examples=300)
@given(data=st.data())
async def test_whatever_comes_the_answer_is_one_of_these(make_bench: Callable[..., Any], data: st.DataObject) -> None:
    bench = make_bench()
    provider = data.draw(st.sampled_from(WEBHOOKS))
    signer = bench.connect(provider)
    body = data.draw(st.binary(max_size=200) | st.sampled_from([b"{}", b"[]", b"[{}]", b"a=b&c", b'{"id": 1e999}']))
    values = st.binary(max_size=40) | st.sampled_from(
        [b"gzip", b"-1", b"application/x-www-form-urlencoded", b"t=1,v1=00", b"Bearer a.b.c", b"application/xml"]
    )
    headers = data.draw(st.lists(st.tuples(st.sampled_from(header_names()).map(str.encode), values), max_size=8))
    # The server has read the length before we see it, so it is a number.
    headers = [(name, value) for name, value in headers if name != b"content-length" or value.isdigit()]
    method = data.draw(st.sampled_from(["POST", "GET", "PUT", "OPTIONS", "HEAD", "\u00e9"]))
    query = data.draw(st.sampled_from(["", "validationToken=x", "hub.mode=subscribe&hub.challenge=1", "a=%ff&b"]))
    bench.publisher.fail_from = data.draw(st.sampled_from([None, 0]))
    reply = await bench.request(signer.endpoint, [body[:7], body[7:]], headers, method=method, query=query)
    webhook = provider.webhook
    fine = {webhook.success_status, *(one.status for one in webhook.handshakes)}
    assert reply.status in fine | {webhook.refused_status, 400, 403, 405, 408, 413, 503}
    if bench.publisher.fail_from == 0 and bench.accepted:
        assert reply.status == 503, "nothing is accepted that the broker does not have"


async def test_a_process_that_leaves_still_takes_deliveries_and_sends_their_senders_elsewhere(make_bench: Any) -> None:
    bench = make_bench()
    signer = bench.connect(PLAIN)
    assert "connection" not in (await bench.deliver(signer)).headers
    bench.leaving = True
    reply = await bench.deliver(signer)
    assert reply.status == PLAIN.webhook.success_status
    assert reply.headers["connection"] == "close"
