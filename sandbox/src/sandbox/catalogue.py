"""Which providers the sandbox plays, and as what: every registered one with an API.

What `operations.toml` declares is played from it; what only code can say has a behaviour file of the provider's name.
"""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from providers import registry
from providers.manifest.auth import AwsSigV4Auth, BasicAuth, BodyAuth, HeaderAuth, OAuth2Auth, QueryAuth
from providers.manifest.operations import Codes
from providers.provider import Provider
from providers.templates import names_in
from sandbox.behaviours.base import NOT_FOUND, UNAUTHORISED, Answer, Behaviour, Call, basic_user
from sandbox.behaviours.declared import DeclaredApi, Route
from sandbox.behaviours.feeds import FeedApi
from sandbox.oauth import ACCESS_PREFIX, OAuthServer
from sandbox.world import World

_DIGEST_CHARS: Final = 12


def has_behaviour(slug: str) -> bool:
    """Tell whether there is a behaviour file for a provider."""
    return find_spec(f"sandbox.behaviours.{slug}") is not None


def load(world: World, oauth: OAuthServer) -> dict[str, Played]:
    """Return all registered providers with an API, by slug; behaviour files of others stay unloaded."""
    return {
        provider.slug: Played(provider, world, oauth)
        for provider in registry.all_providers()
        if provider.manifest.api is not None
    }


class Played:
    """One provider's API: its declared operations, its behaviour file, its probe."""

    def __init__(self, provider: Provider, world: World, oauth: OAuthServer) -> None:
        self._provider = provider
        self._oauth = oauth
        self._declared = DeclaredApi(provider, world)
        self.feeds = FeedApi(provider, world)
        self._own: Behaviour | None = None
        if has_behaviour(provider.slug):
            self._own = import_module(f"sandbox.behaviours.{provider.slug}").build(world)

    def operation(self, call: Call) -> str:
        """Return the declared operation that a call is, empty for any other."""
        route = self._declared.route(call)
        return route.spec.name if route else ""

    def handle(self, call: Call) -> Answer:
        """Answer a call. May raise `Invalid` for a body that is no JSON."""
        token = token_of(self._provider, call)
        if token.startswith(ACCESS_PREFIX) and not self._oauth.accepts(self._provider.slug, token):
            return Answer(UNAUTHORISED, self.failure(UNAUTHORISED, "the access token has ended"))
        route = self._declared.route(call)
        told = self.feeds.knows(call)
        if self._own is not None and not told and (route is None or route.spec.name in self._own.operations):
            return self._own.handle(call)
        owner = self._oauth.owner(self._provider.slug, token) if token.startswith(ACCESS_PREFIX) else None
        account = owner or account_of(self._provider, call)
        if account is None:
            return Answer(UNAUTHORISED, self.failure(UNAUTHORISED, "authentication is required"))
        if told:
            return self.feeds.answer(account, call)
        return self._declared.answer(route, account, call) if route is not None else self._other(call)

    def _other(self, call: Call) -> Answer:
        """Answer the probe, and whatever else nobody declared."""
        health = self._provider.manifest.health
        if health is not None and call.method == health.probe.method and _fits(call.path, health.probe.path):
            return Answer(health.probe.expect[0], {})
        return Answer(NOT_FOUND, self.failure(NOT_FOUND, "unknown path"))

    def refusal(self, call: Call) -> Answer | None:
        """Return the documented refusal of the operation that a call asks for, or None if there is none."""
        route: Route | None = self._declared.route(call)
        return self._declared.refusal(route) if route else None

    def failure(self, status: int, detail: str) -> Any:
        """Return the body with which this vendor says `status`."""
        if self._own is not None:
            return self._own.failure(status, detail)
        return failure_body(self._provider.api.errors, status, detail)


def failure_body(codes: Codes, status: int, detail: str) -> Any:
    """Return an error of a vendor's form: its word at the first pointer to codes, the detail at that to details."""
    body: dict[str, Any] = {}
    if codes.ok is not None:
        _put(body, codes.ok, value=False)
    for pointer, value in ((codes.codes[:1], f"status_{status}"), (codes.details[:1], detail)):
        if pointer:
            _put(body, pointer[0], value)
    return body or {"status": status, "message": detail}


def token_of(provider: Provider, call: Call) -> str:
    """Return the token that a call carries in the header of an OAuth method, empty without one."""
    for method in provider.api.auth.values():
        if isinstance(method, OAuth2Auth):
            before, _, after = method.template.partition("{access_token}")
            shown = call.headers.get(method.header.lower(), "")
            if shown.startswith(before) and shown.endswith(after):
                return shown.removeprefix(before).removesuffix(after)
    return ""


def account_of(provider: Provider, call: Call) -> str | None:
    """Return a stable name for whom a call's credentials stand, or None without any; never the credential itself."""
    for method in provider.api.auth.values():
        if isinstance(method, BasicAuth):
            shown = basic_user(call)
            if shown is not None and "account_ref" in names_in(method.user):
                return shown
            # The user name is the same for everybody, or a secret itself.
            shown = shown and call.headers.get("authorization")
        elif isinstance(method, QueryAuth):
            shown = call.query.get(method.parameter)
        elif isinstance(method, AwsSigV4Auth):
            shown = call.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]
        elif isinstance(method, BodyAuth):
            shown = str(_fields(call).get(next(iter(method.fields)), ""))
        elif isinstance(method, HeaderAuth):
            shown = call.headers.get(method.header.lower())
        else:
            shown = call.headers.get(getattr(method, "header", "authorization").lower(), "").partition(" ")[2]
        if shown and shown.strip():
            return hashlib.sha256(shown.strip().encode()).hexdigest()[:_DIGEST_CHARS]
    return None


def _fields(call: Call) -> dict[str, Any]:
    """Return the top of a JSON or form body."""
    try:
        found = json.loads(call.body)
    except ValueError:
        return dict(call.form)
    return found if isinstance(found, dict) else {}


def _put(document: dict[str, Any], pointer: str, value: Any) -> None:
    """Set a value, making what is missing on the way; a step `0` makes a list of one."""
    steps = pointer.split("/")[1:]
    place: Any = document
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        made: Any = [] if following == "0" else {}
        made = value if following is None else made
        if isinstance(place, list):
            if not place:
                place.append(made)
            place = place[0]
        else:
            place = place.setdefault(step, made)


def _fits(path: str, template: str) -> bool:
    before, hole, rest = template.partition("{")
    if not hole:
        return path == template
    after = rest.rpartition("}")[2]
    return path.startswith(before) and path.endswith(after) and len(path) > len(before) + len(after)
