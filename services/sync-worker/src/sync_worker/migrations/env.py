"""Alembic's entry point for the sync worker's database."""

from __future__ import annotations

from chassis.db.migrate import run_env
from sync_worker.models import Base

run_env(Base.metadata)
