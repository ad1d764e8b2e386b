"""What a newcomer does: connect a provider in sandbox mode, break it, and see its route shut and return."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from typing import Any

import pytest

from chassis.testing.harness import until
from providers import registry
from tests.conftest import Platform

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e, pytest.mark.timeout(400)]

SLUG, CAPABILITY = "stripe", "payments"
needs_provider = pytest.mark.skipif(SLUG not in registry.all_slugs(), reason="the provider's folder was deleted")


def connect(platform: Platform) -> None:
    answer = platform.api.post(
        f"{platform.env['SYNC_URL']}/v1/connections",
        json={
            "provider": SLUG,
            "tenant": f"new-{uuid.uuid4().hex[:8]}",
            "account_ref": "acct_new",
            "mode": "sandbox",
            "secrets": {"webhook": "whsec_new", "api_key": "sk_test_new"},
        },
    )
    assert (answer.status_code, answer.json()["mode"]) == (201, "sandbox"), answer.text


def route(platform: Platform) -> dict[str, Any]:
    """Return the sandbox route, empty while the health monitor has not heard of it."""
    answer = platform.api.get(f"{platform.env['HEALTH_URL']}/v1/routes/{CAPABILITY}/{SLUG}?mode=sandbox")
    assert answer.status_code in (200, 404), answer.text
    return dict(answer.json()) if answer.status_code == 200 else {}


async def becomes(platform: Platform, state: str, timeout_s: float) -> None:
    async def so() -> bool:
        return route(platform).get("state") == state

    await until(so, f"the sandbox route is {state}", timeout_s)


def explained(platform: Platform) -> str:
    environment = os.environ | platform.env | {"PATCHBAY_RUN_DIR": str(platform.stack.run_dir), "COLUMNS": "250"}
    command = [sys.executable, "-m", "patchbay.main", "routes", "explain", CAPABILITY, "--mode", "sandbox"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_provider
async def test_a_broken_sandbox_is_seen_shut_and_returns_in_steps(platform: Platform) -> None:
    connect(platform)
    await becomes(platform, "healthy", 60)
    broken = f"{platform.env['SANDBOX_URL']}/_control/faults/{SLUG}"
    assert platform.api.put(broken, json={"mode": "outage"}).status_code == 200
    try:
        await becomes(platform, "down", 30)
    finally:
        platform.api.delete(broken)
    await becomes(platform, "healthy", 120)
    moves = list(reversed(route(platform)["transitions"]))
    assert {one["mode"] for one in moves} == {"sandbox"}
    steps = [one["share"] for one in moves if one["after"] == "recovering"]
    assert list(dict.fromkeys(steps)) == [5, 25, 100]
    told = explained(platform)
    assert "mode:     sandbox" in told
    assert "raised to 25 % after a clean step" in told
