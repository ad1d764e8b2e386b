"""The traps of gateway.md §4 and the attacks of §2 G4, each by name, over real sockets against a whole gateway."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from chassis.testing.ports import LOOPBACK
from contracts.topics import Lane
from providers import registry

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

PROVIDER = next(
    p
    for p in registry.all_providers()
    if p.manifest.webhook
    and p.webhook.event_id[0] == "body:/id"
    and p.webhook.formats == ("json",)
    and not p.webhook.handshakes
    and p.traits() is not None
    and p.traits().covers == "body"  # type: ignore[union-attr]
    and not p.traits().fetches  # type: ignore[union-attr]
    and p.traits().stale_after_s == 300  # type: ignore[union-attr]
)
FINE, REFUSED = PROVIDER.webhook.success_status, PROVIDER.webhook.refused_status


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def signature_header() -> str:
    place: str = PROVIDER.traits().places[0]  # type: ignore[union-attr]
    return place.removeprefix("header:").lower()


async def test_trap_1_the_body_is_kept_as_received_and_never_reserialised(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        odd = sender.fixture.body.replace(b"{", b'{ "\\u0061" :1.0e1,', 1) + b"\r\n"
        assert (await live.deliver(sender, sender.signed(odd))).status_code == FINE
        ((_, value),) = await live.accepted(sender)
        assert value == odd
        assert (await live.deliver(sender, sender.signed(b'\xff\xfe{"id":1}'))).status_code == FINE


async def test_trap_2_a_hostile_signature_header_is_refused_and_never_an_error(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        name = signature_header().encode()
        for value in (b"\xff\xfe", b"t=1,v1=\xc3\xa9", b"", b",", b"=" * 5000, b"t=" + b"9" * 500 + b",v1=00"):
            body = sender.fixture.body
            head = b"POST /hooks/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % (
                sender.endpoint.encode(),
                len(body),
            )
            answer = await live.exchange(head + name + b": " + value + b"\r\n\r\n" + body)
            assert status(answer) == REFUSED, value


async def test_trap_3_query_and_cookies_never_stand_in_for_signed_headers(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        genuine = sender.signed()
        name = signature_header()
        value = genuine.headers[name][0]
        hook = f"{live.url}/hooks/{sender.endpoint}"
        in_query = await live.client.post(hook, content=genuine.body, params={name: value})
        in_cookie = await live.client.post(hook, content=genuine.body, headers={"cookie": f"{name}={value}"})
        assert {in_query.status_code, in_cookie.status_code} == {REFUSED}


async def test_trap_4_stale_and_future_stamps_are_refused_at_arrival(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        for shift_s in (-400, 400):
            moved = PROVIDER.sign(
                sender.fixture.request({}, sender.address),
                secret=sender.secret,
                now=_shifted(shift_s),
                options=sender.options,
            )
            assert (await live.deliver(sender, moved)).status_code == REFUSED
        assert {"stale_timestamp", "future_timestamp"} <= {one.reason for one in await live.rejected(sender)}


async def test_trap_5_repeat_and_conflict_are_two_things(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        other = json.dumps(json.loads(sender.fixture.body) | {"more": 1}).encode()
        for body in (None, None, other):
            assert (await live.deliver(sender, sender.signed(body))).status_code == FINE
        assert [facts.quarantine for facts, _ in await live.accepted(sender)] == ["", "conflict"]


async def test_trap_8_and_9_a_header_flood_is_431_and_a_wrong_method_405(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        many = b"".join(b"x-%d: y\r\n" % n for n in range(5000))
        flood = (
            b"POST /hooks/%s HTTP/1.1\r\nHost: x\r\n" % sender.endpoint.encode() + many + b"Content-Length: 2\r\n\r\n{}"
        )
        huge = b"POST /hooks/%s HTTP/1.1\r\nHost: x\r\nx: %s\r\n\r\n" % (sender.endpoint.encode(), b"y" * 2_000_000)
        assert status(await live.exchange(flood)) == 431
        assert status(await live.exchange(huge)) in {431, 0}
        assert (await live.deliver(sender)).status_code == FINE


async def test_trap_10_bombs_and_endless_bodies_are_bounded(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        bomb = gzip.compress(b"0" * 200_000_000)
        started = time.perf_counter()
        reply = await live.deliver(sender, sender.signed(bomb), **{"content-encoding": "gzip"})
        assert (reply.status_code, reply.json()["code"]) == (413, "body_too_large")
        assert time.perf_counter() - started < 2

        async def endless() -> Any:
            while True:
                yield b"x" * 65_536

        # The gateway answers and closes while the sender is still sending, who may see the answer or just the close.
        try:
            reply = await live.client.post(f"{live.url}/hooks/{sender.endpoint}", content=endless())
        except httpx.TransportError:
            pass
        else:
            assert reply.status_code == 413
        assert [one.reason for one in await live.rejected(sender)].count("body_too_large") == 2


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 2\r\nContent-Length: 200\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 2, 2\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
    ],
    ids=["two-lengths", "length-and-chunked", "odd-coding", "plus", "list", "tab"],
)
async def test_smuggled_requests_are_never_served(gateway: Any, framing: bytes) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        inner = sender.raw()
        outer = b"POST /hooks/nobody HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n"
        await live.exchange(outer + b"{}" + inner, patience_s=1)
        await live.exchange(outer + b"0\r\n\r\n" + inner, patience_s=1)
        served = await live.accepted(sender)
        # Where the outer request is well-formed after all, what follows it is an ordinary pipelined request.
        assert len(served) <= 1
        assert all(value == sender.fixture.body for _, value in served)
        assert (await live.deliver(sender)).status_code == FINE


async def test_slow_senders_are_cut_off_and_hold_nobody_up(gateway: Any) -> None:
    async with gateway(body_timeout_s=0.5) as live:
        sender = await live.connect(PROVIDER, lane=Lane.CRITICAL)
        head = b"POST /hooks/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{" % sender.endpoint.encode()
        slow = [asyncio.create_task(live.exchange(head)) for _ in range(200)]
        await asyncio.sleep(0)
        assert (await live.deliver(sender)).status_code == FINE
        assert {status(answer) for answer in await asyncio.gather(*slow)} == {408}


async def test_2000_idle_sockets_do_not_shut_a_sender_out(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        idle = [await asyncio.open_connection(LOOPBACK, live.port) for _ in range(2000)]
        try:
            started = time.perf_counter()
            assert (await live.deliver(sender)).status_code == FINE
            assert time.perf_counter() - started < 2
        finally:
            for _, writer in idle:
                writer.transport.abort()


async def test_a_sender_that_leaves_inside_of_its_body_leaves_nothing_behind(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        raw = sender.raw()
        for cut in (len(raw) - 1, len(raw) // 2):
            _, writer = await asyncio.open_connection(LOOPBACK, live.port)
            writer.write(raw[:cut])
            await writer.drain()
            writer.transport.abort()
        assert (await live.deliver(sender)).status_code == FINE
        assert len(await live.accepted(sender)) == 1
        reasons = {one.reason for one in await live.rejected(sender)}
        assert reasons <= {"method_not_allowed"}, "a part of a body is no verdict"


async def test_no_secret_and_no_payload_is_ever_logged(gateway: Any, capsys: pytest.CaptureFixture[str]) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        body = json.dumps(json.loads(sender.fixture.body) | {"canary": "payload-canary"}).encode()
        await live.deliver(sender, sender.signed(body))
        await live.deliver(sender, sender.signed(b"payload-canary"))
        await live.deliver(sender, sender.signed(body), authorization="Bearer header-canary")
        await live.client.post(f"{live.url}/hooks/{sender.endpoint}", content=b"payload-canary")
    logged = "".join(capsys.readouterr())
    assert "delivery_unreadable" in logged, "the logs were captured"
    assert "canary" not in logged
    assert sender.secret not in logged


def _shifted(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)
