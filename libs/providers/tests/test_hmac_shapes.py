"""The shapes of HMAC that providers use: places, lists, parts, units, items; each with values of no provider."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from providers.manifest import HmacSignature, PublicKeySignature
from providers.sdk import InboundRequest, Refused, Secret
from providers.signing import Reads, build_verifier, traits_of

NOW = datetime(2026, 11, 21, 12, 0, 0, 500_000, tzinfo=UTC)
URL = "https://hooks.example.com/hooks/ep%2Fone?a=%20"
BODY = b'{"id":"e1","n":7,"at":"2026-11-21T12:00:00.500Z","ms":1795262400500}'
SECRETS = [Secret("k1", "key-one"), Secret("k2", "key-two")]
FORM = "application/x-www-form-urlencoded"


def table(**over: Any) -> HmacSignature:
    return HmacSignature.model_validate({"scheme": "hmac", "header": "X-Sig", "encoding": "hex", **over})


def verifier(signature: Any, **options: str) -> Any:
    return build_verifier(signature, "", None, Reads(options, ("json", "form")))


def request(headers: dict[str, str], body: bytes = BODY, **over: Any) -> InboundRequest:
    return InboundRequest("POST", URL, {name.lower(): [text] for name, text in headers.items()}, body, **over)


def mac(message: bytes, key: bytes = b"key-two", algorithm: str = "sha256") -> str:
    return hmac.new(key, message, algorithm).hexdigest()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{method}{url}{body}", b"POST" + URL.encode() + BODY),
        ("{method}{url_decoded}{body}", b"POSThttps://hooks.example.com/hooks/ep/one?a= " + BODY),
        ("{body:/id}:{body:/n}:{body:/none?}:{body}", b"e1:7::" + BODY),
        ("{option:name}|{body}", b"chosen|" + BODY),
        ("{header:X-Id}.{body}", b"i1." + BODY),
        ("{form:x|body:/id}.{body}", b"e1." + BODY),
        ("{crc32}", str(zlib.crc32(BODY)).encode()),
    ],
)
def test_parts_of_a_template(template: str, message: bytes) -> None:
    one = verifier(table(template=template), name="chosen")
    sent = request({"X-Sig": mac(message), "X-Id": "i1"})
    assert one.verify(sent, SECRETS, NOW).key_id == "k2"
    with pytest.raises(Refused):
        one.verify(replace(sent, body=BODY.replace(b"e1", b"e2"), method="PUT"), SECRETS, NOW)


def test_a_part_that_is_absent_is_refused_unless_it_may_be() -> None:
    for template in ("{body:/none}{body}", "{header:X-None}{body}", "{query:none}{body}"):
        with pytest.raises(Refused) as refused:
            verifier(table(template=template)).verify(request({"X-Sig": mac(BODY)}), SECRETS, NOW)
        assert refused.value.reason == "missing_signature"
    optional = verifier(table(template="{header:X-None?}{body}"))
    assert optional.verify(request({"X-Sig": mac(BODY)}), SECRETS, NOW).key_id == "k2"


def test_several_header_names_are_never_mixed() -> None:
    one = verifier(table(header=["X-New", "x-old"]))
    assert one.verify(request({"X-Old": mac(BODY)}), SECRETS, NOW).key_id == "k2"
    with pytest.raises(Refused):
        one.verify(request({"X-New": mac(b"other"), "X-Old": mac(BODY)}), SECRETS, NOW)


def test_any_of_the_numbered_headers_may_fit() -> None:
    one = verifier(table(header="X-Sig-#"))
    found = one.verify(request({"X-Sig-1": mac(b"other"), "X-Sig-3": mac(BODY)}), SECRETS, NOW)
    assert (found.key_id, [name for name, _ in found.signed_headers]) == ("k2", ["x-sig-1", "x-sig-3"])
    for headers in ({"X-Sig": mac(BODY)}, {"X-Sig-0": mac(BODY)}, {"X-Sig-33": mac(BODY)}, {"X-Sig-01": mac(BODY)}):
        with pytest.raises(Refused) as refused:
            one.verify(request(headers), SECRETS, NOW)
        assert refused.value.reason == "missing_signature"


@pytest.mark.parametrize(
    ("elements", "value"),
    [
        ({"signature": "v1"}, "v1={bad},v1={good}"),
        ({"signature": "signature"}, "signature={good},algorithm=HMAC-SHA256"),
        ({"signature": "v1", "separator": " "}, "v1={good} v0=x"),
        ({"signature": "s", "separator": ";"}, "t=1;s={good}"),
    ],
)
def test_lists_without_a_time(elements: dict[str, str], value: str) -> None:
    one = verifier(table(elements=elements))
    sent = request({"X-Sig": value.format(good=mac(BODY), bad=mac(b"other"))})
    assert one.verify(sent, SECRETS, NOW).key_id == "k2"
    for text in (value.format(good=mac(b"x"), bad=mac(b"y")), mac(BODY), "v1=", "", ",".join(["v1=x"] * 100)):
        with pytest.raises(Refused):
            one.verify(request({"X-Sig": text}), SECRETS, NOW)


@pytest.mark.parametrize(
    ("place", "unit"), [("body:/ms", "ms"), ("body:/at", "rfc3339"), ("header:X-Time", "ms"), ("header:X-Time", "s")]
)
def test_the_time_may_stand_in_the_body_and_in_several_units(place: str, unit: str) -> None:
    template = "{body}" if place.startswith("body:") else "{timestamp}{body}"
    one = verifier(table(timestamp=place, timestamp_unit=unit, template=template, tolerance_s=60))
    for seconds, reason in ((0, None), (59, None), (-59, None), (62, "future_timestamp"), (-62, "stale_timestamp")):
        at = NOW + timedelta(seconds=seconds)
        sent = one.sign_request(request({}), secret="key-one", now=at)
        if reason is None:
            exact = at if unit != "s" else at.replace(microsecond=0)
            assert one.verify(sent, SECRETS, NOW).signed_at in {exact, exact.replace(microsecond=0)}
        else:
            with pytest.raises(Refused) as refused:
                one.verify(sent, SECRETS, NOW)
            assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("unit", "stamp"),
    [
        ("ms", "1795262400.5"),
        ("ms", "9" * 15),
        ("s", "1795262400500000"),
        ("s", "-1"),
        ("rfc3339", "2026-11-21T12:00:00"),
        ("rfc3339", "yesterday"),
        ("rfc3339", "0001-01-01T00:00:00+14:00"),
        ("rfc3339", "2026-11-21T12:00:00Z" + " " * 50),
        ("rfc3339", "\u0662026-11-21T12:00:00Z"),
    ],
)
def test_a_time_in_another_notation_is_refused(unit: str, stamp: str) -> None:
    one = verifier(table(timestamp="header:X-T", timestamp_unit=unit, template="{timestamp}{body}", tolerance_s=60))
    with pytest.raises(Refused) as refused:
        one.verify(request({"X-T": stamp, "X-Sig": mac(stamp.encode("utf-8") + BODY)}), SECRETS, NOW)
    assert refused.value.reason in {"malformed_signature", "bad_signature"}


def test_a_signature_in_the_body_or_query() -> None:
    in_body = verifier(table(header=None, signature="body:/sig|form:sig", template="{body:/id|form:id}"))
    for sent in (
        request({}, json.dumps({"id": "e1", "sig": mac(b"e1")}).encode()),
        request({"Content-Type": FORM}, f"id=e0&id=e1&sig={mac(b'e1')}".encode()),
    ):
        assert in_body.verify(sent, SECRETS, NOW).key_id == "k2"
        with pytest.raises(Refused):
            in_body.verify(replace(sent, body=sent.body.replace(b"e1", b"e2")), SECRETS, NOW)
    in_query = verifier(table(header=None, signature="query:sig"))
    assert in_query.verify(request({}, query_string=f"sig={mac(BODY)}"), SECRETS, NOW).key_id == "k2"
    with pytest.raises(Refused):
        in_query.verify(replace(request({}), url=f"{URL}&sig={mac(BODY)}"), SECRETS, NOW)


def test_every_item_must_be_signed_by_the_same_key() -> None:
    one = verifier(table(header=None, signature="body:/sig", items="/events", template="{body:/id}"))

    def sent(*pairs: tuple[str, str]) -> InboundRequest:
        return request({}, json.dumps({"events": [{"id": key, "sig": text} for key, text in pairs]}).encode())

    assert one.verify(sent(("a", mac(b"a")), ("b", mac(b"b"))), SECRETS, NOW).key_id == "k2"
    for bad in (
        sent(("a", mac(b"a")), ("b", mac(b"b", b"key-one"))),
        sent(("a", mac(b"a")), ("b", mac(b"a"))),
        sent(("a", mac(b"a")), ("b", "")),
        sent(),
        request({}, b'{"events":7}'),
        request({}, b"{"),
    ):
        with pytest.raises(Refused):
            one.verify(bad, SECRETS, NOW)
    signed = one.sign_request(sent(("a", ""), ("b", "")), secret="key-one", now=NOW)
    assert one.verify(signed, SECRETS, NOW).key_id == "k1"


def test_a_plain_digest_holds_the_secret_where_the_template_says() -> None:
    one = verifier(table(scheme="digest", algorithm="sha1", template="{body}{secret}"))
    text = hashlib.sha1(BODY + b"key-two").hexdigest()
    assert one.verify(request({"X-Sig": text}), SECRETS, NOW).key_id == "k2"
    with pytest.raises(Refused):
        one.verify(request({"X-Sig": hashlib.sha1(BODY).hexdigest()}), SECRETS, NOW)


def test_ed25519_agrees_with_its_published_key_form() -> None:
    signature = PublicKeySignature(scheme="ed25519", header="X-Sig", encoding="hex", timestamp="header:X-T")
    one = verifier(signature)
    keys = one.generate()
    sent = one.sign_request(request({}), secret=keys.signing, now=NOW)
    as_base64 = base64.b64encode(bytes.fromhex(keys.verifying)).decode()
    for text in (keys.verifying, as_base64):
        assert one.verify(sent, [Secret("k", text)], NOW).key_id == "k"
        one.check_secret(text)
    (text,) = sent.headers["x-sig"]
    for bad in (text.upper(), text[:-2], text + "00", "zz" * 64, ""):
        with pytest.raises(Refused):
            one.verify(replace(sent, headers={**sent.headers, "x-sig": [bad]}), [Secret("k", keys.verifying)], NOW)


@pytest.mark.parametrize(
    "over",
    [
        {"signature": "body:/sig"},
        {"header": None},
        {"header": None, "signature": "body:/s", "elements": {"signature": "v1"}},
        {"items": "/events"},
        {"timestamp": "header:X-T", "tolerance_s": 60},
        {"timestamp": "header:X-T", "elements": {"signature": "v1", "timestamp": "t"}, "template": "{timestamp}{body}"},
        {"template": "{body}{secret}"},
        {"scheme": "digest", "template": "{body}"},
        {"template": "{unknown}"},
        {"tolerance_s": 60},
    ],
)
def test_tables_that_cannot_be_meant_are_refused(over: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        table(**over)


def test_traits_say_what_is_covered() -> None:
    whole = traits_of(table())
    fields = traits_of(table(header=None, signature="body:/sig", items="/events", template="{body:/id}:{body:/p?}"))
    assert whole is not None
    assert fields is not None
    assert (whole.covers, whole.reads_body, whole.stale_after_s) == ("body", False, None)
    assert (fields.covers, fields.reads_body, fields.fields) == ("fields", True, ("/events/*/id", "/events/*/p"))
    assert fields.places == ("body:/events/*/sig",)
    # An endpoint's window counts where a time is signed, and nowhere else.
    stamped = table(timestamp="header:X-T", template="{timestamp}{body}")
    for signature, wanted in ((stamped, 60), (table(), None)):
        found = traits_of(signature, 60)
        assert found is not None
        assert found.stale_after_s == wanted
