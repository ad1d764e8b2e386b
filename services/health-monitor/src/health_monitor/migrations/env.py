"""Alembic's entry point for the health monitor's database."""

from __future__ import annotations

from chassis.db.migrate import run_env
from health_monitor.models import Base

run_env(Base.metadata)
