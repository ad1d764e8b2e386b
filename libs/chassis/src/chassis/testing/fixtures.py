"""Pytest fixtures for a real broker, database server and Redis; they fail, and never skip, when one cannot be started.

`KAFKA_BOOTSTRAP`, `POSTGRES_DSN` (a superuser's) and `REDIS_URL` name servers to use instead of private processes. Each
pytest-xdist worker has servers of its own, started when the first test asks for them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chassis.testing.kafka import PrivateKafka
from chassis.testing.postgres import PostgresAdmin, PrivatePostgres
from chassis.testing.redis import PrivateRedis


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """Give a folder with a short path for the servers' data, removed at the end of the session."""
    folder = Path(tempfile.mkdtemp(prefix="patchbay-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def kafka_bootstrap(server_dir: Path) -> Iterator[str]:
    """Give the bootstrap address of a real Kafka broker."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield given
        return
    with PrivateKafka(server_dir / "kafka") as kafka:
        yield kafka.bootstrap


@pytest.fixture(scope="session")
def postgres_server(server_dir: Path) -> Iterator[PostgresAdmin]:
    """Give the superuser's operations on a PostgreSQL server: `create_database(role, database)` returns a DSN."""
    given = os.environ.get("POSTGRES_DSN")
    if given:
        yield PostgresAdmin(given)
        return
    with PrivatePostgres(server_dir / "postgres") as postgres:
        yield postgres.admin


@pytest.fixture(scope="session")
def redis_url(server_dir: Path) -> Iterator[str]:
    """Give the URL of a Redis server."""
    given = os.environ.get("REDIS_URL")
    if given:
        yield given
        return
    with PrivateRedis(server_dir / "redis") as redis:
        yield redis.url
