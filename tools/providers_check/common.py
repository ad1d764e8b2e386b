"""What the rules share: the quality tiers and the reading of a folder.

A rule is a module `prv<nnn>_<name>.py` with a docstring that states it and `check(folder)` that yields findings.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

from contracts.errors import Invalid
from providers.manifest import load
from providers.provider import Provider

TIERS: Final[dict[str, tuple[str, ...]]] = {
    "bronze": ("readme", "fixtures", "golden", "vectors"),
    "silver": ("published-vectors", "event-identity", "replay-window"),
    "gold": ("operations", "api-fixtures", "own-tests"),
}


# What a provider that sends no webhooks cannot do.
WEBHOOK_RULES: Final = frozenset({"fixtures", "golden", "vectors", *TIERS["silver"]})


def rules_of(tier: str, *, webhooks: bool = True) -> list[str]:
    """Return the rules of a tier and of all tiers below it, for a provider with or without webhooks."""
    names = list(TIERS)
    rules = [rule for name in names[: names.index(tier) + 1] for rule in TIERS[name]]
    return rules if webhooks else [rule for rule in rules if rule not in WEBHOOK_RULES]


def provider_of(folder: Path) -> Provider | None:
    """Return the provider in a folder, or None when its manifest does not load: PRV001 reports that."""
    try:
        return Provider(folder, load(folder / "manifest.toml"))
    except (Invalid, OSError):
        return None


def quality_of(folder: Path) -> dict[str, Any]:
    """Return `quality.toml`, empty when it is absent or no TOML: PRV003 reports that."""
    try:
        return tomllib.loads((folder / "quality.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return {}


def event_types_of(provider: Provider) -> set[str]:
    """Return the event types of a provider's golden readings; unreadable fixtures give none (PRV005 reports them)."""
    from providers.golden import reading  # noqa: PLC0415 (only rules that read fixtures pay for it)

    types: set[str] = set()
    for fixture in provider.fixtures():
        try:
            types |= {item["event_type"] for item in reading(provider, fixture)}
        except Invalid:
            continue
    return types
