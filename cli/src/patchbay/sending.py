"""Sign a fixture as its provider would, and send it from here; the sandbox is needed only where it serves a key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from chassis.clock import SystemClock
from contracts.errors import Invalid
from patchbay.client import Platform
from patchbay.environment import CliError, load_environment
from providers import registry
from sandbox.fresh import freshened
from sandbox.signing import Draft, Tamper, fetches_keys, http_arguments, request_of, sign
from sandbox.variants import fixture_of

TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Order:
    """What `patchbay send` was asked for; `fresh` is a suffix that makes ids new, empty keeps them."""

    provider: str
    url: str
    secret: str = field(repr=False)
    fixture: str
    tamper: Tamper = "none"
    copies: int = 1
    fresh: str = ""
    options: Mapping[str, str] = field(default_factory=dict)


def send(order: Order) -> list[tuple[int, float]]:
    """Send the copies one after the other; return status (0 when the sandbox got no answer) and milliseconds of each.

    Raises `CliError` for what cannot be sent and for an endpoint that does not answer.
    """
    clock = SystemClock()
    try:
        provider = registry.get(order.provider)
        fixture = fixture_of(provider, order.fixture)
        options = {**fixture.options, **order.options}
        if fetches_keys(provider, options):
            return _by_sandbox(order, options)
        fixture = freshened(provider, fixture, order.fresh, options)
        draft = Draft(provider, request_of(fixture, order.url), order.secret, fixture.message_id, options)
        requests = [sign(draft, clock.now(), order.tamper) for _ in range(order.copies)]
    except Invalid as error:
        raise CliError(error.detail) from None
    answers = []
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        for request in requests:
            started = clock.monotonic()
            try:
                answer = http.request(**http_arguments(request))
            except httpx.HTTPError as error:
                raise CliError(f"{order.url} does not answer ({type(error).__name__})") from None
            answers.append((answer.status_code, (clock.monotonic() - started) * 1000))
    return answers


def _by_sandbox(order: Order, options: Mapping[str, str]) -> list[tuple[int, float]]:
    """Let the sandbox send: it signs with a key that it serves in the vendor's place."""
    body: dict[str, Any] = {
        "provider": order.provider,
        "url": order.url,
        "secret": order.secret,
        "fixture": order.fixture,
        "options": dict(options),
        "tamper": order.tamper,
        "copies": order.copies,
        "fresh": order.fresh,
    }
    with Platform(load_environment()) as platform:
        sent = platform.post("SANDBOX_URL", "/_control/deliveries", body)["items"]
    attempts = [attempt for delivery in sent for attempt in delivery["attempts"]]
    return [(attempt["status"] or 0, attempt["latency_ms"]) for attempt in attempts]
