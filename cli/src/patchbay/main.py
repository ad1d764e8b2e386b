"""The commands of `patchbay`; each only reads its arguments, asks one module, and prints."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated

import typer

from contracts.errors import Invalid
from patchbay import (
    api_versions,
    conformance,
    connections,
    effects,
    endpoints,
    ledger,
    output,
    quotas,
    routes,
    sending,
    tailing,
    traces,
)
from patchbay import demo as demo_story
from patchbay.client import Platform
from patchbay.environment import CliError, load_environment
from providers import registry
from providers.conformance import variants
from providers.provider import Provider

_typer = typer.Typer(no_args_is_help=True, add_completion=False, help="Look at a running Patchbay, and play with it.")
_typer.add_typer(connections.commands, name="connections")
_typer.add_typer(endpoints.commands, name="endpoints")
_typer.add_typer(routes.commands, name="routes")
_typer.add_typer(quotas.commands, name="quotas")
_typer.command()(api_versions.api_versions)
_typer.add_typer(effects.commands, name="effects")
_typer.command("run")(effects.run)
_typer.command()(conformance.conformance)
_typer.command()(ledger.deliveries)
_typer.command()(ledger.reverify)
_typer.command()(ledger.export)
_typer.add_typer(ledger.replay, name="replay")
_typer.add_typer(ledger.quarantine, name="quarantine")
_typer.add_typer(ledger.dead_letters, name="dead-letters")
_typer.add_typer(ledger.issues, name="issues")


class Spoil(StrEnum):
    """How `send` spoils a delivery."""

    NONE = "none"
    BODY = "body"
    SIGNATURE = "signature"
    STALE = "stale"
    FUTURE = "future"


def app() -> None:
    """Run the command line; a known failure prints its message and ends with 1."""
    try:
        _typer()
    except (CliError, Invalid) as error:
        output.console(stderr=True).print(f"patchbay: {error}", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@_typer.command()
def providers() -> None:
    """List the providers that Patchbay knows."""
    rows = []
    for provider in registry.all_providers():
        manifest = provider.manifest
        inbound = "webhook" if manifest.webhook else manifest.changes.how if manifest.changes else "-"
        schemes = ", ".join(_schemes(provider)) or "-"
        rows.append((provider.slug, manifest.name, manifest.tier, inbound, schemes, len(manifest.operations) or "-"))
    output.console().print(output.table(("slug", "name", "tier", "inbound", "scheme", "operations"), rows))


def _schemes(provider: Provider) -> list[str]:
    """Return the signing schemes of a provider, each once: the endpoint's options choose among several."""
    if provider.manifest.webhook is None:
        return []
    found = [provider.signature(options).scheme for options in variants(provider)]
    return list(dict.fromkeys(found))


@_typer.command()
def send(  # lint-skip: PB007 each is an option of the command line
    provider: str,
    *,
    endpoint_url: Annotated[str, typer.Option(help="the endpoint's URL as the connection shows it")],
    secret: Annotated[str, typer.Option(envvar="PATCHBAY_WEBHOOK_SECRET", help="the sender's half of the secret")],
    fixture: Annotated[str, typer.Option(help="a name from the provider's fixtures/webhooks")],
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, an option that the endpoint has")] = None,
    tamper: Annotated[Spoil, typer.Option(help="how to spoil the delivery")] = Spoil.NONE,
    copies: Annotated[int, typer.Option(min=1, max=100)] = 1,
    fresh: Annotated[str, typer.Option(help="suffix that gives events and entities new ids")] = "",
) -> None:
    """Sign a fixture as PROVIDER would and send it. Ends with 1 unless every copy was answered with 2xx.

    Where receivers have to fetch the vendor's key, the sandbox sends it, since only it can serve that key.
    """
    options = conformance.options_of(option or ())
    order = sending.Order(provider, endpoint_url, secret, fixture, tamper.value, copies, fresh, options)
    out = output.console()
    answers = sending.send(order)
    for number, (status, latency_ms) in enumerate(answers, start=1):
        out.print(f"{number}: {status or 'no answer'} in {latency_ms:.1f} ms")
    if not all(200 <= status < 300 for status, _ in answers):  # noqa: PLR2004 (2xx)
        raise typer.Exit(1)


@_typer.command()
def tail(
    topic: str,
    *,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="all that the topic still holds")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="stop after so many records")] = None,
) -> None:
    """Follow TOPIC: key, type, id, trace and data of each record."""
    out = output.console()
    left = count

    def see(record: tailing.Shown) -> bool:
        nonlocal left
        out.print(record.lines(), markup=False, soft_wrap=True)
        left = None if left is None else left - 1
        return left == 0

    bootstrap = load_environment()["KAFKA_BOOTSTRAP"]
    tailing.follow(bootstrap, topic, "beginning" if from_beginning else "end", see, None)


@_typer.command()
def trace(trace_id: str) -> None:
    """Print a trace as a tree across services."""
    environment = load_environment()
    spans = traces.read_spans(environment.traces, trace_id)
    if not spans:
        raise CliError(f"no span of {trace_id} in {environment.traces}")
    output.console().print(traces.tree(trace_id, spans))


@_typer.command()
def saga(saga_id: str) -> None:
    """Print the timeline of a saga."""
    with Platform(load_environment()) as platform:
        found = platform.get("ORCHESTRATOR_URL", f"/v1/sagas/{saga_id}")
    out = output.console()
    out.print(f"{found['definition']} v{found['version']}  {found['status']}  tenant {found['tenant']}", markup=False)
    rows = [(one["seq"], one["at"], one["entry"], one["step"], json.dumps(one["detail"])) for one in found["timeline"]]
    out.print(output.table(("seq", "at", "entry", "step", "detail"), rows))


@_typer.command()
def demo() -> None:
    """Play a day in the life of a business; ends with 0 only if every station was seen."""
    with Platform(load_environment()) as platform:
        raise typer.Exit(demo_story.play(platform, output.console()))


if __name__ == "__main__":
    app()
