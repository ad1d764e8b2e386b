"""Sign a fixture as its provider would, and send it from here: the sandbox is not needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import httpx

from chassis.clock import SystemClock
from contracts.errors import Invalid
from patchbay.environment import CliError
from providers import registry
from sandbox.signing import Draft, Tamper, sign
from sandbox.variants import changed, fixture_of, fresh_ids

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


def send(order: Order) -> list[tuple[int, float]]:
    """Send the copies one after the other; return status and milliseconds of each.

    Raises `CliError` for what cannot be sent and for an endpoint that does not answer.
    """
    clock = SystemClock()
    try:
        provider = registry.get(order.provider)
        fixture = fixture_of(provider, order.fixture)
        changes = fresh_ids(provider, fixture, order.fresh) if order.fresh else {}
        draft = Draft(
            provider=provider,
            url=order.url,
            secret=order.secret,
            body=changed(fixture.body, fixture.content_type, changes),
            content_type=fixture.content_type,
            message_id=fixture.message_id + order.fresh,
            unsigned=dict(fixture.headers),
        )
        requests = [sign(draft, clock.now(), order.tamper) for _ in range(order.copies)]
    except Invalid as error:
        raise CliError(error.detail) from None
    answers = []
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        for request in requests:
            started = clock.monotonic()
            try:
                answer = http.post(request.url, content=request.body, headers=request.headers)
            except httpx.HTTPError as error:
                raise CliError(f"{order.url} does not answer ({type(error).__name__})") from None
            answers.append((answer.status_code, (clock.monotonic() - started) * 1000))
    return answers
