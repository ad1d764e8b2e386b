"""What a provider's folder reads out of its own fixtures, in the form that is kept under `fixtures/golden/`.

Used by the conformance suite and `tools/providers_check`; production paths never call this.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from providers.fixtures import EXAMPLE_URL, Fixture
from providers.provider import Provider
from providers.sdk import PaymentSnapshot, WebhookItem

# Any instant does: ids and readings must not depend on when a delivery is signed.
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


def reading(provider: Provider, fixture: Fixture) -> list[dict[str, Any]]:
    """Return the events of a fixture with their payment snapshots, as JSON values."""
    secret = provider.verifier(fixture.options).generate().signing
    signed = provider.sign(
        fixture.request({}), secret=secret, now=_NOW, message_id=fixture.message_id, options=fixture.options
    )
    # Headers may name the event; a body that was signed inside would differ from one key to the next.
    documented = replace(signed, url=EXAMPLE_URL, body=fixture.body)
    return [_item(provider, item) for item in provider.split(documented, fixture.options)]


def path_of(folder: Path, fixture: Fixture) -> Path:
    """Return where the expected reading of a fixture is kept."""
    return folder / "fixtures" / "golden" / f"{fixture.name}.json"


def write(provider: Provider) -> None:
    """Write the golden readings of all fixtures, for a person to review in the diff, and drop those without one."""
    fixtures = provider.fixtures()
    wanted = {path_of(provider.folder, fixture): fixture for fixture in fixtures}
    for path in (provider.folder / "fixtures" / "golden").glob("*.json"):
        if path not in wanted:
            path.unlink()
    for path, fixture in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(reading(provider, fixture), indent=2, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")


def _item(provider: Provider, item: WebhookItem) -> dict[str, Any]:
    payments = [_snapshot(snapshot) for snapshot in provider.normalise(item.event_type, item.data)]
    told = {"account": item.account, "api_version": item.api_version, "path": item.path}
    return {
        "event_id": item.event_id,
        "event_type": item.event_type,
        "entity": list(item.entity) if item.entity else None,
        "lane": provider.webhook.lane_for(item.event_type).value,
        **{name: text for name, text in told.items() if text},
        "payments": payments,
    }


def _snapshot(snapshot: PaymentSnapshot) -> dict[str, Any]:
    values = asdict(snapshot)
    return {**values, "status": snapshot.status.value, "occurred_at": snapshot.occurred_at.isoformat()}
