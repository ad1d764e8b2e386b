"""Settings of the sync worker."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from chassis.settings import ClaimSettings, DatabaseSettings


class Settings(DatabaseSettings, ClaimSettings):
    """What the sync worker needs beyond the chassis."""

    keyring: Path = Field(description="keyring file that seals credentials and endpoints' secrets")
    kms_url: str = Field(
        default="",
        pattern=r"^(https://[^/]+|http://127\.0\.0\.1:[0-9]+)?$",
        description="Vault or OpenBao whose transit engine wraps the keys of credentials. Empty: the keyring file does",
    )
    kms_key: str = Field(default="patchbay", min_length=1, description="name of the transit key, of type aes256-gcm96")
    kms_token_file: Path = Field(default=Path(".run/kms-token"), description="file with the token for the KMS")
    kms_ca_file: Path | None = Field(
        default=None, description="authority of the KMS's certificate. Empty: those that the machine trusts"
    )
    public_gateway_url: str = Field(
        pattern=r"^https?://[^/]+$", description="base of webhook URLs as providers see them, without a path"
    )
    public_api_url: str = Field(
        default="",
        pattern=r"^(https?://[^/]+)?$",
        description="base of this API as browsers see it, for OAuth callbacks. Empty: where it listens",
    )
    provider_base_url_override: str = Field(
        default="",
        description="sandbox URL; calls go to <it>/<provider> instead of the providers. Empty: the providers",
    )
    redis_url: SecretStr = Field(description="redis:// URL of the shared quotas and the mirror of routes")
    executors: int = Field(default=100, ge=1, le=1024, description="provider calls in flight per process")
    catch_up_interval_s: float = Field(
        default=900.0, ge=30, description="how often a provider's feed is read for events that were missed, in seconds"
    )
    subscription_check_s: float = Field(
        default=21_600.0, ge=60, description="how often subscriptions are compared with the provider's list, in seconds"
    )
    endpoint_max_body_bytes: int = Field(
        default=10 * 1024 * 1024, gt=0, description="greatest body limit of an endpoint; what the gateway takes at most"
    )
    endpoint_max_per_s: float = Field(
        default=10_000.0, gt=0, description="greatest rate limit of an endpoint or tenant, in deliveries a second"
    )
    key_warning_h: float = Field(
        default=24.0, gt=0, description="warn this many hours before a webhook key ends that is still in use"
    )
