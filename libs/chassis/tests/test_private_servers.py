"""The private Kafka, PostgreSQL and Redis are real, keep their data over a crash, and leave nothing running."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from chassis.testing.kafka import PrivateKafka
from chassis.testing.ports import accepts
from chassis.testing.postgres import PostgresAdmin, PrivatePostgres
from chassis.testing.processes import ProcessError
from chassis.testing.redis import PrivateRedis

pytestmark = pytest.mark.integration


async def _produce(bootstrap: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait("t", value)
    finally:
        await producer.stop()


async def _create_topic(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("t", num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def _read(bootstrap: str, count: int) -> list[bytes]:
    consumer = AIOKafkaConsumer("t", bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(30):
            return [(await consumer.getone()).value or b"" for _ in range(count)]
    finally:
        await consumer.stop()


@pytest.mark.asyncio
async def test_kafka_keeps_acknowledged_records_over_a_sigkill_and_a_restart_on_the_same_port(tmp_path: Path) -> None:
    with PrivateKafka(tmp_path / "kafka") as kafka:
        await _create_topic(kafka.bootstrap)
        await _produce(kafka.bootstrap, [b"before the crash"])
        address = kafka.bootstrap
        kafka.kill()
        assert not kafka.alive()
        assert not accepts(kafka.port)
        kafka.start()
        assert kafka.bootstrap == address
        await _produce(kafka.bootstrap, [b"after the crash"])
        kafka.restart()
        assert await _read(kafka.bootstrap, 2) == [b"before the crash", b"after the crash"]
    assert not accepts(kafka.port)


@pytest.mark.asyncio
async def test_kafka_data_can_move_to_other_ports(tmp_path: Path) -> None:
    with PrivateKafka(tmp_path / "kafka") as kafka:
        await _create_topic(kafka.bootstrap)
        await _produce(kafka.bootstrap, [b"kept"])
    with PrivateKafka(tmp_path / "kafka", under_load=True) as moved:
        assert moved.port != kafka.port
        assert await _read(moved.bootstrap, 1) == [b"kept"]


def test_kafka_without_java_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProcessError, match=r"java is not installed.*apt-get install"):
        PrivateKafka(tmp_path / "kafka").start()


def test_an_interrupted_kafka_format_begins_again(tmp_path: Path) -> None:
    half_done = tmp_path / "kafka" / "logs" / "__cluster_metadata-0"
    half_done.mkdir(parents=True)
    (half_done / "rubbish.log").write_bytes(b"\0" * 64)
    with PrivateKafka(tmp_path / "kafka") as kafka:
        assert kafka.alive()


@pytest.mark.asyncio
async def test_a_role_connects_to_its_own_database_only(tmp_path: Path) -> None:
    with PrivatePostgres(tmp_path / "postgres") as postgres:
        dsn_a = postgres.create_database("service_a", "service_a")
        dsn_b = postgres.create_database("service_b", "service_b")
        own = await asyncpg.connect(dsn_a)
        assert await own.fetchval("SELECT current_user || '@' || current_database()") == "service_a@service_a"
        assert not await own.fetchval(
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = $1", "service_a"
        )
        await own.close()
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
            await asyncpg.connect(dsn_a.removesuffix("service_a") + "service_b")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(dsn_b.replace(dsn_b.split(":")[2].split("@")[0], "not-the-password"))


@pytest.mark.asyncio
async def test_postgres_keeps_data_over_a_crash_and_a_second_create_is_harmless(tmp_path: Path) -> None:
    with PrivatePostgres(tmp_path / "postgres", durable=True) as postgres:
        connection = await asyncpg.connect(postgres.create_database("svc", "svc"))
        await connection.execute("CREATE TABLE t (n int); INSERT INTO t VALUES (7)")
        await connection.close()
        assert postgres.admin.execute("SHOW fsync") == "on"
        postgres.kill()
        assert not accepts(postgres.port)
        postgres.start()
        connection = await asyncpg.connect(postgres.create_database("svc", "svc"))
        assert await connection.fetchval("SELECT n FROM t") == 7
        await connection.close()
        postgres.admin.drop_database("svc", "svc")
        assert postgres.admin.execute("SELECT count(*) FROM pg_roles WHERE rolname = 'svc'") == "0"
    assert not accepts(postgres.port)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user for PostgreSQL")
def test_as_root_postgres_works_below_a_folder_that_is_closed_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with PrivatePostgres(closed / "postgres") as postgres:
        assert postgres.process is not None
        assert Path(f"/proc/{postgres.process.pid}").stat().st_uid != 0
        assert postgres.admin.execute("SELECT 1") == "1"


def test_a_name_that_is_not_plain_never_reaches_sql() -> None:
    with pytest.raises(ValueError, match="not a plain lower-case name"):
        PostgresAdmin("postgresql://nobody@127.0.0.1:1/none").create_database("a; DROP DATABASE x", "a")


@pytest.mark.asyncio
async def test_redis_wants_its_password_and_keeps_it_secret(tmp_path: Path) -> None:
    with PrivateRedis(tmp_path / "redis") as redis:
        assert stat.S_IMODE((tmp_path / "redis" / "password").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "redis" / "redis.conf").stat().st_mode) == 0o600
        client = Redis.from_url(redis.url)
        assert await client.set("k", "v")
        assert await client.get("k") == b"v"
        await client.aclose()
        stranger = Redis(host="127.0.0.1", port=redis.port)
        with pytest.raises(AuthenticationError):
            await stranger.get("k")
        await stranger.aclose()
    assert not accepts(redis.port)
