"""Tables of the ledger, which is the gateway's own database; the ingest role never opens it.

`deliveries` and `effects` are partitioned by day; their partitions live in the schema `partitions` and are made and
dropped by `webhook_gateway.partitions`, never by a migration.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB
from sqlmodel import Field, SQLModel

from chassis.db.schema import INSTANT, service_registry

BY_RECEIVED_AT = {"postgresql_partition_by": "RANGE (received_at)"}
BY_AT = {"postgresql_partition_by": "RANGE (at)"}


class Base(SQLModel, registry=service_registry()):
    """Base of the ledger's tables."""


class Delivery(Base, table=True):
    """One event of one request, or one refused request. `id` is the HTTP request, `item` the event within it.

    `outcome` is accepted, duplicate (the event was accepted before, with the same body), rejected (`reason` says why),
    conflict (the event was accepted before with another body) or held (its endpoint was paused); `settled` says what
    became of the last three: released, discarded or reverified. `first_delivery` is the delivery that this one
    repeats. `claim` names a body in the claim-check store, `place` where item 0 is in its request. A repeat that the
    gateway suppressed has no body, and a negative item. `document` is the body as JSON, redacted, for search; NULL when
    it is large or no JSON. `event_sha256` is what repeats are compared by: the gateway's fingerprint of the event, or,
    of older deliveries, the whole hash of its bytes.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        sa.CheckConstraint("outcome IN ('accepted', 'duplicate', 'rejected', 'conflict', 'held')", name="outcome"),
        sa.CheckConstraint("settled IN ('', 'released', 'discarded', 'reverified')", name="settled"),
        sa.Index("ix_deliveries_newest", "received_at", "id", "item"),
        sa.Index("ix_deliveries_provider", "provider", "received_at", "id", "item"),
        sa.Index("ix_deliveries_tenant", "tenant", "received_at", "id", "item"),
        sa.Index("ix_deliveries_endpoint", "endpoint", "received_at", "id", "item"),
        sa.Index(
            "ix_deliveries_entity", "entity", "received_at", "id", "item", postgresql_where=sa.text("entity <> ''")
        ),
        sa.Index(
            "ix_deliveries_outcome",
            *("outcome", "received_at", "id", "item"),
            postgresql_where=sa.text("outcome <> 'accepted'"),
        ),
        sa.Index("ix_deliveries_event", "endpoint", "event_id", postgresql_where=sa.text("event_id <> ''")),
        sa.Index("ix_deliveries_trace", "trace_id", postgresql_where=sa.text("trace_id <> ''")),
        sa.Index(
            "ix_deliveries_document",
            "document",
            postgresql_using="gin",
            postgresql_ops={"document": "jsonb_path_ops"},
        ),
        BY_RECEIVED_AT,
    )

    id: UUID = Field(primary_key=True)
    item: int = Field(sa_column=sa.Column(sa.SmallInteger, primary_key=True))
    received_at: datetime = Field(sa_type=INSTANT, primary_key=True)
    outcome: str = Field(sa_type=sa.Text)
    reason: str = Field(sa_type=sa.Text)
    status: int | None = Field(sa_column=sa.Column(sa.SmallInteger))
    settled: str = Field(default="", sa_type=sa.Text)
    provider: str = Field(sa_type=sa.Text)
    tenant: str = Field(sa_type=sa.Text)
    endpoint: str = Field(sa_type=sa.Text)
    connection: UUID
    lane: str = Field(sa_type=sa.Text)
    origin: str = Field(default="webhook", sa_type=sa.Text)
    replay: str = Field(default="", sa_type=sa.Text)
    first_delivery: UUID | None = None
    event_id: str = Field(sa_type=sa.Text)
    event_type: str = Field(sa_type=sa.Text)
    event_sha256: str = Field(default="", sa_type=sa.Text)
    api_version: str = Field(default="", sa_type=sa.Text)
    entity: str = Field(sa_type=sa.Text)
    items: int = 0
    method: str = Field(sa_type=sa.Text)
    key_id: str = Field(sa_type=sa.Text)
    verified_at: datetime | None = Field(default=None, sa_column=sa.Column(INSTANT))
    message_id: str = Field(default="", sa_type=sa.Text)
    source: str = Field(default="", sa_type=sa.Text)
    record_key: str = Field(default="", sa_type=sa.Text)
    trace_id: str = Field(sa_type=sa.Text)
    traceparent: str = Field(default="", sa_type=sa.Text)
    topic: str = Field(sa_type=sa.Text)
    partition: int
    offset: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    headers: list[list[str]] = Field(sa_column=sa.Column(JSONB, nullable=False))
    content_type: str = Field(sa_type=sa.Text)
    encoding: str = Field(sa_type=sa.Text)
    cards: int = 0
    body: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))
    body_bytes: int = 0
    body_sha256: str = Field(sa_type=sa.Text)
    claim: str = Field(default="", sa_type=sa.Text)
    place: str = Field(default="", sa_type=sa.Text)
    document: Any = Field(default=None, sa_column=sa.Column(JSONB))


class Effect(Base, table=True):
    """Something that happened downstream because of a delivery, found by its trace or by the event that caused it."""

    __tablename__ = "effects"
    __table_args__ = (
        sa.Index("ix_effects_trace", "trace_id", postgresql_where=sa.text("trace_id <> ''")),
        sa.Index("ix_effects_cause", "cause", postgresql_where=sa.text("cause <> ''")),
        BY_AT,
    )

    topic: str = Field(sa_type=sa.Text, primary_key=True)
    partition: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    offset: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True, autoincrement=False))
    at: datetime = Field(sa_type=INSTANT, primary_key=True)
    trace_id: str = Field(sa_type=sa.Text)
    cause: str = Field(sa_type=sa.Text)
    tenant: str = Field(sa_type=sa.Text)
    service: str = Field(sa_type=sa.Text)
    kind: str = Field(sa_type=sa.Text)
    ref: str = Field(sa_type=sa.Text)
    status: str = Field(sa_type=sa.Text)


class DeliveryHour(Base, table=True):
    """Deliveries of one hour, counted; `latency` counts acceptances per bucket of `analytics.LATENCY_BOUNDS_MS`."""

    __tablename__ = "delivery_hours"
    __table_args__ = (sa.Index("ix_delivery_hours_endpoint", "endpoint", "hour"),)

    hour: datetime = Field(sa_type=INSTANT, primary_key=True)
    provider: str = Field(sa_type=sa.Text, primary_key=True)
    tenant: str = Field(sa_type=sa.Text, primary_key=True)
    endpoint: str = Field(sa_type=sa.Text, primary_key=True)
    event_type: str = Field(sa_type=sa.Text, primary_key=True)
    outcome: str = Field(sa_type=sa.Text, primary_key=True)
    reason: str = Field(sa_type=sa.Text, primary_key=True)
    deliveries: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    latency: list[int] = Field(sa_column=sa.Column(ARRAY(sa.BigInteger), nullable=False))


class Speaker(Base, table=True):
    """An endpoint that has spoken: when it did so first and last with a verified delivery."""

    __tablename__ = "speakers"

    endpoint: str = Field(sa_type=sa.Text, primary_key=True)
    provider: str = Field(sa_type=sa.Text)
    tenant: str = Field(sa_type=sa.Text)
    first_at: datetime = Field(sa_type=INSTANT)
    last_at: datetime = Field(sa_type=INSTANT)


class ReplayJob(Base, table=True):
    """An operator's act (`replay`), or the release of held deliveries (`release`), with how far it came.

    `done` items of `total` are written, in the order of their `seq`; `missing` of them were no longer stored. The next
    one may be written at `due_at`, which keeps the rate whoever runs the job.
    """

    __tablename__ = "replay_jobs"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('replay', 'release')", name="kind"),
        sa.CheckConstraint("state IN ('queued', 'running', 'paused', 'done', 'failed', 'cancelled')", name="state"),
        sa.Index("ix_replay_jobs_newest", "created_at", "id"),
        sa.Index("ix_replay_jobs_open", "state", postgresql_where=sa.text("state IN ('queued', 'running')")),
    )

    id: UUID = Field(primary_key=True)
    kind: str = Field(sa_type=sa.Text)
    state: str = Field(sa_type=sa.Text)
    tenant: str = Field(sa_type=sa.Text)
    endpoint: str = Field(sa_type=sa.Text)
    selection: dict[str, Any] = Field(sa_column=sa.Column(JSONB, nullable=False))
    new_event_id: bool
    rate_per_s: float
    reason: str = Field(sa_type=sa.Text)
    created_by: str = Field(sa_type=sa.Text)
    created_at: datetime = Field(sa_type=INSTANT)
    started_at: datetime | None = Field(sa_column=sa.Column(INSTANT))
    ended_at: datetime | None = Field(sa_column=sa.Column(INSTANT))
    due_at: datetime = Field(sa_type=INSTANT)
    total: int
    done: int
    missing: int
    error: str = Field(sa_type=sa.Text)


class ReplayItem(Base, table=True):
    """One delivery of a job; `seq` is the order in which they are written again."""

    __tablename__ = "replay_items"
    __table_args__ = (sa.Index("ix_replay_items_delivery", "delivery", "item"),)

    job: UUID = Field(
        sa_column=sa.Column(sa.Uuid, sa.ForeignKey("replay_jobs.id", ondelete="CASCADE"), primary_key=True)
    )
    seq: int = Field(primary_key=True)
    delivery: UUID
    item: int = Field(sa_column=sa.Column(sa.SmallInteger, nullable=False))
    received_at: datetime = Field(sa_type=INSTANT)


class DeadLetter(Base, table=True):
    """A record that a consumer gave up; `origin_*` is where it stood, `topic` and `offset` its dead letter."""

    __tablename__ = "dead_letters"
    __table_args__ = (
        sa.CheckConstraint("state IN ('open', 'replayed', 'discarded')", name="state"),
        sa.UniqueConstraint("topic", "partition", "offset", name="uq_dead_letters_position"),
        sa.Index("ix_dead_letters_newest", "last_seen", "id"),
        sa.Index(
            "ix_dead_letters_record",
            *("consumer", "origin_topic", "origin_partition", "origin_offset"),
        ),
        sa.Index("ix_dead_letters_message", "message_id", postgresql_where=sa.text("message_id <> ''")),
    )

    id: UUID = Field(primary_key=True)
    topic: str = Field(sa_type=sa.Text)
    partition: int
    offset: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    origin_topic: str = Field(sa_type=sa.Text)
    origin_partition: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    origin_offset: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    service: str = Field(sa_type=sa.Text)
    consumer: str = Field(sa_type=sa.Text)
    tenant: str = Field(sa_type=sa.Text)
    message_id: str = Field(sa_type=sa.Text)
    message_type: str = Field(sa_type=sa.Text)
    trace_id: str = Field(sa_type=sa.Text)
    error_code: str = Field(sa_type=sa.Text)
    error: str = Field(sa_type=sa.Text)
    attempts: int
    key: bytes | None = Field(sa_column=sa.Column(BYTEA))
    value: bytes | None = Field(sa_column=sa.Column(BYTEA))
    headers: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))
    state: str = Field(sa_type=sa.Text)
    first_seen: datetime = Field(sa_type=INSTANT)
    last_seen: datetime = Field(sa_type=INSTANT)
    settled_at: datetime | None = Field(sa_column=sa.Column(INSTANT))
    settled_by: str = Field(sa_type=sa.Text)
    note: str = Field(sa_type=sa.Text)


class Issue(Base, table=True):
    """Something that a person should look at; one open issue per kind and subject."""

    __tablename__ = "issues"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('silence', 'drift', 'conflict', 'rejections', 'dead_letter')", name="kind"),
        sa.CheckConstraint("state IN ('open', 'acknowledged', 'resolved')", name="state"),
        sa.Index(
            "uq_issues_unresolved", "kind", "subject", unique=True, postgresql_where=sa.text("state <> 'resolved'")
        ),
        sa.Index("ix_issues_newest", "opened_at", "id"),
    )

    id: UUID = Field(primary_key=True)
    kind: str = Field(sa_type=sa.Text)
    subject: str = Field(sa_type=sa.Text)
    state: str = Field(sa_type=sa.Text)
    tenant: str = Field(sa_type=sa.Text)
    provider: str = Field(sa_type=sa.Text)
    endpoint: str = Field(sa_type=sa.Text)
    detail: dict[str, Any] = Field(sa_column=sa.Column(JSONB, nullable=False))
    occurrences: int
    opened_at: datetime = Field(sa_type=INSTANT)
    last_seen: datetime = Field(sa_type=INSTANT)
    acknowledged_at: datetime | None = Field(sa_column=sa.Column(INSTANT))
    acknowledged_by: str = Field(sa_type=sa.Text)
    resolved_at: datetime | None = Field(sa_column=sa.Column(INSTANT))


class Shape(Base, table=True):
    """What bodies of one provider, event type and API version look like; `state` is learning or known."""

    __tablename__ = "shapes"
    __table_args__ = (sa.CheckConstraint("state IN ('learning', 'known')", name="state"),)

    provider: str = Field(sa_type=sa.Text, primary_key=True)
    event_type: str = Field(sa_type=sa.Text, primary_key=True)
    api_version: str = Field(sa_type=sa.Text, primary_key=True)
    state: str = Field(sa_type=sa.Text)
    bodies: int
    paths: dict[str, Any] = Field(sa_column=sa.Column(JSONB, nullable=False))
    full: bool
    updated_at: datetime = Field(sa_type=INSTANT)
