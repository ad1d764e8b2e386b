"""Tables of the health monitor: routes, decisions, what operators want, call statistics, API versions, quotas."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from chassis.db.schema import INSTANT, service_registry

_STATES = (
    "('unknown', 'healthy', 'suspect', 'degraded', 'down', 'recovering', 'maintenance', 'forced_up', 'forced_down')"
)


def _mode_is_known() -> sa.CheckConstraint:
    return sa.CheckConstraint("mode IN ('live', 'sandbox')", name="mode")


class Base(SQLModel, registry=service_registry()):
    """Base of the health monitor's tables."""


class Owner(Base, table=True):
    """The generation that the last owner of routes took; one row."""

    __tablename__ = "owners"

    name: str = Field(sa_type=sa.Text, primary_key=True)
    generation: int = Field(sa_type=sa.BigInteger)


class Route(Base, table=True):
    """One provider for one capability in one mode: its newest record, and what its owner learned.

    `ratio` is the failure ratio that counts as healthy; `numbers` are the charts as of the last save.
    """

    __tablename__ = "routes"
    __table_args__ = (sa.CheckConstraint(f"state IN {_STATES}", name="state"), _mode_is_known())

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    capability: str = Field(sa_type=sa.Text, primary_key=True)
    mode: str = Field(sa_type=sa.Text, primary_key=True)
    state: str = Field(sa_type=sa.Text)
    share: int = Field(sa_column=sa.Column(sa.SmallInteger, nullable=False))
    reason: str = Field(sa_type=sa.Text)
    decided_at: datetime = Field(sa_type=INSTANT)
    epoch_generation: int = Field(sa_type=sa.BigInteger)
    epoch_counter: int = Field(sa_type=sa.BigInteger)
    provider_order: list[str] = Field(sa_column=sa.Column(ARRAY(sa.Text), nullable=False))
    shares: dict[str, int] = Field(sa_type=JSONB)
    probe: str = Field(sa_type=sa.Text)
    idempotent_only: bool
    ratio: float = Field(sa_type=sa.Double)
    numbers: dict[str, Any] = Field(sa_type=JSONB)


class RouteTransition(Base, table=True):
    """One decision about a route with its evidence; never changed, never deleted."""

    __tablename__ = "route_transitions"
    __table_args__ = (sa.Index(None, "capability", "decided_at"), _mode_is_known())

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    capability: str = Field(sa_type=sa.Text, primary_key=True)
    mode: str = Field(sa_type=sa.Text, primary_key=True)
    epoch_generation: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True))
    epoch_counter: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True))
    before: str = Field(sa_type=sa.Text)
    after: str = Field(sa_type=sa.Text)
    share: int = Field(sa_column=sa.Column(sa.SmallInteger, nullable=False))
    reason: str = Field(sa_type=sa.Text)
    decided_at: datetime = Field(sa_type=INSTANT)
    kind: str = Field(sa_type=sa.Text)
    evidence: dict[str, Any] = Field(sa_type=JSONB)
    shares: dict[str, int] = Field(sa_type=JSONB)
    actor: str = Field(sa_type=sa.Text)


class RouteOverride(Base, table=True):
    """The state that an operator demands of a route until `until`."""

    __tablename__ = "route_overrides"
    __table_args__ = (
        sa.CheckConstraint("state IN ('maintenance', 'forced_up', 'forced_down')", name="state"),
        _mode_is_known(),
    )

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    capability: str = Field(sa_type=sa.Text, primary_key=True)
    mode: str = Field(sa_type=sa.Text, primary_key=True)
    state: str = Field(sa_type=sa.Text)
    until: datetime = Field(sa_type=INSTANT)
    reason: str = Field(sa_type=sa.Text)
    actor: str = Field(sa_type=sa.Text)
    at: datetime = Field(sa_type=INSTANT)


class CapabilityPlan(Base, table=True):
    """The order of a capability's providers and their shares in percent, as an operator wants them in both modes."""

    __tablename__ = "capability_plans"

    capability: str = Field(sa_type=sa.Text, primary_key=True)
    providers: list[str] = Field(sa_column=sa.Column(ARRAY(sa.Text), nullable=False))
    shares: dict[str, int] = Field(sa_type=JSONB)
    actor: str = Field(sa_type=sa.Text)
    at: datetime = Field(sa_type=INSTANT)


class Clearance(Base, table=True):
    """An operator's word that the evidence is real, at an instant; one row."""

    __tablename__ = "clearances"

    name: str = Field(sa_type=sa.Text, primary_key=True)
    at: datetime = Field(sa_type=INSTANT)
    actor: str = Field(sa_type=sa.Text)


class CallMinute(Base, table=True):
    """Calls of one route in one minute of their own time, by outcome; kept for a day."""

    __tablename__ = "call_minutes"
    __table_args__ = (sa.Index(None, "minute"), _mode_is_known())

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    capability: str = Field(sa_type=sa.Text, primary_key=True)
    mode: str = Field(sa_type=sa.Text, primary_key=True)
    minute: datetime = Field(sa_column=sa.Column(INSTANT, primary_key=True))
    success: int = Field(sa_type=sa.BigInteger)
    client_error: int = Field(sa_type=sa.BigInteger)
    server_error: int = Field(sa_type=sa.BigInteger)
    timeout: int = Field(sa_type=sa.BigInteger)
    connect_error: int = Field(sa_type=sa.BigInteger)
    throttled: int = Field(sa_type=sa.BigInteger)
    latency_ms_sum: float = Field(sa_type=sa.Double)
    latency_ms_max: float = Field(sa_type=sa.Double)


class ApiVersion(Base, table=True):
    """A version of a provider's API as its answers named it, with their deprecation and sunset headers."""

    __tablename__ = "api_versions"

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    version: str = Field(sa_type=sa.Text, primary_key=True)
    deprecation: str = Field(sa_type=sa.Text)
    sunset: str = Field(sa_type=sa.Text)
    first_seen: datetime = Field(sa_type=INSTANT)
    last_seen: datetime = Field(sa_type=INSTANT)


class ApiVersionRecord(Base, table=True):
    """What was published about a provider's API versions last."""

    __tablename__ = "api_version_records"

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    record: dict[str, Any] = Field(sa_type=JSONB)
    at: datetime = Field(sa_type=INSTANT)


class Quota(Base, table=True):
    """What may be spent of one kind of bucket: the policy that was published last, and the limit that an operator set.

    `used_ratio` is the greatest forecast of its owners, `worst_owner` whose it is.
    """

    __tablename__ = "quotas"
    __table_args__ = (_mode_is_known(),)

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    bucket: str = Field(sa_type=sa.Text, primary_key=True)
    mode: str = Field(sa_type=sa.Text, primary_key=True)
    version: int = Field(sa_type=sa.BigInteger)
    policy: dict[str, Any] = Field(sa_type=JSONB)
    configured: list[dict[str, Any]] | None = Field(sa_column=sa.Column(JSONB(none_as_null=True), nullable=True))
    used_ratio: float = Field(sa_type=sa.Double)
    worst_owner: str = Field(sa_type=sa.Text)
    told: str = Field(sa_type=sa.Text)
    at: datetime = Field(sa_type=INSTANT)
