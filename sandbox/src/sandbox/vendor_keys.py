"""The simulated vendors' own keys and their key servers: `/_keys/<host>/<path>` answers for `https://<host>/<path>`.

A vendor has one key, whoever receives its webhooks. Must never serve a key that a forged delivery was signed with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.http.problems import not_found
from contracts.errors import Invalid
from providers.provider import Provider
from providers.sdk import Verifier

PREFIX: Final = "/_keys"
_MAX_AGE: Final = {"cache-control": "max-age=300"}


class VendorKeys:
    """Keys in memory; they end with the process, and receivers may remember the former ones for a while."""

    def __init__(self) -> None:
        self._senders: dict[Verifier, dict[str, str]] = {}
        self._answers: dict[str, bytes] = {}
        self._confirmations: dict[str, bool] = {}

    def sender(self, provider: Provider, options: Mapping[str, str], identity: str) -> str:
        """Return the sender's half for a receiver of this identity: the vendor's key, made on first use.

        `identity` may also be a sender's half for tests, whose key is then ignored.
        """
        verifier = provider.verifier(options)
        if verifier not in self._senders:
            self._senders[verifier] = json.loads(verifier.generate().signing)
        return json.dumps(self._senders[verifier] | {"identity": _identity(identity)})

    def publish(self, keys: Mapping[str, bytes]) -> None:
        """Serve what a delivery's receiver has to fetch, by `KeyRequest.name`; sets of keys grow."""
        for name, data in keys.items():
            self._answers[name] = _merged(self._answers.get(name), data)

    def expect(self, url: str) -> None:
        """Wait for an address to be visited, which is how some vendors want to be confirmed."""
        self._confirmations[url] = False

    def visited(self, url: str) -> bool:
        """Tell whether an expected address was visited since."""
        return self._confirmations.get(url, False)

    async def answer(self, request: Request) -> Response:
        """Answer for a vendor's host; raises `Problem` 404 for what it does not have."""
        url = f"https://{request.path_params['host']}/{request.path_params['path']}"
        if request.url.query:
            url += f"?{request.url.query}"
        if url in self._confirmations:
            self._confirmations[url] = True
            return Response("confirmed", media_type="text/plain")
        asked = await request.body() + url.encode()
        for name, data in self._answers.items():
            address, _, kid = name.partition("#")
            if address == url and kid.encode() in asked:
                return Response(data, headers=_MAX_AGE)
        raise not_found("key")


def routes(keys: VendorKeys) -> list[BaseRoute]:
    """Return the route of all key servers."""
    return [Route(f"{PREFIX}/{{host}}/{{path:path}}", keys.answer, methods=["GET", "POST"])]


def _identity(secret: str) -> str:
    try:
        found = json.loads(secret)["identity"]
    except (ValueError, KeyError, TypeError):
        found = secret
    if not isinstance(found, str) or not found:
        raise Invalid("bad_secret", "give the endpoint's secret", field="secret")
    return found


def _merged(old: bytes | None, new: bytes) -> bytes:
    if old is None:
        return new
    try:
        return json.dumps(_union(json.loads(old), json.loads(new))).encode()
    except ValueError:
        # A certificate, of which an address has one.
        return new


def _union(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: _union(old[name], value) if name in old else value for name, value in new.items()}
    if isinstance(old, list) and isinstance(new, list):
        return [*old, *(one for one in new if one not in old)]
    return new
