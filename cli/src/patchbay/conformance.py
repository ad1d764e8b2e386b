"""`patchbay conformance`: every case that a provider's endpoint or its API must get right, in process or live.

Must never take a secret as an argument, where the shell's history and `ps` would show it, nor print one.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import httpx
import typer

from chassis.clock import SystemClock
from patchbay import output
from patchbay.endpoints import SECRET_VARIABLE
from patchbay.environment import CliError
from providers import outbound_conformance, registry
from providers.conformance import Case, Exemption, cases, failure, mismatches, variants
from providers.provider import Provider
from providers.sdk import InboundRequest, KeyPair
from sandbox.signing import http_arguments

# The longest published deadline of a sender: whoever needs more has failed anyway.
TIMEOUT_S: Final = 30.0
# Beyond any difference of two clocks that are kept by NTP.
MARGIN_S: Final = 60.0
OUTBOUND: Final = "outbound"
Outcome = Literal["passed", "exempt", "failed"]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case; `detail` is the reason of an exemption or the difference."""

    provider: str
    variant: str
    case: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A live endpoint: where to send to, what was registered at the vendor, the sender's half of its secret."""

    url: str
    registered_url: str
    secret: str = field(repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    margin_s: float = MARGIN_S


def conformance(  # lint-skip: PB007 each is an option of the command line
    *,
    provider: Annotated[str, typer.Option(help="one provider; all by default")] = "",
    url: Annotated[str, typer.Option(help="a live endpoint to send the cases to; use one that is for tests")] = "",
    registered_url: Annotated[str, typer.Option(help="the URL known to the vendor, if it is not --url")] = "",
    secret_file: Annotated[
        Path | None, typer.Option(help=f"file with the endpoint's secret (or set {SECRET_VARIABLE})")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, an option that the endpoint has")] = None,
    margin_s: Annotated[float, typer.Option(min=1, help="seconds that clocks may differ (with --url)")] = MARGIN_S,
    outbound: Annotated[bool, typer.Option("--outbound", help="check calls to the providers' APIs instead")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object instead of a table")] = False,
) -> None:
    """Check that endpoints answer as vendors demand, or --outbound that calls are made so; ends with 1 on a failure."""
    options = options_of(option or ())
    if outbound:
        if url or registered_url or secret_file or option:
            raise CliError("--outbound sends nothing: it goes with --provider and --json only")
        results = [found for one in _callable(provider) for found in of_api(one)]
    elif url:
        if not provider:
            raise CliError("--url needs --provider")
        target = Target(url, registered_url or url, _secret(secret_file), options, margin_s)
        results = list(live(_sender(provider), target))
    else:
        results = [found for one in _senders(provider) for found in in_process(one, options)]
    _print(results, as_json=as_json)
    if any(one.outcome == "failed" for one in results):
        raise typer.Exit(1)
    if not outbound and all(one.outcome == "exempt" for one in results):
        raise CliError("no case could be sent: only the vendor can sign for this endpoint")


def in_process(provider: Provider, options: Mapping[str, str] | None = None) -> Iterator[Result]:
    """Run a provider's cases against its own code, under every choice of its scheme; the given options come on top."""
    for choice in variants(provider):
        chosen = {**choice, **(options or {})}
        provider.manifest.resolve_options(chosen)
        label = _label(chosen)
        for one in cases(provider, chosen):
            if isinstance(one, Exemption):
                yield Result(provider.slug, label, one.name, "exempt", one.why)
                continue
            wrong = failure(one, provider)
            yield Result(provider.slug, label, one.name, "failed" if wrong else "passed", wrong or "")


def of_api(provider: Provider) -> Iterator[Result]:
    """Check requests, answers, keys, look-ups, errors and limits of a provider's operations; nothing is sent."""
    for one in outbound_conformance.checks(provider):
        outcome: Outcome = "failed" if one.problem else "exempt" if one.exempt else "passed"
        case = f"{one.operation} {one.name}".strip()
        told = f"{case}: {one.problem}" if one.problem else one.exempt
        yield Result(provider.slug, OUTBOUND, case, outcome, told)


def live(provider: Provider, target: Target) -> Iterator[Result]:
    """Send a provider's live cases to an endpoint, one after the other, and compare status, body and headers.

    Raises `CliError` when nobody answers.
    """
    known = provider.manifest.resolve_options(target.options)
    label = _label(target.options)
    keys = KeyPair(target.secret, target.secret)
    now = SystemClock().now()
    with httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as http:
        for one in cases(
            provider, target.options, keys=keys, url=target.registered_url, now=now, margin_s=target.margin_s
        ):
            why = one.why if isinstance(one, Exemption) else _not_live(one, known)
            if isinstance(one, Exemption) or why:
                yield Result(provider.slug, label, one.name, "exempt", why)
                continue
            wrong = _differences(_expected(one, provider), _ask(http, one.request, target.url))
            detail = f"{one.name}: {', '.join(wrong)}" if wrong else ""
            yield Result(provider.slug, label, one.name, "failed" if wrong else "passed", detail)


def _not_live(case: Case, known: Mapping[str, str]) -> str:
    """Return why a case cannot be sent to this endpoint; empty when it can."""
    if not case.live:
        return "needs another secret or key than the endpoint has"
    missing = [f"{name}={text}" for name, text in case.options.items() if known.get(name, "") != text]
    return f"the endpoint needs --option {' --option '.join(missing)}" if missing else ""


def _expected(case: Case, provider: Provider) -> Case:
    """Return the case with what a vendor also looks at in the answer to a delivery."""
    if case.name != "accept":
        return case
    return replace(case, expect=replace(case.expect, text=provider.webhook.success_body))


def _ask(http: httpx.Client, request: InboundRequest, url: str) -> httpx.Response:
    try:
        return http.request(**http_arguments(request, url))
    except httpx.HTTPError as error:
        raise CliError(f"{url} does not answer ({type(error).__name__})") from None


def _differences(case: Case, answer: httpx.Response) -> list[str]:
    found = []
    if answer.status_code != case.expect.status:
        found.append(f"answered {answer.status_code}, expected {case.expect.status}")
    return found + mismatches(case.expect, answer.content, dict(answer.headers))


def _senders(slug: str) -> list[Provider]:
    if slug:
        return [_sender(slug)]
    return [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]


def _sender(slug: str) -> Provider:
    provider = registry.get(slug)
    if provider.manifest.webhook is None:
        raise CliError(f"{slug} sends no webhooks")
    return provider


def _callable(slug: str) -> list[Provider]:
    if not slug:
        return [provider for provider in registry.all_providers() if provider.manifest.operations]
    provider = registry.get(slug)
    if not provider.manifest.operations:
        raise CliError(f"{slug} offers no operations")
    return [provider]


def options_of(pairs: Sequence[str]) -> dict[str, str]:
    """Return NAME=VALUE pairs as an endpoint's options; raises `CliError`."""
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise CliError(f"{pair} is not NAME=VALUE")
        options[name] = text
    return options


def _secret(file: Path | None) -> str:
    if file is None:
        secret = os.environ.get(SECRET_VARIABLE, "")
    else:
        try:
            secret = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(f"{file} cannot be read ({type(error).__name__})") from None
    if not secret:
        raise CliError(f"give the endpoint's secret with --secret-file or in {SECRET_VARIABLE}")
    return secret


def _label(options: Mapping[str, str]) -> str:
    return " ".join(f"{name}={text}" for name, text in options.items())


def _print(results: Sequence[Result], *, as_json: bool) -> None:
    out = output.console()
    counted = Counter(one.outcome for one in results)
    if as_json:
        shown: dict[str, Any] = {name: counted[name] for name in ("passed", "exempt", "failed")}
        shown["cases"] = [
            {"provider": one.provider, "variant": one.variant, "case": one.case, "outcome": one.outcome}
            | ({"detail": one.detail} if one.detail else {})
            for one in results
        ]
        out.print(json.dumps(shown, indent=1), markup=False, soft_wrap=True)
        return
    groups: dict[tuple[str, str], Counter[Outcome]] = {}
    for one in results:
        groups.setdefault((one.provider, one.variant), Counter())[one.outcome] += 1
    rows = [(*group, found["passed"], found["exempt"], found["failed"]) for group, found in groups.items()]
    out.print(output.table(("provider", "variant", "passed", "exempt", "failed"), rows))
    exempt: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for one in (one for one in results if one.outcome == "exempt"):
        names, slugs = exempt.setdefault(one.detail, ({}, {}))
        names[one.case] = slugs[one.provider] = None
    if exempt:
        out.print()
        whys = [(why, ", ".join(names), ", ".join(slugs)) for why, (names, slugs) in exempt.items()]
        out.print(output.table(("exempt because", "cases", "providers"), whys))
    failed = [(one.provider, one.variant, one.detail) for one in results if one.outcome == "failed"]
    if failed:
        out.print()
        out.print(output.table(("provider", "variant", "failed"), failed))
    out.print()
    out.print(f"{counted['passed']} passed, {counted['exempt']} exempt, {counted['failed']} failed")
