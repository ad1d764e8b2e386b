"""Settings of the health monitor."""

from __future__ import annotations

from pydantic import Field

from chassis.settings import DatabaseSettings


class Settings(DatabaseSettings):
    """The detector's limits are no settings: they are reasoned constants of `detector`."""

    route_generation: int = Field(
        default=1,
        ge=1,
        description="first half of every epoch; raise it after restoring the database, or readers ignore new routes",
    )
