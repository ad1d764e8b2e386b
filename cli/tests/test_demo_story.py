from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from contracts.events.sync import PaymentStatus
from patchbay.client import Platform
from patchbay.demo import cast, play
from patchbay.demo.story import Missing, Story, wait_for
from patchbay.environment import Environment
from providers import registry
from sandbox.fresh import snapshots_of


def console() -> Console:
    return Console(record=True, width=200, quiet=False)


def test_story_is_complete_only_if_nothing_was_missing() -> None:
    story = Story(console())
    verdicts = [story.complete]
    story.seen("ledger", "one row")
    story.skip("payments", "no provider")
    verdicts.append(story.complete)
    story.miss(Missing("trace", "no span"))
    story.seen("trace", "too late")
    verdicts.append(story.complete)
    assert verdicts == [False, True, False]


def test_waiting_returns_what_was_found_and_gives_up_at_the_deadline() -> None:
    answers = iter([None, False, 0])
    assert wait_for("ledger", "row", lambda: next(answers), 5) == 0
    with pytest.raises(Missing, match="ledger: no row within 0 s"):
        wait_for("ledger", "row", lambda: None, 0)


def test_without_a_platform_the_demo_fails_and_says_where(tmp_path: Path) -> None:
    told = console()
    values = {"SYNC_URL": "http://127.0.0.1:1", "PATCHBAY_TOKEN": "test-token"}
    with Platform(Environment(tmp_path, values)) as platform:
        assert play(platform, told) == 1
    assert "127.0.0.1:1/v1/connections does not answer" in told.export_text()


def test_plot_tells_one_payments_story() -> None:
    plot = cast.plot()
    if plot is None:
        assert all(not provider.fixtures() for provider in registry.with_operation(cast.REFUND))
        return
    assert plot.payment.status is PaymentStatus.SUCCEEDED
    assert plot.payment.amount
    assert plot.provider in registry.with_operation(cast.REFUND)


def test_messengers_can_do_what_the_saga_asks_for_and_those_that_can_be_asked_come_first() -> None:
    able = {provider.slug for provider in registry.with_operation(cast.MESSAGE)} & {
        provider.slug for provider in registry.with_capability(cast.SMS)
    }
    found = cast.messengers()
    assert {one.slug for one in found} == able
    specs = [one.manifest.operation(cast.MESSAGE) for one in found]
    asked = [spec.read_back for spec in specs if spec is not None]
    assert asked == sorted(asked, reverse=True)


def test_first_deliveries_start_no_refund() -> None:
    for provider in cast.senders():
        fixture = cast.first_fixture(provider)
        statuses = {one.status for one in snapshots_of(provider, fixture)}
        assert PaymentStatus.DISPUTED not in statuses
