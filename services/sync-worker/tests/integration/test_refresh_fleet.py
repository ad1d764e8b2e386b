"""Many connections whose tokens end again and again, a fleet that refreshes them, and one worker stopped on the way.

The oracle is the OAuth server's own ledger: no family is lost, and each ended token was refreshed once.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from sync_worker.connections.token_endpoint import TokenEndpoint

pytestmark = [pytest.mark.asyncio, pytest.mark.integration, pytest.mark.timeout(1800)]

CONNECTIONS = int(os.environ.get("PATCHBAY_REFRESH_CONNECTIONS", "40"))
WORKERS = int(os.environ.get("PATCHBAY_REFRESH_WORKERS", "8"))
ROUNDS = 3
# Longer than the lease, so that another worker takes over what the stopped one held.
STOPPED_S = float(os.environ.get("PATCHBAY_REFRESH_STOPPED_S", "12"))


async def test_no_family_is_lost_and_every_end_has_one_refresh(oauth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connections = [await oauth.connect(account=f"acct-{number}") for number in range(CONNECTIONS)]
    assert len(set(connections)) == CONNECTIONS
    oauth.behave(grace="until_used", delay_ms=20)
    fleet = [oauth.another() for _ in range(WORKERS)]
    stopped, held = fleet[0], asyncio.Event()
    post = TokenEndpoint.post

    async def stop_once(self: TokenEndpoint, *args: Any, **kwargs: Any) -> Any:
        answer = await post(self, *args, **kwargs)
        if self is stopped.endpoint and not held.is_set():
            held.set()
            await asyncio.sleep(STOPPED_S)  # lint-skip: PB011 a worker that is stopped in the middle of a refresh
        return answer

    monkeypatch.setattr(TokenEndpoint, "post", stop_once)
    # All workers of this test share one pool of connections, which each has for itself outside of it.
    slots = asyncio.Semaphore(100)

    async def account_of(parts: Any, connection: Any) -> Any:
        async with slots:
            return await parts.tokens.account(connection, wait_s=60)

    for _ in range(ROUNDS):
        for connection in connections:
            await oauth.end_tokens(connection)
        for parts in fleet:
            for connection in connections:
                parts.tokens.forget(connection)
        asked = [
            account_of(fleet[(number + turn) % WORKERS], connection)
            for number, connection in enumerate(connections)
            for turn in range(3)
        ]
        accounts = await asyncio.gather(*asked)
        for number in range(CONNECTIONS):
            tokens = {account.secrets["access_token"] for account in accounts[3 * number : 3 * number + 3]}
            assert len(tokens) == 1, "whoever asked got the same token"
            assert oauth.sandbox.oauth.accepts("acme", tokens.pop())
    assert held.is_set()
    families = [one for one in oauth.sandbox.oauth.families if one.provider == "acme"]
    assert len(families) == CONNECTIONS
    assert not [one for one in families if one.dead or one.reuses > 1]
    refreshes = sum(one.refreshes for one in families)
    # What the stopped worker had got was taken over by another, which had to refresh once more.
    assert CONNECTIONS * ROUNDS <= refreshes <= CONNECTIONS * ROUNDS + 1
