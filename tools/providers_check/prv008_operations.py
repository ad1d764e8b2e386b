"""PRV008: operations are declared, carried out by data or by requests.py, shown in fixtures, and conform to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from providers.feed_conformance import feed_checks
from providers.outbound_conformance import checks
from tools.providers_check.common import provider_of


def check(folder: Path) -> Iterator[str]:
    provider = provider_of(folder)
    if provider is None:
        return
    written = {spec.name for spec in provider.manifest.operations if spec.code}
    implemented = set(provider.operation_table())
    for name in sorted(written - implemented):
        yield f"operation {name} is declared with code, but not in OPERATIONS of requests.py"
    for name in sorted(implemented - written):
        yield f"operation {name} is in requests.py, but not declared with code"
    if written <= implemented:
        for one in (*checks(provider), *feed_checks(provider)):
            if one.problem is not None:
                yield f"operation {one.operation or 'errors'}: {one.name}: {one.problem}"
