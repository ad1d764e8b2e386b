from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from chassis.clock import SystemClock
from patchbay import main, sending
from patchbay.environment import CliError
from patchbay.tailing import shown
from providers import registry
from providers.conformance import fixtures_for, variants
from providers.provider import Provider
from providers.sdk import InboundRequest, Refused, Secret
from sandbox.signing import fetches_keys

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
        path, _, query = self.path.partition("?")
        self.got.append(InboundRequest("POST", f"http://{self.headers['host']}{path}", headers, body, query))
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


SENDING = [
    (provider, {**fixtures_for(provider, choice)[0].options, **choice})
    for provider in SENDERS
    for choice in variants(provider)
    if not fetches_keys(provider, choice)
]


@pytest.mark.parametrize(
    ("provider", "options"), SENDING, ids=["-".join([one.slug, *options.values()]) for one, options in SENDING]
)
def test_send_signs_as_the_provider_would(provider: Provider, options: dict[str, str], endpoint: str) -> None:
    keys = provider.verifier(options).generate()
    fixture = fixtures_for(provider, options)[0].name
    order = sending.Order(provider.slug, endpoint, keys.signing, fixture, copies=2, options=options)
    assert [status for status, _ in sending.send(order)] == [202, 202]
    for got in Hook.got:
        request = replace(got, url=provider.request_url(got.url, got.query_string))
        verified = provider.verifier(options).verify(request, [Secret("k", keys.verifying)], SystemClock().now())
        assert verified.key_id in {"k", "unauthenticated"}


def test_send_can_be_spoilt_and_given_fresh_ids(endpoint: str) -> None:
    provider = next(one for one in SENDERS if one.manifest.operations and one.webhook.event_id == ("body:/id",))
    keys = provider.verifier().generate()
    plain = sending.Order(provider.slug, endpoint, keys.signing, provider.fixtures()[0].name)
    for order in (plain, replace(plain, fresh="-x1"), replace(plain, tamper="body")):
        sending.send(order)
    first, fresh, spoilt = Hook.got
    ids = [provider.split(request)[0].event_id for request in (first, fresh)]
    assert ids[1] == f"{ids[0]}-x1"
    with pytest.raises(Refused):
        provider.verifier().verify(spoilt, [Secret("k", keys.verifying)], SystemClock().now())


def test_send_without_a_sandbox_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_RUN_DIR", str(tmp_path))
    monkeypatch.delenv("SANDBOX_URL", raising=False)
    monkeypatch.delenv("PATCHBAY_TOKEN", raising=False)
    provider = next(one for one in SENDERS if fetches_keys(one))
    order = sending.Order(provider.slug, "http://127.0.0.1:1/", "identity", provider.fixtures()[0].name)
    with pytest.raises(CliError, match="is not set"):
        sending.send(order)


def test_send_to_nobody_is_an_error_for_people() -> None:
    sender, options = SENDING[0]
    secret = sender.verifier(options).generate().signing
    order = sending.Order(sender.slug, "http://127.0.0.1:1/", secret, sender.fixtures()[0].name, options=options)
    with pytest.raises(CliError, match="does not answer"):
        sending.send(order)


def test_providers_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "providers") == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["slug", "name", "tier", "inbound", "scheme", "operations"]
    assert [row.split()[0] for row in rows] == registry.all_slugs()
    assert all("webhook" in row for row in rows if row.split()[0] in {one.slug for one in SENDERS})


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
