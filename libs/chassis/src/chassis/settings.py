"""Settings that every service has, read from `PATCHBAY_*` environment variables once at start."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Base of each service's settings; a service adds only its own knobs.

    Raises pydantic's `ValidationError` at start-up, naming the variable, when one is missing or wrong.
    """

    model_config = SettingsConfigDict(env_prefix="PATCHBAY_", frozen=True, extra="ignore")

    http_host: str = Field(default="127.0.0.1", description="address to listen on")
    http_port: int = Field(default=8000, ge=0, le=65535, description="port of the API, /live, /ready and /metrics")
    kafka_bootstrap: str = Field(description="host:port of the Kafka brokers, comma separated")
    jwks: str = Field(description="path or https URL of the token issuer's JWKS")
    jwt_issuer: str = Field(description="required `iss` of bearer tokens")
    jwt_audience: str = Field(default="patchbay", description="required `aud` of bearer tokens")
    farewell_s: float = Field(
        default=1.0,
        ge=0,
        description="after SIGTERM a gateway serves on so long while /ready says no: until load balancers have noticed",
    )
    listen_when_ready: bool = Field(
        default=False, description="listen only once ready: for a start beside the process that this one replaces"
    )
    log_level: str = Field(default="INFO", description="level of the JSON logs on standard output")
    trace_file: Path | None = Field(default=None, description="file for spans as JSON lines; OTLP is used when unset")
    trace_sample_ratio: float = Field(default=1.0, ge=0, le=1, description="share of new traces that are recorded")
    instance: str = Field(
        default="", description="ordinal of this replica, unique per service: static Kafka membership; empty is dynamic"
    )
    drain_timeout_s: float = Field(default=25.0, gt=0, description="time for a clean stop; below the 30 s kill timeout")


class DatabaseSettings(ServiceSettings):
    """Settings of a service with a database of its own."""

    database_url: SecretStr = Field(description="postgresql:// URL with the service's own role")
    database_pool_size: int = Field(default=10, ge=2, description="connections per process")
