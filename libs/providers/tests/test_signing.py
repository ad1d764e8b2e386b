"""The generic schemes with values of no particular provider."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from contracts.errors import Invalid
from providers.manifest import (
    CustomSignature,
    HmacSignature,
    PublicKeySignature,
    SignatureElements,
    StandardWebhooksSignature,
    UrlFormSignature,
)
from providers.sdk import InboundRequest, Refused, Secret
from providers.signing import build_verifier, with_body_hash
from providers.signing.base import MAX_SIGNATURES

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STAMP = str(int(NOW.timestamp()))
URL = "https://hooks.example.com/hooks/ep?a=1"
BODY = b'{"n":1}'
SECRETS = [Secret("k1", "key-one"), Secret("k2", "key-two")]


def plain(**over: object) -> HmacSignature:
    values: dict[str, object] = {"scheme": "hmac", "header": "X-Sig", "encoding": "hex", "template": "{body}"}
    return HmacSignature.model_validate(values | over)


LISTED = plain(
    template="{timestamp}.{body}", elements=SignatureElements(timestamp="t", signature="v1"), tolerance_s=300
)
FORM = UrlFormSignature(scheme="url_form", header="X-Sig", settings_header="X-Set", body_hash_param="bodySHA256")
FORM_TYPE = ["application/x-www-form-urlencoded"]


def request(headers: dict[str, list[str]], body: bytes = BODY, url: str = URL) -> InboundRequest:
    return InboundRequest("POST", url, headers, body)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_hmac_agrees_with_the_standard_library(algorithm: str, encoding: str) -> None:
    template = "{header:X-Id}|{timestamp}|{url}|{body}"
    signature = plain(
        algorithm=algorithm,
        encoding=encoding,
        template=template,
        timestamp="header:X-Time",
        tolerance_s=60,
    )
    digest = hmac.new(b"key-two", b"m1|" + STAMP.encode() + b"|" + URL.encode() + b"|" + BODY, algorithm).digest()
    text = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
    verifier = build_verifier(signature, "", None)
    found = verifier.verify(request({"x-sig": [text], "x-id": ["m1"], "x-time": [STAMP]}), SECRETS, NOW)
    assert (found.key_id, found.signed_at) == ("k2", NOW)
    assert dict(found.signed_headers) == {"x-sig": text, "x-id": "m1", "x-time": STAMP}


@pytest.mark.parametrize(("encoding", "key"), [("hex", "00ff10"), ("base64", "AP8Q"), ("utf8", "\x00\u00ff\x10")])
def test_key_encodings(encoding: str, key: str) -> None:
    raw = key.encode() if encoding == "utf8" else b"\x00\xff\x10"
    text = hmac.new(raw, BODY, "sha256").hexdigest()
    verifier = build_verifier(plain(key_encoding=encoding), "", None)
    assert verifier.verify(request({"x-sig": [text]}), [Secret("k", key)], NOW).key_id == "k"


def test_a_secret_that_cannot_be_decoded_is_no_secret() -> None:
    verifier = build_verifier(plain(key_encoding="hex"), "", None)
    with pytest.raises(Refused) as refused:
        verifier.verify(request({"x-sig": ["00"]}), [Secret("k", "not hex")], NOW)
    assert refused.value.reason == "no_secret"
    with pytest.raises(Invalid) as error:
        verifier.check_secret("not hex")
    assert error.value.code == "bad_secret"
    assert "not hex" not in str(error.value)


def test_a_header_timestamp_is_part_of_the_signature() -> None:
    verifier = build_verifier(plain(template="{timestamp}{body}", timestamp="header:X-Time", tolerance_s=60), "", None)
    headers = {n.lower(): [v] for n, v in verifier.sign(BODY, url=URL, secret="key-one", now=NOW).items()}
    assert verifier.verify(request(headers), SECRETS, NOW).key_id == "k1"
    with pytest.raises(Refused):
        verifier.verify(request(headers | {"x-time": [str(int(STAMP) + 1)]}), SECRETS, NOW)


@pytest.mark.parametrize(
    "value",
    [
        "t={s}",
        "v1={d}",
        "t={s},t={s},v1={d}",
        "t=+{s},v1={d}",
        "t= {s},v1={d}",
        "t=0x1,v1={d}",
        "t=\u0661\u0662,v1={d}",
        "t={s},v2={d}",
        "t={s},v1=",
        "t={s},V1={d}",
        "t={s};v1={d}",
    ],
)
def test_malformed_lists_are_refused(value: str) -> None:
    verifier = build_verifier(LISTED, "", None)
    digest = hmac.new(b"key-one", STAMP.encode() + b"." + BODY, "sha256").hexdigest()
    assert verifier.verify(request({"x-sig": [f"t={STAMP},v1={digest}"]}), SECRETS, NOW).key_id == "k1"
    with pytest.raises(Refused):
        verifier.verify(request({"x-sig": [value.format(s=STAMP, d=digest)]}), SECRETS, NOW)


def test_the_list_of_signatures_is_bounded() -> None:
    verifier = build_verifier(LISTED, "", None)
    digest = hmac.new(b"key-one", STAMP.encode() + b"." + BODY, "sha256").hexdigest()
    most = ",".join([f"t={STAMP}"] + ["v1=00"] * (MAX_SIGNATURES - 1) + [f"v1={digest}"])
    assert verifier.verify(request({"x-sig": [most]}), SECRETS, NOW).key_id == "k1"
    with pytest.raises(Refused) as refused:
        verifier.verify(request({"x-sig": [most + ",v1=00"]}), SECRETS, NOW)
    assert refused.value.reason == "malformed_signature"


def test_tolerance_can_be_replaced() -> None:
    narrow = build_verifier(LISTED, "", 10)
    early = datetime.fromtimestamp(NOW.timestamp() - 11, UTC)
    headers = {n.lower(): [v] for n, v in narrow.sign(BODY, url=URL, secret="key-one", now=early).items()}
    assert build_verifier(LISTED, "", None).verify(request(headers), SECRETS, NOW).key_id == "k1"
    with pytest.raises(Refused) as refused:
        narrow.verify(request(headers), SECRETS, NOW)
    assert refused.value.reason == "stale_timestamp"


def test_standard_webhooks_with_both_kinds_of_key() -> None:
    signature = StandardWebhooksSignature(scheme="standard_webhooks", prefixes=("svix-", "webhook-"), tolerance_s=300)
    verifier = build_verifier(signature, "", None)
    seed = bytes(range(32))
    public = "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
    private = "whsk_" + base64.b64encode(seed).decode()
    signed = verifier.sign(BODY, url=URL, secret=private, now=NOW, message_id="msg_1")
    headers = {name.lower(): [value] for name, value in signed.items()}
    shared = verifier.generate()
    assert headers["webhook-signature"][0].startswith("v1a,")
    secrets = [Secret("hmac", shared.verifying), Secret("public", public)]
    assert verifier.verify(request(headers), secrets, NOW).key_id == "public"
    both = verifier.sign(BODY, url=URL, secret=shared.signing, now=NOW, message_id="msg_1")["webhook-signature"]
    headers["webhook-signature"] = [f"{headers['webhook-signature'][0]} {both}"]
    assert verifier.verify(request(headers), secrets, NOW).key_id == "hmac"


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_short", "whpk_AAAA", "whsec_" + "A" * 88, "no base64!"])
def test_standard_webhooks_secrets_are_checked(text: str) -> None:
    signature = StandardWebhooksSignature(scheme="standard_webhooks", prefixes=("webhook-",), tolerance_s=300)
    with pytest.raises(Invalid):
        build_verifier(signature, "", None).check_secret(text)


def test_ecdsa_key_may_have_pem_armour_and_no_other_curve() -> None:
    verifier = build_verifier(
        PublicKeySignature(scheme="ecdsa_p256", header="X-Sig", timestamp="header:X-Time", tolerance_s=60), "", None
    )
    keys = verifier.generate()
    headers = {n.lower(): [v] for n, v in verifier.sign(BODY, url=URL, secret=keys.signing, now=NOW).items()}
    dashes = "-" * 5
    lines = [
        f"{dashes}BEGIN PUBLIC KEY{dashes}",
        keys.verifying[:64],
        keys.verifying[64:],
        f"{dashes}END PUBLIC KEY{dashes}",
    ]
    armoured = "\n".join([*lines, ""])
    assert verifier.verify(request(headers), [Secret("pem", armoured)], NOW).key_id == "pem"
    ed25519 = "MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
    for text in (ed25519, "AAAA", "", "no base64!"):
        with pytest.raises(Invalid):
            verifier.check_secret(text)


def test_form_fields_are_sorted_and_the_port_may_be_written() -> None:
    verifier = build_verifier(FORM, "", None)
    text = base64.b64encode(hmac.new(b"key-one", (URL + "A1A2B").encode(), "sha1").digest()).decode()
    body = b"B=&A=2&A=1&A=2"
    for url in (URL, URL.replace(".com", ".com:443")):
        found = verifier.verify(request({"x-sig": [text], "content-type": FORM_TYPE}, body, url), SECRETS, NOW)
        assert found.key_id == "k1"
    with pytest.raises(Refused):
        verifier.verify(
            request({"x-sig": [text], "content-type": FORM_TYPE}, body, URL.replace(".com", ".com:8443/x")),
            SECRETS,
            NOW,
        )


def test_a_body_that_nothing_covers_is_refused() -> None:
    verifier = build_verifier(FORM, "", None)
    text = base64.b64encode(hmac.new(b"key-one", URL.encode(), "sha1").digest()).decode()
    with pytest.raises(Refused):
        verifier.verify(request({"x-sig": [text], "content-type": ["application/json"]}), SECRETS, NOW)
    bound = with_body_hash(URL, BODY)
    assert hashlib.sha256(BODY).hexdigest() in bound
    signed = verifier.sign(BODY, url=bound, secret="key-one", now=NOW, content_type="application/json")
    headers = {name.lower(): [value] for name, value in signed.items()}
    assert verifier.verify(request(headers, BODY, bound), SECRETS, NOW).key_id == "k1"
    with pytest.raises(Refused):
        verifier.verify(request(headers, BODY + b" ", bound), SECRETS, NOW)
    # The captured URL signature must not pass for an empty form either.
    with pytest.raises(Refused):
        verifier.verify(request(headers | {"content-type": FORM_TYPE}, b"", bound), SECRETS, NOW)


def test_too_many_form_fields_are_refused() -> None:
    verifier = build_verifier(FORM, "", None)
    body = b"&".join(b"a=%d" % n for n in range(1001))
    with pytest.raises(Refused) as refused:
        verifier.verify(request({"x-sig": ["AAAA"], "content-type": FORM_TYPE}, body), SECRETS, NOW)
    assert refused.value.reason == "undecodable_body"


def test_secrets_never_show() -> None:
    secret = Secret("k", "hidden-value")
    keys = build_verifier(plain(), "", None).generate()
    assert "hidden-value" not in repr(secret)
    assert keys.signing not in repr(keys)


def test_custom_schemes_are_not_built_here() -> None:
    with pytest.raises(TypeError):
        build_verifier(CustomSignature(scheme="custom"), "", None)


def test_every_secret_is_tried_even_after_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []
    real = hmac.compare_digest

    def counting(a: bytes, b: bytes) -> bool:
        tried.append(b)
        return real(a, b)

    monkeypatch.setattr("providers.signing.hmac_template.hmac.compare_digest", counting)
    verifier = build_verifier(plain(), "", None)
    headers = {n.lower(): [v] for n, v in verifier.sign(BODY, url=URL, secret="key-one", now=NOW).items()}
    assert verifier.verify(replace(request(headers)), SECRETS, NOW).key_id == "k1"
    assert len(tried) == len(SECRETS)
