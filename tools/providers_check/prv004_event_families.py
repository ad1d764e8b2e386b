"""PRV004: every family of event types that the manifest speaks of has a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from tools.providers_check.common import event_types_of, provider_of


def check(folder: Path) -> Iterator[str]:
    provider = provider_of(folder)
    if provider is None or provider.manifest.webhook is None:
        return
    webhook = provider.manifest.webhook
    types = event_types_of(provider)
    if not types:
        yield "no fixture under fixtures/webhooks"
    families = [rule.match for rule in webhook.entities] + [rule.match for rule in webhook.lanes]
    for glob in dict.fromkeys(glob for globs in families for glob in globs):
        if not any(fnmatchcase(event_type, glob) for event_type in types):
            yield f"no fixture for event type {glob}"
