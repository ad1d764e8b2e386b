from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from chassis.clock import SystemClock
from patchbay import main, sending
from patchbay.environment import CliError
from patchbay.tailing import shown
from providers import registry
from providers.sdk import InboundRequest, Secret

SENDERS = [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]


class Record:
    topic, partition, offset = "sync.changes.v1", 3, 7

    def __init__(self, value: bytes | None, **headers: str) -> None:
        self.key: bytes | None = b"tenant:payment:1"
        self.value = value
        self.headers: Sequence[tuple[str, bytes]] = [(name, text.encode()) for name, text in headers.items()]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["patchbay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    return int(ended.value.code or 0)


class Hook(BaseHTTPRequestHandler):
    got: list[InboundRequest] = []  # noqa: RUF012 (the class is the endpoint)

    def do_POST(self) -> None:
        headers = {name.lower(): [value] for name, value in self.headers.items()}
        body = self.rfile.read(int(self.headers["content-length"]))
        self.got.append(InboundRequest("POST", f"http://{self.headers['host']}{self.path}", headers, body))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    Hook.got.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hooks/ep"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("provider", SENDERS, ids=lambda provider: provider.slug)
def test_send_signs_as_the_provider_would(provider: object, endpoint: str) -> None:
    assert provider in SENDERS
    sender = next(one for one in SENDERS if one is provider)
    keys = sender.verifier().generate()
    order = sending.Order(sender.slug, endpoint, keys.signing, sender.fixtures()[0].name, copies=2)
    assert [status for status, _ in sending.send(order)] == [202, 202]
    for request in Hook.got:
        assert sender.verifier().verify(request, [Secret("k", keys.verifying)], SystemClock().now()).key_id == "k"


def test_send_to_nobody_is_an_error_for_people() -> None:
    sender = SENDERS[0]
    order = sending.Order(
        sender.slug, "http://127.0.0.1:1/", sender.verifier().generate().signing, sender.fixtures()[0].name
    )
    with pytest.raises(CliError, match="does not answer"):
        sending.send(order)


def test_providers_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "providers") == 0
    printed = capsys.readouterr().out
    assert all(slug in printed for slug in registry.all_slugs())


def test_unknown_fixture_ends_with_one_and_names_those_that_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slug = SENDERS[0].slug
    options = ("--endpoint-url", "http://127.0.0.1:1/", "--secret", "test", "--fixture", "nosuch")
    assert run(monkeypatch, "send", slug, *options) == 1
    assert SENDERS[0].fixtures()[0].name in capsys.readouterr().err


def test_record_is_shown_with_its_facts() -> None:
    parent = "00-fc04004b64ca43a59b10bc32341ea186-00f067aa0ba902b7-01"
    record = Record(b'{"a":1}', ce_id="e1", ce_type="payment.changed.v1", traceparent=parent)
    one = shown(record)
    assert (one.place, one.key, one.event_type, one.event_id) == (
        *("sync.changes.v1/3/7", "tenant:payment:1"),
        *("payment.changed.v1", "e1"),
    )
    assert one.trace_id == "fc04004b64ca43a59b10bc32341ea186"
    assert one.lines().endswith('{"a": 1}')


@pytest.mark.parametrize(("value", "data"), [(None, "(tombstone)"), (b"\xff", "\ufffd"), (b"a=b", "a=b")])
def test_record_of_any_shape_is_shown(value: bytes | None, data: str) -> None:
    record = Record(value)
    assert shown(record).data == data
