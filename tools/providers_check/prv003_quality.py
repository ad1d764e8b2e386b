"""PRV003: quality.toml names every rule of the manifest's tier, `done` ones hold, and exemptions have a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from providers.conformance import variants
from providers.fixtures import api_cases, vectors
from providers.provider import Provider
from tools.providers_check.common import provider_of, quality_of, rules_of

MIN_REASON_LENGTH: Final = 20


def check(folder: Path) -> Iterator[str]:
    provider = provider_of(folder)
    quality = quality_of(folder)
    if provider is None:
        return
    tier = provider.manifest.tier
    if quality.get("tier") != tier:
        yield f"quality.toml says tier {quality.get('tier')}, the manifest {tier}"
    stated: dict[str, Any] = quality.get("rules", {})
    for rule in rules_of(tier, webhooks=provider.manifest.webhook is not None):
        if rule not in stated:
            yield f"quality.toml does not state {rule}, which tier {tier} needs"
    for rule, state in stated.items():
        yield from _judge(provider, rule, state)


def _judge(provider: Provider, rule: str, state: Any) -> Iterator[str]:
    if rule not in rules_of("gold", webhooks=provider.manifest.webhook is not None):
        yield f"quality.toml states {rule}, which is no rule"
    elif state == "done":
        holds = _HOLDS.get(rule)
        if holds is not None and not holds(provider):
            yield f"quality.toml says {rule} is done, but it is not"
    elif not isinstance(state, dict) or set(state) != {"exempt"}:
        yield f'quality.toml: {rule} is neither "done" nor {{ exempt = "reason" }}'
    elif len(str(state["exempt"])) < MIN_REASON_LENGTH:
        yield f"quality.toml: the exemption from {rule} needs a reason"


def _published(provider: Provider) -> bool:
    return any(vector.valid and vector.origin in {"published", "sdk"} for vector in vectors(provider.folder))


def _identified(provider: Provider) -> bool:
    first = provider.webhook.event_id[0]
    return isinstance(first, str) and first != "digest"


def _windowed(provider: Provider) -> bool:
    found = [provider.traits(options) for options in variants(provider)]
    return all(traits is None or traits.stale_after_s is not None for traits in found)


# The other rules are checked for every folder by a PRV rule of their own.
_HOLDS: Final[dict[str, Callable[[Provider], bool]]] = {
    "published-vectors": _published,
    "event-identity": _identified,
    "replay-window": _windowed,
    "operations": lambda provider: bool(provider.manifest.operations),
    "api-fixtures": lambda provider: bool(api_cases(provider.folder)),
    "own-tests": lambda provider: any((provider.folder / "tests").glob("test_*.py")),
}
