from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import Field, SecretStr

from chassis.settings import DatabaseSettings
from chassis.telemetry.metrics import Metric
from contracts.catalogue import CATALOGUE
from contracts.operations import OPERATIONS
from contracts.topics import TOPICS
from tools import gen_docs, markdown
from tools.operations_page import operations_page


class Settings(DatabaseSettings):
    http_port: int = 8123
    token: SecretStr = Field(default=SecretStr("not-a-real-token"), description="token of a peer")
    batch: int = Field(default=50, description="rows | batch")
    named: str = Field(validation_alias="OTHER_NAME", description="from elsewhere")


def row(page: str, start: str) -> str:
    """Return the only row that begins with this code, of a page or of a part of it."""
    found = [line for line in page.splitlines() if line.startswith(f"| `{start}`")]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def fake_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, metrics = ModuleType("my_service.settings"), ModuleType("my_service.metrics")
    settings.__dict__["Settings"] = Settings
    metrics.__dict__["METRICS"] = (Metric("my_seen_total", "counter", "Things seen.", ("kind",)),)
    for module in (ModuleType("my_service"), settings, metrics):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("fake_modules")
def test_a_metric_of_a_part_is_listed_with_the_part_and_not_with_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    part = ModuleType("my_service.part.metrics")
    part.__dict__["METRICS"] = (Metric("my_part_total", "counter", "Parts.", ()),)
    monkeypatch.setitem(sys.modules, "my_service.part", ModuleType("my_service.part"))
    monkeypatch.setitem(sys.modules, part.__name__, part)
    whole = sys.modules["my_service.metrics"]
    whole.__dict__["METRICS"] = (*whole.METRICS, *part.METRICS)
    page = gen_docs.metrics_page(["my_service.metrics", "my_service.part.metrics"])
    assert row(page, "my_part_total") in page.split("## my_service.part.metrics")[1]
    assert row(page, "my_seen_total") in page.split("## my_service.part.metrics")[0]


def test_a_cell_cannot_break_its_table() -> None:
    assert markdown.table(("a", "b"), [("x|y", "one\n two")]) == "| a | b |\n| --- | --- |\n| x\\|y | one two |\n"


def test_every_topic_has_a_row_with_its_writer() -> None:
    page = gen_docs.topics_page()
    assert [topic.name for topic in TOPICS if topic.writer not in row(page, topic.name)] == []
    assert "compacted" in row(page, "sync.endpoints.v1")
    assert "7 d" in row(page, "sync.changes.v1")


def test_every_message_has_a_section_with_its_fields() -> None:
    page = gen_docs.events_page()
    assert [name for name in (*CATALOGUE, "delivery.accepted.v1") if f"\n## {name}\n" not in page] == []
    payment = page.split("## payment.changed.v1")[1].split("\n## ")[0]
    assert "On `sync.changes.v1`." in payment
    unit = "in the currency's minor unit; absent while unknown"
    assert row(payment, "amount") == f"| `amount` | integer ≥ `0` or null | no | {unit} |"
    assert row(payment, "version") == (
        "| `version` | integer ≥ `1` | yes | grows by one with every change of this payment |"
    )
    assert row(payment, "previous_status") == "| `previous_status` | `PaymentStatus` or null | no |  |"


def test_providers_come_from_their_manifests(tmp_path: Path) -> None:
    folder = tmp_path / "libs/providers/src/providers/acme"
    folder.mkdir(parents=True)
    (folder / "manifest.toml").write_text(
        'slug = "acme"\nname = "Acme"\ncategory = "payments"\ntier = "gold"\ncapabilities = ["payments", "email"]\n'
        '[webhook]\nsignature = { scheme = "hmac" }\n[[webhook.handshakes]]\nname = "echo"\n'
        '[api]\nauth.api_key = { kind = "bearer", secret = "key" }\n'
    )
    (folder / "operations.toml").write_text(
        '[[operations]]\nname = "payment.refund"\nidempotency = { kind = "header", name = "Key" }\n'
        '[[operations]]\nname = "email.send"\nidempotency = { kind = "none" }\n'
        '[[operations]]\nname = "payment.charge"\nidempotency = { kind = "none" }\nlook_up = { items = "/data" }\n'
        '[[operations]]\nname = "balance.read"\nidempotency = { kind = "none" }\n'
    )
    polled = folder.parent / "polled"
    polled.mkdir()
    (polled / "manifest.toml").write_text('slug = "polled"\nname = "Polled"\n[changes]\nhow = "poll"\n')
    (folder / "fixtures").mkdir()
    (folder / "fixtures" / "vectors.toml").write_text(
        '[[vectors]]\nvalid = true\norigin = "computed"\nsource = "ours"\n'
        '[[vectors]]\nvalid = true\norigin = "published"\nsource = "theirs"\n'
        '[[vectors]]\nvalid = false\norigin = "published"\nsource = "wrong"\n'
    )
    page = gen_docs.providers_page(tmp_path)
    coverage, details = page.split("## Inbound")
    inbound, outbound = details.split("## Outbound")
    assert row(coverage, "acme") == "| `acme` | Acme | payments | gold | webhooks | 4 operations |"
    assert row(coverage, "polled") == "| `polled` | Polled |  |  | asked: poll |  |"
    assert row(inbound, "acme") == "| `acme` | hmac | echo | published: theirs |"
    assert row(outbound, "acme") == (
        "| `acme` | payments, email | api_key | `balance.read`, `email.send`, `payment.charge`, `payment.refund` "
        "| `email.send` |"
    )
    assert "1 of 2 providers send webhooks" in inbound
    assert "1 of 2 providers are called" in outbound


def test_every_operation_has_a_section_with_its_arguments_and_who_offers_it(tmp_path: Path) -> None:
    folder = tmp_path / "libs/providers/src/providers/acme"
    folder.mkdir(parents=True)
    (folder / "manifest.toml").write_text('slug = "acme"\n')
    key = 'idempotency = { kind = "header", name = "Key", lifetime_h = 24 }'
    (folder / "operations.toml").write_text(
        f'[[operations]]\nname = "message.send"\nclass = "unsafe"\n{key}\nnote = "a|b"\n'
        '[operations.answer]\nref = ["/id"]\nresult = { status = "/status" }\n[operations.look_up]\nitems = "/data"\n'
        '[[operations]]\nname = "note.add"\nclass = "unsafe"\nidempotency = { kind = "none" }\n'
        '[[operations]]\nname = "report.read"\nclass = "retry_safe"\nidempotency = { kind = "natural" }\n'
        "[operations.answer]\ncontent = true\n"
    )
    page = operations_page(tmp_path)
    sections = {name: page.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in OPERATIONS}
    assert "| [`message.send`](#messagesend) | `messaging.sms` | 1 |" in page
    message = sections["message.send"]
    assert "Capability `messaging.sms`; it changes something there." in message
    assert row(message, "recipient").endswith("| yes | phone number, E.164; personal |")
    assert row(message, "acme") == (
        "| `acme` | `unsafe` | sent again with the same key (header `Key`, for 24 h), or looked up | `status` | a\\|b |"
    )
    assert row(sections["note.add"], "acme") == "| `acme` | `unsafe` | a person settles it |  |  |"
    assert row(sections["report.read"], "acme") == "| `acme` | `retry_safe` | asked again | `content` |  |"
    assert "No provider offers it." in sections["payment.refund"]
    assert "effect_key" not in page
    assert row(sections["calendar.hold"], "zone").split("|")[3] == " no: `UTC` "
    assert row(sections["invoice.create"], "unit_amount") in sections["invoice.create"].split("`DocumentLine`:")[1]


def test_every_argument_of_an_operation_says_what_it_means() -> None:
    silent = [
        (name, part, field)
        for name, model in OPERATIONS.items()
        for part, schema in {"": model.model_json_schema(), **model.model_json_schema().get("$defs", {})}.items()
        for field, known in schema["properties"].items()
        if field != "effect_key" and not known.get("description")
    ]
    assert silent == []


@pytest.mark.usefixtures("fake_modules")
def test_metrics_come_from_the_declarations_of_each_module() -> None:
    page = gen_docs.metrics_page(["my_service.metrics"])
    assert "## my_service.metrics" in page
    assert row(page, "my_seen_total") == "| `my_seen_total` | counter | `kind` | Things seen. |"


@pytest.mark.usefixtures("fake_modules")
def test_settings_show_the_variable_and_hide_secrets() -> None:
    page = gen_docs.settings_page(["my_service.settings"])
    own = page.split("## my-service")[1]
    assert row(own, "PATCHBAY_BATCH") == "| `PATCHBAY_BATCH` | `int` | `50` | rows \\| batch |"
    assert row(own, "PATCHBAY_TOKEN") == "| `PATCHBAY_TOKEN` | `SecretStr` | hidden | token of a peer |"
    assert row(own, "OTHER_NAME").endswith("| required | from elsewhere |")
    assert "`8123`" in row(own, "PATCHBAY_HTTP_PORT")
    assert "PATCHBAY_KAFKA_BOOTSTRAP" not in own
    assert "not-a-real-token" not in page


def test_settings_do_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gen_docs.settings_page([])
    monkeypatch.setenv("PATCHBAY_HTTP_PORT", "9999")
    assert gen_docs.settings_page([]) == before


def test_codes_are_read_from_the_source() -> None:
    text = 'raise Invalid("bad_a", "x")\nreturn_ = Transient(code, "y")\nTerminal("b", f"{x}")\nother("c")\n'
    assert sorted(gen_docs.raised_codes(text)) == [("Invalid", "bad_a"), ("Terminal", "b")]


def test_the_errors_page_names_code_word_and_module() -> None:
    page = gen_docs.errors_page(gen_docs.ROOT)
    assert row(page, "undecodable") == "| `undecodable` | `Invalid` | `contracts.codec`, `verification.handlers` |"


def test_missing_and_different_pages_are_stale(tmp_path: Path) -> None:
    expected = {Path("a.md"): "a", Path("b.md"): "b", Path("c.md"): "c"}
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "b.md").write_text("old")
    assert gen_docs.stale(tmp_path, expected) == [Path("b.md"), Path("c.md")]


def test_modules_are_found_by_file_name(tmp_path: Path) -> None:
    for path in (
        "services/my-service/src/my_service/metrics.py",
        "libs/a/src/a/deep/metrics.py",
        "libs/a/tests/metrics.py",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    found = gen_docs.modules_named(tmp_path, "metrics", ("libs/*/src", "services/*/src"))
    assert found == ["a.deep.metrics", "my_service.metrics"]


def test_code_owners_come_from_the_manifests(tmp_path: Path) -> None:
    folder = tmp_path / "libs/providers/src/providers/acme"
    folder.mkdir(parents=True)
    (folder / "manifest.toml").write_text('owners = ["@acme/one", "@acme/two"]')
    assert gen_docs.codeowners(tmp_path).splitlines()[-1] == "/libs/providers/src/providers/acme/ @acme/one @acme/two"
