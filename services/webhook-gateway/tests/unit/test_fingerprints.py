"""What consumers tell a repeat from a conflict by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers import registry
from providers.conformance import fixtures_for
from providers.provider import Provider
from webhook_gateway.dedup import FINGERPRINT_CHARS

pytestmark = pytest.mark.asyncio

WEBHOOKS = [provider for provider in registry.all_providers() if provider.manifest.webhook]
VOLATILE = [provider for provider in WEBHOOKS if any(p.count("/") == 1 for p in provider.webhook.volatile)]


@pytest.mark.parametrize("provider", VOLATILE, ids=lambda provider: provider.slug)
async def test_consumers_get_a_fingerprint_that_only_another_event_changes(bench: Any, provider: Provider) -> None:
    """The memory forgets in between, as it does while Redis is away: consumers have to tell repeat from conflict."""
    signer = bench.connect(provider)
    fixture = next(one for one in fixtures_for(provider, signer.options) if one.body.startswith(b"{"))
    varies = next(pointer for pointer in provider.webhook.volatile if pointer.count("/") == 1).removeprefix("/")
    document = json.loads(fixture.body)
    sent = set()
    for body in (document, document | _varied(document, varies), document | {"anything": "else"}):
        bench.memory.seen.clear()
        # Where the signature or its time stamp is in the body, that is what varies.
        bench.clock.advance(1)
        request = signer.request(fixture, json.dumps(body).encode())
        sent.add(request.body)
        assert (await bench.send(signer.endpoint, request)).status == provider.webhook.success_status
    assert len(sent) == 3
    first, again, other = (record.attributes.fingerprint for record in bench.accepted)
    assert first == again != other
    assert len(first) == len(other) == FINGERPRINT_CHARS


def _varied(document: dict[str, Any], field: str) -> dict[str, Any]:
    value = document.get(field)
    return {} if value is None or isinstance(value, dict) else {field: 1}
