"""Alembic's entry point for the ledger's database."""

from __future__ import annotations

from chassis.db.migrate import run_env
from webhook_gateway.models import Base

run_env(Base.metadata)
