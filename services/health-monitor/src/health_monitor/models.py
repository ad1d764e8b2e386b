"""Tables of the health monitor: routes, the decisions about them, and call statistics of the last day."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from chassis.db.schema import INSTANT, service_registry

_STATES = "('unknown', 'healthy', 'degraded', 'down', 'recovering')"


class Base(SQLModel, registry=service_registry()):
    """Base of the health monitor's tables."""


class Route(Base, table=True):
    """One provider for one capability: its state, why, and what the detector remembers."""

    __tablename__ = "routes"
    __table_args__ = (sa.CheckConstraint(f"state IN {_STATES}", name="state"),)

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    capability: str = Field(sa_type=sa.Text, primary_key=True)
    state: str = Field(sa_type=sa.Text)
    share: int = Field(sa_column=sa.Column(sa.SmallInteger, nullable=False))
    reason: str = Field(sa_type=sa.Text)
    decided_at: datetime = Field(sa_type=INSTANT)
    epoch_generation: int = Field(sa_type=sa.BigInteger)
    epoch_counter: int = Field(sa_type=sa.BigInteger)
    recent: list[bool] = Field(sa_column=sa.Column(ARRAY(sa.Boolean), nullable=False))
    fails: int = Field(sa_column=sa.Column(sa.SmallInteger, nullable=False))
    goods: int = Field(sa_column=sa.Column(sa.SmallInteger, nullable=False))


class RouteTransition(Base, table=True):
    """One decision about a route; never changed, never deleted."""

    __tablename__ = "route_transitions"

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    capability: str = Field(sa_type=sa.Text, primary_key=True)
    epoch_generation: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True))
    epoch_counter: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True))
    before: str = Field(sa_type=sa.Text)
    after: str = Field(sa_type=sa.Text)
    share: int = Field(sa_column=sa.Column(sa.SmallInteger, nullable=False))
    reason: str = Field(sa_type=sa.Text)
    decided_at: datetime = Field(sa_type=INSTANT)


class CallMinute(Base, table=True):
    """Calls of one route in one minute of their own time, by outcome; kept for a day."""

    __tablename__ = "call_minutes"
    __table_args__ = (sa.Index(None, "minute"),)

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    capability: str = Field(sa_type=sa.Text, primary_key=True)
    minute: datetime = Field(sa_column=sa.Column(INSTANT, primary_key=True))
    success: int = Field(sa_type=sa.BigInteger)
    client_error: int = Field(sa_type=sa.BigInteger)
    server_error: int = Field(sa_type=sa.BigInteger)
    timeout: int = Field(sa_type=sa.BigInteger)
    connect_error: int = Field(sa_type=sa.BigInteger)
    throttled: int = Field(sa_type=sa.BigInteger)
    latency_ms_sum: float = Field(sa_type=sa.Double)
    latency_ms_max: float = Field(sa_type=sa.Double)
