"""Every behaviour against the requests that provider code builds, and what provider code reads from its answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import httpx
import pytest

from providers import registry
from providers.fixtures import ApiCase, api_cases
from providers.outbound_conformance import NOW, golden
from providers.provider import Provider
from providers.sdk import Account, Applied, HttpRequest, HttpResponse
from sandbox.app import Sandbox

pytestmark = pytest.mark.asyncio

Asker = Callable[[Provider, HttpRequest], Coroutine[Any, Any, httpx.Response]]
CASES = [
    pytest.param(provider, case, id=f"{provider.slug}-{case.name}")
    for provider in registry.all_providers()
    for case in api_cases(provider.folder)
]
PROBED = [provider for provider in registry.all_providers() if provider.manifest.health is not None]


def writes(provider: Provider, case: ApiCase) -> bool:
    spec = provider.manifest.operation(case.operation_name)
    return spec is not None and spec.writes


def read(answer: httpx.Response) -> HttpResponse:
    return HttpResponse(answer.status_code, dict(answer.headers), answer.json())


@pytest.mark.parametrize(("provider", "case"), CASES)
async def test_operation_is_applied_as_the_provider_code_expects(
    provider: Provider, case: ApiCase, ask: Asker, sandbox: Sandbox
) -> None:
    operations = provider.operations(case.operation_name)
    applied = operations.parse(case.arguments, read(await ask(provider, golden(provider, case))))
    assert isinstance(applied, Applied)
    made = [(provider.slug, case.operation_name, applied.provider_ref)] if writes(provider, case) else []
    assert [(one.provider, one.operation, one.ref) for one in sandbox.world.effects] == made


@pytest.mark.parametrize(("provider", "case"), CASES)
async def test_repeated_request_has_a_second_effect_only_without_idempotency(
    provider: Provider, case: ApiCase, ask: Asker, sandbox: Sandbox
) -> None:
    spec = provider.manifest.operation(case.operation_name)
    assert spec is not None
    first, second = [await ask(provider, golden(provider, case)) for _ in range(2)]
    if not spec.writes:
        assert not sandbox.world.effects
    elif spec.idempotency.kind == "none":
        assert len(sandbox.world.effects) == 2
    else:
        assert len(sandbox.world.effects) == 1
        assert first.json() == second.json()


@pytest.mark.parametrize(("provider", "case"), CASES)
async def test_read_back_finds_the_effect_and_nothing_before(provider: Provider, case: ApiCase, ask: Asker) -> None:
    operations = provider.operations(case.operation_name)
    asked = operations.read_back(case.arguments, case.account)
    asked = asked and provider.authorise(asked, case.account, NOW)
    if asked is None:
        spec = provider.manifest.operation(case.operation_name)
        assert spec is not None
        assert not spec.read_back
        return
    assert operations.parse_read_back(case.arguments, read(await ask(provider, asked))) is None
    applied = operations.parse(case.arguments, read(await ask(provider, golden(provider, case))))
    found = operations.parse_read_back(case.arguments, read(await ask(provider, asked)))
    assert isinstance(applied, Applied)
    assert found is not None
    assert found.provider_ref == applied.provider_ref


@pytest.mark.parametrize(("provider", "case"), CASES)
async def test_effects_of_two_accounts_are_separate(
    provider: Provider, case: ApiCase, ask: Asker, sandbox: Sandbox
) -> None:
    secrets = dict.fromkeys(case.account.secrets, "other")
    other = replace(case.account, account_ref="other", secrets=secrets)
    for account in (case.account, other):
        assert (await ask(provider, golden(provider, replace(case, account=account)))).is_success
    assert len({one.account for one in sandbox.world.effects}) == (2 if writes(provider, case) else 0)


@pytest.mark.parametrize("provider", PROBED, ids=lambda provider: provider.slug)
async def test_probe_answers_with_credentials_only(provider: Provider, ask: Asker) -> None:
    account = account_for(provider)
    asked = provider.probe(account)
    assert asked is not None
    probe = provider.authorise(asked, account, NOW)
    health = provider.manifest.health
    assert health is not None
    assert (await ask(provider, probe)).status_code in health.probe.expect
    refused = await ask(provider, HttpRequest(method=probe.method, path=probe.path))
    assert refused.status_code == 401
    assert refused.json()


@pytest.mark.parametrize("provider", PROBED, ids=lambda provider: provider.slug)
async def test_unknown_path_is_not_found(provider: Provider, ask: Asker) -> None:
    request = provider.authorise(HttpRequest(method="GET", path="/nothing/here"), account_for(provider), NOW)
    assert (await ask(provider, request)).status_code == 404


async def test_unregistered_provider_is_not_played(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nosuchprovider/v1/refunds")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize("path", ["/live", "/ready", "/metrics"])
async def test_probes_of_the_sandbox_itself(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


def account_for(provider: Provider) -> Account:
    """Return an account with made-up secrets: the one of a fixture where there is one."""
    for case in api_cases(provider.folder):
        return case.account
    (method, *_) = provider.api.auth.values()
    secrets = dict.fromkeys((*method.secret_names(), "access_token"), "test-secret")
    return Account("test-account", secrets, provider.default_options)
