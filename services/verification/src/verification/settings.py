"""Settings of the verification service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chassis.settings import DatabaseSettings


class Settings(DatabaseSettings):
    """Limits of attempts and lifetimes; the thresholds and rules themselves are code."""

    keyring: Path = Field(description="keyring file; the pepper of all stored tags is derived from its keys")
    attempt_limit: int = Field(default=3, ge=1, description="checks per customer and per identity in one window")
    attempt_window_s: int = Field(default=24 * 60 * 60, ge=1, description="length of a window of attempts")
    attestation_days: int = Field(default=365, ge=1, description="how long a passed check binds person and account")
    check_timeout_s: float = Field(default=3.0, gt=0, description="time for a provider's answer; later it is a fault")
