"""Who may ask the platform what: tokens, roles, probes."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import Platform

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("LEDGER_URL", "/v1/deliveries"),
        ("SYNC_URL", "/v1/connections"),
        ("HEALTH_URL", "/v1/health"),
        ("VERIFICATION_URL", "/v1/audit"),
        ("ORCHESTRATOR_URL", "/v1/sagas"),
    ],
)
def test_every_api_wants_a_token_of_our_issuer(platform: Platform, service: str, path: str) -> None:
    url = platform.env[service] + path
    for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic dXNlcjpwdw=="}):
        answer = httpx.get(url, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert platform.api.get(url).status_code == 200


def test_a_viewer_may_look_and_not_write(platform: Platform) -> None:
    viewer = {"authorization": f"Bearer {platform.stack.token(['viewer'])}"}
    url = f"{platform.env['SYNC_URL']}/v1/connections"
    assert httpx.get(url, headers=viewer).status_code == 200
    answer = httpx.post(url, headers=viewer, json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_role")


def test_probes_and_metrics_answer_without_a_token(platform: Platform) -> None:
    for name in ("GATEWAY_URL", "LEDGER_URL", "SYNC_URL", "HEALTH_URL", "VERIFICATION_URL", "ORCHESTRATOR_URL"):
        for path in ("/live", "/ready", "/metrics"):
            assert httpx.get(platform.env[name] + path).status_code == 200, f"{name}{path}"
    assert (platform.stack.run_dir / "env").stat().st_mode & 0o077 == 0
