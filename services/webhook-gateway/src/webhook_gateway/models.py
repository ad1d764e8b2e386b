"""Tables of the ledger, which is the gateway's own database; the ingest role never opens it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB
from sqlmodel import Field, SQLModel

from chassis.db.schema import INSTANT, service_registry


class Base(SQLModel, registry=service_registry()):
    """Base of the ledger's tables."""


class Delivery(Base, table=True):
    """One accepted event, or one refused request. `id` is the HTTP request, `item` the event within it.

    `outcome` is accepted, duplicate (the same event was accepted before) or rejected (then `reason` says why).
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        sa.CheckConstraint("outcome IN ('accepted', 'duplicate', 'rejected')", name="outcome"),
        sa.Index(None, "received_at", "id", "item"),
        sa.Index(None, "provider", "received_at", "id", "item"),
        sa.Index("ix_deliveries_entity", "entity", "received_at", postgresql_where=sa.text("entity <> ''")),
        sa.Index("ix_deliveries_event", "endpoint", "event_id", postgresql_where=sa.text("event_id <> ''")),
    )

    id: UUID = Field(primary_key=True)
    item: int = Field(sa_column=sa.Column(sa.SmallInteger, primary_key=True))
    outcome: str = Field(sa_type=sa.Text)
    reason: str = Field(sa_type=sa.Text)
    status: int | None = Field(sa_column=sa.Column(sa.SmallInteger))
    provider: str = Field(sa_type=sa.Text)
    tenant: str = Field(sa_type=sa.Text)
    endpoint: str = Field(sa_type=sa.Text)
    connection: UUID
    lane: str = Field(sa_type=sa.Text)
    event_id: str = Field(sa_type=sa.Text)
    event_type: str = Field(sa_type=sa.Text)
    entity: str = Field(sa_type=sa.Text)
    method: str = Field(sa_type=sa.Text)
    key_id: str = Field(sa_type=sa.Text)
    received_at: datetime = Field(sa_type=INSTANT)
    trace_id: str = Field(sa_type=sa.Text)
    topic: str = Field(sa_type=sa.Text)
    partition: int
    offset: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    headers: list[list[str]] = Field(sa_column=sa.Column(JSONB, nullable=False))
    content_type: str = Field(sa_type=sa.Text)
    encoding: str = Field(sa_type=sa.Text)
    body: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))
    body_sha256: str = Field(sa_type=sa.Text)
