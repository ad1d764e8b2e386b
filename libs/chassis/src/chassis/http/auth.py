"""Bearer tokens of the `/v1` APIs: OIDC JWTs checked against the issuer's JWKS. Fails closed.

Must never accept an algorithm from the token, and never log a token.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
from starlette.requests import Request
from starlette.responses import Response

from chassis.clock import Clock, SystemClock
from chassis.db import tenancy
from chassis.http.problems import Endpoint, Problem

ALGORITHMS: Final = ("ES256", "RS256", "EdDSA")
LEEWAY_S: Final = 30
# An unknown key id makes us ask the issuer again, at most this often: a forged token must not make us hammer it.
REFRESH_INTERVAL_S: Final = 60.0
FETCH_TIMEOUT_S: Final = 3.0


_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Role(StrEnum):
    """What a caller may do; `admin` includes `operator`, which includes `viewer`. `service` stands beside them."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    SERVICE = "service"


_INCLUDES: Final[dict[str, frozenset[Role]]] = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.VIEWER, Role.OPERATOR}),
    Role.ADMIN: frozenset({Role.VIEWER, Role.OPERATOR, Role.ADMIN}),
    Role.SERVICE: frozenset({Role.SERVICE}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the token's subject, what its roles include, and the tenants of its claim `tenants`, None for all."""

    subject: str
    roles: frozenset[Role]
    tenants: frozenset[str] | None = None


class TokenVerifier:
    """Checks tokens of one issuer. Keys come from a JWKS file, or from an https URL, cached."""

    def __init__(self, jwks: str, *, issuer: str, audience: str, clock: Clock | None = None) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._clock = clock or SystemClock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._loaded_at = float("-inf")
        self._loading = asyncio.Lock()
        # What a service with a tree of tenants sets: the tenants of a claim with everything below them.
        self.widen: Callable[[frozenset[str]], Awaitable[Collection[str]]] | None = None

    async def scope_of(self, principal: Principal) -> Collection[str] | None:
        """Return the tenants whose rows a caller may see; None for all."""
        if principal.tenants is None or self.widen is None:
            return principal.tenants
        return await self.widen(principal.tenants)

    async def verify(self, token: str) -> Principal:
        """Return who holds `token`; raises `Problem` 401 (`invalid_token`) for anything that is not right with it."""
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._key(key_id)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise _unauthorized("invalid_token", f"the bearer token is not valid: {type(error).__name__}") from None
        granted = claims.get("roles", [])
        names = granted if isinstance(granted, list) else []
        roles = frozenset(role for name in names for role in _INCLUDES.get(str(name), ()))
        return Principal(subject=str(claims["sub"]), roles=roles, tenants=_tenants(claims))

    async def _key(self, key_id: str | None) -> jwt.PyJWK:
        if key_id not in self._keys:
            async with self._loading:
                if self._clock.monotonic() - self._loaded_at > REFRESH_INTERVAL_S:
                    self._keys = await self._load()
                    self._loaded_at = self._clock.monotonic()
        if key_id is None or key_id not in self._keys:
            raise jwt.InvalidKeyError("unknown key id")
        return self._keys[key_id]

    async def _load(self) -> dict[str, jwt.PyJWK]:
        if self._jwks.startswith("https://"):
            async with httpx.AsyncClient(timeout=FETCH_TIMEOUT_S, follow_redirects=False) as client:
                document = (await client.get(self._jwks)).raise_for_status().json()
        else:
            document = json.loads(await asyncio.to_thread(Path(self._jwks).read_text))
        return {key.key_id: key for key in jwt.PyJWKSet.from_dict(document).keys if key.key_id}


def requires(verifier: TokenVerifier, *roles: Role) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator: the endpoint runs only for a token whose roles include one of `roles`.

    No or bad token: 401 with `WWW-Authenticate`; wrong role: 403. The principal is `request.state.principal`.
    """

    def decorate(endpoint: Endpoint) -> Endpoint:
        async def guarded(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise _unauthorized("missing_token", "an `Authorization: Bearer` token is required")
            principal = await verifier.verify(token.strip())
            if principal.roles.isdisjoint(roles):
                raise Problem(403, "wrong_role", f"this needs the role {' or '.join(roles)}")
            request.state.principal = principal
            with tenancy.scope(await verifier.scope_of(principal)):
                return await endpoint(request)

        return guarded

    return decorate


def _tenants(claims: dict[str, Any]) -> frozenset[str] | None:
    """Return the claim `tenants`; one that is no list of slugs shows nothing, because it was meant to narrow."""
    if "tenants" not in claims:
        return None
    stated = claims["tenants"]
    names = stated if isinstance(stated, list) else []
    return frozenset(name for name in names if isinstance(name, str) and _TENANT.fullmatch(name))


def _unauthorized(code: str, detail: str) -> Problem:
    return Problem(401, code, detail, headers={"www-authenticate": "Bearer"})
