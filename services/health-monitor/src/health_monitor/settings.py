"""Settings of the health monitor."""

from __future__ import annotations

from pydantic import Field, SecretStr

from chassis.settings import DatabaseSettings


class Settings(DatabaseSettings):
    """The detector's limits are no settings: they are reasoned constants of its modules."""

    redis_url: SecretStr | None = Field(
        default=None, description="redis:// URL of the mirror; without it routes travel by the topic alone"
    )
    route_generation: int = Field(
        default=1,
        ge=1,
        description="least first half of an epoch; raise it after restoring the database, or readers ignore new routes",
    )
    control_probes: str = Field(
        default="",
        pattern=r"^([^:,\s]+:[0-9]{1,5}(,[^:,\s]+:[0-9]{1,5})*)?$",
        description="host:port, comma separated: when none accepts a connection, the fault is ours; empty: unchecked",
    )
