"""One suite for every provider that has a folder: signing, reading, normalising, operations."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import PatchbayError
from providers import golden, registry
from providers.fixtures import EXAMPLE_URL, ApiCase, Fixture, Vector, api_cases, vectors
from providers.provider import Provider
from providers.sdk import (
    Applied,
    Declined,
    HttpRequest,
    HttpResponse,
    InboundRequest,
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

each_provider = pytest.mark.parametrize("provider", [pytest.param(p, id=p.slug) for p in PROVIDERS])
each_fixture = pytest.mark.parametrize(("provider", "fixture"), FIXTURES)


class Delivery:
    """A signed fixture with the keys of both ends."""

    def __init__(self, provider: Provider, fixture: Fixture, now: datetime = NOW, keys: KeyPair | None = None) -> None:
        self.verifier: Verifier = provider.verifier()
        self.keys = keys or self.verifier.generate()
        self.signed = self.verifier.sign(
            fixture.body,
            url=EXAMPLE_URL,
            secret=self.keys.signing,
            now=now,
            content_type=fixture.content_type,
            message_id=fixture.message_id,
        )
        self.request = fixture.request(self.signed)

    @property
    def signature_headers(self) -> list[str]:
        return [name.lower() for name in self.signed if name.lower() != "content-type"]

    def verify(self, request: InboundRequest | None = None, *others: Secret) -> Verified:
        secrets = [*others, Secret("current", self.keys.verifying)]
        return self.verifier.verify(request or self.request, secrets, NOW)

    def with_header(self, name: str, values: list[str]) -> InboundRequest:
        return replace(self.request, headers={**self.request.headers, name: values})


@pytest.mark.parametrize(("provider", "vector"), VECTORS)
def test_published_vectors(provider: Provider, vector: Vector) -> None:
    secrets = [Secret("published", vector.secret)]
    if vector.valid:
        assert provider.verifier().verify(vector.request, secrets, vector.now).key_id == "published"
    else:
        with pytest.raises(Refused):
            provider.verifier().verify(vector.request, secrets, vector.now)


@each_fixture
def test_what_is_signed_verifies_and_names_its_headers(provider: Provider, fixture: Fixture) -> None:
    delivery = Delivery(provider, fixture)
    verified = delivery.verify()
    assert verified.key_id == "current"
    assert {name for name, _ in verified.signed_headers} == set(delivery.signature_headers)
    again = replace(
        delivery.request,
        headers={n: [v] for n, v in verified.signed_headers} | {"content-type": [fixture.content_type]},
    )
    assert delivery.verify(again).key_id == "current"


@each_fixture
def test_second_secret_matches_and_is_named(provider: Provider, fixture: Fixture) -> None:
    delivery = Delivery(provider, fixture)
    old = Secret("old", delivery.verifier.generate().verifying)
    assert delivery.verify(None, old).key_id == "current"


@each_provider
def test_wrong_secret_is_refused(provider: Provider) -> None:
    delivery = Delivery(provider, provider.fixtures()[0])
    other = Secret("other", delivery.verifier.generate().verifying)
    with pytest.raises(Refused) as refused:
        delivery.verifier.verify(delivery.request, [other], NOW)
    assert refused.value.reason == "bad_signature"


@each_provider
@pytest.mark.parametrize("secrets", [[], [Secret("empty", "")]], ids=["none", "empty"])
def test_without_a_secret_the_door_is_shut(provider: Provider, secrets: list[Secret]) -> None:
    delivery = Delivery(provider, provider.fixtures()[0])
    with pytest.raises(Refused) as refused:
        delivery.verifier.verify(delivery.request, secrets, NOW)
    assert refused.value.reason == "no_secret"


@each_fixture
@pytest.mark.parametrize("place", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_tampered_body_is_refused(provider: Provider, fixture: Fixture, place: float) -> None:
    delivery = Delivery(provider, fixture)
    at = int(place * (len(fixture.body) - 1))
    body = bytearray(fixture.body)
    body[at] ^= 1
    with pytest.raises(Refused):
        delivery.verify(replace(delivery.request, body=bytes(body)))


@each_fixture
def test_truncated_and_extended_bodies_are_refused(provider: Provider, fixture: Fixture) -> None:
    delivery = Delivery(provider, fixture)
    for body in (fixture.body[:-1], b"", fixture.body + b"x", b"x" + fixture.body):
        with pytest.raises(Refused):
            delivery.verify(replace(delivery.request, body=body))


@each_provider
@pytest.mark.parametrize("direction", [-1, 1], ids=["stale", "future"])
def test_replay_window_has_two_ends(provider: Provider, direction: int) -> None:
    fixture = provider.fixtures()[0]
    window = provider.default_options.get("tolerance_s") or getattr(provider.webhook.signature, "tolerance_s", None)
    if window is None:
        assert Delivery(provider, fixture).verify().signed_at is None
        return
    inside = Delivery(provider, fixture, NOW + direction * timedelta(seconds=int(window)))
    assert inside.verify().signed_at == NOW + direction * timedelta(seconds=int(window))
    outside = Delivery(provider, fixture, NOW + direction * timedelta(seconds=int(window) + 1))
    with pytest.raises(Refused) as refused:
        outside.verify()
    assert refused.value.reason == ("stale_timestamp" if direction < 0 else "future_timestamp")


@each_provider
def test_missing_repeated_and_empty_headers_are_refused(provider: Provider) -> None:
    delivery = Delivery(provider, provider.fixtures()[0])
    for name in delivery.signature_headers:
        value = delivery.request.headers[name][0]
        for values in ([], [""], [value, value]):
            with pytest.raises(Refused):
                delivery.verify(delivery.with_header(name, values))
    bare = {name: values for name, values in delivery.request.headers.items() if name not in delivery.signature_headers}
    with pytest.raises(Refused) as refused:
        delivery.verify(replace(delivery.request, headers=bare))
    assert refused.value.reason == "missing_signature"


@each_provider
def test_damaged_headers_are_refused(provider: Provider) -> None:
    delivery = Delivery(provider, provider.fixtures()[0])
    for name in delivery.signature_headers:
        value = delivery.request.headers[name][0]
        for damaged in (value[:-1], value + "0", value + "é", "\u2603" + value, value.swapcase(), "é", "=", ",", "v1,"):
            if damaged == value:
                continue
            with pytest.raises(Refused):
                delivery.verify(delivery.with_header(name, [damaged]))


@each_provider
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_request_is_verified_or_refused(provider: Provider, data: st.DataObject) -> None:
    delivery = Delivery(provider, provider.fixtures()[0])
    texts = st.one_of(
        st.text(max_size=80), st.sampled_from([delivery.request.headers[n][0] for n in delivery.signature_headers])
    )
    headers = {
        name: data.draw(st.lists(texts, max_size=2), label=name)
        for name in [*delivery.signature_headers, *_known_headers(provider), "content-type"]
    }
    request = replace(delivery.request, headers=headers, body=data.draw(st.binary(max_size=200), label="body"))
    try:
        delivery.verify(request)
    except Refused:
        return
    pytest.fail("a request nobody signed was accepted")


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
    fixture = provider.fixtures()[0]
    delivery = Delivery(provider, fixture)
    try:
        for item in provider.split(replace(delivery.request, body=body)):
            provider.normalise(item.event_type, item.data)
    except PatchbayError as error:
        code = error.code
    else:
        return
    assert code in {"undecodable_body", "unreadable_payload"}


@each_fixture
def test_dedupe_id_survives_a_new_signature(provider: Provider, fixture: Fixture) -> None:
    first = Delivery(provider, fixture)
    retry = Delivery(provider, fixture, NOW + timedelta(seconds=90))
    assert [i.event_id for i in provider.split(first.request)] == [i.event_id for i in provider.split(retry.request)]


@each_provider
def test_events_of_different_fixtures_have_different_ids(provider: Provider) -> None:
    ids = [item.event_id for f in provider.fixtures() for item in provider.split(Delivery(provider, f).request)]
    assert len(ids) == len(set(ids)) > 0


@each_fixture
def test_golden_reading(provider: Provider, fixture: Fixture) -> None:
    expected = json.loads(golden.path_of(provider.folder, fixture).read_text(encoding="utf-8"))
    assert golden.reading(provider, fixture) == expected


@each_provider
def test_undecodable_bodies_are_named(provider: Provider) -> None:
    delivery = Delivery(provider, provider.fixtures()[0])
    headers = {**delivery.request.headers, "content-type": ["application/json"]}
    with pytest.raises(PatchbayError) as error:
        provider.split(replace(delivery.request, headers=headers, body=b'{"a":'))
    assert error.value.code == "undecodable_body"


@each_provider
def test_generated_secret_is_acceptable_and_an_empty_one_is_not(provider: Provider) -> None:
    name = provider.webhook.secret
    others = {n: spec.prefix + "x" for n, spec in provider.manifest.secrets.items() if spec.required and n != name}
    provider.check_secrets({**others, name: provider.verifier().generate().verifying})
    with pytest.raises(PatchbayError) as error:
        provider.check_secrets({**others, name: ""})
    assert error.value.code == "bad_secret"
    with pytest.raises(PatchbayError) as error:
        provider.check_secrets(others | {"no_such_secret": "x"})
    assert error.value.code == "unknown_secret"


@pytest.mark.parametrize(("provider", "case"), CASES)
def test_operation_builds_the_documented_request(provider: Provider, case: ApiCase) -> None:
    operations = provider.operations(case.operation_name)
    request = operations.build(case.operation, case.account)
    assert _as_json(request) == dict(case.request)
    assert request == operations.build(case.operation, case.account)
    spec = provider.manifest.operation(case.operation_name)
    assert spec is not None
    _check_idempotency(spec.idempotency.kind, spec.idempotency.name, spec.idempotency.max_length, request)


@pytest.mark.parametrize(("provider", "case"), CASES)
def test_operation_reads_the_documented_answers(provider: Provider, case: ApiCase) -> None:
    operations = provider.operations(case.operation_name)
    for response, expected in case.responses:
        assert _outcome(lambda response=response: operations.parse(response)) == expected


@pytest.mark.parametrize(("provider", "case"), CASES)
def test_operation_is_read_back(provider: Provider, case: ApiCase) -> None:
    operations = provider.operations(case.operation_name)
    spec = provider.manifest.operation(case.operation_name)
    request = operations.read_back(case.operation, case.account)
    assert spec is not None
    assert (request is not None) == spec.read_back
    assert (_as_json(request) if request else None) == (dict(case.read_back) if case.read_back else None)
    for response, expected in case.read_back_responses:
        found = _outcome(lambda response=response: operations.parse_read_back(case.operation, response))
        assert found == expected


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
    for read in (lambda: operations.parse(response), lambda: operations.parse_read_back(case.operation, response)):
        outcome = _outcome(read)
        assert outcome is None or set(outcome) <= {"applied", "declined", "raises"}


def _known_headers(provider: Provider) -> list[str]:
    table = provider.webhook.signature.model_dump()
    return [str(value).lower() for name, value in table.items() if name.endswith("header") and value]


def _as_json(request: HttpRequest) -> dict[str, Any]:
    """Return a request as the fixtures write it: absent parts left out."""
    values = json.loads(json.dumps(asdict(request)))
    always = {"method", "path", "headers"}
    return {name: value for name, value in values.items() if name in always or value}


def _outcome(read: Any) -> Any:
    try:
        outcome = read()
    except PatchbayError as error:
        return {"raises": error.code}
    if isinstance(outcome, Applied):
        return {"applied": {"provider_ref": outcome.provider_ref, "result": dict(outcome.result)}}
    if isinstance(outcome, Declined):
        assert outcome.detail
        return {"declined": {"code": outcome.code}}
    return None


def _check_idempotency(kind: str, name: str, max_length: int | None, request: HttpRequest) -> None:
    if kind == "none":
        return
    place = request.headers if kind == "header" else request.json or request.form or {}
    key = place[name]
    assert len(key) <= (max_length or 255)
