"""Alembic's entry point for the orchestrator's database."""

from __future__ import annotations

from chassis.db.migrate import run_env
from orchestrator.models import Base

run_env(Base.metadata)
