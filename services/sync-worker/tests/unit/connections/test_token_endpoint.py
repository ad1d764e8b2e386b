"""A token endpoint whose host a tenant chose: looked at, pinned, and called by its own name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from chassis.testing.clock import ManualClock
from contracts.errors import Invalid, Transient
from providers.oauth import TokenCall
from sync_worker.connections.token_endpoint import TokenEndpoint
from sync_worker.outbound import hosts

pytestmark = pytest.mark.asyncio

HOST = "bi.example.com"


@pytest.fixture
def resolves(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let names resolve to given addresses; returns what was looked up."""

    def to(*answers: list[str]) -> list[str]:
        asked: list[str] = []
        left = list(answers)

        async def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
            asked.append(host)
            return [(0, 0, 0, "", (address, 443)) for address in (left.pop(0) if len(left) > 1 else left[0])]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
        return asked

    return to


def call(scheme: str = "https", port: str = "", *, chosen: bool = True) -> TokenCall:
    return TokenCall(f"{scheme}://{HOST}{port}/token", {"client_secret": "canary"}, host_is_chosen=chosen)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
async def test_a_chosen_host_inside_of_our_network_gets_no_secret(
    resolves: Callable[..., list[str]], address: str
) -> None:
    resolves(["93.184.216.34", address])
    endpoint = TokenEndpoint(ManualClock())
    with pytest.raises(Invalid) as refused:
        await endpoint.post("acme", call())
    assert refused.value.code == "host_not_public"
    await endpoint.close()


async def test_a_chosen_host_without_an_address_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(*_: Any, **__: Any) -> list[Any]:
        raise OSError("no such name")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nobody, raising=False)
    endpoint = TokenEndpoint(ManualClock())
    with pytest.raises(Transient) as away:
        await endpoint.post("acme", call())
    assert away.value.code == "host_unresolved"
    await endpoint.close()


async def test_the_address_that_was_checked_is_called_by_the_hosts_name(
    resolves: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name leads elsewhere a moment later (DNS rebinding): nothing is looked up a second time."""
    monkeypatch.setattr(hosts, "is_public", lambda _address: True)
    asked = resolves(["127.0.0.1"], ["203.0.113.9"])
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head.lower())
        body = json.dumps({"access_token": "t"}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    endpoint = TokenEndpoint(ManualClock())
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for _ in range(2):
            status, body = await endpoint.post("acme", call("http", f":{port}"))
            assert (status, body) == (200, {"access_token": "t"})
    await endpoint.close()
    assert asked == [HOST]
    for head in heads:
        assert f"host: {HOST}:{port}".encode() in head
        assert b"connection: close" in head, "no connection is kept for another host at that address"


async def test_the_sandbox_plays_chosen_hosts_too(resolves: Callable[..., list[str]]) -> None:
    asked = resolves(["10.0.0.7"])
    endpoint = TokenEndpoint(ManualClock(), base_url_override="http://127.0.0.1:1")
    with pytest.raises(Transient) as away:
        await endpoint.post("acme", call())
    assert away.value.code == "token_endpoint_unreachable"
    assert HOST not in asked
    await endpoint.close()
