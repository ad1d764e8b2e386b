"""Each owner of a kind of bucket has forecasts of its own: who is slowed, who is not, and who is forgotten."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.events.health import MAX_TRIMMED_OWNERS, CallClass, QuotaPolicy, QuotaWindow
from contracts.events.sync import QuotaUsage
from health_monitor.spending import Judgement, Spending

# A day and a minute begin here.
START = datetime(2026, 3, 1, tzinfo=UTC)
AT = START.timestamp()
MINUTE = QuotaWindow(limit=600, seconds=60, shape="fixed")
DAY = QuotaWindow(limit=86_400, seconds=86_400, shape="fixed")


class Account:
    """One kind of bucket whose owners report once a second."""

    def __init__(self, *windows: QuotaWindow) -> None:
        self.windows = windows
        self.now = 0
        self.spending = Spending(AT)
        self.before: QuotaPolicy | None = None

    def take(self, owner: str, used: dict[CallClass, float], **fields: Any) -> None:
        at = START + timedelta(seconds=self.now)
        usage = QuotaUsage(
            provider="acme", bucket="account", owner=owner, worker="w", used=used, since=at, until=at, **fields
        )
        self.spending.take(usage, self.windows, AT + self.now)

    def judge(self) -> Judgement:
        return self.spending.judge(self.windows, AT + self.now, self.before)

    def uses(self, seconds: int, **bulk: float) -> Judgement:
        """Let owners spend this much bulk a second, and return what follows."""
        judged = Judgement()
        for _ in range(seconds):
            for owner, units in bulk.items():
                self.take(owner, {"bulk": units})
            judged = self.judge()
            self.now += 1
        return judged


def test_only_the_owner_whose_quota_will_not_last_is_slowed() -> None:
    judged = Account(MINUTE).uses(450, busy=8.85, quiet=1)
    assert judged.trims == {"busy": {"bulk": 0.5}}
    assert (judged.trim, judged.worst) == ({}, "busy")
    assert judged.at_end == pytest.approx(0.9, abs=0.02)
    assert judged.reason.startswith("busy, 600 in 60 s: 44% of the quota is used and 90% expected")


def test_what_all_owners_lose_is_the_least_of_each_class() -> None:
    account = Account(MINUTE)
    for _ in range(450):
        account.take("a", {"bulk": 0.3, "interactive": 9.8})
        account.take("b", {"bulk": 8.85})
        judged = account.judge()
        account.now += 1
    assert judged.trims["a"] == {"bulk": 1.0, "interactive": 0.3}
    assert judged.trims["b"] == {"bulk": 0.5}
    assert judged.trim == {"bulk": 0.5}


def test_every_counted_window_is_forecast_and_calls_in_flight_are_not() -> None:
    slots = QuotaWindow(limit=1, seconds=1, shape="concurrent")
    minute, hour = (QuotaWindow(limit=1000, seconds=seconds, shape="fixed") for seconds in (60, 3600))
    judged = Account(minute, hour, DAY, slots).uses(3000, busy=0.3)
    assert judged.at_end == pytest.approx(1.08, abs=0.05)
    assert judged.reason.startswith("busy, 1000 in 3600 s: ")
    assert Account(slots).uses(5, busy=100) == Judgement(worst="busy"), "slots are given back"


def test_a_trim_that_is_nearly_right_is_not_told_as_two_in_turn() -> None:
    account = Account(MINUTE)
    account.uses(300, busy=8.5)
    told = [account.uses(1, busy=8.5 + 0.2 * (-1) ** (at // 10)).trims["busy"]["bulk"] for at in range(120)]
    assert sum(one != other for one, other in itertools.pairwise(told)) <= 2


def test_a_burst_that_a_bucket_has_room_for_is_no_quota_that_ends() -> None:
    account = Account(QuotaWindow(limit=1, seconds=1, burst=90))
    account.take("busy", {"bulk": 90})
    for _ in range(10):
        judged = account.judge()
        account.now += 5
    assert (judged.trims, judged.at_end < 0.8) == ({}, True)


def test_reports_of_several_workers_add_up() -> None:
    account = Account(MINUTE)
    for _ in range(450):
        account.take("busy", {"bulk": 4.425})
        account.take("busy", {"bulk": 4.425})
        judged = account.judge()
        account.now += 1
    assert judged.at_end == pytest.approx(0.9, abs=0.02)


def test_a_day_that_is_nearly_used_leaves_only_critical_calls_whoever_else_is_quiet() -> None:
    account = Account(DAY)
    account.take("busy", {"bulk": 85_000})
    account.take("quiet", {"bulk": 1})
    judged = account.judge()
    assert judged.trims == {"busy": {"bulk": 1.0, "interactive": 1.0, "probe": 1.0}}
    assert judged.trim == {}


def test_trims_end_when_an_owner_goes_quiet_though_nobody_says_so() -> None:
    account = Account(MINUTE)
    assert account.uses(80, busy=11).trims == {"busy": {"bulk": 1.0}}
    for _ in range(11):
        account.now += 5
        quiet = account.judge()
    assert (quiet.trims, quiet.worst) == ({}, "busy")
    assert quiet.at_end < 0.3


@pytest.mark.parametrize(("window", "silent_s"), [(QuotaWindow(limit=5, seconds=1), 60), (DAY, 86_400)])
def test_an_owner_that_reports_nothing_for_a_whole_window_is_forgotten(window: QuotaWindow, silent_s: int) -> None:
    account = Account(window)
    account.take("gone", {"bulk": 1}, seen_limit=1, seen_window_s=window.seconds)
    account.judge()
    account.now = silent_s
    account.judge()
    assert account.spending.learned("gone") is not None
    account.now += 1
    assert account.judge() == Judgement()
    assert account.spending.learned("gone") is None


def test_what_one_owners_headers_say_counts_for_its_own_forecast_only() -> None:
    account = Account(MINUTE)
    for _ in range(450):
        account.take("small", {"bulk": 4}, seen_limit=250, seen_window_s=60)
        account.take("other", {"bulk": 4})
        judged = account.judge()
        account.now += 1
    assert set(judged.trims) == {"small"}
    assert judged.at_end == pytest.approx(240 / 250, abs=0.02)
    assert judged.reason.startswith("small, 250 in 60 s")
    for _ in range(480):
        account.take("small", {"bulk": 4}, seen_limit=10_000, seen_window_s=60)
        judged = account.judge()
        account.now += 1
    assert judged.at_end == pytest.approx(0.4, abs=0.02), "more than the limit in force counts as that limit"


def test_another_limit_of_a_window_forgets_nothing_of_what_was_used() -> None:
    account = Account(DAY)
    account.now = 86_000
    account.take("busy", {"critical": 43_200})
    assert account.judge().at_end == pytest.approx(0.5, abs=0.01)
    account.windows = (DAY.model_copy(update={"limit": 43_300}),)
    judged = account.judge()
    assert judged.at_end == pytest.approx(1, abs=0.02)
    assert judged.trims == {"busy": {"bulk": 1.0, "interactive": 1.0, "probe": 1.0}}


def test_a_record_holds_the_worst_owners_when_there_are_too_many() -> None:
    account = Account(DAY)
    for number in range(MAX_TRIMMED_OWNERS + 50):
        account.take(f"o{number}", {"critical": 90_000 + number})
    judged = account.judge()
    assert len(judged.trims) == MAX_TRIMMED_OWNERS
    assert f"o{MAX_TRIMMED_OWNERS + 49}" in judged.trims
    assert "o0" not in judged.trims
    assert judged.worst == f"o{MAX_TRIMMED_OWNERS + 49}"


def test_who_takes_over_keeps_the_trims_of_owners_that_it_has_not_heard_of_yet() -> None:
    account = Account(DAY)
    trims: dict[str, dict[CallClass, float]] = {"spent": {"bulk": 1.0}, "calm": {"bulk": 0.5}}
    account.before = QuotaPolicy(
        provider="acme",
        bucket="account",
        windows=(DAY,),
        trim={"bulk": 0.5},
        trims=trims,
        version=7,
        decided_at=START,
    )
    assert (account.judge().trims, account.judge().trim) == (trims, {"bulk": 0.5})
    account.take("calm", {"bulk": 0.1})
    assert (account.judge().trims, account.judge().trim) == ({"spent": {"bulk": 1.0}}, {})
    account.now = 60
    assert account.judge().trims == {}, "and after a minute of silence it spends nothing"
