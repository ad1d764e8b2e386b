"""Settings of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """Both roles read the same variables; the ingest role needs the keyring, the ledger role the database."""

    role: Literal["ingest", "ledger"] = Field(default="ingest", description="which half of the gateway this process is")
    keyring: Path | None = Field(default=None, description="keyring file that opens endpoints' secrets (ingest)")
    database_url: SecretStr | None = Field(default=None, description="postgresql:// URL of the ledger (ledger)")
    database_pool_size: int = Field(default=10, ge=2, description="connections per process (ledger)")
    max_body_bytes: int = Field(
        default=960 * 1024,
        gt=0,
        description="limit of a request body, raw and decompressed; body and headers must fit a 1 MiB Kafka record",
    )
    body_timeout_s: float = Field(default=10.0, gt=0, description="time for a sender to deliver its whole body")
    publish_timeout_s: float = Field(
        default=1.8, gt=0, le=2.0, description="time for the broker's acknowledgement; the answer is due within 2 s"
    )
