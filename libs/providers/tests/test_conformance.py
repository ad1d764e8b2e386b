"""One suite for every provider that has a folder: signing, reading, normalising, operations."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import PatchbayError
from providers import conformance, golden, registry
from providers.fixtures import ApiCase, Fixture, Vector, api_cases, vectors
from providers.outbound_conformance import checks, outcome
from providers.provider import Provider
from providers.sdk import (
    HttpResponse,
    InboundRequest,
    KeyNeeded,
    KeyPair,
    Refused,
    Secret,
    Verified,
    Verifier,
)

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)

PROVIDERS = [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]
VECTORS = [pytest.param(p, v, id=f"{p.slug}-{v.id}") for p in PROVIDERS for v in vectors(p.folder)]
FIXTURES = [pytest.param(p, f, id=f"{p.slug}-{f.name}") for p in PROVIDERS for f in p.fixtures()]
CASES = [pytest.param(p, c, id=f"{p.slug}-{c.name}") for p in registry.all_providers() for c in api_cases(p.folder)]

VARIANTS = [pytest.param(p, v, id="-".join([p.slug, *v.values()])) for p in PROVIDERS for v in conformance.variants(p)]
each_provider = pytest.mark.parametrize("provider", [pytest.param(p, id=p.slug) for p in PROVIDERS])
each_fixture = pytest.mark.parametrize(("provider", "fixture"), FIXTURES)


@lru_cache(maxsize=256)
def keys_of(provider: Provider, options: tuple[tuple[str, str], ...]) -> KeyPair:
    """Return one key pair for a provider and options: making RSA keys for every test would take minutes."""
    return provider.verifier(dict(options)).generate()


class Delivery:
    """A signed fixture with the keys of both ends."""

    def __init__(self, provider: Provider, fixture: Fixture, now: datetime = NOW) -> None:
        self.options = {**(conformance.variants(provider)[0] if not fixture.options else {}), **fixture.options}
        self.verifier: Verifier = provider.verifier(self.options)
        self.keys = keys_of(provider, tuple(sorted(self.options.items())))
        self.request = provider.sign(
            fixture.request({}),
            secret=self.keys.signing,
            now=now,
            message_id=fixture.message_id,
            options=self.options,
        )

    def verify(self, request: InboundRequest | None = None, *others: Secret) -> Verified:
        secrets = [*others, Secret("current", self.keys.verifying)]
        return self.verifier.verify(request or self.request, secrets, NOW)


def fixture_of(provider: Provider) -> Fixture:
    return conformance.fixtures_for(provider, conformance.variants(provider)[0])[0]


@lru_cache(maxsize=256)
def delivery_of(provider: Provider) -> Delivery:
    """One signed delivery of a provider: making keys for every example of a property would take minutes."""
    return Delivery(provider, fixture_of(provider))


def authenticated(provider: Provider) -> bool:
    traits = provider.traits(conformance.variants(provider)[0])
    return traits is None or traits.authenticated


@pytest.mark.parametrize(("provider", "vector"), VECTORS)
def test_published_vectors(provider: Provider, vector: Vector) -> None:
    secrets = [Secret("published", vector.secret)]
    verifier = provider.verifier(vector.options)
    if vector.valid:
        assert verifier.verify(vector.request, secrets, vector.now).key_id in {"published", "unauthenticated"}
    else:
        with pytest.raises(Refused):
            verifier.verify(vector.request, secrets, vector.now)


@pytest.mark.parametrize(("provider", "options"), VARIANTS)
def test_every_case_conforms(provider: Provider, options: dict[str, str]) -> None:
    found = list(conformance.cases(provider, options))
    cases = [case for case in found if isinstance(case, conformance.Case)]
    assert [text for case in cases if (text := conformance.failure(case, provider))] == []
    assert "accept" in {case.name for case in cases}
    names = [one.name for one in found]
    assert len(names) == len(set(names))
    assert all(one.why for one in found if isinstance(one, conformance.Exemption))


@each_fixture
def test_what_is_signed_verifies_and_names_its_headers(provider: Provider, fixture: Fixture) -> None:
    delivery = Delivery(provider, fixture)
    verified = delivery.verify()
    assert verified.key_id in {"current", "unauthenticated"}
    assert all(dict(delivery.request.headers)[name][0] == text for name, text in verified.signed_headers)
    traits = provider.traits(delivery.options)
    if traits is None or traits.covers != "body":
        return
    again = replace(
        delivery.request,
        headers={n: [v] for n, v in verified.signed_headers} | {"content-type": [fixture.content_type]},
    )
    assert delivery.verify(again).key_id == "current"


@each_fixture
def test_second_secret_matches_and_is_named(provider: Provider, fixture: Fixture) -> None:
    delivery = Delivery(provider, fixture)
    old = Secret("old", delivery.verifier.generate().verifying)
    traits = provider.traits(delivery.options)
    decides = traits is None or (traits.authenticated and traits.secret_decides)
    assert delivery.verify(None, old).key_id == ("current" if decides else delivery.verify(None, old).key_id)


@each_provider
@pytest.mark.parametrize("secrets", [[], [Secret("empty", "")]], ids=["none", "empty"])
def test_without_a_secret_the_door_is_shut(provider: Provider, secrets: list[Secret]) -> None:
    if not authenticated(provider):
        return
    delivery = Delivery(provider, fixture_of(provider))
    with pytest.raises(Refused) as refused:
        delivery.verifier.verify(delivery.request, secrets, NOW)
    assert refused.value.reason in ({"no_secret"} if not secrets else {"no_secret", "bad_signature"})


@each_fixture
@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_tampered_body_is_refused(provider: Provider, fixture: Fixture, place: float) -> None:
    delivery = Delivery(provider, fixture)
    traits = provider.traits(delivery.options)
    if not fixture.body or traits is None or traits.covers != "body":
        return
    body = bytearray(delivery.request.body)
    body[int(place * (len(body) - 1))] ^= 1
    with pytest.raises(Refused):
        delivery.verify(replace(delivery.request, body=bytes(body)))


@each_provider
@pytest.mark.parametrize("direction", [-1, 1], ids=["stale", "future"])
def test_the_ends_of_the_window_are_inside(provider: Provider, direction: int) -> None:
    fixture = fixture_of(provider)
    traits = provider.traits(Delivery(provider, fixture).options)
    window = None if traits is None else traits.stale_after_s if direction < 0 else traits.future_after_s
    if window is None:
        return
    at = NOW + direction * timedelta(seconds=window)
    assert Delivery(provider, fixture, at).verify().signed_at == at


@each_provider
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_request_is_verified_or_refused(provider: Provider, data: st.DataObject) -> None:
    if not authenticated(provider):
        return
    delivery = delivery_of(provider)
    known = [text for name, (text,) in delivery.request.headers.items() if name != "content-type"]
    texts = st.one_of(st.text(max_size=80), st.sampled_from([*known, "Bearer a.b.c", "Basic YTpi"]))
    headers = {
        name: data.draw(st.lists(texts, max_size=2), label=name)
        for name in [*delivery.request.headers, "authorization"]
    }
    request = replace(
        delivery.request,
        headers=headers,
        query_string=data.draw(st.text(max_size=20), label="query"),
        body=data.draw(st.binary(max_size=200), label="body"),
    )
    try:
        delivery.verify(request)
    except Refused:
        return
    except KeyNeeded as needed:
        pinned = re.fullmatch(needed.request.pinned, needed.request.url)
    else:
        pinned = None
    if pinned is not None:
        return
    genuine = {name: text for name, (text,) in delivery.request.headers.items() if name != "content-type"}
    traits = provider.traits(delivery.options)
    assert traits is not None
    assert traits.covers == "nothing"
    assert all(headers[name] == [text] for name, text in genuine.items() if name in str(traits.places).lower())


@each_provider
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["id", "type", "data", "object"]) | st.text(max_size=8), inner, max_size=4
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_body_is_read_or_named_invalid(provider: Provider, body: bytes) -> None:
    delivery = delivery_of(provider)
    try:
        for item in provider.split(replace(delivery.request, body=body), delivery.options):
            provider.normalise(item.event_type, item.data)
    except PatchbayError as error:
        code = error.code
    else:
        return
    assert code in {"undecodable_body", "unreadable_payload"}


@each_fixture
def test_dedupe_id_survives_a_new_signature(provider: Provider, fixture: Fixture) -> None:
    sent = [Delivery(provider, fixture, at) for at in (NOW, NOW + timedelta(seconds=90))]
    items = [provider.split(one.request, one.options) for one in sent]
    traits = provider.traits(sent[0].options)
    for first, retry in zip(*items, strict=True):
        # A body that holds its own time or signature has another digest each time, and no better identity.
        by_digest = first.event_id.endswith(hashlib.sha256(first.data).hexdigest())
        assert first.event_id == retry.event_id or (by_digest and traits is not None and traits.reads_body)


@each_provider
def test_events_of_different_fixtures_have_different_ids(provider: Provider) -> None:
    sent = [Delivery(provider, fixture) for fixture in provider.fixtures()]
    ids = [item.event_id for one in sent for item in provider.split(one.request, one.options)]
    assert len(ids) == len(set(ids)) > 0


@each_fixture
def test_golden_reading(provider: Provider, fixture: Fixture) -> None:
    expected = json.loads(golden.path_of(provider.folder, fixture).read_text(encoding="utf-8"))
    assert golden.reading(provider, fixture) == expected


@each_provider
def test_undecodable_bodies_are_named(provider: Provider) -> None:
    if "json" not in provider.webhook.formats:
        return
    delivery = delivery_of(provider)
    headers = {**delivery.request.headers, "content-type": ["application/json"]}
    with pytest.raises(PatchbayError) as error:
        provider.split(replace(delivery.request, headers=headers, body=b'{"a":'), delivery.options)
    assert error.value.code == "undecodable_body"


@pytest.mark.parametrize(("provider", "options"), VARIANTS)
def test_generated_secret_is_acceptable_and_an_empty_one_is_not(provider: Provider, options: dict[str, str]) -> None:
    name = provider.webhook.secret
    if name not in provider.manifest.secrets:
        return
    others = {n: spec.prefix + "x" for n, spec in provider.manifest.secrets.items() if spec.required and n != name}
    provider.check_secrets({**others, name: provider.verifier(options).generate().verifying}, options)
    with pytest.raises(PatchbayError) as error:
        provider.check_secrets({**others, name: ""}, options)
    assert error.value.code == "bad_secret"
    with pytest.raises(PatchbayError) as error:
        provider.check_secrets(others | {"no_such_secret": "x"}, options)
    assert error.value.code == "unknown_secret"


@pytest.mark.parametrize("provider", [p for p in registry.all_providers() if p.manifest.operations], ids=repr)
def test_operations_conform(provider: Provider) -> None:
    found = [one for one in checks(provider) if one.problem is not None]
    assert not found, "\n".join(f"{one.operation} {one.name}: {one.problem}" for one in found)


@pytest.mark.parametrize(("provider", "case"), CASES)
@settings(max_examples=40, deadline=None)
@given(
    status=st.sampled_from([200, 201, 400, 404, 409]),
    answer=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "error", "errors", "code", "data", "messages", "refund", "sid"]),
                inner,
                max_size=4,
            )
        ),
    ),
)
def test_any_answer_is_read_or_named(provider: Provider, case: ApiCase, status: int, answer: Any) -> None:
    operations = provider.operations(case.operation_name)
    response = HttpResponse(status, {}, answer)
    for read in (
        lambda: operations.parse(case.arguments, response),
        lambda: operations.parse_read_back(case.arguments, response),
    ):
        found = outcome(read)
        assert found is None or set(found) <= {"applied", "declined", "raises"}
