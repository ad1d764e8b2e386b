"""The state machine: each stated way in and out, and what holds whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from contracts.events.health import RouteState
from contracts.events.sync import CallRun, Outcome
from health_monitor.states import HOLD_MAX_S, OPERATED, SUSPECT_S, UNPROBED_S, Machine, Move

RECOVERING = RouteState.RECOVERING
ALLOWED = {
    RouteState.UNKNOWN: {RouteState.HEALTHY, RouteState.SUSPECT, RouteState.DOWN, RouteState.DEGRADED},
    RouteState.HEALTHY: {RouteState.SUSPECT, RouteState.DOWN, RouteState.DEGRADED},
    RouteState.SUSPECT: {RouteState.HEALTHY, RouteState.UNKNOWN, RouteState.DOWN, RouteState.DEGRADED},
    RouteState.DEGRADED: {RouteState.HEALTHY, RouteState.DOWN},
    RouteState.DOWN: {RouteState.RECOVERING},
    RouteState.RECOVERING: {RouteState.RECOVERING, RouteState.HEALTHY, RouteState.DOWN},
    RouteState.MAINTENANCE: {RouteState.RECOVERING},
    RouteState.FORCED_DOWN: {RouteState.RECOVERING},
    RouteState.FORCED_UP: {RouteState.UNKNOWN},
}


def run(outcome: Outcome, count: int = 1, tenant: str = "t", **more: Any) -> CallRun:
    fields = {"operation": "op", "credential": "c", "latency_ms_sum": 1, "latency_ms_max": 1} | more
    return CallRun(outcome=outcome, count=count, tenant=tenant, **fields)


@dataclass
class Play:
    """A machine and its time."""

    machine: Machine = field(default_factory=lambda: Machine(Random(3)))
    now: float = 1000.0
    moves: list[Move] = field(default_factory=list)
    turn: int = 0

    def calls(self, outcome: Outcome, count: int = 1, *, worker: str = "w", **more: Any) -> Play:
        self.moves += self.machine.observe(run(outcome, count, **more), worker, self.now)
        return self

    def fleet(self, outcome: Outcome, count: int, every: float = 0.1) -> Play:
        """Calls of three tenants through two workers."""
        for _ in range(count):
            self.turn += 1
            self.passes(every).calls(outcome, worker=f"w{self.turn % 2}", tenant=f"t{self.turn % 3}")
        return self

    def probe(self, outcome: Outcome = "success", count: int = 1, every: float = 0.25) -> Play:
        for _ in range(count):
            self.passes(every).calls(outcome, probe=True)
        return self

    def passes(self, seconds: float) -> Play:
        self.now += seconds
        self.moves += self.machine.tick(self.now)
        return self

    def is_in(self, state: RouteState) -> bool:
        """Tell the state; a method, since mypy would take an attribute for constant."""
        return self.machine.state is state


def healthy() -> Play:
    return Play().fleet("success", 30)


def down() -> Play:
    play = healthy().fleet("server_error", 5)
    assert play.is_in(RouteState.DOWN)
    return play


def recovering() -> Play:
    play = down().passes(6).probe(count=3)
    assert play.is_in(RouteState.RECOVERING)
    return play


def test_a_first_success_makes_a_route_healthy() -> None:
    play = Play().calls("success")
    assert [(m.before, m.after, m.reason) for m in play.moves] == [
        (RouteState.UNKNOWN, RouteState.HEALTHY, "the first call succeeded")
    ]


def test_an_outage_seen_by_several_is_decided_after_four_failures_with_its_evidence_in_words() -> None:
    play = healthy().fleet("server_error", 3)
    assert play.is_in(RouteState.SUSPECT)
    play.fleet("server_error", 1)
    assert play.is_in(RouteState.DOWN)
    last = play.moves[-1]
    assert last.kind == "outage"
    assert "4 of the last 20 calls failed (4 server_error), S_outage 20.8 > h 15.6, seen by 2 workers" in last.reason
    assert last.detection_s == pytest.approx(0.3)
    assert (play.machine.share, last.evidence["tenants"]) == (0, 3)


def test_a_suspicion_asks_for_probes_and_ends_within_two_seconds() -> None:
    play = healthy().calls("timeout", 2)
    assert (play.machine.state, play.machine.probe(play.now), play.machine.share) == (RouteState.SUSPECT, "burst", 100)
    play.passes(SUSPECT_S - 0.1)
    assert play.is_in(RouteState.SUSPECT)
    play.passes(0.1)
    assert play.is_in(RouteState.HEALTHY)


def test_a_suspicion_is_cleared_by_three_good_probes_and_confirmed_by_three_bad_ones() -> None:
    cleared = healthy().calls("timeout", 2).probe(count=3, every=0.1)
    assert (cleared.machine.state, cleared.moves[-1].reason) == (RouteState.HEALTHY, "3 probes succeeded")
    assert cleared.machine.track.outage.score <= cleared.machine.track.outage.h / 2
    confirmed = healthy().calls("timeout", 2).probe("timeout", count=3, every=0.1)
    assert (confirmed.machine.state, confirmed.moves[-1].kind) == (RouteState.DOWN, "probes")


def test_without_traffic_one_failed_probe_and_a_burst_shut_a_route() -> None:
    play = Play().probe(every=5)
    play.probe("connect_error", every=5)
    assert play.is_in(RouteState.SUSPECT)
    started = play.now
    play.probe("connect_error", count=2, every=0.1)
    assert play.is_in(RouteState.DOWN)
    assert play.now - started < 1


def test_a_single_worker_and_tenant_without_confirmation_shut_nothing_at_the_threshold() -> None:
    play = healthy().probe().calls("timeout", 5)
    assert play.is_in(RouteState.SUSPECT)


def test_a_single_bad_worker_does_not_shut_a_route_that_others_use_with_success() -> None:
    play = healthy()
    for _ in range(20):
        play.passes(0.1).calls("connect_error", worker="bad", probe=True).calls("success", 3, worker="good")
    assert all(move.after is not RouteState.DOWN for move in play.moves)


def test_a_single_bad_tenant_does_not_shut_a_route() -> None:
    play = healthy()
    for _ in range(30):
        play.passes(0.1).calls("server_error", tenant="bad", worker="w0").calls(
            "server_error", tenant="bad", worker="w1"
        )
        play.calls("success", tenant="good")
    assert all(move.after not in (RouteState.DOWN, RouteState.DEGRADED) for move in play.moves)


def test_client_errors_and_throttling_say_nothing() -> None:
    play = healthy()
    assert play.calls("client_error", 500).calls("throttled", 500).moves == healthy().moves


def test_a_fifth_of_errors_degrades_and_shifts_half() -> None:
    play = healthy()
    for _ in range(30):
        play.fleet("server_error", 1).fleet("success", 4)
        if play.is_in(RouteState.DEGRADED):
            break
    assert (play.machine.state, play.machine.share, play.machine.probe(play.now)) == (RouteState.DEGRADED, 50, "canary")
    play.fleet("success", 60)
    assert play.is_in(RouteState.HEALTHY)


def test_slow_answers_degrade_a_route() -> None:
    play = healthy()
    for number in range(30):
        play.passes(0.1).calls("success", worker=f"w{number % 2}", tenant=f"t{number % 3}", slow=number % 2 == 0)
    assert RouteState.DEGRADED in [move.after for move in play.moves]
    assert "S_latency" in next(m.reason for m in play.moves if m.after is RouteState.DEGRADED)


def test_calls_in_flight_for_too_long_count_and_are_taken_back() -> None:
    play = healthy()
    for number in range(2):
        play.calls("timeout", worker=f"w{number}", tenant=f"t{number}", kind="provisional")
    assert play.is_in(RouteState.SUSPECT)
    score = play.machine.track.outage.score
    play.calls("timeout", worker="w0", tenant="t0")
    assert play.machine.track.outage.score == score, "the end of a call that was counted already"
    play.calls("success", worker="w1", tenant="t1", kind="retracted")
    assert play.machine.track.outage.score == pytest.approx(score / 2)


def test_a_hang_is_seen_by_calls_in_flight_alone() -> None:
    play = healthy()
    for number in range(4):
        play.passes(0.1).calls("timeout", worker=f"w{number % 2}", tenant=f"t{number % 3}", kind="provisional")
    assert play.is_in(RouteState.DOWN)


def test_the_way_back_holds_probes_and_climbs_three_steps() -> None:
    play = down()
    assert play.machine.probe(play.now) == "idle"
    play.probe(count=5, every=0.2)
    assert play.is_in(RouteState.DOWN), "good probes before the hold is over do not count"
    play.passes(6)
    assert play.machine.probe(play.now) == "burst"
    play.probe(count=2)
    assert play.is_in(RouteState.DOWN)
    play.probe()
    assert (play.machine.state, play.machine.share, play.machine.idempotent_only) == (RouteState.RECOVERING, 5, True)
    play.calls("success", 6)
    assert play.machine.share == 5
    play.calls("success")
    assert (play.machine.share, play.machine.idempotent_only) == (25, False)
    play.calls("success", 7)
    assert play.machine.share == 100
    assert play.is_in(RouteState.RECOVERING)
    play.calls("success", 21)
    assert play.is_in(RouteState.RECOVERING)
    play.calls("success")
    assert play.is_in(RouteState.HEALTHY)


def test_good_probes_must_be_apart() -> None:
    assert down().passes(6).calls("success", 3, probe=True).is_in(RouteState.DOWN)


def test_a_failure_at_the_first_step_goes_back_down_with_a_longer_hold() -> None:
    play = recovering().fleet("server_error", 1)
    assert play.is_in(RouteState.DOWN)
    assert play.machine.failovers(play.now) == 2
    play.passes(4.9)
    assert play.machine.probe(play.now) == "idle", "5 s x 2 x U(0.5, 1) is at least 5 s"


def test_a_repeat_failure_extends_the_deadline() -> None:
    play = down().passes(6)
    assert play.machine.probe(play.now) == "burst"
    play.probe("timeout")
    assert play.machine.probe(play.now) == "idle"
    play.passes(2.4)
    assert play.machine.probe(play.now) == "idle"


def test_the_hold_grows_with_failovers_of_the_last_hour_and_is_bounded() -> None:
    play = down()
    for _ in range(9):
        while play.machine.probe(play.now) == "idle":
            play.passes(1)
        play.probe(count=3)
        assert play.is_in(RouteState.RECOVERING)
        play.fleet("server_error", 1)
        assert play.is_in(RouteState.DOWN)
    play.passes(HOLD_MAX_S / 2 - 1)
    assert play.machine.probe(play.now) == "idle"
    play.passes(HOLD_MAX_S / 2 + 1)
    assert play.machine.probe(play.now) != "idle"
    play.passes(3600)
    assert play.machine.failovers(play.now) == 0


def test_a_route_that_nobody_probes_comes_back_by_trying() -> None:
    play = down().passes(5).passes(UNPROBED_S + 0.1)
    assert (play.machine.state, play.machine.share) == (RouteState.RECOVERING, 5)


def test_a_held_back_decision_is_taken_when_the_guard_lets_go() -> None:
    words: list[str | None] = ["panic guard"]
    play = Play(Machine(Random(1), lambda: words[0]))
    play.fleet("success", 30).fleet("server_error", 10)
    assert play.is_in(RouteState.SUSPECT)
    assert play.machine.held == "panic guard"
    words[0] = None
    play.passes(0.1)
    assert play.is_in(RouteState.DOWN)


def test_a_frozen_machine_decides_nothing_and_forgets_what_it_saw() -> None:
    play = healthy()
    play.machine.frozen = True
    before = len(play.moves)
    play.fleet("timeout", 50)
    assert len(play.moves) == before
    play.machine.thaw()
    play.fleet("timeout", 1)
    assert play.is_in(RouteState.HEALTHY)


@pytest.mark.parametrize(
    ("state", "share", "then"),
    [
        (RouteState.FORCED_DOWN, 0, RouteState.RECOVERING),
        (RouteState.MAINTENANCE, 0, RouteState.RECOVERING),
        (RouteState.FORCED_UP, 100, RouteState.UNKNOWN),
    ],
)
def test_an_operators_state_stands_until_it_is_over(state: RouteState, share: int, then: RouteState) -> None:
    play = healthy()
    play.moves = play.machine.force(state, "works", play.now)
    assert (play.machine.state, play.machine.share, play.moves[0].reason) == (state, share, "works")
    assert play.machine.force(state, "works", play.now) == []
    play.fleet("timeout", 20).probe("timeout", 5)
    assert play.is_in(state)
    play.machine.release("over", play.now)
    assert play.is_in(then)


def test_the_baseline_is_learned_while_healthy_only() -> None:
    play = healthy()
    play.calls("success", 5000)
    play.machine.track.learn(failed=True)
    known = play.machine.track.ratio
    assert known > 0
    play.machine.force(RouteState.MAINTENANCE, "works", play.now)
    play.calls("success", 5000).calls("timeout", 100)
    assert play.machine.track.ratio == known


def test_a_flapper_is_switched_at_most_four_times_in_five_minutes() -> None:
    """Ten seconds up, ten seconds down, 10 calls/s: a switch is a decision that moves the main traffic."""
    for seed in range(20):
        play = Play(Machine(Random(seed)))
        play.fleet("success", 100)
        play.moves.clear()
        for step in range(3000):
            bad = step // 100 % 2 == 0
            outcome: Outcome = "server_error" if bad else "success"
            play.passes(0.1)
            dice = Random(step + seed * 7919)
            if dice.random() < play.machine.share / 100:
                play.calls(outcome, worker=f"w{step % 2}", tenant=f"t{step % 3}")
            every = {"burst": 3, "canary": 10, "idle": 50}[play.machine.probe(play.now)]
            if step % every == 0:
                play.calls(outcome, probe=True)
        gone = [
            m for m in play.moves if m.after in (RouteState.DOWN, RouteState.DEGRADED) and m.before is not RECOVERING
        ]
        back = [m for m in play.moves if m.before is m.after is RECOVERING and m.share == 100]
        assert len(gone) + len(back) <= 4, (seed, play.moves)


class Anything(RuleBasedStateMachine):
    """Calls, probes, time and operators in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.play = Play(Machine(Random(0)))

    def _checked(self, moves: list[Move]) -> None:
        for move in moves:
            assert move.reason
            assert 0 <= move.share <= 100
            if move.after not in OPERATED:
                assert move.after in ALLOWED[move.before], (move.before, move.after)

    @rule(
        outcome=st.sampled_from(get_args(Outcome)),
        count=st.integers(1, 60),
        worker=st.sampled_from(["w0", "w1"]),
        tenant=st.sampled_from(["t0", "t1"]),
        probe=st.booleans(),
        slow=st.booleans(),
        kind=st.sampled_from(["final", "final", "provisional", "retracted"]),
    )
    def call(self, outcome: Outcome, count: int, worker: str, **more: Any) -> None:
        self._checked(self.play.machine.observe(run(outcome, count, **more), worker, self.play.now))

    @rule(seconds=st.floats(0.01, 400))
    def wait(self, seconds: float) -> None:
        self.play.now += seconds
        self._checked(self.play.machine.tick(self.play.now))

    @rule(state=st.sampled_from(sorted(OPERATED)))
    def force(self, state: RouteState) -> None:
        self._checked(self.play.machine.force(state, "operator", self.play.now))

    @rule()
    def release(self) -> None:
        self._checked(self.play.machine.release("over", self.play.now))

    @rule(frozen=st.booleans())
    def freeze(self, frozen: bool) -> None:  # noqa: FBT001
        if frozen:
            self.play.machine.frozen = True
        else:
            self.play.machine.thaw()

    @invariant()
    def a_shut_route_takes_nothing_and_charts_are_never_negative(self) -> None:
        machine = self.play.machine
        if machine.state in (RouteState.DOWN, RouteState.MAINTENANCE, RouteState.FORCED_DOWN):
            assert machine.share == 0
        if machine.state in (RouteState.HEALTHY, RouteState.UNKNOWN, RouteState.SUSPECT, RouteState.FORCED_UP):
            assert machine.share == 100
        assert machine.idempotent_only == (machine.state is RouteState.RECOVERING and machine.share == 5)
        assert min(machine.track.outage.score, machine.track.degraded.score, machine.track.latency.score) >= 0


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
