"""What a sender is told when its event is durable: the usual yes, or the one that its kind of event wants."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from chassis.testing.harness import until
from providers import registry
from providers.conformance import fixtures_for, variants

pytestmark = pytest.mark.asyncio

PARTICULAR = [one for one in registry.all_providers() if one.manifest.webhook and one.webhook.answers]


@pytest.mark.parametrize("provider", PARTICULAR, ids=lambda one: one.slug)
async def test_events_get_the_answer_of_their_kind_first_and_repeated(bench: Any, provider: Any) -> None:
    signer = bench.connect(provider)
    seen = set()
    for fixture in fixtures_for(provider, variants(provider)[0]):
        request = signer.request(fixture)
        event_type = provider.split(request, signer.options)[0].event_type
        wanted = provider.webhook.answer_for(event_type)
        for _ in range(2):
            reply = await bench.send(signer.endpoint, request)
            if wanted is None:
                assert (reply.status, reply.body) == (provider.webhook.success_status, b"")
            else:
                assert (reply.status, json.loads(reply.body)) == (wanted.status, wanted.json_body)
                assert reply.headers == {"content-type": "application/json"}
        seen.add(json.dumps(wanted and wanted.json_body))
    assert len(seen) == len(provider.webhook.answers) + 1, "every answer of the manifest, and the usual one"


@pytest.mark.parametrize("provider", PARTICULAR, ids=lambda one: one.slug)
async def test_no_promise_is_made_for_what_is_not_durable_or_not_proven(bench: Any, provider: Any) -> None:
    signer = bench.connect(provider)
    fixture = next(
        one
        for one in fixtures_for(provider, variants(provider)[0])
        if provider.webhook.answer_for(provider.split(signer.request(one), signer.options)[0].event_type)
    )
    bench.publisher.fail_from = 0
    assert (await bench.deliver(signer, fixture)).status == 503
    stranger = bench.connect(provider)
    forged = await bench.send(signer.endpoint, stranger.request(fixture))
    assert (forged.status, forged.body) == (provider.webhook.refused_status, b"")


async def test_a_slow_sender_gets_its_408_however_long_the_record_of_it_takes(make_bench: Any) -> None:
    """Its time is over already: the next sweep must not cut the answer off, which the server would make a 500 of."""
    bench = make_bench(body_timeout_s=0.05)
    signer = bench.connect(PARTICULAR[0])
    bench.publisher.gate.clear()
    request = asyncio.create_task(bench.request(signer.endpoint, [b"{"], [], then="stall"))
    await until(lambda: _writes(bench), "the record is being written")
    for _ in range(3):
        bench.flights.sweep()
        await asyncio.sleep(0)
    bench.publisher.gate.set()
    assert (await request).status == 408
    assert [one.reason for one in bench.rejected] == ["slow_body"]


async def _writes(bench: Any) -> bool:
    return bool(bench.publisher.writes)
