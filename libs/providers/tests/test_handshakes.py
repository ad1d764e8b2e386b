"""Handshakes: what is recognised, what is reflected, and what a stranger cannot make of them."""

from __future__ import annotations

import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from providers.handshakes import MAX_BODY, Handshakes
from providers.manifest import Handshake, HmacSignature, Webhook
from providers.sdk import HandshakeReply, InboundRequest, Refused, Secret
from providers.signing import build_verifier

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SIGNATURE = HmacSignature(scheme="hmac", header="X-Sig", encoding="hex")
VERIFIER = build_verifier(SIGNATURE, "", None)
SECRETS = [Secret("k1", "key-one"), Secret("k2", "key-two")]
OPTIONS = {"token": "expected", "empty": "", "rate": "100"}


def table(**over: Any) -> Handshake:
    values = {"name": "hello", "match": {"body:/type": "hello"}, "verified": False, "challenge": "body:/word"}
    return Handshake.model_validate({**values, **over})


def respond(one: Handshake, body: bytes, headers: dict[str, list[str]], **over: Any) -> HandshakeReply | None:
    webhook = Webhook(signature=SIGNATURE, event_id=("digest",), event_type=("const:x",), handshakes=(one,))
    request = InboundRequest("POST", "https://hooks.example.com/hooks/ep", headers, body)
    return Handshakes(webhook, OPTIONS).answer(replace(request, **over), SECRETS, NOW, VERIFIER)


def ask(one: Handshake, body: Any = None, **over: Any) -> HandshakeReply | None:
    document = {"type": "hello", "word": "abc"} if body is None else body
    return respond(one, json.dumps(document).encode(), over.pop("headers", {}), **over)


def signed(body: bytes) -> dict[str, list[str]]:
    return {"x-sig": [hmac.new(b"key-two", body, "sha256").hexdigest()]}


def test_a_challenge_is_reflected_as_plain_text_that_no_browser_reads_as_anything_else() -> None:
    reply = ask(table(text="{challenge}"))
    assert reply is not None
    assert (reply.status, reply.body, reply.verified) == (200, b"abc", False)
    assert dict(reply.headers) == {"content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff"}


@pytest.mark.parametrize(
    "body", [{"type": "other", "word": "abc"}, {"word": "abc"}, [], "hello", {"type": ["hello"], "word": "abc"}]
)
def test_what_does_not_match_is_a_delivery(body: Any) -> None:
    assert ask(table(text="{challenge}"), body) is None


def test_a_large_broken_or_otherwise_sent_body_is_a_delivery() -> None:
    one = table(text="{challenge}")
    assert ask(one, {"type": "hello", "word": "x" * MAX_BODY}) is None
    assert ask(one, method="PUT") is None
    assert respond(one, b'{"type":"hello"', {}) is None


@pytest.mark.parametrize("word", ["<script>", "a\r\nSet-Cookie: x", "\u2603", "x" * 300, "", None, ["abc"]])
def test_a_challenge_that_does_not_fit_its_pattern_is_refused(word: Any) -> None:
    with pytest.raises(Refused) as refused:
        ask(table(text="{challenge}", pattern="[A-Za-z0-9]{1,256}"), {"type": "hello", "word": word})
    assert refused.value.reason == "handshake_refused"


def test_a_token_must_be_the_configured_one_and_an_empty_one_refuses_everybody() -> None:
    one = table(text="{challenge}", token={"place": "query:token", "option": "token"})
    assert ask(one, query_string="token=expected") is not None
    for query in ("", "token=", "token=Expected", "token=expected&token=expected", "token=%E2%98%83"):
        with pytest.raises(Refused):
            ask(one, query_string=query)
    with pytest.raises(Refused):
        ask(table(text="{challenge}", token={"place": "query:token", "option": "empty"}), query_string="token=")


def test_a_verified_handshake_is_answered_only_to_the_provider() -> None:
    one = table(verified=True, json_body={"echo": "{challenge}", "type": 1})
    body = b'{"type":"hello","word":"abc"}'
    reply = respond(one, body, signed(body))
    assert reply is not None
    assert (json.loads(reply.body), reply.verified) == ({"echo": "abc", "type": 1}, True)
    with pytest.raises(Refused) as refused:
        respond(one, body, {})
    assert refused.value.reason == "missing_signature"


def test_a_hashed_challenge_uses_the_newest_secret() -> None:
    one = table(hmac={}, pattern="[A-Za-z0-9_-]{1,64}", json_body={"hash": "{hmac}"})
    reply = ask(one)
    assert reply is not None
    assert json.loads(reply.body) == {"hash": hmac.new(b"key-one", b"abc", "sha256").hexdigest()}


def test_a_hashed_challenge_can_never_be_a_signed_delivery() -> None:
    for pattern in ("[ -~]{1,1024}", ".*", "[A-Za-z0-9:_-]{1,64}"):
        with pytest.raises(ValidationError, match="hashed"):
            table(hmac={}, pattern=pattern)


def test_a_confirmation_is_pinned_and_only_for_verified_requests() -> None:
    pinned = {"place": "body:/url", "url": r"https://confirm\.example\.com/[a-z]+"}
    with pytest.raises(ValidationError, match="verified"):
        table(challenge=None, confirm=pinned)
    one = table(challenge=None, verified=True, confirm=pinned)
    for url, fits in (
        ("https://confirm.example.com/yes", True),
        ("https://confirm.example.com.evil.test/yes", False),
        ("https://confirm.example.com/yes?x=1", False),
        ("https://evil.test/?https://confirm.example.com/yes", False),
        ("http://confirm.example.com/yes", False),
        ("https://confirm.example.com/yes\n", False),
    ):
        body = json.dumps({"type": "hello", "url": url}).encode()
        if fits:
            reply = respond(one, body, signed(body))
            assert reply is not None
            assert reply.confirm_url == url
        else:
            with pytest.raises(Refused):
                respond(one, body, signed(body))


def test_a_learned_code_is_only_shown() -> None:
    reply = ask(table(learn=True))
    assert reply is not None
    assert (reply.learned_secret, reply.body, reply.verified) == ("abc", b"", False)
    assert "abc" not in repr(reply)


def test_headers_of_the_answer_may_hold_options() -> None:
    one = table(
        methods=["OPTIONS"],
        match={"header:Origin-Name": "*"},
        challenge="header:Origin-Name",
        headers={"Allowed-Origin": "{challenge}", "Allowed-Rate": "{option:rate}"},
    )
    reply = ask(one, method="OPTIONS", headers={"origin-name": ["sender.example.com"]})
    assert reply is not None
    assert dict(reply.headers) == {"allowed-origin": "sender.example.com", "allowed-rate": "100"}
    assert ask(one, method="OPTIONS") is None


def test_absence_can_tell_two_handshakes_apart() -> None:
    one = table(challenge=None, match={"body:/type": "1", "body:/event": ""}, json_body={"type": 1})
    assert ask(one, {"type": 1}) is not None
    assert ask(one, {"type": 1, "event": "x"}) is None
    assert ask(one, {"type": True}) is None
    with pytest.raises(ValidationError, match="match"):
        table(match={})
