"""`patchbay connections …`: accounts at providers, over the sync worker's API.

Must never print a secret, nor take one as an argument, where the shell's history and `ps` would show it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from patchbay import asking, output
from patchbay.client import Platform
from patchbay.conformance import options_of
from patchbay.environment import CliError, load_environment
from providers import registry
from providers.provider import Provider

commands = typer.Typer(no_args_is_help=True, help="Accounts at providers: connect, authorise, test, rotate, revoke.")

SERVICE: Final = "SYNC_URL"
SECRET_PREFIX: Final = "PATCHBAY_SECRET_"  # noqa: S105 (the beginning of a variable's name)
_SUMMARY: Final = ("id", "provider", "tenant", "account_ref", "mode", "method", "state", "reason", "version")
_SECRET_FILE: Final = typer.Option(
    "--secret-file",
    help=f"NAME=PATH, a secret in a file; others come from {SECRET_PREFIX}<NAME> or are asked for",
)


class Mode(StrEnum):
    """Which of a provider's two worlds a connection belongs to."""

    LIVE = "live"
    SANDBOX = "sandbox"


@commands.command("list")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option()] = None,
    provider: Annotated[str | None, typer.Option()] = None,
    mode: Annotated[Mode | None, typer.Option()] = None,
    state: Annotated[str | None, typer.Option(help="live, limited, needs_reauth, paused, …")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
) -> None:
    """List connections, oldest first."""
    query = {"tenant": tenant, "provider": provider, "mode": mode, "state": state, "limit": limit}
    with Platform(load_environment()) as platform:
        found = platform.get(SERVICE, "/v1/connections", **query)["items"]
    output.console().print(output.table(_SUMMARY, ([item.get(name) for name in _SUMMARY] for item in found)))


@commands.command()
def show(connection_id: str) -> None:
    """Show one connection: state with reason, scopes, endpoints, last test, and the names of its secrets."""
    with Platform(load_environment()) as platform:
        _show(platform.get(SERVICE, _path(connection_id)))


@commands.command()
def create(  # lint-skip: PB007 each is an option of the command line
    provider: str,
    *,
    tenant: Annotated[str, typer.Option()],
    account: Annotated[str, typer.Option(help="the account at the provider, unless the provider tells it")] = "",
    mode: Annotated[Mode, typer.Option()] = Mode.LIVE,
    method: Annotated[str, typer.Option(help="a way to authenticate; the manifest's first one by default")] = "",
    lane: Annotated[str, typer.Option(help="of its deliveries: critical, standard or bulk")] = "standard",
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, an option of the provider")] = None,
    secret_file: Annotated[list[str] | None, _SECRET_FILE] = None,
    webhooks: Annotated[bool, typer.Option(help="also receive its webhooks")] = True,
) -> None:
    """Connect an account of PROVIDER, and print what to register or to do next."""
    known = registry.get(provider)
    body = {
        "provider": provider,
        "tenant": tenant,
        "account_ref": account,
        "mode": mode,
        "method": method,
        "lane": lane,
        "options": options_of(option or ()),
        "secrets": collected(secrets_of(known, method, webhooks=webhooks), secret_file or ()),
    }
    with Platform(load_environment()) as platform:
        made = platform.post(SERVICE, "/v1/connections", body)
    out = output.console()
    out.print(f"connection {made['id']} is {made['state']} ({made['mode']})", markup=False)
    for endpoint in made["endpoints"]:
        out.print(f"endpoint   {endpoint['id']}\nurl        {endpoint['url']}", markup=False, soft_wrap=True)
    if made["state"] == "authorizing":
        out.print(f"next       patchbay connections authorize {made['id']}", markup=False)


@commands.command()
def authorize(
    connection_id: str,
    *,
    scope: Annotated[list[str] | None, typer.Option(help="ask for these; the manifest's by default")] = None,
) -> None:
    """Begin an authorisation, the first or another one, and print the address to open within ten minutes."""
    with Platform(load_environment()) as platform:
        begun = platform.post(SERVICE, f"{_path(connection_id)}/authorize", {"scopes": scope} if scope else {})
    output.console().print(begun["authorize_url"], markup=False, soft_wrap=True)


@commands.command()
def test(connection_id: str) -> None:
    """Make the provider's cheap read with the connection's credentials; ends with 1 unless it succeeds."""
    with Platform(load_environment()) as platform:
        found = platform.post(SERVICE, f"{_path(connection_id)}/test", {})
    status = f", status {found['status']}" if found["status"] else ""
    output.console().print(f"test: {found['outcome']}{status} ({found['mode']})", markup=False)
    if found["outcome"] != "success":
        raise typer.Exit(1)


@commands.command()
def pause(connection_id: str) -> None:
    """Make no calls; tokens are kept alive."""
    _change(connection_id, paused=True)


@commands.command()
def resume(connection_id: str) -> None:
    """Make calls again."""
    _change(connection_id, paused=False)


@commands.command()
def rotate(
    connection_id: str,
    names: Annotated[list[str] | None, typer.Argument(help="the secrets that change; the only one by default")] = None,
    *,
    secret_file: Annotated[list[str] | None, _SECRET_FILE] = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="without trying it first; the old one is dropped")] = False,
) -> None:
    """Give secrets of the API a new value: tried first, then used, while calls with the old one end.

    Use --at-once where the old one is no good any more: it leaked, was revoked, or a person has to authorise anyway.
    """
    path = f"{_path(connection_id)}/credentials"
    with Platform(load_environment()) as platform:
        found = platform.get(SERVICE, _path(connection_id))
        wanted = _to_rotate(found, names or [pair.partition("=")[0] for pair in secret_file or ()])
        body = {"secrets": collected(wanted, secret_file or ())}
        made = platform.put(SERVICE, path, body) if at_once else platform.post(SERVICE, f"{path}/rotate", body)
    out = output.console()
    for name, version in made["credentials"].items():
        out.print(f"{name} is version {version}", markup=False)
    if not at_once:
        out.print(f"the old one is in use until {made['draining_until']} at the latest", markup=False)


@commands.command()
def credentials(connection_id: str) -> None:
    """List the versions of a connection's secrets with their states; their values never come out."""
    with Platform(load_environment()) as platform:
        found = platform.get(SERVICE, f"{_path(connection_id)}/credentials")["items"]
    header = tuple(dict.fromkeys(name for one in found for name in one))
    output.console().print(output.table(header, ([one.get(name) for name in header] for one in found)))


@commands.command()
def revoke(connection_id: str, *, yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False) -> None:
    """End a connection for good: its secrets are deleted and its endpoints answer 404."""
    if not yes:
        asking.consent(f"Revoke {connection_id} for good?", "--yes")
    with Platform(load_environment()) as platform:
        platform.delete(SERVICE, _path(connection_id))
    output.console().print(f"{connection_id} is revoked", markup=False)


def secrets_of(provider: Provider, method: str, *, webhooks: bool) -> list[str]:
    """Return the names of the secrets that a new connection needs; raises `Invalid` for an unknown method.

    Without `webhooks` the secret of deliveries is left out.
    """
    manifest = provider.manifest
    names = list(manifest.api.method(method).secret_names()) if manifest.api is not None else []
    names += [one for one, spec in manifest.secrets.items() if spec.required and (webhooks or spec.use != ("webhook",))]
    if webhooks and manifest.webhook is not None and manifest.webhook.secret:
        names.append(manifest.webhook.secret)
    return list(dict.fromkeys(names))


def collected(names: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Return secrets by name: from NAME=PATH, else from the environment, else asked for. Blocking; raises `CliError`.

    A file may hold a secret beyond `names`; whether it is needed is the service's to say. Without a terminal nobody can
    be asked, and the error names the variables.
    """
    found = {name: _read(path) for name, path in options_of(files).items()}
    for name in names:
        given = os.environ.get(_variable(name))
        if name not in found and given:
            found[name] = given
    missing = {name: _variable(name) for name in names if name not in found}
    return found | asking.secrets(missing, "--secret-file NAME=PATH")


def _variable(name: str) -> str:
    return f"{SECRET_PREFIX}{name.upper()}"


def _read(path: str) -> str:
    try:
        # Some keys, such as PEM, have line breaks inside; the one at the end is the editor's.
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{path} cannot be read ({type(error).__name__})") from None
    if not secret:
        raise CliError(f"{path} is empty")
    return secret


def _to_rotate(connection: Mapping[str, Any], named: Sequence[str]) -> list[str]:
    """Return the secrets to rotate: the named ones, or the only one of the connection's method; raises `CliError`."""
    if named:
        return list(named)
    provider = registry.get(connection["provider"])
    known = list(provider.api.method(connection["method"]).secret_names()) if connection["method"] else []
    if len(known) != 1:
        choice = f"one of {', '.join(known)}" if known else "none: what verifies deliveries is rotated at its endpoint"
        raise CliError(f"name what to rotate, {choice}")
    return known


def _change(connection_id: str, *, paused: bool) -> None:
    with Platform(load_environment()) as platform:
        changed = platform.patch(SERVICE, _path(connection_id), {"paused": paused})
    output.console().print(f"{changed['id']} is {changed['state']}", markup=False)


def _path(connection_id: str) -> str:
    return f"/v1/connections/{connection_id}"


def _show(connection: Mapping[str, Any]) -> None:
    rows = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in connection.items()
    ]
    output.console().print(output.table(("field", "value"), rows))
