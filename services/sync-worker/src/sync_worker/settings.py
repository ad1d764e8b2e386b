"""Settings of the sync worker."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chassis.settings import DatabaseSettings


class Settings(DatabaseSettings):
    """What the sync worker needs beyond the chassis."""

    keyring: Path = Field(description="keyring file that seals credentials and endpoints' secrets")
    public_gateway_url: str = Field(
        pattern=r"^https?://[^/]+$", description="base of webhook URLs as providers see them, without a path"
    )
    provider_base_url_override: str = Field(
        default="",
        description="sandbox URL; calls go to <it>/<provider> instead of the providers. Empty: the providers",
    )
    executors: int = Field(default=16, ge=1, le=256, description="provider calls in flight per process")
