"""`patchbay routes …`: which provider takes a capability's calls and why, over the health monitor's API.

Must never shut or open a route without a time to live and a reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from patchbay import output
from patchbay.client import Platform
from patchbay.conformance import options_of
from patchbay.connections import Mode
from patchbay.environment import CliError, load_environment

commands = typer.Typer(no_args_is_help=True, help="Routes to providers: states, reasons, overrides, order.")

SERVICE: Final = "HEALTH_URL"
_DURATION: Final = re.compile(r"([1-9][0-9]{0,6})(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_ROUTE: Final = (
    *("capability", "provider", "mode", "state", "share"),
    *("since", "calls 5m", "success 5m", "override", "reason"),
)
_DECISION: Final = ("at", "provider", "mode", "from", "to", "share", "kind", "by", "why")
# How the health monitor marks a decision that was taken because nobody could ask the provider.
_UNPROBED: Final = "unprobed"

ModeOption = Annotated[Mode, typer.Option(help="routes of live or of sandbox connections")]


class Forced(StrEnum):
    """States that only an operator gives."""

    MAINTENANCE = "maintenance"
    FORCED_UP = "forced_up"
    FORCED_DOWN = "forced_down"


@commands.command("list")
def list_(*, mode: ModeOption = Mode.LIVE, limit: Annotated[int, typer.Option(min=1, max=200)] = 200) -> None:
    """List a mode's routes by capability: state, share of calls, what was seen in the last five minutes."""
    with Platform(load_environment()) as platform:
        found = platform.get(SERVICE, "/v1/routes", mode=mode.value, limit=limit)["items"]
    output.console().print(output.table(_ROUTE, (_route(one) for one in found)))


@commands.command()
def explain(
    capability: str,
    *,
    mode: ModeOption = Mode.LIVE,
    decisions: Annotated[int, typer.Option(min=0, max=50, help="how many of the newest")] = 10,
    evidence: Annotated[bool, typer.Option("--evidence", help="the numbers behind each decision, too")] = False,
) -> None:
    """Say who takes CAPABILITY's calls, in which order, and which decisions led there."""
    with Platform(load_environment()) as platform:
        found = platform.get(SERVICE, f"/v1/routes/{capability}", mode=mode.value)
    out = output.console()
    chosen = "as an operator set it" if found["configured"] else "by name; nobody set it"
    known = found["shares"]
    shares = ", ".join(f"{name} {known[name]} %" for name in found["order"] if name in known) or "no call was seen yet"
    out.print(f"mode:     {found['mode']}\norder:    {', '.join(found['order'])} ({chosen})", markup=False)
    out.print(f"new work: {shares}", markup=False)
    for one in _unprobed(found["decisions"]):
        out.print(f"but:      {one['provider']}: {one['reason']}", markup=False, soft_wrap=True)
    out.print()
    out.print(output.table(_ROUTE, (_route(one) for one in found["providers"])))
    newest = found["decisions"][:decisions]
    if newest:
        out.print()
        out.print(output.table(_DECISION, (_decision(one) for one in newest)))
    for one in newest if evidence else ():
        told = json.dumps(one["evidence"], ensure_ascii=False)
        out.print(f"\n{one['decided_at']} {one['provider']}: {told}", markup=False, soft_wrap=True)


@commands.command()
def force(
    capability: str,
    provider: str,
    state: Forced,
    *,
    for_: Annotated[str, typer.Option("--for", help="how long, such as 90s, 10m, 2h or 1d; seven days at most")],
    reason: Annotated[str, typer.Option(help="why; it is shown with the route and goes into the audit log")],
    mode: ModeOption = Mode.LIVE,
) -> None:
    """Put a route into STATE until the time is over; the health monitor decides again after that."""
    body = {"mode": mode.value, "state": state.value, "ttl_s": seconds(for_), "reason": reason}
    with Platform(load_environment()) as platform:
        made = platform.put(SERVICE, f"{_path(capability, provider)}/override", body)
    output.console().print(f"{provider} ({mode}) is {state} for {capability} until {made['until']}", markup=False)


@commands.command()
def release(capability: str, provider: str, *, mode: ModeOption = Mode.LIVE) -> None:
    """End an override now: a shut route returns step by step, an open one is judged anew."""
    with Platform(load_environment()) as platform:
        platform.delete(SERVICE, f"{_path(capability, provider)}/override?mode={mode.value}")
    output.console().print(f"{provider} ({mode}) is no longer forced for {capability}", markup=False)


@commands.command()
def order(
    capability: str,
    providers: Annotated[list[str], typer.Argument(help="the preferred one first")],
    *,
    share: Annotated[list[str] | None, typer.Option(help="PROVIDER=PERCENT; all of them add up to 100")] = None,
) -> None:
    """Set who is preferred for CAPABILITY in both modes, and optionally which part of new calls each takes."""
    try:
        shares = {name: int(percent) for name, percent in options_of(share or ()).items()}
    except ValueError:
        raise CliError("a share is PROVIDER=PERCENT, such as stripe=80") from None
    with Platform(load_environment()) as platform:
        made = platform.put(SERVICE, f"/v1/capabilities/{capability}/order", {"order": providers, "shares": shares})
    told = ", ".join(f"{name} {percent} %" for name, percent in made["shares"].items()) or "all to the first that can"
    output.console().print(f"{capability}: {', '.join(made['order'])} ({told})", markup=False)


@commands.command()
def clear_self_fault() -> None:
    """Say that the failures are the providers' own: SELF_FAULT and the panic guard let go."""
    with Platform(load_environment()) as platform:
        made = platform.post(SERVICE, "/v1/self-fault/clear", {})
    output.console().print(f"cleared by {made['cleared_by']}", markup=False)


def seconds(duration: str) -> int:
    """Return a duration such as `10m` in seconds; raises `CliError`."""
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise CliError(f"{duration} is no duration such as 90s, 10m, 2h or 1d")
    return int(timedelta(**{_UNITS[match[2]]: int(match[1])}).total_seconds())


def _path(capability: str, provider: str) -> str:
    return f"/v1/routes/{capability}/{provider}"


def _route(route: Mapping[str, Any]) -> tuple[Any, ...]:
    seen = route["windows"]["5m"]
    rate = "" if seen["success_rate"] is None else f"{seen['success_rate']:.1%}"
    override = route["override"]
    forced = f"{override['state']} by {override['actor']} until {override['until']}" if override else ""
    place = (route["capability"], route["provider"], route["mode"], route["state"], f"{route['share']} %")
    return (*place, route["since"], seen["calls"], rate, forced, route["reason"])


def _decision(made: Mapping[str, Any]) -> tuple[Any, ...]:
    moved = (made["decided_at"], made["provider"], made["mode"], made["before"], made["after"])
    return (*moved, f"{made['share']} %", made["kind"], made["actor"], made["reason"])


def _unprobed(decisions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the newest decision about each provider that stands only because nobody could ask it."""
    newest: dict[str, Mapping[str, Any]] = {}
    for made in decisions:
        newest.setdefault(made["provider"], made)
    return [made for made in newest.values() if made["kind"] == _UNPROBED]
