"""Routes in memory: whose calls pass."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.events.health import RouteChanged, RouteState
from sync_worker.outbound.route_table import Place, RouteTable

PLACE = Place("payer", "payments")


def route(kit: Any, state: RouteState, epoch: tuple[int, int] = (1, 1), **known: Any) -> RouteChanged:
    fields = {"provider": "payer", "capability": "payments", "share": 0, "reason": "test"} | known
    return RouteChanged(state=state, epoch=epoch, decided_at=kit.start, **fields)


def test_only_a_greater_epoch_moves_a_route(kit: Any) -> None:
    table = RouteTable()

    def apply(state: RouteState, *epoch: int) -> None:
        share = 100 if state is RouteState.HEALTHY else 0
        changed = route(kit, state, epoch, share=share)  # type: ignore[arg-type]
        table.apply("k", Envelope(id="1", source="s", type=changed.TYPE, data=encode(changed)))

    assert (table.admit(PLACE, repeatable=False), table.epoch(PLACE)) == (None, (0, 0))
    apply(RouteState.DOWN, 1, 5)
    apply(RouteState.HEALTHY, 1, 5)
    apply(RouteState.HEALTHY, 1, 4)
    table.apply("k", None)
    assert table.admit(PLACE, repeatable=True) is not None
    assert table.admit(Place("payer", "other"), repeatable=False) is None
    apply(RouteState.HEALTHY, 2, 1)
    assert (table.admit(PLACE, repeatable=False), table.epoch(PLACE)) == (None, (2, 1))
    with pytest.raises(Invalid):
        table.apply("k", Envelope(id="1", source="s", type="x", data=b"{}"))


@pytest.mark.parametrize("state", [RouteState.DOWN, RouteState.FORCED_DOWN, RouteState.MAINTENANCE])
def test_a_shut_route_lets_nothing_pass(kit: Any, state: RouteState) -> None:
    table = RouteTable()
    table.put(route(kit, state))
    shut = table.admit(PLACE, repeatable=True)
    assert shut is not None
    assert shut.retry_after_s > 0
    assert table.admit(Place("payer", "other"), repeatable=False) is None


@pytest.mark.parametrize(("share", "passing"), [(100, 40), (50, 20), (25, 10), (5, 2)])
def test_a_share_is_counted_and_not_drawn(kit: Any, share: int, passing: int) -> None:
    table = RouteTable()
    table.put(route(kit, RouteState.DEGRADED, share=share))
    admitted = [table.admit(PLACE, repeatable=False) is None for _ in range(40)]
    assert sum(admitted) == passing
    assert admitted[0], "the first call of a new decision passes"


def test_while_a_provider_returns_unkeyed_money_waits(kit: Any) -> None:
    table = RouteTable()
    table.put(route(kit, RouteState.RECOVERING, share=50, idempotent_only=True))
    assert table.admit(PLACE, repeatable=False) is not None
    assert table.admit(PLACE, repeatable=True) is None


def test_a_new_call_goes_where_the_order_says_and_never_first_where_nothing_passes(kit: Any) -> None:
    table = RouteTable()
    assert table.preferred(["b", "a"], "payments", "live") == ["a", "b"]
    known: dict[str, Any] = {"order": ("b", "a", "c"), "shares": {"b": 0, "a": 100, "c": 0}, "share": 0}
    table.put(route(kit, RouteState.DOWN, provider="b", **known))
    assert table.preferred(["a", "b"], "payments", "live") == ["a", "b"]
    table.put(route(kit, RouteState.HEALTHY, (1, 2), provider="b", **(known | {"shares": {"b": 100}, "share": 100})))
    assert table.preferred(["a", "b"], "payments", "live") == ["b", "a"]


def test_a_route_is_one_modes_alone(kit: Any) -> None:
    table = RouteTable()
    seen: list[Any] = []
    table.on_change = lambda place, probe: seen.append((place.mode, probe))
    sandbox = Place("payer", "payments", "sandbox")
    table.put(route(kit, RouteState.DOWN, (9, 9), mode="sandbox", probe="burst", order=("b", "payer")))
    assert table.admit(PLACE, repeatable=False) is None
    shut = table.admit(sandbox, repeatable=True)
    assert shut is not None
    assert shut.reason == "payer (sandbox) is down for payments: test"
    table.put(route(kit, RouteState.DOWN, (1, 1), order=("payer", "b"), shares={"payer": 100, "b": 0}))
    assert table.admit(PLACE, repeatable=True) is not None, "a smaller epoch of the other mode is no older decision"
    assert (table.epoch(PLACE), table.epoch(sandbox)) == ((1, 1), (9, 9))
    assert seen == [("sandbox", "burst"), ("live", "idle")]
    assert table.preferred(["b", "payer"], "payments", "live") == ["payer", "b"]
    assert table.preferred(["b", "payer"], "payments", "sandbox") == ["b", "payer"]
