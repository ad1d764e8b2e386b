"""`patchbay deliveries`, `replay`, `quarantine`, `dead-letters` and `issues`: the ledger for people, over its API.

Bodies are printed as the ledger shows them, redacted; this command line never asks for raw ones.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer

from patchbay import output, story
from patchbay.client import TIMEOUT_S, Platform
from patchbay.environment import TOKEN_VARIABLE, CliError, load_environment

SERVICE: Final = "LEDGER_URL"
_DELIVERY: Final = ("received_at", "provider", "outcome", "reason", "event_type", "entity", "tenant", "trace_id", "id")
_JOB: Final = ("id", "kind", "state", "done", "total", "rate_per_s", "created_by", "reason")
_LETTER: Final = ("last_seen", "service", "error_code", "origin_topic", "message_type", "attempts", "state", "id")
_HELD: Final = ("received_at", "outcome", "provider", "endpoint", "event_type", "event_id", "id")
_ISSUE: Final = ("opened_at", "kind", "state", "subject", "occurrences", "detail", "id")
_REASON: Final = typer.Option(help="why; it goes into the audit log")
_WHERE: Final = typer.Option(help="NAME=VALUE, a filter of the search such as provider=… or endpoint=…; repeatable")
_DAY: Final = typer.Option(help="a day in UTC, YYYY-MM-DD")

replay = typer.Typer(no_args_is_help=True, help="Write deliveries to their lanes again.")
quarantine = typer.Typer(no_args_is_help=True, help="Deliveries that are held back from the lanes.")
dead_letters = typer.Typer(no_args_is_help=True, help="Records that a consumer gave up.")
issues = typer.Typer(no_args_is_help=True, help="What a person should look at.")


def deliveries(  # lint-skip: PB007 each is an option of the command line
    delivery_id: Annotated[str | None, typer.Argument(help="show this one, with its whole story")] = None,
    *,
    provider: Annotated[str | None, typer.Option()] = None,
    outcome: Annotated[str | None, typer.Option(help="accepted, duplicate, rejected, conflict or held")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="a glob")] = None,
    entity: Annotated[str | None, typer.Option(help="kind:id, as the list shows it")] = None,
    path: Annotated[
        str | None, typer.Option(help="a JSON path over the body, such as '$.data ? (@.amount > 5)'")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="with an id: all that is stored, for machines")] = False,
) -> None:
    """Search the ledger of deliveries, newest first, or show one with what came of it."""
    with Platform(load_environment()) as platform:
        if delivery_id is not None:
            delivery = platform.get(SERVICE, f"/v1/deliveries/{delivery_id}")
            if as_json:
                _dump(delivery)
            else:
                story.show(platform, delivery)
            return
        query = {"provider": provider, "outcome": outcome, "type": event_type, "entity": entity, "path": path}
        _list(platform, "/v1/deliveries", _DELIVERY, query | {"limit": limit})


def reverify(delivery_id: str) -> None:
    """Verify a rejected delivery with its endpoint's present secrets, and let its events in."""
    with Platform(load_environment()) as platform:
        made = platform.post(SERVICE, f"/v1/deliveries/{delivery_id}/reverify", {})
    output.console().print(f"{made['events']} events as delivery {made['made']}, key {made['key_id']}", markup=False)


def export(
    *,
    where: Annotated[list[str] | None, _WHERE] = None,
    day: Annotated[str | None, _DAY] = None,
) -> None:
    """Print deliveries with their bodies as JSON, one per line."""
    environment = load_environment()
    headers = {"authorization": f"Bearer {environment[TOKEN_VARIABLE]}"}
    url, query = f"{environment[SERVICE]}/v1/deliveries/export", filters(where) | window(day)
    try:
        with httpx.stream("GET", url, params=query, headers=headers, timeout=TIMEOUT_S, trust_env=False) as answer:
            if answer.is_error:
                raise CliError(f"GET {url}: {answer.status_code} {answer.read().decode(errors='replace')}")
            for chunk in answer.iter_bytes():
                sys.stdout.buffer.write(chunk)
    except httpx.HTTPError as error:
        raise CliError(f"{url} does not answer to the end ({type(error).__name__})") from None


@replay.command("start")
def start(
    delivery_ids: Annotated[list[str] | None, typer.Argument(help="these deliveries")] = None,
    *,
    reason: Annotated[str, _REASON],
    where: Annotated[list[str] | None, _WHERE] = None,
    day: Annotated[str | None, _DAY] = None,
    rate: Annotated[float, typer.Option(help="deliveries per second")] = 100,
    new_event_id: Annotated[bool, typer.Option("--new-event-id", help="have them processed again")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what it would be")] = False,
) -> None:
    """Replay deliveries by id, or all that match the filters."""
    wanted = filters(where) | window(day)
    if delivery_ids and wanted:
        raise CliError("give delivery ids or filters, not both")
    chosen: dict[str, Any] = {"delivery_ids": delivery_ids} if delivery_ids else {"query": wanted}
    body = chosen | {"reason": reason, "rate_per_s": rate, "new_event_id": new_event_id, "dry_run": dry_run}
    with Platform(load_environment()) as platform:
        made = platform.post(SERVICE, "/v1/replays", body)
    if dry_run:
        _dump(made)
        return
    output.console().print(f"replay {made['id']} of {made['total']} deliveries", markup=False)


@replay.command("list")
def list_jobs(*, limit: Annotated[int, typer.Option(min=1, max=200)] = 20) -> None:
    """List replays, newest first."""
    with Platform(load_environment()) as platform:
        _list(platform, "/v1/replays", _JOB, {"limit": limit})


@replay.command("show")
def show_job(replay_id: str) -> None:
    """Show how far a replay came."""
    with Platform(load_environment()) as platform:
        _dump(platform.get(SERVICE, f"/v1/replays/{replay_id}"))


@replay.command()
def pause(replay_id: str) -> None:
    """Stop a replay where it is."""
    _act(f"/v1/replays/{replay_id}/pause")


@replay.command()
def resume(replay_id: str) -> None:
    """Let a replay go on."""
    _act(f"/v1/replays/{replay_id}/resume")


@replay.command()
def cancel(replay_id: str) -> None:
    """End a replay; what it has written stays."""
    _act(f"/v1/replays/{replay_id}/cancel")


@quarantine.command("list")
def list_held(
    *,
    outcome: Annotated[str | None, typer.Option(help="held or conflict")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
) -> None:
    """List what is held back, newest first."""
    with Platform(load_environment()) as platform:
        _list(platform, "/v1/quarantine", _HELD, {"outcome": outcome, "limit": limit})


@quarantine.command()
def release(delivery_id: str, *, reason: Annotated[str, _REASON]) -> None:
    """Let a delivery into its lane."""
    _act(f"/v1/quarantine/{delivery_id}/release", reason=reason)


@quarantine.command("discard")
def discard_held(delivery_id: str, *, reason: Annotated[str, _REASON]) -> None:
    """Keep a delivery out for good."""
    _act(f"/v1/quarantine/{delivery_id}/discard", reason=reason)


@dead_letters.command("list")
def list_letters(
    *,
    service: Annotated[str | None, typer.Option()] = None,
    error_code: Annotated[str | None, typer.Option()] = None,
    state: Annotated[str | None, typer.Option(help="open, replayed or discarded")] = "open",
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
) -> None:
    """List dead letters, newest first."""
    with Platform(load_environment()) as platform:
        query = {"service": service, "error_code": error_code, "state": state, "limit": limit}
        _list(platform, "/v1/dead-letters", _LETTER, query)


@dead_letters.command("show")
def show_letter(dead_letter_id: str) -> None:
    """Show a dead letter: why, from where, and its value."""
    with Platform(load_environment()) as platform:
        _dump(platform.get(SERVICE, f"/v1/dead-letters/{dead_letter_id}"))


@dead_letters.command("replay")
def replay_letter(
    dead_letter_id: str,
    *,
    reason: Annotated[str, _REASON],
    value_file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="the repaired value")] = None,
) -> None:
    """Send a dead letter back to its topic, as it was or with a repaired value."""
    value = {} if value_file is None else {"value_base64": base64.b64encode(value_file.read_bytes()).decode()}
    _act(f"/v1/dead-letters/{dead_letter_id}/replay", reason=reason, **value)


@dead_letters.command("replay-all")
def replay_letters(
    *,
    reason: Annotated[str, _REASON],
    service: Annotated[str | None, typer.Option()] = None,
    error_code: Annotated[str | None, typer.Option()] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only count them")] = False,
) -> None:
    """Send all open dead letters that match back, a thousand at a time."""
    wanted = {"service": service, "error_code": error_code}
    _act("/v1/dead-letters/replay", reason=reason, dry_run=dry_run, **{k: v for k, v in wanted.items() if v})


@dead_letters.command("discard")
def discard_letter(dead_letter_id: str, *, reason: Annotated[str, _REASON]) -> None:
    """Give a dead letter up for good."""
    _act(f"/v1/dead-letters/{dead_letter_id}/discard", reason=reason)


@issues.command("list")
def list_issues(
    *,
    kind: Annotated[str | None, typer.Option(help="silence, drift, conflict, rejections or dead_letter")] = None,
    state: Annotated[str | None, typer.Option(help="open, acknowledged or resolved")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
) -> None:
    """List issues, newest first."""
    with Platform(load_environment()) as platform:
        _list(platform, "/v1/issues", _ISSUE, {"kind": kind, "state": state, "limit": limit})


@issues.command()
def acknowledge(issue_id: str) -> None:
    """Say that somebody looks after an issue."""
    _act(f"/v1/issues/{issue_id}/acknowledge")


def filters(where: Sequence[str] | None) -> dict[str, str]:
    """Return NAME=VALUE pairs as filters of the ledger's search. Raises `CliError`."""
    found: dict[str, str] = {}
    for condition in where or ():
        name, equals, value = condition.partition("=")
        if not (name and equals):
            raise CliError(f"{condition} is not NAME=VALUE")
        found[name] = value
    return found


def window(day: str | None) -> dict[str, str]:
    """Return the filters of a day in UTC; none without a day. Raises `CliError` for anything else."""
    if day is None:
        return {}
    try:
        start_of_day = datetime.combine(datetime.fromisoformat(day).date(), time(), UTC)
    except ValueError:
        raise CliError(f"{day} is no day; write YYYY-MM-DD") from None
    end = start_of_day + timedelta(days=1)
    return {"received_from": start_of_day.isoformat(), "received_to": end.isoformat()}


def _list(platform: Platform, path: str, columns: Sequence[str], query: Mapping[str, Any]) -> None:
    found = platform.get(SERVICE, path, **query)["items"]
    rows = ([_text(item.get(name)) for name in columns] for item in found)
    output.console().print(output.table(columns, rows))


def _act(path: str, **body: Any) -> None:
    with Platform(load_environment()) as platform:
        _dump(platform.post(SERVICE, path, body))


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def _dump(value: Any) -> None:
    output.console().print(json.dumps(value, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)
