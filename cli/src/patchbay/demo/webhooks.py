"""The chapters in which providers speak: real signed deliveries, good and bad, and what the ledger says about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from patchbay.client import Platform
from patchbay.demo.cast import Actor, connect, first_fixture, senders
from patchbay.demo.story import Missing, Story, wait_for
from patchbay.output import table
from providers.fixtures import Fixture
from providers.signing import Traits
from sandbox.signing import Tamper, traits_of


@dataclass(frozen=True, slots=True)
class Stage:
    """What all chapters share: the platform, the story, this run's tenant, and the connected providers by slug."""

    platform: Platform
    story: Story
    tenant: str
    actors: dict[str, Actor]


def open_stage(platform: Platform, story: Story, tenant: str) -> Stage:
    """Connect every provider that sends webhooks."""
    story.chapter(f"A business connects its providers (tenant {tenant})")
    actors = {provider.slug: connect(platform, provider, tenant) for provider in senders()}
    rows = [(actor.slug, actor.provider.signature(actor.options).scheme, actor.url) for actor in actors.values()]
    story.show(table(("   provider", "signature", "endpoint"), [(f"   {slug}", *rest) for slug, *rest in rows]))
    story.seen("connections", f"{len(actors)} connections, secrets sealed, endpoints published")
    return Stage(platform, story, tenant, actors)


def deliver(
    stage: Stage,
    actor: Actor,
    fixture: Fixture,
    *,
    suffix: str,
    copies: int = 1,
    tamper: Tamper = "none",
) -> list[int | None]:
    """Let the sandbox send a fixture with fresh ids; return the status of each copy."""
    order = {
        "provider": actor.slug,
        "url": actor.url,
        "secret": actor.keys.signing,
        "options": dict(actor.options),
        "fixture": fixture.name,
        "fresh": suffix,
        "copies": copies,
        "tamper": tamper,
    }
    sent = stage.platform.post("SANDBOX_URL", "/_control/deliveries", order)["items"]
    return [delivery["attempts"][0]["status"] for delivery in sent]


def deliver_accepted(stage: Stage, actor: Actor, fixture: Fixture, *, suffix: str, copies: int = 1) -> None:
    """Deliver a fixture that the gateway must take; raises `Missing`.

    An endpoint that the gateway has not heard of yet answers 404, and like a provider the demo comes back.
    """
    expected = actor.provider.webhook.success_status

    def known() -> bool:
        return deliver(stage, actor, fixture, suffix=suffix) == [expected]

    wait_for("gateway", f"{expected} for {actor.slug} {fixture.name}", known)
    if copies > 1:
        statuses = deliver(stage, actor, fixture, suffix=suffix, copies=copies - 1)
        if set(statuses) != {expected}:
            raise Missing("gateway", f"duplicates of {actor.slug} {fixture.name} answered {statuses}")


def speak(stage: Stage) -> None:
    """Deliver every provider's first fixture, one twice, one altered, one too old; then look them up in the ledger."""
    stage.story.chapter("The providers speak, and not all of it is true")
    for number, actor in enumerate(stage.actors.values()):
        fixture = first_fixture(actor.provider)
        copies = 2 if number == 0 else 1
        deliver_accepted(stage, actor, fixture, suffix=f"-{stage.tenant}-hello", copies=copies)
        stage.story.say(f"{actor.slug} sends {fixture.name}" + (" (twice)" if copies > 1 else ""))
    stage.story.seen("gateway", f"answered {len(stage.actors)} providers once the broker had their events")
    expected = {("accepted", ""), ("duplicate", "")}
    covering = [actor for actor in stage.actors.values() if _traits(actor).covers == "body"]
    stamped = [actor for actor in stage.actors.values() if _traits(actor).stale_after_s is not None]
    if covering:
        _refused(stage, covering[0], "body", "alters a body after it was signed")
        expected.add(("rejected", "bad_signature"))
    else:
        stage.story.skip("altered delivery", "no provider signs a body")
    if stamped:
        _refused(stage, stamped[0], "stale", "replays a delivery that is too old")
        expected.add(("rejected", "stale_timestamp"))
    else:
        stage.story.skip("stale delivery", "no provider signs a time")
    _ledger(stage, expected)


def _traits(actor: Actor) -> Traits:
    return traits_of(actor.provider, actor.options)


def _refused(stage: Stage, actor: Actor, tamper: Tamper, told: str) -> None:
    fixture = first_fixture(actor.provider)
    statuses = deliver(stage, actor, fixture, suffix=f"-{stage.tenant}-{tamper}", tamper=tamper)
    expected = actor.provider.webhook.refused_status
    if statuses != [expected]:
        raise Missing("gateway", f"a {tamper} delivery of {actor.slug} was answered {statuses}, not {expected}")
    stage.story.say(f"somebody {told} in the name of {actor.slug}: {expected}")


def _ledger(stage: Stage, expected: set[tuple[str, str]]) -> None:
    def complete() -> list[dict[str, Any]] | None:
        found = stage.platform.get("LEDGER_URL", "/v1/deliveries", tenant=stage.tenant, limit=200)["items"]
        accepted = {one["provider"] for one in found if one["outcome"] == "accepted"}
        kinds = {(one["outcome"], one["reason"]) for one in found}
        return found if accepted == set(stage.actors) and expected <= kinds else None

    told = ", ".join(f"{outcome} {reason}".strip() for outcome, reason in sorted(expected))
    found = wait_for("ledger", f"rows for {', '.join(stage.actors)} with {told}", complete)
    counted = Counter(f"{one['outcome']} {one['reason']}".strip() for one in found)
    stage.story.seen("ledger", ", ".join(f"{number} {what}" for what, number in sorted(counted.items())))
