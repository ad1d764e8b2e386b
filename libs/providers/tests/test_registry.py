"""Discovery, and the provider object as the services use it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import providers
from contracts.errors import Invalid
from providers import registry
from providers.fixtures import EXAMPLE_URL
from providers.provider import Provider
from providers.sdk import Account, InboundRequest, Refused, Secret

MANIFEST = """
schema = 1
slug = "{slug}"
name = "Test"
category = "test"
docs = "https://example.com/"
owners = ["@test"]
tier = "bronze"
[secrets.webhook]
description = "token in the header"
use = ["webhook"]
required = true
[secrets.key]
description = "key of the API"
use = ["api"]
required = false
prefix = "key_"
[options.tolerance_s]
description = "window in seconds"
pattern = "[0-9]*"
[webhook]
signature = {signature}
query = ["hash"]
items = "array"
items_pointer = "/events"
formats = ["json", "form"]
event_id = [["body:/id", "body:/part"], "header:x-id", "form:Id", "digest"]
event_type = ["body:/type", "form:Type", "const:unknown"]
[[webhook.entities]]
match = ["thing.*"]
kind = "thing"
id = ["body:/thing/missing", "body:/thing/id"]
[api]
base_url = "https://api.example.com"
auth.key = {{ kind = "basic", secret = "key" }}
[health]
probe = {{ path = "/accounts/{{account_ref}}", timeout_ms = 1000 }}
"""
HMAC = '{ scheme = "hmac", header = "X-Sig", encoding = "hex", template = "{body}" }'
CUSTOM = '{ scheme = "custom" }'
VERIFIER = """
from datetime import datetime
from providers.sdk import Refused, Verified

class Token:
    def verify(self, request, secrets, now):
        for secret in secrets:
            if request.header("x-token") == secret.value:
                return Verified(secret.key_id, None, ())
        raise Refused("bad_signature")

def verifier(options):
    return Token()
"""


def make(root: Path, slug: str, signature: str = HMAC) -> Path:
    folder = root / slug
    folder.mkdir()
    (folder / "manifest.toml").write_text(MANIFEST.format(slug=slug, signature=signature), encoding="utf-8")
    return folder


def provider(root: Path, slug: str = "acme") -> Provider:
    make(root, slug)
    return registry.discover(root)[slug]


def request(document: object, **headers: str) -> InboundRequest:
    names = {name.replace("_", "-"): [value] for name, value in headers.items()}
    return InboundRequest("POST", EXAMPLE_URL, names, json.dumps(document).encode())


def test_discovers_sorted_and_only_folders_with_a_manifest(tmp_path: Path) -> None:
    make(tmp_path, "zeta")
    make(tmp_path, "alpha")
    (tmp_path / "signing").mkdir()
    assert list(registry.discover(tmp_path)) == ["alpha", "zeta"]
    assert registry.discover(tmp_path) is registry.discover(tmp_path)


def test_slug_must_be_the_folder(tmp_path: Path) -> None:
    make(tmp_path, "one").rename(tmp_path / "two")
    with pytest.raises(Invalid, match="slug one"):
        registry.discover(tmp_path)


def test_shipped_registry_is_what_the_folders_say() -> None:
    folders = sorted(path.parent.name for path in registry.ROOT.glob("*/manifest.toml"))
    assert registry.all_slugs() == folders
    assert [found.slug for found in registry.all_providers()] == folders
    for found in registry.all_providers():
        assert registry.get(found.slug) is found
        for operation in found.manifest.operations:
            assert found in registry.with_operation(operation.name)
            assert found in registry.with_capability(operation.capability)


def test_unknown_names_are_invalid(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as error:
        registry.get("no_such_provider")
    assert error.value.code == "unknown_provider"
    assert registry.with_operation("no.such") == []
    assert registry.with_capability("nothing") == []
    with pytest.raises(Invalid) as error:
        provider(tmp_path).operations("no.such")
    assert error.value.code == "unknown_operation"


def test_batches_split_by_pointer_with_composite_ids_and_entities(tmp_path: Path) -> None:
    events = [
        {"id": 7, "part": "a", "type": "thing.made", "thing": {"id": "t1", "name": "é"}},
        {"id": 8, "type": "other"},
    ]
    first, second = provider(tmp_path).split(request({"events": events}, x_id="from-header"))
    assert (first.event_id, first.event_type, first.entity) == ("7:a", "thing.made", ("thing", "t1"))
    assert json.loads(first.data) == events[0]
    assert (second.event_id, second.event_type, second.entity) == ("from-header", "other", None)
    assert registry.discover(tmp_path)["acme"].split(request({"events": []})) == []


def test_digest_and_defaults_when_nothing_names_the_event(tmp_path: Path) -> None:
    (item,) = provider(tmp_path).split(request({"events": [{"x": 1}]}))
    assert item.event_id == hashlib.sha256(b'{"x":1}').hexdigest()
    assert item.event_type == "unknown"


def test_forms_are_read_as_forms(tmp_path: Path) -> None:
    headers = {"content-type": ["application/x-www-form-urlencoded; charset=utf-8"]}
    form = InboundRequest("POST", EXAMPLE_URL, headers, b"Id=9&Type=thing.sent&Text=a+b")
    (item,) = provider(tmp_path).split(form)
    assert (item.event_id, item.event_type, item.data) == ("9", "thing.sent", form.body)
    with pytest.raises(Invalid, match="no form"):
        registry.discover(tmp_path)["acme"].split(replace(form, body=b"\xff=1"))


@pytest.mark.parametrize(("body", "field"), [(b"{", "/"), (b"\xff", "/"), (b"{}", "/events"), (b"[NaN]", "/")])
def test_undecodable_bodies_name_the_place(tmp_path: Path, body: bytes, field: str) -> None:
    with pytest.raises(Invalid) as error:
        provider(tmp_path).split(InboundRequest("POST", EXAMPLE_URL, {}, body))
    assert (error.value.code, error.value.field) == ("undecodable_body", field)


def test_only_listed_query_parameters_extend_the_registered_url(tmp_path: Path) -> None:
    acme = provider(tmp_path)
    url = "https://hooks.example.com/hooks/ep?a=1"
    assert acme.request_url(url, "a=1") == url
    assert acme.request_url(url, "a=1&hash=ff") == f"{url}&hash=ff"
    assert acme.request_url(url, "a=1&admin=1") == url
    assert acme.request_url(url, "") == url


def test_secrets_are_checked_by_name_and_never_quoted(tmp_path: Path) -> None:
    acme = provider(tmp_path)
    acme.check_secrets({"webhook": "s"})
    acme.check_secrets({"key": "key_1"})  # a connection that only calls
    for given, code in (
        ({}, "missing_secret"),
        ({"webhook": "s", "other": "s"}, "unknown_secret"),
        ({"webhook": "s", "key": "wrong-value"}, "bad_secret"),
        ({"webhook": ""}, "bad_secret"),
    ):
        with pytest.raises(Invalid) as error:
            acme.check_secrets(given)
        assert error.value.code == code
        assert "wrong-value" not in str(error.value)


def test_probe_carries_the_account_and_its_credentials(tmp_path: Path) -> None:
    acme = provider(tmp_path)
    account = Account("ac1", {"key": "key_1"})
    probe = acme.probe(account)
    assert probe is not None
    asked = acme.authorise(probe, account, datetime(2026, 1, 1, tzinfo=UTC))
    assert (asked.path, asked.basic_auth) == ("/accounts/ac1", ("ac1", "key_1"))
    with pytest.raises(Invalid) as error:
        acme.authorise(probe, Account("ac1", {}), datetime(2026, 1, 1, tzinfo=UTC))
    assert error.value.code == "missing_secret"


def test_verifiers_are_built_once_per_window(tmp_path: Path) -> None:
    acme = provider(tmp_path)
    assert acme.verifier() is acme.verifier({})
    assert acme.verifier({"tolerance_s": "10"}) is acme.verifier({"tolerance_s": "10"})
    assert acme.verifier() is not acme.verifier({"tolerance_s": "10"})


def test_a_folder_may_bring_its_own_verifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, "own_scheme", CUSTOM)
    (folder / "webhook.py").write_text(VERIFIER, encoding="utf-8")
    monkeypatch.setattr(providers, "__path__", [*providers.__path__, str(tmp_path)])
    verifier = registry.discover(tmp_path)["own_scheme"].verifier()
    with pytest.raises(Refused):
        verifier.verify(request({}, x_token="guess"), [Secret("k", "token")], datetime.now(UTC))
    assert verifier.verify(request({}, x_token="token"), [Secret("k", "token")], datetime.now(UTC)).key_id == "k"


def test_without_normaliser_an_event_says_nothing_about_payments(tmp_path: Path) -> None:
    assert provider(tmp_path).normalise("thing.made", b"no json") == []
