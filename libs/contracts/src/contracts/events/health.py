"""What the health monitor says about routes to providers."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from contracts.events.base import Event, Instant, Slug


class RouteState(StrEnum):
    """State of one provider for one capability (health-monitor.md §4.4)."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    DOWN = "down"
    RECOVERING = "recovering"


class RouteChanged(Event):
    """A route as every reader must follow it; a reader drops a record whose epoch is not greater than its own.

    `epoch` is (owner generation, counter), compared lexicographically.
    """

    TYPE: ClassVar[str] = "route.changed.v1"

    provider: Slug
    capability: str
    epoch: tuple[int, int]
    state: RouteState
    share: int = Field(ge=0, le=100, description="percentage of calls that may take this route")
    reason: str
    decided_at: Instant
