"""Settings of the orchestrator."""

from __future__ import annotations

from pydantic import Field

from chassis.settings import DatabaseSettings


class Settings(DatabaseSettings):
    """What the orchestrator needs beyond the chassis."""

    timer_poll_s: float = Field(default=0.2, gt=0, description="how often due timers are looked for")
