"""The demo from morning to evening; a chapter that fails is told and does not keep the others from playing."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from rich.console import Console

from chassis.clock import SystemClock
from patchbay.client import Platform
from patchbay.demo import cast, failover, payments, people, refunds, webhooks
from patchbay.demo.story import Missing, Story, wait_for
from patchbay.demo.webhooks import Stage
from patchbay.environment import CliError
from patchbay.traces import Span, read_spans, services_of, tree

T = TypeVar("T")
# The broker stamps records with its own clock.
CLOCK_SLACK: Final = timedelta(seconds=5)
# The stations of a delivery that says something about a payment, and of one that also starts a saga.
PAYMENT_PATH: Final = frozenset({"webhook-gateway", "webhook-gateway-ledger", "sync-worker"})
SAGA_PATH: Final = PAYMENT_PATH | {"orchestrator"}


@dataclass(frozen=True, slots=True)
class Thread:
    """The trace of one delivery, and the services that must occur in it."""

    trace_id: str
    services: frozenset[str]


def play(platform: Platform, console: Console) -> int:
    """Play the demo; return 0 if every station was seen or had no provider, else 1."""
    story = Story(console)
    began = SystemClock().now() - CLOCK_SLACK
    tenant = f"demo-{secrets.token_hex(4)}"
    stage = _try(story, "connections", lambda: webhooks.open_stage(platform, story, tenant))
    if stage is not None:
        _try(story, "gateway", lambda: webhooks.speak(stage))
        thread = _money(stage, lambda plot: payments.out_of_order(stage, plot, began))
        _try(story, "failover", lambda: failover.fail_over(stage))
        _try(story, "verification", lambda: people.verify_age(stage))
        _try(story, "audit", lambda: people.audit(stage))
        if thread is not None:
            _try(story, "trace", lambda: _trace(stage, thread))
    story.summary()
    console.print("\nEvery station was seen." if story.complete else "\nNot everything was seen; see MISSING above.")
    return 0 if story.complete else 1


def _money(stage: Stage, first: Callable[[cast.Plot], payments.Paid]) -> Thread | None:
    """Play the chapters about money; return the trace to show at the end, None without any."""
    plot, messengers = cast.plot(), cast.messengers()
    if plot is None:
        stage.story.chapter("A payment and its refund")
        stage.story.skip("payments", f"no provider offers {cast.REFUND}")
        return None
    paid = _try(stage.story, "canonical payment", lambda: first(plot))
    if paid is None:
        return None
    if not messengers or not plot.has_phone:
        stage.story.chapter("A refund, and a message about it")
        missing = f"no provider offers {cast.SMS}" if not messengers else "no fixture names a customer's phone"
        stage.story.skip("refund-and-notify", missing)
        return Thread(paid.trace_id, PAYMENT_PATH)
    actors = [stage.actors[one.slug] for one in messengers]
    disputed = _try(stage.story, "saga waits", lambda: refunds.refund_through_an_outage(stage, plot, actors, paid))
    return Thread(disputed, SAGA_PATH) if disputed else Thread(paid.trace_id, PAYMENT_PATH)


def _try(story: Story, station: str, act: Callable[[], T]) -> T | None:
    """Run a chapter; what it misses, or a service refuses, is noted."""
    try:
        return act()
    except Missing as missing:
        story.miss(missing)
    except CliError as error:
        story.miss(Missing(station, str(error)))
    return None


def _trace(stage: Stage, thread: Thread) -> None:
    stage.story.chapter("All of it in one trace")
    folder = stage.platform.environment.traces

    def written() -> list[Span] | None:
        spans = read_spans(folder, thread.trace_id)
        return spans if thread.services <= set(services_of(spans)) else None

    spans = wait_for("trace", f"spans of {', '.join(sorted(thread.services))} in {folder}", written)
    stage.story.show(tree(thread.trace_id, spans))
    stage.story.seen("trace", f"{thread.trace_id} went through {' → '.join(services_of(spans))}")
