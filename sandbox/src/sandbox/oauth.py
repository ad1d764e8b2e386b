"""The OAuth server of every provider whose manifest declares one, at the manifest's own paths below `/<slug>`.

It approves at once, rotates refresh tokens in families as the manifest says, and keeps a ledger of them: the judge of
"no family was lost". Must never keep a token: it is known by its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from chassis.clock import Clock
from chassis.http.problems import body_of, json_response, not_found
from providers import oauth, registry
from providers.manifest import OAuth2Auth

CODE_LIFETIME_S: Final = 300.0
TOKEN_LIFETIME_S: Final = 3600
# How the simulated APIs tell a token of this server from a static secret that looks the same to them.
ACCESS_PREFIX: Final = "sandbox-access-"
_BAD: Final = 400
_UNAUTHORISED: Final = 401
_FOUND: Final = 302


class Conduct(BaseModel):
    """How a provider's OAuth server behaves, until it is set anew.

    `delay_ms` comes between applying a token call and answering it. The next `lose_answers` token calls are applied
    and their connections break; the next `fail_calls` answer 503 and apply nothing. `scopes` are granted at most,
    `account` is whose access is granted, `deny` refuses the person. `grace` overrides the manifest's `rotation_grace`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay_ms: int = Field(default=0, ge=0, le=60_000)
    lose_answers: int = Field(default=0, ge=0)
    fail_calls: int = Field(default=0, ge=0)
    scopes: tuple[str, ...] | None = None
    account: str = "sandbox-account"
    token_lifetime_s: int | None = Field(default=None, gt=0)
    grace: Literal["none", "until_used"] | None = None
    deny: bool = False


@dataclass(slots=True)
class Family:
    """All tokens that came of one authorisation. Times are the clock's monotonic seconds, tokens are digests."""

    number: int
    provider: str
    client_id: str
    account: str
    scopes: tuple[str, ...]
    access: dict[str, float] = field(default_factory=dict)
    refresh: str = ""
    before: str = ""
    refreshes: int = 0
    reuses: int = 0
    dead: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the family for the ledger."""
        names = ("number", "provider", "client_id", "account", "scopes", "refreshes", "reuses", "dead")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class _Code:
    client_id: str
    redirect_uri: str
    challenge: str
    scopes: tuple[str, ...]
    account: str
    until: float


class _Refused(Exception):  # noqa: N818 (an answer)
    def __init__(self, code: str, status: int = _BAD) -> None:
        super().__init__(code)
        self.code, self.status = code, status


class _Lost(JSONResponse):
    """An answer of which only the beginning arrives: the server breaks the connection after it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})


class OAuthServer:
    """The OAuth servers of all providers, in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._conduct: dict[str, Conduct] = {}
        self._lost: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._codes: dict[str, _Code] = {}
        self._spent: dict[str, Family] = {}
        self._refreshable: dict[str, Family] = {}
        self.families: list[Family] = []
        self.token_calls: dict[str, int] = {}

    def conduct(self, slug: str) -> Conduct:
        """Return how a provider's server behaves now."""
        return self._conduct.get(slug, Conduct())

    def set(self, slug: str, conduct: Conduct) -> None:
        """Let a provider's server behave so from now on."""
        self._conduct[slug] = conduct
        self._lost[slug], self._failed[slug] = conduct.lose_answers, conduct.fail_calls

    def expire(self, slug: str) -> int:
        """End all access tokens of a provider now and return how many there were."""
        ended = 0
        for family in self._of(slug):
            ended += len(family.access)
            family.access.clear()
        return ended

    def accepts(self, slug: str, token: str) -> bool:
        """Tell whether an access token of this server is good at the provider's API now."""
        return self.owner(slug, token) is not None

    def owner(self, slug: str, token: str) -> str | None:
        """Return the account that an access token of this server acts for, None when it is no longer good."""
        digest, now = _digest(token), self._clock.monotonic()
        for family in self._of(slug):
            if family.access.get(digest, now) > now and not family.dead:
                return family.account
        return None

    def authorize(self, slug: str, request: Request, method: OAuth2Auth) -> Response:
        """Approve at once: redirect with a code, or with the error when access is denied."""
        query = request.query_params
        redirect_uri = query.get("redirect_uri", "")
        if urlsplit(redirect_uri).scheme not in {"http", "https"} or not query.get("client_id"):
            return JSONResponse({"error": "invalid_request"}, _BAD)
        conduct = self.conduct(slug)
        answer = {"state": query.get("state", "")}
        if query.get("response_type") != "code" or (method.pkce and query.get("code_challenge_method") != "S256"):
            answer["error"] = "invalid_request"
        elif conduct.deny or "deny" in query:
            answer["error"] = "access_denied"
        else:
            asked = tuple(query.get("scope", "").replace(",", " ").split())
            granted = asked if conduct.scopes is None else tuple(one for one in asked if one in conduct.scopes)
            code = secrets.token_urlsafe(24)
            until = self._clock.monotonic() + CODE_LIFETIME_S
            account = query.get("account", conduct.account)
            challenge = query.get("code_challenge", "")
            self._codes[_digest(code)] = _Code(query["client_id"], redirect_uri, challenge, granted, account, until)
            answer["code"] = code
            if method.account_query:
                answer[method.account_query] = account
        joiner = "&" if urlsplit(redirect_uri).query else "?"
        return RedirectResponse(f"{redirect_uri}{joiner}{urlencode(answer)}", _FOUND)

    async def token(self, slug: str, request: Request, offered: Sequence[OAuth2Auth]) -> Response:
        """Answer a token call: applied at once, answered after the delay, or not at all."""
        self.token_calls[slug] = self.token_calls.get(slug, 0) + 1
        if self._failed.get(slug, 0) > 0:
            self._failed[slug] -= 1
            return JSONResponse({"error": "temporarily_unavailable"}, 503)
        fields = await _fields(request)
        try:
            granted = self._grant(slug, fields, offered)
            lost = self._lost.get(slug, 0) > 0
            if lost:
                self._lost[slug] -= 1
            answer: Response = _Lost(granted) if lost else JSONResponse(granted)
        except _Refused as refusal:
            answer = JSONResponse({"error": refusal.code}, refusal.status)
        delay_s = self.conduct(slug).delay_ms / 1000
        if delay_s:
            await self._clock.sleep(delay_s)
        return answer

    async def revoke(self, slug: str, request: Request) -> Response:
        """End the family of a token; 200 for an unknown one too (RFC 7009 §2.2)."""
        digest = _digest((await _fields(request)).get("token", ""))
        for family in self._of(slug):
            if digest in family.access or digest == family.refresh:
                family.dead = True
        return JSONResponse({})

    def _of(self, slug: str) -> list[Family]:
        return [family for family in self.families if family.provider == slug]

    def _grant(self, slug: str, fields: dict[str, str], offered: Sequence[OAuth2Auth]) -> dict[str, Any]:
        kind = fields.get("grant_type", "")
        wanted = {"refresh_token": "authorization_code", oauth.JWT_BEARER: "jwt_bearer"}.get(kind, kind)
        method = next((one for one in offered if one.grant == wanted), None)
        if method is None:
            raise _Refused("unsupported_grant_type")
        client_id = fields.get("client_id", "")
        if method.assertion is None and (not client_id or (method.client_secret and not fields.get("client_secret"))):
            raise _Refused("invalid_client", _UNAUTHORISED)
        if kind == "authorization_code":
            return self._issue(slug, self._redeemed(slug, fields, method), method)
        if kind == "refresh_token":
            return self._issue(slug, self._refreshed(slug, fields, method), method)
        if method.assertion is not None and fields.get("assertion", "").count(".") != 2:  # noqa: PLR2004 (a JWS)
            raise _Refused("invalid_grant")
        scopes = tuple(fields.get("scope", "").replace(",", " ").split())
        return self._issue(slug, self._family(slug, client_id, self.conduct(slug).account, scopes), method)

    def _redeemed(self, slug: str, fields: dict[str, str], method: OAuth2Auth) -> Family:
        digest = _digest(fields.get("code", ""))
        if digest in self._spent:
            # A code that comes twice may have been stolen: what it brought ends (RFC 6749 §4.1.2).
            self._spent[digest].dead = True
            raise _Refused("invalid_grant")
        code = self._codes.pop(digest, None)
        if code is None or code.until < self._clock.monotonic():
            raise _Refused("invalid_grant")
        family = self._family(slug, code.client_id, code.account, code.scopes)
        self._spent[digest] = family
        proof = oauth.challenge(fields.get("code_verifier", ""))
        same = (code.client_id, code.redirect_uri) == (fields.get("client_id"), fields.get("redirect_uri"))
        if not same or (method.pkce and not hmac.compare_digest(proof, code.challenge)):
            family.dead = True
            raise _Refused("invalid_grant")
        return family

    def _refreshed(self, slug: str, fields: dict[str, str], method: OAuth2Auth) -> Family:
        digest = _digest(fields.get("refresh_token", ""))
        family = self._refreshable.get(digest)
        if family is None or family.provider != slug or family.dead or family.client_id != fields.get("client_id"):
            raise _Refused("invalid_grant")
        grace = self.conduct(slug).grace or method.rotation_grace
        if digest != family.refresh:
            family.reuses += 1
            if grace == "none" or digest != family.before:
                family.dead = True
                raise _Refused("invalid_grant")
            # The answer with the newer one was lost, since nobody has used it: the older one may ask again.
            family.refresh = digest
        family.refreshes += 1
        return family

    def _family(self, slug: str, client_id: str, account: str, scopes: tuple[str, ...]) -> Family:
        family = Family(len(self.families) + 1, slug, client_id, account, scopes)
        self.families.append(family)
        return family

    def _issue(self, slug: str, family: Family, method: OAuth2Auth) -> dict[str, Any]:
        access = f"{ACCESS_PREFIX}{secrets.token_urlsafe(24)}"
        stated = self.conduct(slug).token_lifetime_s or method.token_lifetime_s
        endless = method.grant == "authorization_code" and method.refresh == "none" and stated is None
        lifetime = stated or TOKEN_LIFETIME_S
        family.access[_digest(access)] = float("inf") if endless else self._clock.monotonic() + lifetime
        answer: dict[str, Any] = {"access_token": access, "token_type": "bearer"}
        if not endless:
            answer["expires_in"] = lifetime
        if family.scopes:
            answer["scope"] = method.scope_separator.join(family.scopes)
        if method.account:
            answer[method.account.removeprefix("/")] = family.account
        if method.refresh != "none" and (method.refresh == "rotating" or not family.refresh):
            token = f"sandbox-refresh-{secrets.token_urlsafe(24)}"
            family.before, family.refresh = family.refresh, _digest(token)
            self._refreshable[family.refresh] = family
            answer["refresh_token"] = token
        return answer


class Control:
    """The control routes of the OAuth servers."""

    def __init__(self, server: OAuthServer) -> None:
        self._server = server

    async def ledger(self, request: Request) -> Response:
        """List the families, oldest first; `provider` filters. `token_calls` counts calls by provider."""
        wanted = request.query_params.get("provider")
        found = [one.as_dict() for one in self._server.families if wanted in (None, one.provider)]
        return json_response({"items": found, "token_calls": self._server.token_calls})

    async def set(self, request: Request) -> Response:
        """Set how a provider's server behaves."""
        conduct = await body_of(request, Conduct)
        self._server.set(_slug(request), conduct)
        return json_response(conduct.model_dump())

    async def expire(self, request: Request) -> Response:
        """End all access tokens of a provider."""
        return json_response({"expired": self._server.expire(_slug(request))})


def routes(server: OAuthServer) -> list[BaseRoute]:
    """Return the control routes, and the addresses of all manifests that declare OAuth."""
    control = Control(server)
    found: list[BaseRoute] = [
        Route("/_control/oauth", control.ledger),
        Route("/_control/oauth/{slug}", control.set, methods=["PUT"]),
        Route("/_control/oauth/{slug}/expire", control.expire, methods=["POST"]),
    ]
    for provider in registry.all_providers():
        api = provider.manifest.api
        offered = [one for one in (api.auth.values() if api else ()) if isinstance(one, OAuth2Auth)]
        found += [route for method in offered for route in _served(server, provider.slug, method, offered)]
    return found


def _served(server: OAuthServer, slug: str, method: OAuth2Auth, offered: Sequence[OAuth2Auth]) -> list[BaseRoute]:
    async def authorize(request: Request) -> Response:
        return server.authorize(slug, request, method)

    async def token(request: Request) -> Response:
        return await server.token(slug, request, offered)

    async def revoke(request: Request) -> Response:
        return await server.revoke(slug, request)

    made: list[BaseRoute] = [Route(_place(slug, method.token_url), token, methods=["POST"])]
    if method.authorize_url:
        made.append(Route(_place(slug, method.authorize_url), authorize))
    if method.refresh_url:
        made.append(Route(_place(slug, method.refresh_url), token, methods=["POST"]))
    if method.revoke_url:
        made.append(Route(_place(slug, method.revoke_url), revoke, methods=["POST"]))
    return made


def _place(slug: str, url: str) -> str:
    # An option in the path would be a parameter of the route.
    return f"/{slug}{urlsplit(url).path.replace('{option.', '{')}"


async def _fields(request: Request) -> dict[str, str]:
    """Return the fields of a form or JSON body, with the client of a basic authorisation among them."""
    if request.headers.get("content-type", "").startswith("application/json"):
        document = await request.json()
        fields = {str(name): str(value) for name, value in document.items()} if isinstance(document, dict) else {}
    else:
        fields = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
    scheme, _, basic = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        fields["client_id"], _, fields["client_secret"] = _decoded(basic).partition(":")
    return fields


def _decoded(basic: str) -> str:
    try:
        return base64.b64decode(basic, validate=True).decode()
    except ValueError:
        return ""


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _slug(request: Request) -> str:
    slug: str = request.path_params["slug"]
    if slug not in registry.all_slugs():
        raise not_found("provider")
    return slug
