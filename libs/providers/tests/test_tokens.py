"""Static tokens, client certificates, JSON Web Tokens and fetched keys, with values of no particular provider."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contracts.errors import Invalid
from providers.manifest import JwtSignature, MtlsSignature, NoSignature, RsaSignature, StaticTokenSignature
from providers.sdk import InboundRequest, KeyNeeded, KeyRequest, Refused, Secret
from providers.signing import Reads, build_verifier
from providers.signing.fetched import self_signed

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STAMP = int(NOW.timestamp())
URL = "https://hooks.example.com/hooks/ep"
SECRETS = [Secret("k1", "token-one"), Secret("k2", "token-two")]
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def request(headers: dict[str, str], body: bytes = b"{}", **over: Any) -> InboundRequest:
    return InboundRequest("POST", URL, {name.lower(): [text] for name, text in headers.items()}, body, **over)


def token_verifier(*places: str, **options: str) -> Any:
    signature = StaticTokenSignature(scheme="static_token", places=places)
    return build_verifier(signature, "", None, Reads(options, ("json", "form")))


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("place", "sent"),
    [
        ("header:X-Token", request({"X-Token": "token-two"})),
        ("header:{name}", request({"X-Own": "token-two"})),
        ("bearer", request({"Authorization": "bearer token-two"})),
        ("query:token", request({}, query_string="a=1&token=token-two")),
        ("body:/secret", request({}, b'{"secret":"token-two"}')),
        ("body:/value/*/state", request({}, b'{"value":[{"state":"token-two"},{"state":"token-two"}]}')),
        ("form:t", request({"Content-Type": "application/x-www-form-urlencoded"}, b"t=token-two")),
    ],
)
def test_a_token_is_found_where_the_manifest_says(place: str, sent: InboundRequest) -> None:
    verifier = token_verifier(place, name="X-Own")
    found = verifier.verify(sent, SECRETS, NOW)
    assert (found.key_id, found.signed_at, found.signed_headers) == ("k2", None, ())
    with pytest.raises(Refused) as refused:
        verifier.verify(sent, [Secret("k", "other")], NOW)
    assert refused.value.reason == "bad_signature"


def test_a_basic_password_is_compared_whole() -> None:
    verifier = token_verifier("basic")
    secrets = [Secret("k", "user:pass")]
    assert verifier.verify(request({"Authorization": basic("user:pass")}), secrets, NOW).key_id == "k"
    for text in (basic("user:pas"), basic("user"), "Basic !!!", "Basic", "Bearer user:pass", basic("user:pass") + "="):
        with pytest.raises(Refused):
            verifier.verify(request({"Authorization": text}), secrets, NOW)
    with pytest.raises(Invalid):
        verifier.check_secret("no-colon")


@pytest.mark.parametrize("text", ["token-two\u00e9", "\u2603", "", "token-twoo", "Token-two", "\udcff"])
def test_other_texts_are_refused_whatever_they_are(text: str) -> None:
    with pytest.raises(Refused):
        token_verifier("header:X-Token").verify(request({"X-Token": text}), SECRETS, NOW)


def test_two_places_at_once_and_one_element_without_the_token_are_refused() -> None:
    verifier = token_verifier("bearer", "query:token")
    both = request({"Authorization": "Bearer token-one"}, query_string="token=token-one")
    with pytest.raises(Refused) as refused:
        verifier.verify(both, SECRETS, NOW)
    assert refused.value.reason == "malformed_signature"
    each = token_verifier("body:/value/*/state")
    for body in (b'{"value":[{"state":"token-one"},{}]}', b'{"value":[]}', b"{}", b"[]", b'{"value":[{"state":1}]}'):
        with pytest.raises(Refused):
            each.verify(request({}, body), SECRETS, NOW)
    with pytest.raises(Refused) as refused:
        each.verify(request({}, b"{"), SECRETS, NOW)
    assert refused.value.reason == "undecodable_body"


def test_the_registered_address_proves_nothing() -> None:
    sent = replace(request({}), url=f"{URL}?token=token-one")
    with pytest.raises(Refused):
        token_verifier("query:token").verify(sent, SECRETS, NOW)


def test_a_client_certificate_counts_only_behind_a_configured_proxy() -> None:
    signature = MtlsSignature(scheme="mtls", header_option="header")
    sent = request({"X-Client": "token-two"})
    behind = build_verifier(signature, "", None, Reads({"header": "X-Client"}))
    assert behind.verify(sent, SECRETS, NOW).key_id == "k2"
    with pytest.raises(Refused) as refused:
        build_verifier(signature, "", None, Reads({"header": ""})).verify(sent, SECRETS, NOW)
    assert refused.value.reason == "no_secret"


def test_nothing_is_believed_unproven_unless_the_endpoint_says_so() -> None:
    signature = NoSignature(scheme="none", accept_option="accept")
    for given in ("", "no", "YES", "true"):
        with pytest.raises(Refused) as refused:
            build_verifier(signature, "", None, Reads({"accept": given})).verify(request({}), SECRETS, NOW)
        assert refused.value.reason == "no_secret"
    found = build_verifier(signature, "", None, Reads({"accept": "yes"})).verify(request({}), [], NOW)
    assert found.key_id == "unauthenticated"


KEYS_URL = "https://keys.example.com/jwks"


def jwt_verifier(**over: Any) -> Any:
    values = {"scheme": "jwt", "token": "bearer", "algorithms": ["HS256"], "keys": "secret", "lifetime_s": 600}
    return build_verifier(JwtSignature.model_validate({**values, **over}), "", None, Reads({"aud": ""}))


def signed(key: Any, algorithm: str, claims: dict[str, Any] | None = None, **headers: Any) -> InboundRequest:
    values = {"iat": STAMP, "exp": STAMP + 600} | (claims or {})
    given = {name: value for name, value in values.items() if value is not None}
    return request({"Authorization": "Bearer " + pyjwt.encode(given, key, algorithm=algorithm, headers=headers)})


def public_text(key: Any) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_tokens_of_every_algorithm_made_by_another_library() -> None:
    found = jwt_verifier().verify(signed("token-two", "HS256"), SECRETS, NOW)
    assert (found.key_id, found.signed_at) == ("k2", NOW)
    for key, algorithm in ((RSA_KEY, "RS256"), (EC_KEY, "ES256")):
        verifier = jwt_verifier(algorithms=[algorithm])
        secrets = [Secret("other", public_text(ec.generate_private_key(ec.SECP256R1()))), Secret("k", public_text(key))]
        assert verifier.verify(signed(key, algorithm), secrets, NOW).key_id == "k"
        verifier.check_secret(public_text(key))
        with pytest.raises(Invalid):
            verifier.check_secret("token-one")


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": STAMP - 61}, "stale_timestamp"),
        ({"exp": None}, "malformed_signature"),
        ({"exp": "soon"}, "malformed_signature"),
        ({"exp": 10**20}, "malformed_signature"),
        ({"nbf": STAMP + 61}, "future_timestamp"),
        ({"iat": STAMP + 61}, "future_timestamp"),
        ({"iss": "b"}, "bad_signature"),
        ({"iss": None}, "bad_signature"),
        ({"aud": "https://hooks.example.com/hooks/other"}, "bad_signature"),
        ({"aud": [URL, "https://elsewhere.example.com"]}, "bad_signature"),
        ({"ok": False}, "bad_signature"),
        ({"ok": "yes"}, "bad_signature"),
    ],
)
def test_every_claim_is_checked(claims: dict[str, Any], reason: str) -> None:
    verifier = jwt_verifier(issuer=["a"], audience="option:aud", claims={"ok": "true"})
    good = {"iss": "a", "aud": [URL], "ok": True}
    assert verifier.verify(signed("token-one", "HS256", good), SECRETS, NOW).key_id == "k1"
    with pytest.raises(Refused) as refused:
        verifier.verify(signed("token-one", "HS256", good | claims), SECRETS, NOW)
    assert refused.value.reason == reason


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_the_token_s_header_chooses_neither_algorithm_nor_looseness() -> None:
    verifier = jwt_verifier(algorithms=["RS256"])
    secrets = [Secret("k", public_text(RSA_KEY))]
    good = signed(RSA_KEY, "RS256").headers["authorization"][0]
    assert verifier.verify(request({"Authorization": good}), secrets, NOW).key_id == "k"
    head, claims, signature = good.removeprefix("Bearer ").split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    critical = base64.urlsafe_b64encode(b'{"alg":"RS256","crit":["b64"],"b64":false}').rstrip(b"=").decode()
    # The same bytes in a second spelling: the last letter of base64 has bits that nobody reads.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    respelled = signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]
    hs256 = pyjwt.encode({"exp": STAMP + 600}, public_text(RSA_KEY), algorithm="HS256")
    for text in (
        f"{none}.{claims}.",
        f"{none}.{claims}.{signature}",
        f"{critical}.{claims}.{signature}",
        f"{head}.{claims}.{respelled}",
        f"{head}.{claims}.{signature}=",
        f"{head}.{claims}",
        f"{head}.{claims}.{signature}.",
        f"{head}.{claims}.{signature[:-2]}",
        hs256,
        "..",
        "a.b.c",
        "\u2603.x.y",
        "x" * 20_000,
    ):
        with pytest.raises(Refused):
            verifier.verify(request({"Authorization": f"Bearer {text}"}), secrets, NOW)


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_signature_of_another_length_is_no_p256_signature() -> None:
    verifier = jwt_verifier(algorithms=["ES256"])
    text = signed(EC_KEY, "ES256").headers["authorization"][0]
    head, claims, _ = text.removeprefix("Bearer ").split(".")
    for size in (0, 63, 65, 128):
        bad = base64.urlsafe_b64encode(bytes(size)).rstrip(b"=").decode()
        with pytest.raises(Refused):
            verifier.verify(
                request({"Authorization": f"Bearer {head}.{claims}.{bad}"}), [Secret("k", public_text(EC_KEY))], NOW
            )


def fetched(**over: Any) -> Any:
    keys = {"url": KEYS_URL, "format": "jwks"}
    return jwt_verifier(algorithms=["RS256"], keys=keys, claims={"email": "secret"}, **over)


def jwks(*keys: tuple[str, Any]) -> bytes:
    found = [{**json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": kid} for kid, key in keys]
    return json.dumps({"keys": found}).encode()


def test_a_fetched_key_is_asked_for_only_when_everything_else_fits() -> None:
    verifier, secrets = fetched(), [Secret("me", "me@example.com")]
    mine = {"email": "me@example.com"}
    with pytest.raises(KeyNeeded) as needed:
        verifier.verify(signed(RSA_KEY, "RS256", mine, kid="k1"), secrets, NOW)
    wanted: KeyRequest = needed.value.request
    assert (wanted.url, wanted.name, wanted.kid, wanted.method) == (KEYS_URL, KEYS_URL, "k1", "GET")
    for claims, kid in (
        (mine | {"exp": STAMP - 3600}, "k1"),
        ({"email": "you@example.com"}, "k1"),
        (mine, "../../evil?"),
        (mine, ""),
        (mine, "x" * 200),
    ):
        with pytest.raises(Refused):
            verifier.verify(signed(RSA_KEY, "RS256", claims, kid=kid), secrets, NOW)


def test_a_key_set_decides_and_lacks_what_it_lacks() -> None:
    verifier, secrets = fetched(), [Secret("me", "me@example.com")]
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    sent = signed(RSA_KEY, "RS256", {"email": "me@example.com"}, kid="k1")
    ours = replace(sent, keys={KEYS_URL: jwks(("k0", other), ("k1", RSA_KEY))})
    assert verifier.verify(ours, secrets, NOW).key_id == "me"
    with pytest.raises(Refused) as refused:
        verifier.verify(replace(sent, keys={KEYS_URL: jwks(("k1", other))}), secrets, NOW)
    assert refused.value.reason == "bad_signature"
    for data in (jwks(("k0", RSA_KEY)), b"", b"[]", b'{"keys":[1,{}]}', b'{"keys":[{"kid":"k1","kty":"RSA"}]}'):
        with pytest.raises(KeyNeeded):
            verifier.verify(replace(sent, keys={KEYS_URL: data}), secrets, NOW)


PINNED = r"https://certs\.example\.com/[a-z0-9-]+\.pem"
CERTIFICATE_URL = "https://certs.example.com/one.pem"


def rsa_verifier(**over: Any) -> Any:
    values = {
        "scheme": "rsa",
        "signature": "header:X-Sig",
        "hash": {"place": "header:X-Algo", "values": {"one": "sha1", "two": "sha256"}},
        "certificate": {"place": "header:X-Cert", "url": PINNED, "example": CERTIFICATE_URL, "name_suffix": ".example"},
        "template": "{secret}|{header:X-Id}|{crc32}",
    }
    return build_verifier(RsaSignature.model_validate({**values, **over}), "", None)


def rsa_sent(verifier: Any, identity: str) -> tuple[InboundRequest, Secret]:
    keys = verifier.generate()
    signing = json.dumps({**json.loads(keys.signing), "identity": identity})
    return verifier.sign_request(request({}, b'{"n":1}'), secret=signing, now=NOW), Secret("me", identity)


def test_a_certificate_must_be_valid_named_and_pinned() -> None:
    verifier = rsa_verifier()
    sent, secret = rsa_sent(verifier, "receiver-1")
    assert verifier.verify(sent, [Secret("other", "receiver-0"), secret], NOW).key_id == "me"
    with pytest.raises(KeyNeeded) as needed:
        verifier.verify(replace(sent, keys={}), [secret], NOW)
    assert needed.value.request.pinned == PINNED
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    for data in (b"", b"no pem", self_signed(RSA_KEY, "signer.other"), self_signed(small, "signer.example")):
        with pytest.raises(Refused) as refused:
            verifier.verify(replace(sent, keys={CERTIFICATE_URL: data}), [secret], NOW)
        assert refused.value.reason == "bad_signature"
    for late in (NOW + timedelta(days=40_000), datetime(2019, 1, 1, tzinfo=UTC)):
        with pytest.raises(Refused):
            verifier.verify(sent, [secret], late)
    for url in ("https://certs.example.com.evil.test/one.pem", "https://certs.example.com/../one.pem", "file:///x.pem"):
        elsewhere = replace(sent, headers={**sent.headers, "x-cert": [url]}, keys={**sent.keys, url: b"x"})
        with pytest.raises(Refused) as refused:
            verifier.verify(elsewhere, [secret], NOW)
        assert refused.value.reason == "malformed_signature"


def test_the_hash_is_one_of_the_listed_ones() -> None:
    verifier = rsa_verifier()
    sent, secret = rsa_sent(verifier, "receiver-1")
    for word, reason in (("one", "bad_signature"), ("three", "malformed_signature"), ("", "malformed_signature")):
        with pytest.raises(Refused) as refused:
            verifier.verify(replace(sent, headers={**sent.headers, "x-algo": [word]}), [secret], NOW)
        assert refused.value.reason == reason


def test_an_empty_certificate_url_example_is_refused() -> None:
    with pytest.raises(ValueError, match="example"):
        rsa_verifier(certificate={"place": "header:X-Cert", "url": PINNED, "example": "https://evil.test/one.pem"})
