"""`patchbay endpoints …`: look at webhook endpoints and configure them, over the sync worker's API.

Must never print a secret, nor take one as an argument, where the shell's history and `ps` would show it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from patchbay import asking, output
from patchbay.client import Platform
from patchbay.environment import CliError, load_environment
from providers import registry

commands = typer.Typer(no_args_is_help=True, help="Webhook endpoints: addresses, keys, limits, lanes.")

SERVICE: Final = "SYNC_URL"
SECRET_VARIABLE: Final = "PATCHBAY_WEBHOOK_SECRET"  # noqa: S105 (the name of a variable)
_SUMMARY: Final = ("id", "provider", "tenant", "state", "lane", "version", "url")
_KEYS: Final = ("key_id", "state", "not_before", "not_after", "last_used_at", "created_by")
_SECRET: Final = typer.Option(
    "--secret",
    envvar=SECRET_VARIABLE,
    show_default=False,
    help="asked for when not in the environment",
)
_OVERLAP: Final = typer.Option(min=0, max=168, help="hours that the old one stays valid")


@commands.command("list")
def list_(
    *,
    tenant: Annotated[str | None, typer.Option()] = None,
    provider: Annotated[str | None, typer.Option()] = None,
    state: Annotated[str | None, typer.Option(help="live or paused")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
) -> None:
    """List endpoints."""
    with Platform(load_environment()) as platform:
        query = {"tenant": tenant, "provider": provider, "state": state, "limit": limit}
        found = platform.get(SERVICE, "/v1/endpoints", **query)["items"]
    output.console().print(output.table(_SUMMARY, ([item[name] for name in _SUMMARY] for item in found)))


@commands.command()
def show(endpoint_id: str) -> None:
    """Show one endpoint: addresses, keys with their validity and last use, settings."""
    with Platform(load_environment()) as platform:
        _show(platform.get(SERVICE, _path(endpoint_id)))


@commands.command()
def create(
    provider: str,
    *,
    tenant: Annotated[str, typer.Option()],
    account: Annotated[str, typer.Option(help="the account at the provider, such as its id")],
    secret: Annotated[str, _SECRET] = "",
    lane: Annotated[str, typer.Option(help="critical, standard or bulk")] = "standard",
) -> None:
    """Connect an account of PROVIDER that sends webhooks, and print the URL to register there."""
    body = {
        "provider": provider,
        "tenant": tenant,
        "account_ref": account,
        "secrets": {registry.get(provider).webhook.secret: _given(secret)},
        "lane": lane,
    }
    with Platform(load_environment()) as platform:
        made = platform.post(SERVICE, "/v1/connections", body)
    for endpoint in made["endpoints"]:
        output.console().print(f"endpoint {endpoint['id']}\nurl      {endpoint['url']}", markup=False, soft_wrap=True)


@commands.command()
def rotate_secret(
    endpoint_id: str,
    *,
    secret: Annotated[str, _SECRET] = "",
    overlap_h: Annotated[float, _OVERLAP] = 24.0,
    keep_older: Annotated[bool, typer.Option("--keep-older", help="leave the older ones as they are")] = False,
    not_before: Annotated[str | None, typer.Option(help="RFC 3339 time from which the new one holds")] = None,
) -> None:
    """Add a secret; the older ones stay valid for the overlap."""
    body: dict[str, Any] = {"value": _given(secret), "overlap_h": None if keep_older else overlap_h}
    with Platform(load_environment()) as platform:
        changed = platform.post(
            SERVICE, f"{_path(endpoint_id)}/secrets", body | ({"not_before": not_before} if not_before else {})
        )
    _print_keys(changed)


@commands.command()
def retire_key(
    endpoint_id: str,
    key_id: str,
    *,
    force: Annotated[bool, typer.Option("--force", help="even if deliveries are refused from then on")] = False,
) -> None:
    """Let a key end now."""
    with Platform(load_environment()) as platform:
        platform.delete(SERVICE, f"{_path(endpoint_id)}/secrets/{key_id}{'?force=true' if force else ''}")
        _print_keys(platform.get(SERVICE, _path(endpoint_id)))


@commands.command()
def rotate_url(endpoint_id: str, *, overlap_h: Annotated[float, _OVERLAP] = 24.0) -> None:
    """Give the endpoint a new URL and print it; the old one is served for the overlap."""
    with Platform(load_environment()) as platform:
        changed = platform.post(SERVICE, f"{_path(endpoint_id)}/rotate-url", {"overlap_h": overlap_h})
    output.console().print(changed["url"], markup=False, soft_wrap=True)


@commands.command()
def pause(endpoint_id: str) -> None:
    """Verify and keep deliveries, but hold them back from the lanes."""
    _act(endpoint_id, "pause")


@commands.command()
def resume(endpoint_id: str) -> None:
    """Let deliveries into the lanes again."""
    _act(endpoint_id, "resume")


@commands.command("set")
def set_(
    endpoint_id: str,
    settings: Annotated[list[str], typer.Argument(help="NAME=VALUE, the value as JSON or plain text")],
) -> None:
    """Change settings, such as lane=bulk, max_body_bytes=65536 or allowed_ips='["203.0.113.0/24"]'."""
    with Platform(load_environment()) as platform:
        _show(platform.patch(SERVICE, _path(endpoint_id), parse(settings)))


def parse(settings: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as a JSON object; a value that is no JSON is text. Raises `CliError`."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (name and equals):
            raise CliError(f"{setting} is not NAME=VALUE")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _act(endpoint_id: str, act: str) -> None:
    with Platform(load_environment()) as platform:
        changed = platform.post(SERVICE, f"{_path(endpoint_id)}/{act}", {})
    output.console().print(f"{changed['id']} is {changed['state']}", markup=False)


def _given(secret: str) -> str:
    """Return the signing secret, asked for when it was not given. Blocking; raises `CliError` without a terminal."""
    name = "of the sender"
    return secret or asking.secrets({name: SECRET_VARIABLE}, "--secret")[name]


def _path(endpoint_id: str) -> str:
    return f"/v1/endpoints/{endpoint_id}"


def _show(endpoint: dict[str, Any]) -> None:
    plain = {name: value for name, value in endpoint.items() if name not in ("keys", "addresses")}
    out = output.console()
    out.print(output.table(("setting", "value"), [(name, _text(value)) for name, value in plain.items()]))
    out.print()
    addresses = [(one["url"], one["state"], one["not_after"]) for one in endpoint["addresses"]]
    out.print(output.table(("address", "state", "not_after"), addresses))
    out.print()
    _print_keys(endpoint)


def _print_keys(endpoint: dict[str, Any]) -> None:
    output.console().print(output.table(_KEYS, ([key[name] for name in _KEYS] for key in endpoint["keys"])))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
