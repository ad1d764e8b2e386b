"""Which way to authenticate a connection takes, and whether it has what that needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contracts.errors import Invalid
from providers.manifest import Manifest
from providers.provider import Provider
from sync_worker.connections import methods

HOOK = {"webhook": "fake-signing-key"}
API = {"base_url": "https://api.test"}
FLOW = {
    "kind": "oauth2",
    "grant": "authorization_code",
    "authorize_url": "https://id.test/authorize",
    "token_url": "https://id.test/token",
    "client_secret": "",
}


def provider(verifies: str, auth: dict[str, Any], **uses: list[str]) -> Provider:
    """Return a provider whose secret `verifies` is that of its deliveries; empty for one without any."""
    signature = {"scheme": "hmac", "header": "X-Signature", "encoding": "hex", "template": "{body}"}
    hooks = {"secret": verifies, "signature": signature, "event_id": ["body:/id"], "event_type": ["body:/type"]}
    secrets = {name: {"description": "a secret of the test", "use": use} for name, use in uses.items()}
    document: dict[str, Any] = {
        "schema": 1,
        "slug": "acme",
        "name": "Acme",
        "category": "test",
        "docs": "https://docs.test/",
        "owners": ["@tests"],
        "tier": "bronze",
        "secrets": {name: spec | {"required": name == verifies} for name, spec in secrets.items()},
        "api": API | {"auth": auth},
    }
    return Provider(Path("/nowhere"), Manifest.model_validate(document | ({"webhook": hooks} if verifies else {})))


TOKEN = {"kind": "bearer", "secret": "access_token"}
BOTH = provider(
    "webhook", {"token": TOKEN, "oauth": FLOW}, webhook=["webhook"], access_token=["api"], client_id=["api"]
)
SHARED = provider("auth_token", {"basic": {"kind": "basic", "secret": "auth_token"}}, auth_token=["webhook", "api"])
SILENT = provider("", {"token": TOKEN}, access_token=["api"])


@pytest.mark.parametrize(
    ("of", "named", "secrets", "chosen"),
    [
        (BOTH, "", HOOK, ""),
        (BOTH, "", HOOK | {"access_token": "t"}, "token"),
        (BOTH, "oauth", HOOK | {"client_id": "c"}, "oauth"),
        (SHARED, "", {"auth_token": "t"}, "basic"),
        (SILENT, "", {"access_token": "p"}, "token"),
    ],
)
def test_the_way_that_the_secrets_are_for(of: Provider, named: str, secrets: dict[str, str], chosen: str) -> None:
    assert methods.choose(of, named, secrets) == chosen


@pytest.mark.parametrize(
    ("of", "named", "secrets", "code", "field"),
    [
        (BOTH, "nothing", HOOK, "unknown_method", "method"),
        (BOTH, "oauth", HOOK, "missing_secret", "secrets.client_id"),
        (BOTH, "", HOOK | {"client_id": "c"}, "missing_secret", "secrets.access_token"),
        (BOTH, "", HOOK | {"access_token": "t", "client_id": "c"}, "unneeded_secret", "secrets.client_id"),
        (BOTH, "oauth", HOOK | {"client_id": "c", "access_token": "t"}, "unneeded_secret", "secrets.access_token"),
        (BOTH, "", {}, "missing_secret", "secrets.webhook"),
        (BOTH, "", HOOK | {"nobody": "t"}, "unknown_secret", "secrets.nobody"),
        (SILENT, "", {}, "missing_secret", "secrets.access_token"),
    ],
)
def test_what_is_missing_or_superfluous_is_named(
    of: Provider, named: str, secrets: dict[str, str], code: str, field: str
) -> None:
    with pytest.raises(Invalid) as error:
        methods.choose(of, named, secrets)
    assert (error.value.code, error.value.field) == (code, field)


@pytest.mark.parametrize(
    ("secrets", "field"),
    [
        ({}, "secrets"),
        ({"nobody": "x"}, "secrets.nobody"),
        ({"access_token": ""}, "secrets.access_token"),
        ({"webhook": "w"}, "secrets.webhook"),
        ({"client_id": "c"}, "secrets.client_id"),
    ],
)
def test_a_change_of_secrets_is_checked_too(secrets: dict[str, str], field: str) -> None:
    with pytest.raises(Invalid) as error:
        methods.check_change(BOTH, "token", secrets)
    assert error.value.field == field


def test_a_connection_that_only_calls_needs_no_secret_of_webhooks() -> None:
    assert methods.choose(BOTH, "", {"access_token": "t"}) == next(iter(BOTH.api.auth))
