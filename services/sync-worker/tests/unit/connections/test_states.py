"""The states of a connection: what may follow what."""

from __future__ import annotations

from itertools import pairwise

import pytest

from contracts.errors import Terminal
from sync_worker.connections.states import CALLABLE, ENDED, TRANSITIONS, ConnectionState, moved, working_state

S = ConnectionState


@pytest.mark.parametrize("state", list(S))
def test_every_state_can_be_left_for_revoked_or_is_over(state: ConnectionState) -> None:
    assert state in ENDED or S.REVOKED in TRANSITIONS[state]
    assert moved(state, state) == state


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (S.AUTHORIZING, S.PAUSED),
        (S.AUTHORIZING, S.NEEDS_REAUTH),
        (S.REVOKED, S.LIVE),
        (S.ERASED, S.REVOKED),
        (S.LIVE, S.AUTHORIZING),
        (S.NEEDS_REAUTH, S.BACKFILLING),
    ],
)
def test_what_cannot_follow_is_refused(before: ConnectionState, after: ConnectionState) -> None:
    with pytest.raises(Terminal) as error:
        moved(before, after)
    assert error.value.code == "wrong_state"


def test_the_way_of_the_design() -> None:
    way = [S.AUTHORIZING, S.MATCHING, S.BACKFILLING, S.LIVE, S.LIMITED, S.LIVE, S.NEEDS_REAUTH, S.LIVE, S.PAUSED]
    way += [S.LIVE, S.REVOKED, S.ERASED]
    for before, after in pairwise(way):
        assert moved(before, after) == after
    assert not TRANSITIONS[S.ERASED]
    assert S.PAUSED not in CALLABLE
    assert S.LIMITED in CALLABLE


def test_a_missing_scope_limits_and_is_named() -> None:
    assert working_state([]) == (S.LIVE, "")
    assert working_state(["refunds.write"]) == (S.LIMITED, "scope missing: refunds.write")
