"""What a manifest may say, and how it is told what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from contracts.errors import Invalid
from contracts.topics import Lane
from providers import registry
from providers.manifest import load

GOOD = """
schema = 1
slug = "acme"
name = "Acme"
category = "payments"
docs = "https://acme.example/docs"
owners = ["@acme"]
tier = "bronze"
capabilities = ["payments"]
[secrets.webhook]
description = "the signing secret"
use = ["webhook", "api"]
required = true
[options.id_field]
description = "the field with the id"
default = "Id"
pattern = "[A-Za-z]+"
[webhook]
signature = { scheme = "hmac", header = "X-Sig", encoding = "hex", template = "{body}" }
formats = ["json", "form"]
event_id = ["body:/id", ["form:{id_field}", "form:Status"], "digest"]
event_type = ["body:/type"]
unsigned = ["X-Type"]
lanes = [{ match = ["invoice.*"], lane = "bulk" }]
[api]
base_url = "https://api.acme.example"
auth.key = { kind = "bearer", secret = "webhook" }
[[operations]]
name = "payment.refund"
class = "pinned"
source = "https://acme.example/docs/refunds"
idempotency = { kind = "header", name = "Idempotency-Key" }
request = { method = "POST", path = "/refunds", json = { amount = "{amount}" } }
answer = { ref = ["/id"] }
timeout_s = 10
"""


TOKEN_CHECK = """[[webhook.handshakes]]
name = "hi"
verified = false
match = { "query:t" = "*" }
token = { place = "query:t", option = "nope" }
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def _write(text: str) -> Path:
        path = tmp_path / "manifest.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return _write


def test_good_manifest(write: Callable[[str], Path]) -> None:
    manifest = load(write(GOOD))
    assert manifest.webhook is not None
    assert manifest.webhook.refused_status == 401
    assert manifest.webhook.lane_for("invoice.paid") is Lane.BULK
    assert manifest.webhook.lane_for("payment.paid") is Lane.STANDARD
    operation = manifest.operation("payment.refund")
    assert operation is not None
    assert operation.retry_class == "pinned"
    assert manifest.operation("payment.capture") is None


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("schema = 1", "schema = 2", "schema"),
        ('slug = "acme"', 'slug = "Acme-Pay"', "slug"),
        ('tier = "bronze"', 'tier = "bronze"\ncolour = "red"', "colour"),
        ('docs = "https://acme.example/docs"', 'docs = "http://acme.example"', "docs"),
        ('event_id = ["body:/id"', 'event_id = ["/id"', "event_id"),
        ('event_id = ["body:/id"', 'event_id = ["header:x-type"', "unsigned"),
        ('"form:{id_field}"', '"form:{other}"', "other"),
        ('use = ["webhook", "api"]', 'use = ["api"]', "webhook"),
        ('use = ["webhook", "api"]', 'use = ["webhook"]', "api"),
        ('template = "{body}"', 'template = "{bodi}"', "bodi"),
        ('template = "{body}"', 'template = "{timestamp}{body}"', "timestamp"),
        ('template = "{body}"', 'template = "{secret}{body}"', "secret"),
        ('template = "{body}"', 'template = "{body}", tolerance_s = 300', "tolerance_s"),
        ('template = "{body}"', 'timestamp = "header:X-T", tolerance_s = 300', "does not cover"),
        ('header = "X-Sig", ', "", "signature"),
        ('template = "{body}"', 'template = "{body}{option:nope}"', "nope"),
        ('scheme = "hmac"', 'scheme = "rot13"', "signature"),
        ('event_type = ["body:/type"]', 'event_type = ["body:/type"]\nform_json = "payload"\nitems = "many"', "items"),
        ('event_type = ["body:/type"]', 'event_type = ["body:/type"]\nitems_pointer = "/a"', "items_pointer"),
        ('event_type = ["body:/type"]', 'event_type = ["body:/type"]\naccount = ["cookie:a"]', "account"),
        ('event_type = ["body:/type"]', 'event_type = ["body:/type"]\nthrottle = "maybe"', "throttle"),
        ("[api]", '[[webhook.handshakes]]\nname = "hi"\nverified = true\n[api]', "match"),
        (
            "[api]",
            TOKEN_CHECK + "[api]",
            "nope",
        ),
        ('capabilities = ["payments"]', "capabilities = []", "payments"),
        ('kind = "header", name = "Idempotency-Key"', 'kind = "header"', "name"),
        ('base_url = "https://api.acme.example"', 'base_url = "https://api.acme.example/v1"', "base_url"),
        ('class = "pinned"', 'class = "maybe"', "class"),
        ("schema = 1", "schema = ", "manifest.toml"),
    ],
)
def test_wrong_manifests_are_refused_by_name(write: Callable[[str], Path], old: str, new: str, word: str) -> None:
    assert old in GOOD
    with pytest.raises(Invalid) as error:
        load(write(GOOD.replace(old, new, 1)))
    assert error.value.code == "bad_manifest"
    assert word in str(error.value)


CHOICE = """
[webhook.signature]
scheme = "choice"
option = "version"
[webhook.signature.schemes.new]
scheme = "hmac"
header = "X-Sig"
encoding = "hex"
[webhook.signature.schemes.old]
scheme = "none"
accept_option = "accept"
"""
OPTIONS = """
[options.version]
description = "which of the two versions"
default = "new"
pattern = "new|old"
[options.accept]
description = "believe deliveries without proof"
"""


def test_a_choice_needs_its_option_and_a_scheme_for_the_default(write: Callable[[str], Path]) -> None:
    one = 'signature = { scheme = "hmac", header = "X-Sig", encoding = "hex", template = "{body}" }'
    text = GOOD.replace(one, "").replace("[api]", f"{CHOICE}[api]")
    assert load(write(text + OPTIONS)).webhook is not None
    with pytest.raises(Invalid, match="version"):
        load(write(text))
    with pytest.raises(Invalid, match="names no scheme"):
        load(write(text + OPTIONS.replace('default = "new"', 'default = "other"')))


def test_a_provider_has_webhooks_or_says_how_changes_are_found(write: Callable[[str], Path]) -> None:
    head = GOOD[: GOOD.index("capabilities")]
    changes = '[changes]\nhow = "feed"\npath = "GET /feed"\nsource = "https://acme.example"\n'
    manifest = load(write(head + changes))
    assert manifest.webhook is None
    assert manifest.changes is not None
    assert manifest.changes.how == "feed"
    for wrong in (head, head + changes.replace('path = "GET /feed"\n', "")):
        with pytest.raises(Invalid):
            load(write(wrong))


def test_a_kind_of_event_may_want_another_answer(write: Callable[[str], Path]) -> None:
    table = 'answers = [{ match = ["ask.*"], json_body = { type = 5 } }]'
    webhook = load(write(GOOD.replace("unsigned =", f"{table}\nunsigned ="))).webhook
    assert webhook is not None
    answer = webhook.answer_for("ask.me")
    assert answer is not None
    assert (answer.status, answer.json_body) == (200, {"type": 5})
    assert webhook.answer_for("tell.me") is None
    for wrong in (
        table.replace("type = 5", ""),
        table.replace('"ask.*"', ""),
        table.replace("json", "status = 300, json"),
    ):
        with pytest.raises(Invalid, match="answers"):
            load(write(GOOD.replace("unsigned =", f"{wrong}\nunsigned =")))


RETRIES = 'retries = { horizon_h = 1, headers = { X-Retry = "{retry}" } }'


def test_a_repeat_has_the_headers_that_the_manifest_says(write: Callable[[str], Path]) -> None:
    texts = '{ X-No = "{retry}/{attempt}", X-At = "{first_at}", X-Why = "{reason}" }'
    reasons = '{ timeout = "slow", connection = "gone", status = "bad" }'
    table = f"retries = {{ horizon_h = 1, headers = {texts}, reasons = {reasons} }}"
    webhook = load(write(GOOD.replace("unsigned =", f"{table}\nunsigned ="))).webhook
    assert webhook is not None
    assert webhook.retries is not None
    at = datetime(2026, 3, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert webhook.retries.headers_of(2, at, "connection") == {
        "X-No": "2/3",
        "X-At": "2026-03-01T12:00:00.000Z",
        "X-Why": "gone",
    }


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (RETRIES.replace("{retry}", "{count}"), "{count} is none of"),
        (RETRIES.replace("{retry}", "{reason}"), "need each other"),
        (RETRIES.replace("} }", '}, reasons = { timeout = "a", connection = "b", status = "c" } }'), "need each other"),
        (RETRIES.replace("horizon_h = 1", "horizon_h = 0"), "never repeats"),
        (RETRIES.replace("X-Retry", "X-Type"), "no event is read from what differs"),
        (RETRIES.replace("X-Retry", '"X Retry"'), "headers"),
    ],
)
def test_wrong_headers_of_repeats_are_refused_by_name(write: Callable[[str], Path], table: str, word: str) -> None:
    text = GOOD.replace('event_type = ["body:/type"]', f'event_type = ["header:X-Type"]\n{table}')
    load(write(text.replace(table, "")))
    with pytest.raises(Invalid, match=word):
        load(write(text))


def test_methods_of_handshakes_are_accepted_too(write: Callable[[str], Path]) -> None:
    handshake = '[[webhook.handshakes]]\nname = "hi"\nmethods = ["HEAD"]\nverified = false\n'
    webhook = load(write(GOOD.replace("[api]", f"{handshake}[api]"))).webhook
    assert webhook is not None
    assert webhook.accepted_methods == ("POST", "HEAD")


def test_an_unsigned_type_never_chooses_the_critical_lane(write: Callable[[str], Path]) -> None:
    hint = GOOD.replace('event_type = ["body:/type"]', 'event_type = ["header:X-Type"]')
    assert load(write(hint)).webhook is not None
    with pytest.raises(Invalid, match="critical"):
        load(write(hint.replace('lane = "bulk"', 'lane = "critical"')))


def test_options_are_resolved_and_checked(write: Callable[[str], Path]) -> None:
    manifest = load(write(GOOD))
    assert manifest.resolve_options({}) == {"id_field": "Id"}
    assert manifest.resolve_options({"id_field": "Uid"}) == {"id_field": "Uid"}
    for given, code, field in (
        ({"nope": "x"}, "unknown_option", "options.nope"),
        ({"id_field": "U 1"}, "bad_option", "options.id_field"),
    ):
        with pytest.raises(Invalid) as error:
            manifest.resolve_options(given)
        assert (error.value.code, error.value.field) == (code, field)


@pytest.mark.parametrize("slug", registry.all_slugs())
def test_shipped_defaults_satisfy_their_own_patterns(slug: str) -> None:
    manifest = registry.get(slug).manifest
    defaults = {name: spec.default for name, spec in manifest.options.items()}
    assert manifest.resolve_options(defaults) == defaults
