"""Alembic for a service's own database: `python -m chassis.db.migrate <package>`.

Runs under an advisory lock, so that replicas which start together migrate once; a lock timeout keeps a migration from
queueing behind, and blocking, live traffic.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
from typing import Any, Final

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.db import tenancy

# One key for all services: each has a database of its own, and advisory locks are per database.
MIGRATION_LOCK: Final = 7_241_001
LOCK_TIMEOUT: Final = "5s"


def upgrade(package: str, dsn: str) -> None:
    """Bring the database of `package` to its newest revision. Blocking; idempotent."""
    asyncio.run(_upgrade(package, dsn))


async def _upgrade(package: str, dsn: str) -> None:
    engine = create_async_engine(_sqlalchemy_url(dsn))
    try:
        async with engine.connect() as connection:
            await connection.execute(sa.text(f"SELECT pg_advisory_lock({MIGRATION_LOCK})"))
            await connection.execute(sa.text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
            # A migration moves the rows of all tenants.
            await connection.execute(sa.text(f"SET {tenancy.SETTING} = '{tenancy.EVERYONE}'"))
            await connection.commit()
            await connection.run_sync(_run, package)
            await connection.commit()
    finally:
        await engine.dispose()


def _run(connection: sa.Connection, package: str) -> None:
    config = alembic_config(package)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def alembic_config(package: str) -> Config:
    """Return the Alembic configuration of a service package, which keeps its revisions in `migrations/`."""
    config = Config()
    config.set_main_option("script_location", f"{package}:migrations")
    config.set_main_option("path_separator", "os")
    return config


def run_env(metadata: sa.MetaData) -> None:
    """Migrate over the connection that `upgrade` opened; what a service's `migrations/env.py` calls."""
    options: dict[str, Any] = {"target_metadata": metadata, "compare_type": True, "compare_server_default": False}
    context.configure(connection=context.config.attributes["connection"], **options)
    with context.begin_transaction():
        context.run_migrations()


def _sqlalchemy_url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+asyncpg://", 1)


def main() -> None:
    """Entry point of `python -m chassis.db.migrate`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", help="import name of the service, e.g. sync_worker")
    package = parser.parse_args().package
    importlib.import_module(package)
    upgrade(package, os.environ["PATCHBAY_DATABASE_URL"])


if __name__ == "__main__":
    main()
