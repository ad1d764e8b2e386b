"""Every conformance case of every provider, through the whole request path instead of the provider's code alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from providers import registry
from providers.conformance import Case, cases, mismatches, variants
from providers.provider import Provider

pytestmark = pytest.mark.asyncio

TRIED = [
    pytest.param(provider, options, id="-".join([provider.slug, *options.values()]))
    for provider in registry.all_providers()
    if provider.manifest.webhook
    for options in variants(provider)
]


def secrets_of(case: Case) -> list[tuple[str, str, datetime | None, datetime | None]]:
    return [(secret.key_id, secret.value, None, None) for secret in case.secrets]


@pytest.mark.parametrize(("provider", "options"), TRIED)
async def test_each_case_is_answered_as_the_kit_says(bench: Any, provider: Provider, options: dict[str, str]) -> None:
    url = "https://hooks.test/hooks/kit"
    wrong: list[str] = []
    for version, case in enumerate(cases(provider, options, url=url, now=bench.clock.now()), start=1):
        if not isinstance(case, Case):
            continue
        bench.publisher.records.clear()
        bench.memory.seen.clear()
        bench.vendor_keys.known.clear()
        bench.vendor_keys.confirmed.clear()
        settings = {"version": version, "options": dict(case.options)}
        bench.configure(provider, "kit", secrets_of(case), **settings)
        reply = await bench.send("kit", case.request)
        await bench.handshakes.drain()
        if reply.status != case.expect.status:
            found = [one.reason for one in bench.rejected]
            wrong.append(f"{case.name}: answered {reply.status} {found}, expected {case.expect.status}")
        wrong += [f"{case.name}: {one}" for one in mismatches(case.expect, reply.body, reply.headers)]
        if case.expect.reason is not None and case.expect.status < 500:
            assert [one.reason for one in bench.rejected] == [case.expect.reason], case.name
            assert not bench.accepted, case.name
        if case.expect.confirm_url is not None:
            assert bench.vendor_keys.confirmed == [case.expect.confirm_url]
    assert not wrong
