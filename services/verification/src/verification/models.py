"""Tables of the verification service: attestations, attempts, and the audit log. No column can hold a person's data.

`customer_ref`, `identity_tag` and `tag` are keyed tags (`tags`), `evidence_ref` is the provider's id of a check.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB
from sqlmodel import Field, SQLModel

from chassis.db.schema import INSTANT, service_registry


class Base(SQLModel, registry=service_registry()):
    """Base of the verification service's tables."""


class Verification(Base, table=True):
    """What is known of one customer: the thresholds of the last passed check, or only that it was refused and why."""

    __tablename__ = "verification"
    __table_args__ = (
        sa.UniqueConstraint("tenant", "customer_ref"),
        sa.CheckConstraint("status IN ('verified', 'refused', 'revoked')", name="status"),
    )

    subject_id: UUID = Field(primary_key=True)
    tenant: str = Field(sa_type=sa.Text)
    customer_ref: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))
    verification_id: UUID
    epoch: int = Field(sa_type=sa.BigInteger)
    status: str = Field(sa_type=sa.Text)
    outcome: str = Field(sa_type=sa.Text)
    thresholds_passed: list[int] = Field(sa_column=sa.Column(ARRAY(sa.SmallInteger), nullable=False))
    assurance: str = Field(sa_type=sa.Text)
    provider: str = Field(sa_type=sa.Text)
    rule_version: str = Field(sa_type=sa.Text)
    verified_at: datetime = Field(sa_type=INSTANT)
    expires_at: datetime | None = Field(sa_type=INSTANT)
    identity_tag: bytes | None = Field(sa_column=sa.Column(BYTEA))
    evidence_ref: str = Field(sa_type=sa.Text)


class Attempts(Base, table=True):
    """How many checks one customer or one identity has used in its window."""

    __tablename__ = "attempts"
    __table_args__ = (
        sa.CheckConstraint("kind IN ('customer', 'identity')", name="kind"),
        sa.Index(None, "resets_at"),
    )

    tenant: str = Field(sa_type=sa.Text, primary_key=True)
    kind: str = Field(sa_type=sa.Text, primary_key=True)
    tag: bytes = Field(sa_column=sa.Column(BYTEA, primary_key=True))
    used: int
    resets_at: datetime = Field(sa_type=INSTANT)


class AuditEntry(Base, table=True):
    """One entry of the audit log; a trigger refuses to change or delete it."""

    __tablename__ = "audit_log"
    __table_args__ = (
        sa.UniqueConstraint("audit_id"),
        sa.Index(None, "tenant", "index"),
        sa.Index(None, "action", "index"),
    )

    index: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True, autoincrement=False))
    audit_id: UUID
    tenant: str = Field(sa_type=sa.Text)
    service: str = Field(sa_type=sa.Text)
    actor: str = Field(sa_type=sa.Text)
    action: str = Field(sa_type=sa.Text)
    target: str = Field(sa_type=sa.Text)
    at: datetime = Field(sa_type=INSTANT)
    detail: dict[str, str] = Field(sa_column=sa.Column(JSONB, nullable=False))
    prev_hash: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))
    hash: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))
