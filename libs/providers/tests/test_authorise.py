"""Credentials on requests, for each way to authenticate; OAuth's requests and answers. Vendors' own vectors for AWS."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import TypeAdapter, ValidationError

from contracts.errors import Invalid, Transient
from providers import authorise, oauth
from providers.manifest import AuthMethod, OAuth2Auth
from providers.manifest.auth import SignedJwtAuth, options_of
from providers.sdk import Account, HttpRequest

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
REQUEST = HttpRequest("GET", "/v1/things", headers={"Version": "7"}, query={"page": "2"})
ACCOUNT = Account("acct-1", {"key": "fake-key", "id": "fake-id", "access_token": "fake-token"}, {"shop": "demo"})
ADAPTER: TypeAdapter[AuthMethod] = TypeAdapter(AuthMethod)
CODE = {
    "kind": "oauth2",
    "grant": "authorization_code",
    "authorize_url": "https://{option.shop}.shops.test/authorize",
    "token_url": "https://{option.shop}.shops.test/token",
    "revoke_url": "https://id.shops.test/revoke",
    "sandbox_hosts": {"demo.shops.test": "demo.sandbox.test"},
    "client_id": "id",
    "client_secret": "key",
    "scopes": ["read", "write"],
    "refresh": "rotating",
}


def method(**table: Any) -> AuthMethod:
    return ADAPTER.validate_python(table)


def code(**change: Any) -> OAuth2Auth:
    found = method(**(CODE | change))
    assert isinstance(found, OAuth2Auth)
    return found


@pytest.mark.parametrize(
    ("table", "headers"),
    [
        ({"kind": "bearer", "secret": "key"}, {"Authorization": "Bearer fake-key"}),
        (
            {"kind": "header", "header": "Authorization", "secret": "key", "template": "GenieKey {secret}"},
            {"Authorization": "GenieKey fake-key"},
        ),
        (
            {"kind": "header", "header": "X-Secret", "secret": "key", "more": {"X-Client": "id"}},
            {"X-Secret": "fake-key", "X-Client": "fake-id"},
        ),
        (CODE, {"Authorization": "Bearer fake-token"}),
        (CODE | {"header": "X-Shop-Token", "template": "{access_token}"}, {"X-Shop-Token": "fake-token"}),
    ],
)
def test_a_secret_in_a_header(table: dict[str, Any], headers: dict[str, str]) -> None:
    sent = authorise.apply(method(**table), REQUEST, ACCOUNT, NOW)
    assert sent == HttpRequest("GET", "/v1/things", headers={"Version": "7"} | headers, query={"page": "2"})


def test_basic_and_query() -> None:
    basic = {"kind": "basic", "secret": "key"}
    assert authorise.apply(method(**basic), REQUEST, ACCOUNT, NOW).basic_auth == ("acct-1", "fake-key")
    parts = basic | {"user": "{option.shop}/token", "password": "{secret}"}
    assert authorise.apply(method(**parts), REQUEST, ACCOUNT, NOW).basic_auth == ("demo/token", "fake-key")
    sent = authorise.apply(method(kind="query", parameter="appid", secret="key"), REQUEST, ACCOUNT, NOW)
    assert (sent.query, sent.headers) == ({"page": "2", "appid": "fake-key"}, {"Version": "7"})


def test_an_absent_secret_is_named_and_no_value_shown() -> None:
    with pytest.raises(Invalid) as error:
        authorise.apply(method(kind="bearer", secret="other"), REQUEST, ACCOUNT, NOW)
    assert (error.value.code, error.value.field) == ("missing_secret", "secrets.other")
    assert "fake" not in str(error.value)


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256"])
def test_a_signed_jwt_has_the_claims_and_ends(algorithm: str) -> None:
    keys: dict[str, Any] = {
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
    }
    signing = verifying = "k" * 32
    if algorithm in keys:
        pem = keys[algorithm].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = keys[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        signing, verifying = pem.decode(), public.decode()
    table = {"algorithm": algorithm, "secret": "key", "lifetime_s": 60, "headers": {"kid": "{account_ref}"}}
    signer = method(kind="signed_jwt", claims={"iss": "{secret.id}", "shop": "{option.shop}"}, also=["id"], **table)
    account = Account("acct-1", {"key": signing, "id": "fake-id"}, {"shop": "demo"})
    token = authorise.apply(signer, REQUEST, account, NOW).headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, verifying, algorithms=[algorithm], options={"verify_exp": False, "verify_iat": False})
    issued = int(NOW.timestamp())
    assert claims == {"iss": "fake-id", "shop": "demo", "iat": issued, "exp": issued + 60}
    assert jwt.get_unverified_header(token)["kid"] == "acct-1"
    if algorithm in keys:
        with pytest.raises(Invalid) as error:
            authorise.apply(signer, REQUEST, Account("a", {"key": "no key", "id": "i"}, {"shop": "demo"}), NOW)
        assert (error.value.code, error.value.field) == ("bad_secret", "secrets.key")


# AWS's test suite of Signature Version 4 and the examples of its IAM and S3 guides; the keys are the published ones.
SUITE_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
S3_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SUITE_NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)


@pytest.mark.parametrize(
    ("service", "request_", "base_url", "signature"),
    [
        (
            "service",
            HttpRequest("GET", "/"),
            "https://example.amazonaws.com",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "service",
            HttpRequest("GET", "/", query={"Param2": "value2", "Param1": "value1"}),
            "https://example.amazonaws.com",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "service",
            HttpRequest("POST", "/", form={"Param1": "value1"}),
            "https://example.amazonaws.com",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            "iam",
            HttpRequest(
                "GET",
                "/",
                headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
                query={"Action": "ListUsers", "Version": "2010-05-08"},
            ),
            "https://iam.amazonaws.com",
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        ),
    ],
)
def test_sigv4_signs_as_aws_publishes(service: str, request_: HttpRequest, base_url: str, signature: str) -> None:
    table = {"service": service, "region": "us-east-1", "access_key": "id", "secret_key": "key"}
    account = Account("a", {"id": "AKIDEXAMPLE", "key": SUITE_SECRET})
    sent = authorise.apply(method(kind="aws_sigv4", **table), request_, account, SUITE_NOW, base_url=base_url)
    assert sent.headers["Authorization"].endswith(f"Signature={signature}")
    assert f"AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request" in sent.headers["Authorization"]
    if request_.form:
        assert (sent.content, sent.form) == (b"Param1=value1", None), "what was signed is what is sent"


def test_sigv4_of_s3_signs_the_hash_of_the_body() -> None:
    table = {"service": "s3", "region": "{option.region}", "access_key": "id", "secret_key": "key"}
    account = Account("a", {"id": "AKIDEXAMPLE", "key": S3_SECRET}, {"region": "us-east-1"})
    sent = authorise.apply(
        method(kind="aws_sigv4", **table),
        HttpRequest("GET", "/test.txt", headers={"Range": "bytes=0-9"}),
        account,
        datetime(2013, 5, 24, tzinfo=UTC),
        base_url="https://examplebucket.s3.amazonaws.com",
    )
    assert sent.headers["Authorization"].endswith(
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_a_method_names_the_options_and_secrets_it_needs() -> None:
    assert options_of(code()) == {"shop"}
    assert code().secret_names() == ("id", "key")
    assert code(client_secret="").secret_names() == ("id",)


@pytest.mark.parametrize(
    "change",
    [
        {"authorize_url": None},
        {"grant": "client_credentials"},
        {"grant": "jwt_bearer"},
        {"client_id": "access_token"},
        {"token_url": "http://plain.test/token"},
        {"token_url": "https://shops.test/token?x=1"},
    ],
)
def test_an_incomplete_grant_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        code(**change)


def test_the_address_for_a_person_has_state_challenge_and_scopes() -> None:
    asked: dict[str, Any] = {"redirect_uri": "https://p.test/cb", "state": "s1", "scopes": ("read", "write")}
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    url = urlsplit(
        oauth.authorize_url(code(authorize_params={"x": "{option.shop}"}), ACCOUNT, verifier=verifier, **asked)
    )
    assert (url.scheme, url.netloc, url.path) == ("https", "demo.shops.test", "/authorize")
    assert parse_qs(url.query) == {
        "response_type": ["code"],
        "client_id": ["fake-id"],
        "redirect_uri": ["https://p.test/cb"],
        "state": ["s1"],
        "scope": ["read write"],
        # RFC 7636, appendix B
        "code_challenge": ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"],
        "code_challenge_method": ["S256"],
        "x": ["demo"],
    }
    sandbox = Account("acct-1", ACCOUNT.secrets, ACCOUNT.options, mode="sandbox")
    assert "//demo.sandbox.test/" in oauth.authorize_url(code(), sandbox, verifier=verifier, **asked)


def test_token_calls_of_each_grant() -> None:
    exchange = oauth.code_call(code(), ACCOUNT, code="c1", redirect_uri="https://p.test/cb", verifier="v1")
    assert exchange.url == "https://demo.shops.test/token"
    assert exchange.fields == {
        "grant_type": "authorization_code",
        "code": "c1",
        "redirect_uri": "https://p.test/cb",
        "code_verifier": "v1",
        "client_id": "fake-id",
        "client_secret": "fake-key",
    }
    basic = oauth.refresh_call(code(client_auth="basic", encoding="json"), ACCOUNT, "r1", NOW)
    assert (basic.fields, basic.basic_auth, basic.as_json) == (
        {"grant_type": "refresh_token", "refresh_token": "r1"},
        ("fake-id", "fake-key"),
        True,
    )
    machine = code(grant="client_credentials", authorize_url=None, refresh="none")
    assert oauth.refresh_call(machine, ACCOUNT, "", NOW).fields["scope"] == "read write"
    revoked = oauth.revoke_call(code(), ACCOUNT, "t1")
    assert revoked is not None
    assert (revoked.url, revoked.fields["token"]) == ("https://id.shops.test/revoke", "t1")
    for call in (exchange, basic, revoked):
        assert "fake" not in repr(call)


def test_an_assertion_names_the_token_endpoint() -> None:
    assertion = SignedJwtAuth(algorithm="HS256", secret="key", claims={"aud": "{token_url}"}, lifetime_s=60)
    found = code(grant="jwt_bearer", authorize_url=None, refresh="none", assertion=assertion)
    account = Account("a", {"key": "k" * 32}, {"shop": "demo"})
    call = oauth.refresh_call(found, account, "", NOW)
    claims = jwt.decode(call.fields["assertion"], options={"verify_signature": False})
    assert (call.fields["grant_type"], claims["aud"]) == (oauth.JWT_BEARER, "https://demo.shops.test/token")
    assert found.secret_names() == ("key",)


@pytest.mark.parametrize(
    ("body", "lifetime", "scopes"),
    [
        ({"expires_in": 60, "scope": "read,write"}, 60.0, {"read", "write"}),
        ({"expires_in": "60", "scope": "read write"}, 60.0, {"read", "write"}),
        ({"expires_at": "2026-03-01T13:00:00Z", "scope": ["read"]}, 3600.0, {"read"}),
        ({"ends": 1772367000, "expires_in": 60}, 600.0, None),
        ({"expires_in": True}, 900.0, None),
        ({}, 900.0, None),
    ],
)
def test_an_answer_is_read_as_vendors_write_it(body: dict[str, Any], lifetime: float, scopes: set[str] | None) -> None:
    found = code(account="/shop/id", token_lifetime_s=900, expires_at="/ends")
    full = {"access_token": "t1", "refresh_token": "r1", "shop": {"id": 7}} | body
    granted = oauth.read_answer(found, 200, full, NOW)
    assert (granted.lifetime_s, granted.scopes, granted.account) == (lifetime, scopes, "7")
    assert "t1" not in repr(granted)
    assert oauth.missing_scopes(("read", "write"), granted.scopes) == (("write",) if scopes == {"read"} else ())


@pytest.mark.parametrize("word", sorted(oauth.FINAL))
def test_a_final_refusal_is_told_from_a_bad_day(word: str) -> None:
    with pytest.raises(oauth.TokenRefused) as refused:
        oauth.read_answer(code(), 400, {"error": word, "error_description": "secret text"}, NOW)
    assert str(refused.value) == word


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, None), (429, {}), (400, {"error": "slow_down"}), (200, {"error": ["x"]}), (200, []), (200, {"token": "t"})],
)
def test_anything_else_may_be_tried_again(status: int, body: Any) -> None:
    with pytest.raises(Transient):
        oauth.read_answer(code(), status, body, NOW)
