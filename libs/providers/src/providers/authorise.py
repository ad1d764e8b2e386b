"""Credentials on a request, for every way to authenticate that a manifest can declare; time is an argument.

Must never do I/O, and never put a secret into an error.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import jwt

from contracts.errors import Invalid
from providers.manifest.auth import (
    ACCESS_TOKEN,
    AuthMethod,
    AwsSigV4Auth,
    BasicAuth,
    BearerAuth,
    BodyAuth,
    HeaderAuth,
    OAuth2Auth,
    QueryAuth,
    SignedJwtAuth,
)
from providers.sdk import Account, ClientCertificate, HttpRequest
from providers.templates import ABSENT, Scope, render

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
# S3 signs the path as it is sent and the hash of the body as a header; every other service encodes the path again.
_S3: Final = "s3"


def apply(
    method: AuthMethod, request: HttpRequest, account: Account, now: datetime, *, base_url: str = ""
) -> HttpRequest:
    """Return the request with the account's credentials as `method` says.

    `base_url` is where it goes; only a signature that covers the host needs it. Raises `Invalid` (`missing_secret`,
    field `secrets.<name>`; `missing_argument`; `bad_secret` for a key that cannot sign).
    """
    match method:
        case BasicAuth():
            more = {"secret": secret_of(account, method.secret)}
            user, password = text(method.user, account, more), text(method.password, account, more)
            return replace(request, basic_auth=(user, password))
        case QueryAuth():
            return replace(request, query={**request.query, method.parameter: secret_of(account, method.secret)})
        case BodyAuth():
            return _with_fields(request, {name: secret_of(account, of) for name, of in method.fields.items()})
        case AwsSigV4Auth():
            return _sign_v4(method, request, account, now, base_url)
        case _:
            return replace(request, headers={**request.headers, **_headers(method, account, now)})


def _headers(
    method: BearerAuth | HeaderAuth | OAuth2Auth | SignedJwtAuth, account: Account, now: datetime
) -> dict[str, str]:
    match method:
        case BearerAuth():
            return {"Authorization": f"Bearer {secret_of(account, method.secret)}"}
        case HeaderAuth():
            more = {"secret": secret_of(account, method.secret)}
            others = {header: secret_of(account, name) for header, name in method.more.items()}
            return {method.header: text(method.template, account, more)} | others
        case OAuth2Auth():
            return {method.header: text(method.template, account, {ACCESS_TOKEN: secret_of(account, ACCESS_TOKEN)})}
        case SignedJwtAuth():
            return {method.header: text(method.template, account, {"token": signed_jwt(method, account, now)})}


def client_certificate(method: AuthMethod, account: Account) -> ClientCertificate | None:
    """Return what the account presents in TLS handshakes, None where nothing; raises `Invalid` (`missing_secret`)."""
    wanted = method.mtls if isinstance(method, OAuth2Auth) else None
    if wanted is None:
        return None
    return ClientCertificate(secret_of(account, wanted.certificate), secret_of(account, wanted.key))


def secret_of(account: Account, name: str) -> str:
    """Return a secret of the account; raises `Invalid` (`missing_secret`)."""
    value = account.secrets.get(name)
    if not value:
        raise Invalid("missing_secret", f"the connection has no {name}", field=f"secrets.{name}")
    return value


def _with_fields(request: HttpRequest, fields: Mapping[str, str]) -> HttpRequest:
    """Return the request with secrets in its body; a request without one (a probe) stays as it is."""
    if request.form is not None:
        return replace(request, form={**request.form, **fields})
    return replace(request, json={**request.json, **fields}) if isinstance(request.json, dict) else request


def text(template: str, account: Account, more: Mapping[str, Any] | None = None) -> str:
    """Return a template of the manifest filled for this account; raises `Invalid` (`missing_argument`)."""
    values = {"account_ref": account.account_ref, "option": dict(account.options)} | dict(more or {})
    rendered = render(template, Scope(values))
    return "" if rendered is ABSENT else str(rendered)


def signed_jwt(method: SignedJwtAuth, account: Account, now: datetime, more: Mapping[str, Any] | None = None) -> str:
    """Return a JWT with the method's claims that ends `lifetime_s` after `now`; raises `Invalid` (`bad_secret`)."""
    values = {"secret": {name: secret_of(account, name) for name in method.also}} | dict(more or {})
    issued = int(now.timestamp())
    claims: dict[str, Any] = {name: text(template, account, values) for name, template in method.claims.items()}
    headers = {name: text(template, account, values) for name, template in method.headers.items()}
    try:
        return jwt.encode(
            claims | {"iat": issued, "exp": issued + method.lifetime_s},
            secret_of(account, method.secret),
            algorithm=method.algorithm,
            headers=headers or None,
        )
    except (jwt.PyJWTError, ValueError, TypeError):
        detail = f"{method.secret} is no key for {method.algorithm}"
        raise Invalid("bad_secret", detail, field=f"secrets.{method.secret}") from None


def _sign_v4(method: AwsSigV4Auth, request: HttpRequest, account: Account, now: datetime, base_url: str) -> HttpRequest:
    """Sign as https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html says.

    A JSON or form body becomes bytes, so that what is signed is what is sent.
    """
    body, content_type = _body(request)
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {**request.headers, "X-Amz-Date": stamp}
    if content_type:
        headers.setdefault("Content-Type", content_type)
    if method.service == _S3:
        headers["X-Amz-Content-Sha256"] = digest
    host = urlsplit(request.base_url or base_url).netloc
    signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()} | {"host": host}
    names = ";".join(sorted(signed))
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in request.query.items())
    canonical = "\n".join(
        (
            request.method,
            request.path if method.service == _S3 else quote(request.path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            digest,
        )
    )
    region = text(method.region, account)
    scope = f"{stamp[:8]}/{region}/{method.service}/aws4_request"
    key = f"AWS4{secret_of(account, method.secret_key)}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
    credential = f"{secret_of(account, method.access_key)}/{scope}"
    headers["Authorization"] = f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return replace(request, headers=headers, content=body or None, content_type="", json=None, form=None)


def _body(request: HttpRequest) -> tuple[bytes, str]:
    if request.content is not None:
        return request.content, request.content_type
    if request.json is not None:
        return json.dumps(request.json, separators=(",", ":"), ensure_ascii=False).encode(), "application/json"
    if request.form is not None:
        return urlencode(dict(request.form)).encode(), "application/x-www-form-urlencoded"
    return b"", ""
