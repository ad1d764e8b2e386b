"""Live or sandbox: whether a call is about real money and real people, or about a provider's place to try things out.

A route, a quota and a record's key belong to one of the two, and nothing that one teaches counts for the other.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Mode = Literal["live", "sandbox"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)


def keyed(*parts: str, mode: Mode) -> str:
    """Return parts joined by colons, as the key of a record or of something shared; the mode ends those of the sandbox.

    Live ones have no ending, because records without a mode are older than modes and are live.
    """
    return ":".join(parts if mode == "live" else (*parts, mode))


def calls_key(provider: str, capability: str, mode: Mode) -> str:
    """Return the key of a route's calls on `sync.calls.v1`: who owns its partition decides about the route."""
    return keyed(provider, capability, mode=mode)


def quota_key(provider: str, bucket: str, mode: Mode) -> str:
    """Return the key of a kind of bucket, of its policy and of all reports of use: who has its partition sees them."""
    return keyed(provider, bucket, mode=mode)
