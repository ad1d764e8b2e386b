"""Tables of the sync worker."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB
from sqlmodel import Field, SQLModel

from chassis.db.schema import INSTANT, service_registry


class Base(SQLModel, registry=service_registry()):
    """Base of the sync worker's tables."""


class Connection(Base, table=True):
    """A tenant's account at a provider."""

    __tablename__ = "connections"
    __table_args__ = (
        # A revoked account may be connected again, as a new connection.
        sa.Index(
            "uq_connections_live_account",
            *("tenant", "provider", "account_ref"),
            unique=True,
            postgresql_where=sa.text("state = 'live'"),
        ),
        sa.CheckConstraint("state IN ('live', 'revoked')", name="state"),
    )

    id: UUID = Field(primary_key=True)
    tenant: str = Field(sa_type=sa.Text)
    provider: str = Field(sa_type=sa.Text)
    account_ref: str = Field(sa_type=sa.Text)
    state: str = Field(sa_type=sa.Text)
    options: dict[str, str] = Field(sa_column=sa.Column(JSONB, nullable=False))
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=sa.Text)


class Credential(Base, table=True):
    """One sealed secret of a connection; `version` never decreases."""

    __tablename__ = "credentials"

    connection: UUID = Field(primary_key=True, foreign_key="connections.id")
    name: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    version: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True))
    sealed: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))


class Endpoint(Base, table=True):
    """A webhook endpoint of a connection, as published on `sync.endpoints.v1`.

    `url` is the newest of its addresses, `settings` what `PATCH /v1/endpoints/{id}` set (`EndpointSettings`), and
    `keys_issued` counts key ids, which are never used again. At `republish_at` the record has to be published anew:
    a key or token ends then, or a limit of the tenant changed. `version` grows when `record_hash` changes.
    """

    __tablename__ = "endpoints"
    __table_args__ = (
        sa.CheckConstraint("state IN ('live', 'paused')", name="state"),
        sa.Index("ix_endpoints_republish_at", "republish_at", postgresql_where=sa.text("republish_at IS NOT NULL")),
    )

    id: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    connection: UUID = Field(foreign_key="connections.id", index=True)
    url: str = Field(sa_type=sa.Text)
    lane: str = Field(sa_type=sa.Text)
    version: int
    state: str = Field(default="live", sa_type=sa.Text)
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=sa.Column(JSONB, nullable=False))
    keys_issued: int = 0
    republish_at: datetime | None = Field(default=None, sa_type=INSTANT)
    record_hash: str = Field(default="", sa_type=sa.Text)


class EndpointKey(Base, table=True):
    """One secret that verifies an endpoint's deliveries while `not_before <= now < not_after`.

    `sealed` is absent for the first key of an endpoint that is older than this table: the connection's own secret is
    sealed for the endpoint when its record is next published. `last_used_at` is exact to a minute.
    """

    __tablename__ = "endpoint_secrets"

    endpoint: str = Field(
        sa_column=sa.Column(sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True)
    )
    key_id: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    sealed: bytes | None = Field(default=None, sa_column=sa.Column(BYTEA))
    not_before: datetime | None = Field(default=None, sa_type=INSTANT)
    not_after: datetime | None = Field(default=None, sa_type=INSTANT)
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=sa.Text)
    last_used_at: datetime | None = Field(default=None, sa_type=INSTANT)
    warned_at: datetime | None = Field(default=None, sa_type=INSTANT)


class EndpointAddress(Base, table=True):
    """One opaque token of an endpoint's URL, served until `not_after`."""

    __tablename__ = "endpoint_tokens"

    token: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    endpoint: str = Field(
        sa_column=sa.Column(sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    url: str = Field(sa_type=sa.Text)
    not_after: datetime | None = Field(default=None, sa_type=INSTANT)
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=sa.Text)


class Tenant(Base, table=True):
    """A node of the franchise tree: network, franchisee, location. One that nobody declared is a root of its own.

    `limits` is `{"deliveries_per_s", "burst"}` for all deliveries of the tenant together, or nothing.
    """

    __tablename__ = "tenants"

    slug: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    parent: str | None = Field(default=None, sa_column=sa.Column(sa.Text, sa.ForeignKey("tenants.slug"), index=True))
    name: str = Field(sa_type=sa.Text)
    limits: dict[str, float] | None = Field(default=None, sa_column=sa.Column(JSONB))
    version: int = 1


class Payment(Base, table=True):
    """A canonical payment. `fence` orders the provider's snapshots, `version` our own changes; contact is sealed.

    A snapshot need not know everything, so amounts and contact remember the fence of the snapshot they came from.
    """

    __tablename__ = "payments"
    __table_args__ = (
        sa.UniqueConstraint("tenant", "provider", "external_id"),
        sa.Index(None, "updated_at", "id"),
    )

    id: UUID = Field(primary_key=True)
    tenant: str = Field(sa_type=sa.Text)
    provider: str = Field(sa_type=sa.Text)
    connection: UUID
    external_id: str = Field(sa_type=sa.Text)
    status: str = Field(sa_type=sa.Text)
    amount: int | None = Field(sa_column=sa.Column(sa.BigInteger))
    amount_refunded: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    currency: str | None = Field(sa_type=sa.Text)
    contact: bytes | None = Field(sa_column=sa.Column(BYTEA))
    fence: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    amount_fence: int | None = Field(sa_column=sa.Column(sa.BigInteger))
    refunded_fence: int | None = Field(sa_column=sa.Column(sa.BigInteger))
    contact_fence: int | None = Field(sa_column=sa.Column(sa.BigInteger))
    version: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    occurred_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)


class Effect(Base, table=True):
    """One effect at a provider and how far it got (sync-worker.md §4.5).

    `attempt` is the newest attempt that was asked for, `answered` the newest that got an answer; a row whose `attempt`
    is ahead and whose lease is over has work to do.
    """

    __tablename__ = "effects"
    __table_args__ = (
        sa.CheckConstraint("state IN ('reserved', 'sent', 'applied', 'refused', 'unknown', 'voided')", name="state"),
        sa.Index("ix_effects_open", "lease_until", postgresql_where=sa.text("attempt > answered")),
        sa.Index(None, "saga_id"),
    )

    key: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    saga_id: UUID
    step: str = Field(sa_type=sa.Text)
    tenant: str = Field(sa_type=sa.Text)
    operation: str = Field(sa_type=sa.Text)
    command: dict[str, Any] = Field(sa_column=sa.Column(JSONB, nullable=False))
    request_hash: str = Field(sa_type=sa.Text)
    connection: UUID | None = None
    provider: str = Field(sa_type=sa.Text)
    state: str = Field(sa_type=sa.Text)
    code: str = Field(sa_type=sa.Text)
    detail: str = Field(sa_type=sa.Text)
    provider_ref: str = Field(sa_type=sa.Text)
    result: dict[str, Any] = Field(sa_column=sa.Column(JSONB, nullable=False))
    attempt: int
    answered: int
    calls: int
    trace: str = Field(sa_type=sa.Text)
    lease_until: datetime | None = Field(sa_type=INSTANT)
    sent_at: datetime | None = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)
