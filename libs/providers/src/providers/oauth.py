"""OAuth 2.0 as pure functions: the address to send a person to, the calls to a token endpoint, and their answers.

Must never do I/O, and never put a token or secret into an error.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from contracts.errors import Invalid, Transient
from providers.authorise import client_certificate, secret_of, signed_jwt, text
from providers.manifest.auth import OAuth2Auth
from providers.reading import at
from providers.sdk import Account, ClientCertificate
from providers.templates import names_whole_host

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# Answers that trying again cannot change (RFC 6749 §5.2); only a person can.
FINAL: Final = frozenset(
    {"invalid_grant", "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
)
_OK: Final = 200
_WORD: Final = re.compile(r"[a-z_]{1,40}")
_SANDBOX: Final = "sandbox"


class TokenRefused(Exception):  # noqa: N818 (a verdict of the provider)
    """The token endpoint refused for good; `code` is the provider's word, or `refused`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class TokenCall:
    """A POST to a token endpoint: `fields` as a form, or as JSON. `repr` hides them.

    `host_is_chosen` by a tenant's option: then it may stand anywhere, and must be looked at before it is called.
    """

    url: str
    fields: Mapping[str, str] = field(repr=False)
    as_json: bool = False
    basic_auth: tuple[str, str] | None = field(default=None, repr=False)
    host_is_chosen: bool = False
    certificate: ClientCertificate | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Granted:
    """What a token endpoint gave. `lifetime_s` is None for a token without an end.

    `scopes` is None when the answer does not name them: then all that were asked for were granted (RFC 6749 §5.1).
    """

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    lifetime_s: float | None
    scopes: frozenset[str] | None
    account: str


def challenge(verifier: str) -> str:
    """Return the S256 code challenge of a PKCE verifier (RFC 7636 §4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def authorize_url(
    method: OAuth2Auth, account: Account, *, redirect_uri: str, state: str, verifier: str, scopes: tuple[str, ...]
) -> str:
    """Return where to send the person who grants access; raises `Invalid` (`missing_secret`, `missing_argument`)."""
    if method.authorize_url is None:
        raise Invalid("no_authorisation", "this way to authenticate asks nobody for access", field="method")
    fields = {
        "response_type": "code",
        "client_id": secret_of(account, method.client_id),
        "redirect_uri": redirect_uri,
        "state": state,
    }
    if scopes:
        fields["scope"] = method.scope_separator.join(scopes)
    if method.pkce:
        fields |= {"code_challenge": challenge(verifier), "code_challenge_method": "S256"}
    more = {name: text(template, account) for name, template in method.authorize_params.items()}
    return f"{address(method, method.authorize_url, account)}?{urlencode(fields | more)}"


def code_call(method: OAuth2Auth, account: Account, *, code: str, redirect_uri: str, verifier: str) -> TokenCall:
    """Return the call that exchanges an authorisation code."""
    fields = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
    if method.pkce:
        fields["code_verifier"] = verifier
    return _call(method, account, method.token_url, fields)


def refresh_call(method: OAuth2Auth, account: Account, refresh_token: str, now: datetime) -> TokenCall:
    """Return the call that brings the next access token, whatever the grant: with a refresh token, or once more."""
    if method.grant == "authorization_code":
        fields = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return _call(method, account, method.refresh_url or method.token_url, fields)
    if method.assertion is not None:
        more = {"token_url": address(method, method.token_url, account)}
        assertion = signed_jwt(method.assertion, account, now, more)
        return _call(method, account, method.token_url, {"grant_type": JWT_BEARER, "assertion": assertion})
    fields = {"grant_type": "client_credentials"}
    if method.scopes:
        fields["scope"] = method.scope_separator.join(method.scopes)
    return _call(method, account, method.token_url, fields)


def revoke_call(method: OAuth2Auth, account: Account, token: str) -> TokenCall | None:
    """Return the call that ends a token at the provider (RFC 7009), None where it offers none."""
    return None if method.revoke_url is None else _call(method, account, method.revoke_url, {"token": token})


def read_answer(method: OAuth2Auth, status: int, body: Any, now: datetime) -> Granted:
    """Read the answer of a token endpoint, which came at `now`.

    Raises `TokenRefused` for what only a person can change, `Transient` (`token_endpoint_unavailable`) for the rest.
    """
    document = body if isinstance(body, dict) else {}
    if status != _OK or "error" in document:
        named = document.get("error")
        code = named if isinstance(named, str) and _WORD.fullmatch(named) else ""
        if code in FINAL:
            raise TokenRefused(code)
        raise Transient("token_endpoint_unavailable", f"the token endpoint answered {status}")
    access, refresh = document.get("access_token"), document.get("refresh_token")
    if not isinstance(access, str) or not access:
        raise Transient("token_endpoint_unavailable", "the token endpoint's answer has no access token")
    named = at(document, method.account) if method.account else None
    return Granted(
        access_token=access,
        refresh_token=refresh if isinstance(refresh, str) else "",
        lifetime_s=_lifetime(document, method, now),
        scopes=_scopes(document.get("scope")),
        account=str(named) if isinstance(named, str | int) else "",
    )


def missing_scopes(asked: tuple[str, ...], granted: frozenset[str] | None) -> tuple[str, ...]:
    """Return what was asked for and not granted, in order; an answer that names no scopes granted them all."""
    return () if granted is None else tuple(scope for scope in asked if scope not in granted)


def address(method: OAuth2Auth, url: str, account: Account) -> str:
    """Return an address of the method for this account: options filled in, the sandbox's host for a sandbox."""
    filled = urlsplit(text(url, account))
    host = method.sandbox_hosts.get(filled.netloc, filled.netloc) if account.mode == _SANDBOX else filled.netloc
    return urlunsplit(filled._replace(netloc=host))


def _call(method: OAuth2Auth, account: Account, url: str, fields: Mapping[str, str]) -> TokenCall:
    known = dict(fields)
    basic: tuple[str, str] | None = None
    if method.assertion is None:
        client_id = secret_of(account, method.client_id)
        client_secret = secret_of(account, method.client_secret) if method.client_secret else ""
        if method.client_auth == "basic" and client_secret:
            basic = (client_id, client_secret)
        else:
            known |= {"client_id": client_id} | ({"client_secret": client_secret} if client_secret else {})
    known |= {name: text(template, account) for name, template in method.token_params.items()}
    as_json, chosen = method.encoding == "json", names_whole_host(url)
    certificate = client_certificate(method, account)
    return TokenCall(address(method, url, account), known, as_json, basic, chosen, certificate)


def _lifetime(document: dict[str, Any], method: OAuth2Auth, now: datetime) -> float | None:
    published, end = method.token_lifetime_s, at(document, method.expires_at) if method.expires_at else None
    if isinstance(end, int | float) and not isinstance(end, bool):
        return max(float(end) - now.timestamp(), 1.0)
    stated = document.get("expires_in")
    if isinstance(stated, str) and stated.isdecimal():
        stated = int(stated)
    if isinstance(stated, int | float) and not isinstance(stated, bool) and stated > 0:
        return float(stated)
    try:
        # Some vendors name the instant instead of the duration.
        return max((datetime.fromisoformat(document["expires_at"]) - now).total_seconds(), 1.0)
    except (KeyError, TypeError, ValueError):
        return None if published is None else float(published)


def _scopes(stated: Any) -> frozenset[str] | None:
    """Return the scopes of an answer; vendors separate them by spaces or commas, or send a list."""
    if isinstance(stated, str) and stated.strip():
        return frozenset(re.split(r"[\s,]+", stated.strip()))
    return frozenset(map(str, stated)) if isinstance(stated, list) and stated else None
