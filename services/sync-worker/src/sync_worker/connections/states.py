"""The states of a connection and what may follow what (sync-worker.md §2). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from contracts.errors import Terminal


class ConnectionState(StrEnum):
    """How far a connection is, and whether the provider may be called with it."""

    AUTHORIZING = "authorizing"
    MATCHING = "matching"
    BACKFILLING = "backfilling"
    LIVE = "live"
    LIMITED = "limited"
    NEEDS_REAUTH = "needs_reauth"
    PAUSED = "paused"
    REVOKED = "revoked"
    ERASED = "erased"


_S: Final = ConnectionState
# The provider may be called: sync runs in MATCHING and BACKFILLING, LIMITED lacks a scope only.
CALLABLE: Final = frozenset({_S.MATCHING, _S.BACKFILLING, _S.LIVE, _S.LIMITED})
# Over for good; the account may be connected anew.
ENDED: Final = frozenset({_S.REVOKED, _S.ERASED})
TRANSITIONS: Final[dict[ConnectionState, frozenset[ConnectionState]]] = {
    _S.AUTHORIZING: frozenset({_S.MATCHING, _S.LIVE, _S.LIMITED, _S.REVOKED}),
    _S.MATCHING: frozenset({_S.BACKFILLING, _S.LIVE, _S.LIMITED, _S.NEEDS_REAUTH, _S.PAUSED, _S.REVOKED}),
    _S.BACKFILLING: frozenset({_S.LIVE, _S.LIMITED, _S.NEEDS_REAUTH, _S.PAUSED, _S.REVOKED}),
    _S.LIVE: frozenset({_S.MATCHING, _S.LIMITED, _S.NEEDS_REAUTH, _S.PAUSED, _S.REVOKED}),
    _S.LIMITED: frozenset({_S.MATCHING, _S.LIVE, _S.NEEDS_REAUTH, _S.PAUSED, _S.REVOKED}),
    _S.NEEDS_REAUTH: frozenset({_S.LIVE, _S.LIMITED, _S.PAUSED, _S.REVOKED}),
    _S.PAUSED: frozenset({_S.LIVE, _S.LIMITED, _S.NEEDS_REAUTH, _S.REVOKED}),
    _S.REVOKED: frozenset({_S.ERASED}),
    _S.ERASED: frozenset(),
}


def moved(state: str, to: ConnectionState) -> ConnectionState:
    """Return `to` if it may follow `state` or is equal to it; raises `Terminal` (`wrong_state`)."""
    if state != to and to not in TRANSITIONS[ConnectionState(state)]:
        raise Terminal("wrong_state", f"a connection that is {state} cannot become {to}")
    return to


def working_state(missing_scopes: Sequence[str]) -> tuple[ConnectionState, str]:
    """Return the state of a connection whose credentials work, with the reason: LIMITED when a scope is missing."""
    if missing_scopes:
        return _S.LIMITED, f"scope missing: {', '.join(missing_scopes)}"
    return _S.LIVE, ""
