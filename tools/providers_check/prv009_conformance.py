"""PRV009: every conformance case holds for the folder's own code, in each scheme that an option can choose."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contracts.errors import Invalid
from providers.conformance import Case, Exemption, cases, failure, variants
from providers.provider import Provider
from providers.sdk import Refused
from tools.providers_check.common import provider_of


def check(folder: Path) -> Iterator[str]:
    provider = provider_of(folder)
    if provider is None or provider.manifest.webhook is None:
        return
    if not provider.fixtures():
        return  # PRV004 reports that
    for options in variants(provider):
        named = f" ({', '.join(options.values())})" if options else ""
        try:
            found = [failure(case, provider) for case in cases(provider, options) if isinstance(case, Case)]
        except (Invalid, Refused, ValueError) as error:
            yield f"conformance cannot be run{named}: {error}"
            continue
        yield from (f"conformance{named}: {text}" for text in found if text is not None)


def exemptions(provider: Provider) -> list[Exemption]:
    """Return the cases that the provider's schemes cannot have, each once, with the reason."""
    found: dict[str, Exemption] = {}
    for options in variants(provider):
        for one in cases(provider, options):
            if isinstance(one, Exemption):
                found.setdefault(one.name, one)
    return list(found.values())
