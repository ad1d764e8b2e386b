"""The one table of what the local stack runs and with which settings; the compose file is checked against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

JWT_AUDIENCE: Final = "patchbay"
JWT_ISSUER: Final = "https://issuer.patchbay.localhost"

# What `make up` tries first; a taken one is replaced by a free one and remembered in .run/ports.json.
INFRASTRUCTURE_PORTS: Final = {"kafka": 8790, "kafka-controller": 8791, "postgres": 8792, "redis": 8793}


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One process of the platform: module to run, port to prefer, database it owns, its own settings.

    `overlaps`: two of it may run at once, so that one replaces the other without a request refused.
    """

    name: str
    module: str
    port: int
    url_variable: str
    database: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    overlaps: bool = False


SERVICES: Final[tuple[ServiceSpec, ...]] = (
    ServiceSpec(
        "gateway",
        "webhook_gateway",
        8700,
        "GATEWAY_URL",
        settings={"PATCHBAY_ROLE": "ingest", "PATCHBAY_VENDOR_KEY_OVERRIDE": "{vendor_keys_url}"},
        overlaps=True,
    ),
    ServiceSpec(
        "ledger",
        "webhook_gateway",
        8701,
        "LEDGER_URL",
        "webhook_gateway",
        settings={"PATCHBAY_ROLE": "ledger", "PATCHBAY_VENDOR_KEY_OVERRIDE": "{vendor_keys_url}"},
    ),
    ServiceSpec(
        "sync-worker",
        "sync_worker",
        8702,
        "SYNC_URL",
        "sync_worker",
        settings={
            "PATCHBAY_PUBLIC_GATEWAY_URL": "{gateway_url}",
            "PATCHBAY_PROVIDER_BASE_URL_OVERRIDE": "{sandbox_url}",
        },
    ),
    ServiceSpec("health-monitor", "health_monitor", 8703, "HEALTH_URL", "health_monitor"),
    ServiceSpec("verification", "verification", 8704, "VERIFICATION_URL", "verification"),
    ServiceSpec("orchestrator", "orchestrator", 8705, "ORCHESTRATOR_URL", "orchestrator"),
    ServiceSpec("sandbox", "sandbox", 8706, "SANDBOX_URL", settings={"PATCHBAY_SANDBOX_ALLOW_HOSTS": ""}),
)
BY_NAME: Final = {spec.name: spec for spec in SERVICES}

TOPICS_COMMAND: Final = ("-m", "chassis.kafka.topics")
MIGRATE_COMMAND: Final = ("-m", "chassis.db.migrate")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a running stack knows: addresses and key files; `urls`, `ports` and `databases` go by service name."""

    kafka_bootstrap: str
    redis_url: str
    jwks: Path
    keyring: Path
    traces: Path
    claims: Path
    urls: Mapping[str, str]
    ports: Mapping[str, int]
    databases: Mapping[str, str]
    log_level: str = "INFO"


def environment(spec: ServiceSpec, facts: Facts) -> dict[str, str]:
    """Return the `PATCHBAY_*` variables of one service; the names are the contract with the service's settings."""
    env = {
        "PATCHBAY_HTTP_HOST": "127.0.0.1",
        "PATCHBAY_HTTP_PORT": str(facts.ports[spec.name]),
        "PATCHBAY_KAFKA_BOOTSTRAP": facts.kafka_bootstrap,
        "PATCHBAY_REDIS_URL": facts.redis_url,
        "PATCHBAY_JWKS": str(facts.jwks),
        "PATCHBAY_JWT_ISSUER": JWT_ISSUER,
        "PATCHBAY_JWT_AUDIENCE": JWT_AUDIENCE,
        "PATCHBAY_KEYRING": str(facts.keyring),
        "PATCHBAY_CLAIM_DIR": str(facts.claims),
        "PATCHBAY_TRACE_FILE": str(facts.traces / f"{spec.name}.jsonl"),
        "PATCHBAY_LOG_LEVEL": facts.log_level,
        "PATCHBAY_INSTANCE": "0",
    }
    if spec.database is not None:
        env["PATCHBAY_DATABASE_URL"] = facts.databases[spec.name]
    sandbox = facts.urls.get("sandbox", "")
    known = {
        "gateway_url": facts.urls.get("gateway", ""),
        "sandbox_url": sandbox,
        "vendor_keys_url": sandbox and f"{sandbox}/_keys",
    }
    return env | {name: value.format(**known) for name, value in spec.settings.items()}
