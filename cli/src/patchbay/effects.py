"""`patchbay effects …` and `patchbay run`: what was done at providers, what nobody knows, over the sync worker's API.

Must never print arguments of an operation: they may be personal data. A sealed result is shown only where one was asked
for, and the service writes down who did.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from contracts.operations import arguments_of
from patchbay import output
from patchbay.client import Platform
from patchbay.connections import Mode
from patchbay.environment import CliError, load_environment

commands = typer.Typer(no_args_is_help=True, help="Effects at providers: what became of them, and settling.")

SERVICE: Final = "SYNC_URL"
_SUMMARY: Final = ("key", "operation", "provider", "tenant", "state", "code", "provider_ref", "calls", "updated_at")
# Nothing moves these by itself any more.
_SETTLED: Final = frozenset({"applied", "refused", "voided"})
_POLL_S: Final = 0.5


class Found(StrEnum):
    """What a person found out at the provider."""

    APPLIED = "applied"
    REFUSED = "refused"
    RETRY = "retry"


@commands.command("list")
def list_(
    *,
    state: Annotated[str | None, typer.Option(help="reserved, sent, unknown, applied, refused or voided")] = None,
    tenant: Annotated[str | None, typer.Option()] = None,
    provider: Annotated[str | None, typer.Option()] = None,
    operation: Annotated[str | None, typer.Option()] = None,
    saga: Annotated[str | None, typer.Option(help="those of one saga")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
) -> None:
    """List effects."""
    query = {"saga_id": saga, "tenant": tenant, "provider": provider, "operation": operation, "state": state}
    with Platform(load_environment()) as platform:
        found = platform.get(SERVICE, "/v1/effects", **query, limit=limit)["items"]
    rows = ([item.get(name) for name in _SUMMARY] for item in found)
    # Keys are there to be copied.
    output.console(wide=True).print(output.table(_SUMMARY, rows, whole=("key",)))


@commands.command()
def explain(key: str) -> None:
    """Say what is known of an effect and who moves next, then everything that is stored of it."""
    with Platform(load_environment()) as platform:
        _show(platform.get(SERVICE, f"/v1/effects/{key}"))


@commands.command()
def result(key: str) -> None:
    """Print what the provider answered, as JSON, unsealed. It may be personal data; the audit log says who read it."""
    with Platform(load_environment()) as platform:
        _print_result(platform.get(SERVICE, f"/v1/effects/{key}/result")["result"])


@commands.command()
def settle(
    key: str,
    *,
    outcome: Annotated[Found, typer.Option(help="retry sends it again, so only if it certainly was not done")],
    reason: Annotated[str, typer.Option(help="how you know; it goes into the audit log")],
    provider_ref: Annotated[str, typer.Option(help="the provider's id of what was done; for applied")] = "",
) -> None:
    """Write down what a person found out about an unknown effect; whoever waits for it gets the answer."""
    if (outcome is Found.APPLIED) != bool(provider_ref):
        raise CliError("--provider-ref is needed for applied, and for nothing else")
    body = {"outcome": outcome.value, "provider_ref": provider_ref, "reason": reason}
    with Platform(load_environment()) as platform:
        settled = platform.post(SERVICE, f"/v1/effects/{key}/settle", body)
    output.console().print(f"{key} is {settled['state']}: {settled['explanation']}", markup=False, soft_wrap=True)


def run(  # lint-skip: PB007 each is an option of the command line
    operation: str,
    *,
    tenant: Annotated[str, typer.Option()],
    argument: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; lists and objects as JSON")] = None,
    arguments_file: Annotated[Path | None, typer.Option(help="a JSON object, - for standard input")] = None,
    connection: Annotated[str | None, typer.Option(help="with this connection")] = None,
    provider: Annotated[str | None, typer.Option(help="at this provider")] = None,
    mode: Annotated[Mode, typer.Option()] = Mode.LIVE,
    lane: Annotated[str, typer.Option(help="critical, standard or bulk")] = "standard",
    deadline: Annotated[str | None, typer.Option(help="RFC 3339 time after which it is not begun")] = None,
    emergency: Annotated[bool, typer.Option("--emergency", help="draw on the quota kept for emergencies")] = False,
    reason: Annotated[str | None, typer.Option(help="why; needed for --emergency, and in the audit log")] = None,
    wait: Annotated[float, typer.Option(min=0, max=600, help="seconds to wait until it is settled")] = 30,
) -> None:
    """Have OPERATION done once, such as payment.refund, and print its result; ends with 1 unless it is applied in time.

    Put personal data into --arguments-file, where the shell's history does not show it.
    """
    if emergency and not reason:
        raise CliError("--emergency needs a --reason")
    given = _document(arguments_file) | parsed(operation, argument or ())
    body: dict[str, Any] = {"operation": operation, "tenant": tenant, "mode": mode, "lane": lane, "arguments": given}
    chosen = {"connection": connection, "provider": provider, "deadline": deadline, "reason": reason}
    if emergency:
        body["emergency"] = True
    body |= {name: value for name, value in chosen.items() if value is not None}
    with Platform(load_environment()) as platform:
        key = platform.post(SERVICE, "/v1/operations", body)["key"]
        output.console().print(f"effect {key}", markup=False)
        if not wait:
            return
        effect = _settled(platform, key, wait)
        told = f"{effect['state']}: {effect['explanation']}"
        output.console().print(told, markup=False, soft_wrap=True)
        if effect["state"] != "applied":
            raise typer.Exit(1)
        found = effect["result"]
        if effect["sealed_result"]:
            found = platform.get(SERVICE, f"/v1/effects/{key}/result")["result"]
    if found:
        _print_result(found)


def parsed(operation: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as the operation's arguments; raises `CliError`, and `Invalid` for no such operation.

    A value stays the text that it is where the argument is one, so that a number of a house or a card keeps its zeros;
    elsewhere it is JSON, if it is any.
    """
    fields = arguments_of(operation).model_fields
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise CliError(f"{pair} is not NAME=VALUE")
        if name not in fields:
            raise CliError(f"{operation} has no argument {name}; it takes {', '.join(_names(fields))}")
        found[name] = text if _takes_text(fields[name]) else _json_or_text(text)
    return found


def _names(fields: Mapping[str, FieldInfo]) -> list[str]:
    return [name for name in fields if name != "effect_key"]


def _takes_text(field: FieldInfo) -> bool:
    annotation: Any = field.annotation
    try:
        # Any text will do to tell a text from a number; what the text must look like is the service's to say.
        TypeAdapter(annotation).validate_python("x", strict=True)
    except ValidationError as error:
        return all(one["type"].startswith("string_") and one["type"] != "string_type" for one in error.errors())
    return True


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _document(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise CliError(f"{file} cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise CliError(f"{file} is not a JSON object")
    return found


def _settled(platform: Platform, key: str, wait_s: float) -> dict[str, Any]:
    """Return an effect once nothing moves it any more, or as it is after `wait_s` seconds. Blocking."""
    until = time.monotonic() + wait_s
    while True:
        effect: dict[str, Any] = platform.get(SERVICE, f"/v1/effects/{key}")
        left = until - time.monotonic()
        if effect["state"] in _SETTLED or left <= 0:
            return effect
        time.sleep(min(_POLL_S, left))


def _print_result(found: Any) -> None:
    output.console().print(json.dumps(found, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)


def _show(effect: Mapping[str, Any]) -> None:
    out = output.console()
    out.print(f"{effect['state']}: {effect['explanation']}\n", markup=False, soft_wrap=True)
    rows = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in effect.items()
        if name != "explanation" and value not in (None, "", {}, [], False)
    ]
    out.print(output.table(("field", "value"), rows))
