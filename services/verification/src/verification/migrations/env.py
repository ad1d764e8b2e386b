"""Alembic's entry point for the verification service's database."""

from __future__ import annotations

from chassis.db.migrate import run_env
from verification.models import Base

run_env(Base.metadata)
