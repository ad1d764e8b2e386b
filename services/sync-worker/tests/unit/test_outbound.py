"""The client against a server that misbehaves, and the report of its calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chassis.clock import SystemClock
from chassis.testing.clock import ManualClock
from chassis.testing.harness import until
from chassis.testing.ports import free_port
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.errors import Invalid, Transient
from contracts.events.health import RouteChanged, RouteState
from contracts.events.sync import CallsObserved
from contracts.topics import Topic
from providers.sdk import HttpRequest
from sync_worker.outbound import client as outbound
from sync_worker.outbound.client import CallPlan, CallResult, ProviderClient
from sync_worker.outbound.reports import Call, CallReporter
from sync_worker.outbound.route_table import RouteTable

pytestmark = pytest.mark.asyncio

GET = HttpRequest("GET", "/thing")


class Reports:
    """The port of the reporter."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def record(self, call: Call, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes.append(call.outcome)


class Server:
    """Answers every request with the bytes of `answer`, then closes if they say so; keeps the request heads."""

    def __init__(self) -> None:
        self.answer: bytes | None = b""
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                if self.answer is None:
                    await reader.read()
                    break
                writer.write(self.answer)
                await writer.drain()
                if b"content-length" not in self.answer:
                    break
        writer.close()


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[str]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def calling(url: str, provider: Any) -> AsyncIterator[tuple[Callable[..., Any], Reports]]:
    """Give a function that makes one call, and what it reported."""
    reports: Any = Reports()
    client = ProviderClient(reports, SystemClock(), base_url_override=url)

    async def call(request: HttpRequest = GET, timeout_s: float = 5) -> CallResult:
        plan = CallPlan(provider, "payments", "op", "t1", "c1", timeout_s)
        return await client.call(plan, request)

    try:
        yield call, reports
    finally:
        await client.close()


def http(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "outcome", "unsent"),
    [
        (http("200 OK", b'{"id": 1}'), "success", False),
        (http("302 Found", b"", "location: http://127.0.0.1:1/"), "client_error", False),
        (http("404 Not Found"), "client_error", False),
        (http("429 Too Many", b"", "retry-after: 7"), "throttled", True),
        (http("503 Away", b"not json"), "server_error", False),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nxxxx", "server_error", False),
        (b"no http at all\r\n\r\n", "server_error", False),
        (b"", "server_error", False),
    ],
    ids=["2xx", "redirect", "4xx", "429", "5xx", "bad-coding", "garbage", "closed"],
)
async def test_every_answer_has_one_outcome(kit: Any, answer: bytes, outcome: str, unsent: bool) -> None:  # noqa: FBT001
    server = Server()
    server.answer = answer
    async with running(server) as url, calling(url, kit.payer) as (call, reports):
        result = await call()
        assert (result.outcome, result.provably_unsent, reports.outcomes) == (outcome, unsent, [outcome])
        assert len(server.heads) == 1, "a redirect is not followed, a failure not repeated"
        if outcome == "success":
            assert (result.response.json, result.response.headers["content-length"]) == ({"id": 1}, "9")


@pytest.mark.parametrize(
    ("text", "wait_s"), [("7", 7), ("999999", 3600), ("soon", None), ("\u00b2", None), ("9" * 5000, 3600)]
)
async def test_retry_after_is_read_strictly(kit: Any, text: str, wait_s: float | None) -> None:
    server = Server()
    server.answer = (
        b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\nretry-after: " + text.encode("latin-1") + b"\r\n\r\n"
    )
    async with running(server) as url, calling(url, kit.payer) as (call, _):
        assert (await call()).retry_after_s == wait_s


async def test_nobody_there_is_provably_unsent_and_silence_is_a_timeout(kit: Any) -> None:
    async with calling(f"http://127.0.0.1:{free_port()}", kit.payer) as (call, _):
        result = await call()
        assert (result.outcome, result.provably_unsent) == ("connect_error", True)
    server = Server()
    server.answer = None
    async with running(server) as url, calling(url, kit.payer) as (call, _):
        result = await call(timeout_s=0.1)
        assert (result.outcome, result.provably_unsent) == ("timeout", False)


async def test_an_answer_that_drips_does_not_outlive_the_deadline(kit: Any) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        if not await reader.read(1):
                            break
        writer.close()

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with calling(url, kit.payer) as (call, _):
            async with asyncio.timeout(3):
                assert (await call(timeout_s=0.3)).outcome == "timeout"


async def test_a_huge_answer_is_cut_off(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "MAX_ANSWER_BYTES", 10_000)
    server = Server()
    server.answer = http("200 OK", b"x" * 10_001)
    async with running(server) as url, calling(url, kit.payer) as (call, _):
        result = await call()
        assert (result.outcome, result.response) == ("server_error", None)


async def test_a_request_that_http_cannot_carry_is_our_fault_and_no_crash(kit: Any) -> None:
    async with running(Server()) as url, calling(url, kit.payer) as (call, _):
        for request in (
            HttpRequest("GET", "/", headers={"Authorization": "Bearer kl\u00fc\u20ac"}),
            HttpRequest("GET", "/", headers={"Authorization": "Bearer a\r\nb"}),
            HttpRequest("GET", "/a\x01b"),
        ):
            result = await call(request)
            assert (result.outcome, result.provably_unsent) == ("client_error", True)


async def test_no_cookie_goes_from_one_tenants_call_to_another(kit: Any) -> None:
    server = Server()
    server.answer = http("200 OK", b"{}", "set-cookie: session=canary; Path=/")
    async with running(server) as url, calling(url, kit.payer) as (call, _):
        await call()
        await call()
    assert len(server.heads) == 2
    assert b"canary" not in b"".join(server.heads)


class RecordingPublisher:
    """The port of the publisher."""

    def __init__(self) -> None:
        self.sent: list[CallsObserved] = []
        self.away = False
        self.meanwhile: Callable[[], None] = lambda: None

    async def publish(self, topic: Topic, key: str, envelope: Envelope, *, timeout_s: float = 5.0) -> tuple[int, int]:
        assert (topic.name, timeout_s > 0) == ("sync.calls.v1", True)
        self.meanwhile()
        if self.away:
            raise Transient("broker_unavailable", "away")
        observed = decode(CallsObserved, envelope.data)
        assert key == f"{observed.provider}:{observed.capability}"
        self.sent.append(observed)
        return 0, 0


def one(outcome: Any, provider: str = "payer") -> Call:
    return Call(provider, "payments", "op", outcome, "t1", "c1", probe=False)


def reporter(publisher: Any, routes: RouteTable | None = None) -> CallReporter:
    return CallReporter(publisher, routes or RouteTable(), ManualClock(), worker="w1")


async def test_equal_calls_in_a_row_are_one_run_in_the_order_of_events() -> None:
    publisher = RecordingPublisher()
    report = reporter(publisher)
    for outcome in ("success", "success", "timeout", "success"):
        report.record(one(outcome), 0.5)
    await report.flush()
    await report.flush()
    (observed,) = publisher.sent
    assert [(run.outcome, run.count) for run in observed.runs] == [("success", 2), ("timeout", 1), ("success", 1)]
    assert (observed.runs[0].latency_ms_sum, observed.runs[0].latency_ms_max) == (1000, 500)


async def test_a_call_to_somebody_new_during_a_flush_is_reported_next() -> None:
    publisher = RecordingPublisher()
    report = reporter(publisher)
    publisher.meanwhile = lambda: report.record(one("success", "newcomer"), 0.1)
    report.record(one("success"), 0.1)
    await report.flush()
    publisher.meanwhile = lambda: None
    await report.flush()
    assert [observed.provider for observed in publisher.sent] == ["payer", "newcomer"]


async def test_the_first_failure_leaves_at_once_and_a_lost_report_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync_worker.outbound.reports.FLUSH_INTERVAL_S", 3600)
    publisher = RecordingPublisher()
    report = reporter(publisher)
    task = asyncio.create_task(report.run())

    async def told() -> bool:
        return bool(publisher.sent)

    try:
        report.record(one("success"), 0.1)
        report.record(one("timeout"), 0.1)
        await until(told, "the failure is reported", 5)
        publisher.away = True
        report.record(one("success"), 0.1)
        await report.flush()
        publisher.away = False
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert [run.outcome for run in publisher.sent[0].runs] == ["success", "timeout"]


async def test_only_a_greater_epoch_moves_a_route(kit: Any) -> None:
    table = RouteTable()

    def apply(state: RouteState, *epoch: int) -> None:
        route = RouteChanged(
            provider="payer", capability="payments", epoch=epoch, state=state, share=0, reason="", decided_at=kit.start
        )
        table.apply("k", Envelope(id="1", source="s", type=route.TYPE, data=encode(route)))

    assert (table.is_shut("payer", "payments"), table.epoch("payer", "payments")) == (False, (0, 0))
    apply(RouteState.DOWN, 1, 5)
    apply(RouteState.HEALTHY, 1, 5)
    apply(RouteState.HEALTHY, 1, 4)
    table.apply("k", None)
    assert (table.is_shut("payer", "payments"), table.troubled()) == (True, [("payer", "payments")])
    assert not table.is_shut("payer", "other")
    apply(RouteState.HEALTHY, 2, 1)
    assert (table.is_shut("payer", "payments"), table.epoch("payer", "payments"), table.troubled()) == (
        False,
        (2, 1),
        [],
    )
    with pytest.raises(Invalid):
        table.apply("k", Envelope(id="1", source="s", type="x", data=b"{}"))
