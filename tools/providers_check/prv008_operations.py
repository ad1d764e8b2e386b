"""PRV008: operations are declared in the manifest, implemented in requests.py and shown in fixtures, or none of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from providers.fixtures import api_cases
from tools.providers_check.common import provider_of


def check(folder: Path) -> Iterator[str]:
    provider = provider_of(folder)
    if provider is None:
        return
    declared = {operation.name: operation for operation in provider.manifest.operations}
    implemented = set(provider.operation_table())
    cases = api_cases(provider.folder)
    for name in sorted(declared.keys() - implemented):
        yield f"operation {name} is declared, but not in OPERATIONS of requests.py"
    for name in sorted(implemented - declared.keys()):
        yield f"operation {name} is in requests.py, but not declared"
    for name, operation in declared.items():
        own = [case for case in cases if case.operation_name == name]
        if not own:
            yield f"operation {name} has no fixture under fixtures/api"
        elif operation.read_back != any(case.read_back is not None for case in own):
            yield f"operation {name}: read_back of the manifest and of fixtures/api differ"
