"""Conformance cases of a provider: what must be accepted, refused and answered, as requests anyone can send.

Used in process by tests and `tools/providers_check`, and against a live endpoint by the CLI. Production paths never
call this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from contracts.errors import Invalid
from contracts.events.gateway import RejectionReason
from providers import mutations
from providers.fixtures import EXAMPLE_URL, Fixture, HandshakeFixture
from providers.manifest import ChoiceSignature, Handshake, MtlsSignature, NoSignature
from providers.provider import Provider
from providers.sdk import HandshakeReply, InboundRequest, KeyNeeded, KeyPair, Refused, Secret
from providers.signing import Traits

NOW: Final = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HANDSHAKE_REFUSED: Final = 403
_NON_UTF8: Final = b'\xff\xfe{"id":1}'
_CLIENT_HEADER: Final = "X-Client-Certificate"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a receiver must do: `status`, and what else is not None. `json` is compared by value, `headers` as a part.

    `reason` is not visible from outside: only a run in process can tell it.
    """

    status: int
    reason: RejectionReason | None = None
    text: str | None = None
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    confirm_url: str | None = None
    learned: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One request and what must become of it, at an endpoint with these secrets and options, at `now`.

    `live` says that it can also be sent to a deployment whose endpoint has the first secret.
    """

    name: str
    request: InboundRequest
    expect: Expectation
    secrets: tuple[Secret, ...] = field(repr=False)
    now: datetime
    options: Mapping[str, str]
    live: bool = True


@dataclass(frozen=True, slots=True)
class Exemption:
    """A case that a provider's scheme cannot have, and why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver that follows the manifest does with a request; `reason` is None when it was accepted."""

    status: int
    reason: RejectionReason | None
    reply: HandshakeReply | None = None


def answer(case: Case, provider: Provider) -> Answer:
    """Return what the provider's own code does with a case: the reference for every receiver."""
    webhook, request = provider.webhook, case.request
    try:
        reply = provider.handshake(request, case.secrets, case.options, case.now)
        if reply is not None:
            return Answer(reply.status, None, reply)
        provider.verifier(case.options).verify(request, case.secrets, case.now)
    except Refused as refused:
        status = HANDSHAKE_REFUSED if refused.reason == "handshake_refused" else webhook.refused_status
        return Answer(status, refused.reason)
    except KeyNeeded as needed:
        # A set that was fetched and still lacks the key settles it: nobody known signed this.
        known = needed.request.name in request.keys
        return Answer(webhook.refused_status, "bad_signature") if known else Answer(503, "key_unavailable")
    return Answer(webhook.success_status, None)


def failure(case: Case, provider: Provider) -> str | None:
    """Run a case in process; return what is wrong, None when it conforms."""
    found, wanted = answer(case, provider), case.expect
    if found.status != wanted.status:
        return f"{case.name}: answered {found.status} ({found.reason}), expected {wanted.status}"
    if wanted.reason is not None and found.reason != wanted.reason:
        return f"{case.name}: refused for {found.reason}, expected {wanted.reason}"
    if found.reply is None:
        wrong = [] if wanted.text is None and wanted.json is None else ["no handshake was recognised"]
    else:
        wrong = mismatches(wanted, found.reply.body, dict(found.reply.headers))
        wrong += [] if found.reply.confirm_url == wanted.confirm_url else ["the address to confirm differs"]
        wrong += [] if found.reply.learned_secret == wanted.learned else ["the learned code differs"]
    return f"{case.name}: {', '.join(wrong)}" if wrong else None


def mismatches(wanted: Expectation, body: bytes, headers: Mapping[str, str]) -> list[str]:
    """Return how an answer's body and headers (lower-case names) differ from what is expected of them."""
    wrong: list[str] = []
    if wanted.text is not None and body != wanted.text.encode():
        wrong.append("the body differs")
    if wanted.json is not None:
        try:
            wrong += [] if json.loads(body) == wanted.json else ["the JSON body differs"]
        except ValueError:
            wrong.append("the body is no JSON")
    wrong += [f"header {name} differs" for name, text in wanted.headers.items() if headers.get(name.lower()) != text]
    return wrong


def variants(provider: Provider) -> list[dict[str, str]]:
    """Return the options under which a provider's scheme is tried: one set for each choice that it offers."""
    signature = provider.webhook.signature
    if isinstance(signature, ChoiceSignature):
        found = []
        for name, table in signature.schemes.items():
            extra = {table.header_option: _CLIENT_HEADER} if isinstance(table, MtlsSignature) else {}
            extra |= {table.accept_option: "yes"} if isinstance(table, NoSignature) else {}
            found.append({signature.option: name, **extra})
        return found
    if isinstance(signature, MtlsSignature):
        return [{signature.header_option: _CLIENT_HEADER}]
    return [{signature.accept_option: "yes"}] if isinstance(signature, NoSignature) else [{}]


def fixtures_for(provider: Provider, options: Mapping[str, str]) -> list[Fixture]:
    """Return the fixtures that these options allow, those made for them first."""
    fitting = [
        one for one in provider.fixtures() if all(one.options.get(name, text) == text for name, text in options.items())
    ]
    return sorted(fitting, key=lambda one: -len(set(one.options.items()) & set(options.items())))


def cases(
    provider: Provider,
    options: Mapping[str, str] | None = None,
    *,
    keys: KeyPair | None = None,
    url: str = EXAMPLE_URL,
    now: datetime = NOW,
    margin_s: float = 1,
) -> Iterator[Case | Exemption]:
    """Yield the cases of a provider, and for those that do not apply the reason.

    `keys` are the endpoint's, fresh ones by default; `margin_s` is how far outside of the window stale and future
    deliveries are, which for a live endpoint must exceed the difference of the clocks.
    """
    traits = provider.traits(options)
    chosen = dict(options or {})
    suite = _Suite(provider, chosen, traits, keys=keys or provider.verifier(chosen).generate(), url=url, now=now)
    yield from suite.handshakes()
    if traits is None:
        yield Exemption("all but accept, wrong_key and handshakes", "the folder's own code verifies: see its tests")
    yield suite.accept()
    if traits is not None and not traits.authenticated:
        yield Exemption("all refusals", "nothing is verified: the endpoint opted in to unauthenticated deliveries")
        yield suite.not_opted_in()
        return
    yield from suite.keys()
    if traits is not None:
        yield from suite.ages(margin_s)
        yield from suite.bodies()
        yield from suite.signatures()
        yield from suite.fetched_keys()


class _Suite:
    def __init__(
        self,
        provider: Provider,
        options: Mapping[str, str],
        traits: Traits | None,
        *,
        keys: KeyPair,
        url: str,
        now: datetime,
    ) -> None:
        self._provider = provider
        self._options = {**options}
        self._keys = keys
        self._url = url
        self._now = now
        self._traits = traits or Traits("body", ())
        self._fixture = fixtures_for(provider, options)[0]
        self._options |= {name: text for name, text in self._fixture.options.items() if name not in self._options}
        self._live = not self._traits.fetches
        self._genuine = self._signed()

    def _signed(
        self, keys: KeyPair | None = None, now: datetime | None = None, body: bytes | None = None
    ) -> InboundRequest:
        draft = self._fixture.request({}, self._url)
        return self._provider.sign(
            draft if body is None else replace(draft, body=body),
            secret=(keys or self._keys).signing,
            now=now or self._now,
            message_id=self._fixture.message_id,
            options=self._options,
        )

    def _case(self, name: str, request: InboundRequest, reason: RejectionReason | None, **over: Any) -> Case:
        webhook = self._provider.webhook
        refused = bool(over.pop("refused", reason is not None))
        expect = Expectation(webhook.refused_status if refused else webhook.success_status, reason)
        secrets = (Secret("current", self._keys.verifying),)
        values = {"secrets": secrets, "now": self._now, "options": self._options, "live": self._live}
        return Case(name, request, expect, **{**values, **over})

    def _refused(self, name: str, request: InboundRequest) -> Case:
        return self._case(name, request, None, refused=True)

    def accept(self) -> Case:
        return self._case("accept", self._genuine, None)

    def not_opted_in(self) -> Case:
        return self._case("not_opted_in", self._genuine, "no_secret", options={}, live=False)

    def keys(self) -> Iterator[Case | Exemption]:
        yield self._case("no_secret", self._genuine, "no_secret", secrets=(), live=False)
        if not self._traits.secret_decides:
            for name in ("wrong_key", "old_key_in_overlap", "new_key_in_overlap"):
                yield Exemption(name, "the sender's keys decide; the secret only opens the way to them")
            return
        other = self._provider.verifier(self._options).generate()
        yield self._case("wrong_key", self._signed(other), "bad_signature")
        both = (Secret("current", self._keys.verifying), Secret("previous", other.verifying))
        yield self._case("old_key_in_overlap", self._signed(other), None, secrets=both, live=False)
        yield self._case("new_key_in_overlap", self._genuine, None, secrets=both[::-1], live=False)

    def ages(self, margin_s: float) -> Iterator[Case | Exemption]:
        stale, future = self._traits.stale_after_s, self._traits.future_after_s
        if stale is None or future is None:
            why = "the scheme bounds no time; the memory of event ids is the protection"
            yield Exemption("stale", why)
            yield Exemption("future", why)
            return
        late = self._now - timedelta(seconds=stale + margin_s)
        early = self._now + timedelta(seconds=future + margin_s)
        yield self._case("stale", self._signed(now=late), "stale_timestamp")
        yield self._case("future", self._signed(now=early), "future_timestamp")

    def bodies(self) -> Iterator[Case | Exemption]:
        names = ("tampered_body", "truncated_body", "extended_body", "reserialised_body")
        if self._traits.covers == "nothing":
            for name in names:
                yield Exemption(name, "the scheme proves the sender and covers nothing of the body")
        elif self._traits.covers == "fields":
            field_ = self._traits.fields[0]
            yield self._case("tampered_body", mutations.with_field(self._genuine, field_), "bad_signature")
            yield self._refused("truncated_body", replace(self._genuine, body=self._genuine.body[:-1]))
            for name in names[2:]:
                yield Exemption(name, "the scheme covers the values of fields, not the body's bytes")
        else:
            yield from self._covered_bodies()
        yield self._non_utf8()

    def _covered_bodies(self) -> Iterator[Case | Exemption]:
        body = self._genuine.body
        yield self._refused("tampered_body", replace(self._genuine, body=mutations.flipped(body)))
        yield self._refused("truncated_body", replace(self._genuine, body=body[:-1]))
        yield self._refused("extended_body", replace(self._genuine, body=body + b" "))
        other = mutations.reserialised(self._genuine)
        if other is None:
            yield Exemption("reserialised_body", "the deliveries are no JSON")
        else:
            yield self._case("reserialised_body", other, "bad_signature")

    def _non_utf8(self) -> Case:
        """Return a body that is no text: the provider's word as well, accepted when it verifies, and kept unread."""
        try:
            request = self._signed(body=_NON_UTF8)
        except (Refused, Invalid, ValueError):
            return self._refused("non_utf8_body", replace(self._genuine, body=_NON_UTF8))
        return self._case("non_utf8_body", request, None, refused=self._traits.reads_body)

    def signatures(self) -> Iterator[Case | Exemption]:
        place = self._signature_place()
        text = mutations.text_at(self._genuine, place)
        for name, damage in mutations.DAMAGES.items():
            yield self._refused(name, mutations.with_text(self._genuine, place, damage(text)))
        yield self._case("missing_signature", mutations.without(self._genuine, place), "missing_signature")
        header = mutations.header_of(place)
        if header is None:
            for name in ("duplicated_signature", "shadowed_signature"):
                yield Exemption(name, f"the signature is no header: it is at {place}")
            return
        twice = mutations.with_header(self._genuine, header, [text, text])
        yield self._case("duplicated_signature", twice, "malformed_signature")
        yield self._case("shadowed_signature", mutations.shadowed(self._genuine, header), "missing_signature")

    def _signature_place(self) -> str:
        place = self._traits.places[0]
        for name, text in {**self._provider.default_options, **self._options}.items():
            place = place.replace(f"{{{name}}}", text)
        return place

    def fetched_keys(self) -> Iterator[Case]:
        if not self._traits.fetches:
            return
        own = json.loads(self._keys.signing)
        other = {**json.loads(self._provider.verifier(self._options).generate().signing)}
        forged = KeyPair(json.dumps({**own, "key": other["key"]}), self._keys.verifying)
        request = replace(self._signed(forged), keys=self._genuine.keys)
        yield self._case("foreign_key", request, "bad_signature")
        unknown = Expectation(503, "key_unavailable")
        yield replace(self._case("key_not_fetched", replace(self._genuine, keys={}), None), expect=unknown)
        if self._traits.key_place is not None:
            elsewhere = mutations.with_text(self._genuine, self._traits.key_place, "https://keys.example.net/key.pem")
            yield self._case("key_from_elsewhere", elsewhere, "malformed_signature")

    def handshakes(self) -> Iterator[Case]:
        tables = {table.name: table for table in self._provider.webhook.handshakes}
        for one in self._provider.handshake_fixtures():
            table = tables.get(one.name.partition(".")[0])
            if table is not None and all(one.fixture.options.get(k, v) == v for k, v in self._options.items()):
                yield from self._handshake(one, table)

    def _handshake(self, one: HandshakeFixture, table: Handshake) -> Iterator[Case]:
        keys = KeyPair(one.secret, one.secret) if one.secret else self._keys
        options = {**self._options, **one.fixture.options}
        request = one.fixture.request({}, self._url)
        own = {
            "secrets": (Secret("current", keys.verifying),),
            "options": options,
            "live": self._live and not one.secret,
        }
        if table.verified:
            other = self._provider.verifier(options).generate()
            forged = self._handshake_signed(one, request, other, options)
            yield self._case(f"handshake_{one.name}_wrong_key", forged, "bad_signature", **own)
            request = self._handshake_signed(one, request, keys, options)
        if table.token is not None:
            guess = mutations.with_text(request, table.token.place, "guess")
            wanted = Expectation(HANDSHAKE_REFUSED, "handshake_refused")
            yield replace(self._case(f"handshake_{one.name}_wrong_token", guess, None, **own), expect=wanted)
        yield replace(self._case(f"handshake_{one.name}", request, None, **own), expect=self._wanted(one))

    def _handshake_signed(
        self, one: HandshakeFixture, request: InboundRequest, keys: KeyPair, options: Mapping[str, str]
    ) -> InboundRequest:
        message_id = one.fixture.message_id
        return self._provider.sign(request, secret=keys.signing, now=self._now, message_id=message_id, options=options)

    def _wanted(self, one: HandshakeFixture) -> Expectation:
        expect = dict(one.expect)
        if "refused" in expect:
            return Expectation(HANDSHAKE_REFUSED, expect["refused"])
        return Expectation(**expect)
