"""What a vendor does when a webhook is set up: its handshakes and probes, and whether the answers satisfy it.

Works from the folder's documented examples, not from the code that answers them, so that one can show the other wrong.
Must never be content with a status where the vendor looks at more.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import httpx

from chassis.clock import Clock
from contracts.errors import Invalid
from providers.fixtures import Fixture, HandshakeFixture
from providers.manifest import Handshake
from providers.manifest.webhook import ChallengeHash
from providers.mutations import text_at
from providers.provider import Provider
from providers.sdk import InboundRequest
from sandbox.deliveries import TOO_LATE, DeliveryDesk
from sandbox.fresh import items_of
from sandbox.judging import deadline_s
from sandbox.orders import Endpoint
from sandbox.signing import Draft, request_of, sign, traits_of
from sandbox.vendor_keys import VendorKeys

# Confirmations come after the answer: how long the receiver gets, and how often is looked.
CONFIRMATION_S: Final = 5.0
_POLL_S: Final = 0.05
_FORGED: Final = ".forged"
_HEX: Final = {"digit": "0123456789", "lower": "abcdef", "upper": "ABCDEF"}


@dataclass(frozen=True, slots=True)
class Check:
    """One request of the set-up: its status (None without an answer), and what the vendor does not like about it."""

    name: str
    method: str
    status: int | None
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the check for JSON."""
        shown = {"name": self.name, "method": self.method, "status": self.status, "problems": self.problems}
        return {**shown, "ok": not self.problems}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The answer that satisfies; what is None or not named does not matter. A status of 4xx stands for any of them."""

    status: int
    text: str | None = None
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Scene:
    """Who speaks to whom."""

    new: Endpoint
    provider: Provider

    @property
    def registered_url(self) -> str:
        return self.new.registered_url or self.new.url

    def draft(self, fixture: Fixture, secret: str, options: Mapping[str, str]) -> Draft:
        request = request_of(fixture, self.registered_url)
        return Draft(self.provider, request, secret, fixture.message_id, options)


class Onboarding:
    """Plays a vendor at set-up time."""

    def __init__(self, desk: DeliveryDesk, keys: VendorKeys, clock: Clock) -> None:
        self._desk = desk
        self._keys = keys
        self._clock = clock

    async def run(self, new: Endpoint) -> list[Check]:
        """Do every handshake and probe of a provider, one after the other; empty for a vendor that has none.

        What the vendor signs it also sends forged once. Raises `Invalid` for an endpoint that cannot be spoken to, and
        `missing_option` when `options` lack a value that the operator enters on both sides.
        """
        scene = _Scene(new, self._desk.drafts.provider(new))
        tables = {table.name: table for table in scene.provider.webhook.handshakes}
        checks: list[Check] = []
        for one in scene.provider.handshake_fixtures():
            if "refused" not in one.expect:
                checks += await self._handshake(scene, one, tables[one.name.partition(".")[0]])
        return [*checks, *await self._probes(scene)]

    async def _handshake(self, scene: _Scene, one: HandshakeFixture, table: Handshake) -> list[Check]:
        options = {**one.fixture.options, **scene.new.options}
        swaps = _swaps(scene, one, table)
        fixture = _with_swaps(one.fixture, swaps)
        expect = _swapped({name: value for name, value in one.expect.items() if name != "confirm_url"}, swaps)
        wanted = _Wanted(expect["status"], expect.get("text"), expect.get("json"), expect.get("headers", {}))
        if not table.verified:
            return [await self._check(scene, one.name, request_of(fixture, scene.registered_url), wanted)]
        draft = scene.draft(fixture, self._desk.drafts.secret(scene.new, options), options)
        confirm = one.expect.get("confirm_url")
        if confirm:
            self._keys.expect(confirm)
        forged, genuine = await self._both(scene, one.name, draft, wanted)
        if confirm and not genuine.problems and not await self._visited(confirm):
            genuine.problems.append("the address to confirm was not visited")
        return [forged, genuine]

    async def _probes(self, scene: _Scene) -> list[Check]:
        """Send deliveries without events, which some vendors make of a right and of a wrong signature."""
        webhook = scene.provider.webhook
        checks: list[Check] = []
        for fixture in scene.provider.fixtures():
            options = {**fixture.options, **scene.new.options}
            if traits_of(scene.provider, options).authenticated and not items_of(scene.provider, fixture, options):
                draft = scene.draft(fixture, self._desk.drafts.secret(scene.new, options), options)
                wanted = _Wanted(webhook.success_status, webhook.success_body)
                checks += await self._both(scene, fixture.name, draft, wanted)
        return checks

    async def _both(self, scene: _Scene, name: str, draft: Draft, wanted: _Wanted) -> tuple[Check, Check]:
        """Send a request with a wrong signature, then with the right one."""
        refused = _Wanted(scene.provider.webhook.refused_status)
        genuine = sign(draft, self._clock.now())
        self._keys.publish(genuine.keys)
        forged = await self._check(scene, name + _FORGED, sign(draft, self._clock.now(), "signature"), refused)
        return forged, await self._check(scene, name, genuine, wanted)

    async def _check(self, scene: _Scene, name: str, request: InboundRequest, wanted: _Wanted) -> Check:
        try:
            answer = await self._desk.ask(request, scene.new.url, deadline_s(scene.provider.webhook))
        except TimeoutError:
            return Check(name, request.method, None, [TOO_LATE])
        except httpx.HTTPError as failure:
            return Check(name, request.method, None, [type(failure).__name__])
        return Check(name, request.method, answer.status_code, list(_problems(answer, wanted)))

    async def _visited(self, url: str) -> bool:
        end = self._clock.monotonic() + CONFIRMATION_S
        while not self._keys.visited(url) and self._clock.monotonic() < end:
            await self._clock.sleep(_POLL_S)
        return self._keys.visited(url)


def _swaps(scene: _Scene, one: HandshakeFixture, table: Handshake) -> dict[str, str]:
    """Return what is different from the documented example: the endpoint's options, a new challenge, its hash."""
    resolved = scene.provider.manifest.resolve_options(scene.new.options)
    swaps: dict[str, str] = {}
    for name, example in one.fixture.options.items():
        if not resolved.get(name):
            raise Invalid("missing_option", f"{scene.provider.slug} asks for it", field=f"options.{name}")
        swaps[example] = resolved[name]
    if table.challenge is None:
        return swaps
    old = text_at(one.fixture.request({}), table.challenge)
    new = "".join(random.choice(_alphabet(char)) for char in old)
    if re.fullmatch(table.pattern, new) is None:
        return swaps
    swaps[old] = new
    if table.hmac is not None:
        swaps[_hash(table.hmac, one.secret, old)] = _hash(table.hmac, scene.new.secret.get_secret_value(), new)
    return swaps


def _alphabet(char: str) -> str:
    kinds = [letters for letters in _HEX.values() if char in letters]
    return kinds[0] if kinds else char


def _hash(how: ChallengeHash, secret: str, challenge: str) -> str:
    digest = hmac.digest(secret.encode(), challenge.encode(), how.algorithm)
    return digest.hex() if how.encoding == "hex" else base64.b64encode(digest).decode()


def _with_swaps(fixture: Fixture, swaps: Mapping[str, str]) -> Fixture:
    query = [(name, swaps.get(text, text)) for name, text in parse_qsl(fixture.query, keep_blank_values=True)]
    headers = {name: swaps.get(text, text) for name, text in fixture.headers.items()}
    try:
        document = json.loads(fixture.body)
    except ValueError:
        return replace(fixture, query=urlencode(query), headers=headers)
    changed = _swapped(document, swaps)
    body = fixture.body if changed == document else json.dumps(changed, separators=(",", ":")).encode()
    return replace(fixture, query=urlencode(query), headers=headers, body=body)


def _swapped(value: Any, swaps: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _swapped(inner, swaps) for name, inner in value.items()}
    if isinstance(value, list):
        return [_swapped(inner, swaps) for inner in value]
    return swaps.get(value, value) if isinstance(value, str) else value


def _problems(answer: httpx.Response, wanted: _Wanted) -> list[str]:
    refusal = httpx.codes.is_client_error(wanted.status)
    if refusal:
        return [] if answer.is_client_error else [f"answered {answer.status_code} to a forged request"]
    found = [] if answer.status_code == wanted.status else [f"answered {answer.status_code}, not {wanted.status}"]
    if wanted.text is not None and answer.text != wanted.text:
        found.append("the body is not the one that the vendor wants")
    if wanted.json is not None and not _is_json(answer, wanted.json):
        found.append("the JSON body is not the one that the vendor wants")
    wrong = [name for name, text in wanted.headers.items() if answer.headers.get(name) != text]
    return [*found, *(f"header {name} is not what the vendor wants" for name in wrong)]


def _is_json(answer: httpx.Response, wanted: Any) -> bool:
    try:
        return bool(answer.json() == wanted)
    except ValueError:
        return False
