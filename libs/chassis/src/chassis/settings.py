"""Settings that every service has, read from `PATCHBAY_*` environment variables once at start."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
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


class ClaimSettings(ServiceSettings):
    """Settings of a service that writes or reads the claim-check store; all of them need the same."""

    claim_store: Literal["directory", "s3"] = Field(
        default="directory", description="where bodies too large for a record are kept: a directory, or an S3 bucket"
    )
    claim_dir: Path = Field(default=Path(".run/claims"), description="claim-check store: the directory")
    claim_s3_bucket: str = Field(default="", description="claim-check store: the bucket; required with `s3`")
    claim_s3_endpoint: str = Field(
        default="",
        pattern=r"^(https?://[^/?#\s]+)?$",
        description="URL of the server that speaks S3, without a path. Empty: Amazon's",
    )
    claim_s3_region: str = Field(default="us-east-1", min_length=1, description="region that requests are signed for")
    claim_s3_access_key: SecretStr = Field(
        default=SecretStr(""), description="access key id; it may get, put, delete and list. Required with `s3`"
    )
    claim_s3_secret_key: SecretStr = Field(default=SecretStr(""), description="secret access key; required with `s3`")
    claim_s3_allow_http: bool = Field(
        default=False, description="let bodies travel unencrypted: for an http endpoint in a network of your own"
    )
    claim_s3_timeout_s: float = Field(
        default=5.0, gt=0, description="time for one call to the bucket; the gateway's own deadline may end it earlier"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Refuse a bucket that could not be used, before the first large body does."""
        if self.claim_store == "s3":
            given = {
                "claim_s3_bucket": self.claim_s3_bucket,
                "claim_s3_access_key": self.claim_s3_access_key.get_secret_value(),
                "claim_s3_secret_key": self.claim_s3_secret_key.get_secret_value(),
            }
            absent = [name for name, value in given.items() if not value]
            if absent:
                raise ValueError(f"{', '.join(absent)}: required when claim_store is s3")
            if self.claim_s3_endpoint.startswith("http://") and not self.claim_s3_allow_http:
                raise ValueError("claim_s3_endpoint: must be https, unless claim_s3_allow_http is set")
        return self
