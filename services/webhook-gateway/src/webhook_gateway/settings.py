"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from chassis.settings import ClaimSettings


class Settings(ClaimSettings):
    """Both roles read the same variables; the ingest role needs the keyring, the ledger role the database."""

    role: Literal["ingest", "ledger"] = Field(default="ingest", description="which half of the gateway this process is")
    keyring: Path | None = Field(
        default=None, description="keyring file that opens endpoints' secrets (ingest; ledger: verify again)"
    )
    database_url: SecretStr | None = Field(default=None, description="postgresql:// URL of the ledger (ledger)")
    database_pool_size: int = Field(default=10, ge=2, description="connections per process (ledger)")
    retention_days: int = Field(default=90, ge=1, description="whole days that deliveries are kept (ledger)")
    tenant_retention_days: dict[str, int] = Field(
        default_factory=dict, description="JSON object of shorter retentions in days by tenant (ledger)"
    )
    release_per_s: float = Field(
        default=200.0, gt=0, description="held deliveries per second and endpoint when a pause ends (ledger)"
    )
    redis_url: SecretStr | None = Field(default=None, description="redis:// URL of the dedup memory (ingest)")
    max_body_bytes: int = Field(
        default=10 * 1024 * 1024, gt=0, description="limit of a request body, raw and decompressed (ingest)"
    )
    inline_body_bytes: int = Field(
        default=900 * 1024,
        gt=0,
        description="a larger body goes to the claim-check store; body and headers must fit a 1 MiB Kafka record",
    )
    max_requests: int = Field(default=8192, gt=0, description="webhook requests in flight; a quarter is for critical")
    max_held_bytes: int = Field(
        default=192 * 1024 * 1024, gt=0, description="bytes of bodies in flight; a quarter is for critical"
    )
    vendor_key_override: str = Field(
        default="",
        pattern=r"^(https?://[^/?#\s]+(/[\w-]+)*)?$",
        description="development only: URL of the sandbox's key servers, asked instead of every vendor (both roles)",
    )
    drain_groups: list[str] = Field(
        default=["sync-worker-deliveries"],
        description="JSON list of consumer groups whose backlog slows bulk down (ledger)",
    )
    trusted_proxies: list[str] = Field(
        default=[], description="JSON list of CIDR ranges whose X-Forwarded-For and client certificates are believed"
    )
    body_timeout_s: float = Field(default=10.0, gt=0, description="time for a sender to deliver its whole body")
    publish_timeout_s: float = Field(
        default=1.8, gt=0, le=2.0, description="time for the broker's acknowledgement; the answer is due within 2 s"
    )
