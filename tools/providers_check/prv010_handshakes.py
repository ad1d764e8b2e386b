"""PRV010: every handshake of the manifest has a fixture of its name, and every fixture has a handshake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tools.providers_check.common import provider_of


def check(folder: Path) -> Iterator[str]:
    provider = provider_of(folder)
    if provider is None or provider.manifest.webhook is None:
        return
    declared = {handshake.name for handshake in provider.webhook.handshakes}
    shown = {fixture.name.partition(".")[0] for fixture in provider.handshake_fixtures()}
    for name in sorted(declared - shown):
        yield f"handshake {name} has no fixture under fixtures/handshakes"
    for name in sorted(shown - declared):
        yield f"fixtures/handshakes/{name} belongs to no handshake of the manifest"
