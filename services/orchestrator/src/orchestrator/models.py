"""Tables of the orchestrator."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from chassis.db.schema import INSTANT, service_registry


class Base(SQLModel, registry=service_registry()):
    """Base of the orchestrator's tables."""


class Saga(Base, table=True):
    """One run, pinned to a version of its definition. Neither `state` nor `updated_at` is indexed: updates stay HOT."""

    __tablename__ = "sagas"
    __table_args__ = (sa.UniqueConstraint("tenant", "definition", "business_key"),)

    id: UUID = Field(primary_key=True)
    tenant: str = Field(sa_type=sa.Text)
    definition: str = Field(sa_type=sa.Text)
    version: int
    business_key: str = Field(sa_type=sa.Text)
    status: str = Field(sa_type=sa.Text)
    given: dict[str, Any] = Field(sa_column=sa.Column(JSONB, nullable=False))
    state: dict[str, Any] = Field(sa_column=sa.Column(JSONB, nullable=False))
    trace: str = Field(sa_type=sa.Text)
    started_by: str = Field(sa_type=sa.Text)
    created_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)


class SagaEvent(Base, table=True):
    """One entry of a run's timeline."""

    __tablename__ = "saga_events"

    saga_id: UUID = Field(primary_key=True, foreign_key="sagas.id")
    seq: int = Field(primary_key=True)
    at: datetime = Field(sa_type=INSTANT)
    entry: str = Field(sa_type=sa.Text)
    step: str = Field(sa_type=sa.Text)
    detail: dict[str, Any] = Field(sa_column=sa.Column(JSONB, nullable=False))


class Timer(Base, table=True):
    """A command to give later; a row, so that it survives and can be seen."""

    __tablename__ = "timers"
    __table_args__ = (sa.Index(None, "due_at"),)

    saga_id: UUID = Field(primary_key=True, foreign_key="sagas.id")
    step: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    attempt: int
    due_at: datetime = Field(sa_type=INSTANT)
