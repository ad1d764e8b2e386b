"""Settings of the sandbox."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What the sandbox reads from `PATCHBAY_*`; unlike a service it needs no broker, no database and no tokens."""

    model_config = SettingsConfigDict(env_prefix="PATCHBAY_", frozen=True, extra="ignore")

    http_host: str = Field(default="127.0.0.1", description="address to listen on")
    http_port: int = Field(default=8000, ge=0, le=65535, description="port of everything that the sandbox serves")
    log_level: str = Field(default="INFO", description="level of the JSON logs on standard output")
    sandbox_allow_hosts: str = Field(
        default="", description="hosts beside loopback that deliveries may be sent to, comma separated"
    )

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """The hosts of `sandbox_allow_hosts`, lower-case."""
        return frozenset(host.strip().lower() for host in self.sandbox_allow_hosts.split(",") if host.strip())
