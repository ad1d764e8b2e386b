"""`patchbay quotas …`: what may be spent of providers' limits and why, over the health monitor's API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from patchbay import output
from patchbay.client import Platform
from patchbay.connections import Mode
from patchbay.environment import CliError, load_environment
from patchbay.routes import seconds

commands = typer.Typer(no_args_is_help=True, help="Quotas of providers: limits, forecasts, an operator's own limit.")

SERVICE: Final = "HEALTH_URL"
CONNECTIONS: Final = "SYNC_URL"
_SHOWN: Final = (
    "provider",
    "bucket",
    "mode",
    "limit",
    "forecast",
    "slowed",
    "source",
    "version",
    "reason",
    "decided_at",
)
_WINDOW: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)/([1-9][0-9]*[smhd])")


class Shape(StrEnum):
    """How a provider counts."""

    GCRA = "gcra"
    FIXED = "fixed"
    CONCURRENT = "concurrent"


@commands.command("list")
def list_(
    *,
    provider: Annotated[str | None, typer.Option(help="only this one")] = None,
    all_: Annotated[bool, typer.Option("--all", help="also of providers that nothing is connected to")] = False,
) -> None:
    """List quotas: limits, the worst forecast for the end of a window and whose it is, and who is slowed.

    The limit of an account is that of each connection. What all lose is lost by whoever called lately.
    Those of providers without a connection, a call or a limit of your own are counted only, unless --all is given.
    """
    with Platform(load_environment()) as platform:
        found = platform.every(SERVICE, "/v1/quotas")
        if provider is not None:
            found = [one for one in found if one["provider"] == provider]
        used, unsure = (set(), "") if all_ or provider else _used(platform)
    shown = [one for one in found if all_ or provider or one["provider"] in used or _matters(one)]
    out = output.console()
    out.print(output.table(_SHOWN, map(_row, shown)))
    hidden = {one["provider"] for one in found} - {one["provider"] for one in shown}
    if hidden:
        every = len({one["provider"] for one in found})
        told = f"{len(hidden)} of {every} providers, without a connection or a call, are hidden; --all shows them"
        out.print(f"{told}{unsure}", markup=False, soft_wrap=True)


@commands.command("set")
def set_(  # lint-skip: PB007 each is an option of the command line
    provider: str,
    bucket: Annotated[str, typer.Argument(help="app, account, address or endpoint:<class>")],
    *,
    reason: Annotated[str, typer.Option(help="why; it goes into the audit log")],
    window: Annotated[list[str] | None, typer.Option(help="LIMIT/DURATION, such as 100/10s; repeatable")] = None,
    shape: Annotated[Shape, typer.Option(help="how the provider counts")] = Shape.GCRA,
    burst: Annotated[float, typer.Option(min=1, help="units that may be used at once (gcra)")] = 1,
    mode: Annotated[Mode, typer.Option(help="the sandbox has the live limit while it has none of its own")] = Mode.LIVE,
    as_published: Annotated[bool, typer.Option("--as-published", help="take the operator's limit back")] = False,
) -> None:
    """Set a limit of our own for a bucket of PROVIDER, or take it back."""
    if as_published == bool(window):
        raise CliError("give either --window or --as-published")
    windows = [{**_window(one), "shape": shape.value, "burst": burst} for one in window or ()]
    body = {"mode": mode.value, "windows": windows, "reason": reason}
    with Platform(load_environment()) as platform:
        made = platform.put(SERVICE, f"/v1/quotas/{provider}/{bucket}", body)
    told = "; ".join(_words(one) for one in made["windows"])
    output.console().print(f"{provider} {bucket} ({mode}): {told} ({made['source']})", markup=False)


def _used(platform: Platform) -> tuple[set[str], str]:
    """Return the providers that were called or are connected, and what could not be found out about that."""
    used = {one["provider"] for one in platform.every(SERVICE, "/v1/routes")}
    try:
        known = platform.every(CONNECTIONS, "/v1/connections")
    except CliError as error:
        return used, f" (connections are not known: {error})"
    return used | {one["provider"] for one in known if one["state"] != "revoked"}, ""


def _matters(quota: Mapping[str, Any]) -> bool:
    """Tell whether a quota says something that no manifest does."""
    return bool(quota["owners_trimmed"] or quota["used_ratio"] or quota["source"] != "published")


def _window(text: str) -> dict[str, float]:
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise CliError(f"{text} is not LIMIT/DURATION, such as 100/10s")
    return {"limit": float(match[1]), "seconds": float(seconds(match[2]))}


def _words(window: Mapping[str, Any]) -> str:
    if window["shape"] == "concurrent":
        return f"{window['limit']:g} at a time"
    return f"{window['limit']:g} in {window['seconds']:g} s"


def _row(quota: Mapping[str, Any]) -> tuple[Any, ...]:
    limit = "; ".join(_words(one) for one in quota["windows"])
    forecast = f"{quota['used_ratio']:.0%}"
    if quota["worst_owner"] and quota["used_ratio"]:
        forecast += f" ({quota['worst_owner']})"
    said = (forecast, _slowed(quota), quota["source"], quota["version"], quota["reason"])
    return (quota["provider"], quota["bucket"], quota["mode"], limit, *said, quota["decided_at"])


def _slowed(quota: Mapping[str, Any]) -> str:
    """Say what all lose, and how many lose anything where a limit counts for each owner."""
    all_ = ", ".join(f"{name} by {part:.0%}" for name, part in (quota["trim"] or {}).items())
    if quota["bucket"] == "app" or not quota["owners_trimmed"]:
        return all_
    one, more = ("address", "addresses") if quota["bucket"] == "address" else ("connection", "connections")
    many = f"{quota['owners_trimmed']} {one if quota['owners_trimmed'] == 1 else more}"
    return f"{many}; all lose {all_}" if all_ else many
