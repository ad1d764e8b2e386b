"""Observed calls become decisions, messages and statistics. Real database, no broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from prometheus_client import REGISTRY

from chassis.kafka.producer import partition_for
from chassis.kafka.records import ConsumerRecord
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import migrated_dsn, schema_differences
from contracts.codec import encode
from contracts.events.health import RouteState
from contracts.topics import HEALTH_ROUTES, SYNC_CALLS
from health_monitor.statistics import RouteKey

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


async def test_models_and_migrations_describe_the_same_tables(postgres_server: PostgresAdmin) -> None:
    dsn = await migrated_dsn(postgres_server, "health_monitor")
    assert await schema_differences(dsn, "health_monitor") == []


async def test_a_route_is_published_and_audited_with_growing_epochs_and_its_evidence(replica: Any) -> None:
    for _ in range(3):
        await replica.take(replica.calls(("success", 5)))
    assert len(await replica.published()) == 1
    await replica.take(replica.calls(("timeout", 6)))
    found = await replica.published()
    assert [(p.state, p.share) for p in found] == [("healthy", 100), ("suspect", 100), ("down", 0)]
    assert [p.epoch for p in found] == [(1, 1), (1, 2), (1, 3)]
    audited = await replica.audited()
    assert [a.detail["after"] for a in audited] == [p.state for p in found]
    assert {(a.actor, a.action, a.target) for a in audited} == {
        ("health-monitor", "route.changed", "route:messaging.sms:acme")
    }
    assert "s_outage=" in audited[-1].detail["evidence"]
    keys = await rows(replica.database.dsn, "SELECT DISTINCT key FROM outbox WHERE topic = $1", HEALTH_ROUTES.name)
    assert [row["key"] for row in keys] == [b"messaging.sms:acme"]


async def test_offsets_are_committed_once_the_batch_is_saved(replica: Any) -> None:
    await replica.take(replica.calls(("success", 1)), save=False)
    assert replica.kafka.committed == {}
    await replica.keeper.save()
    assert replica.kafka.committed == {(SYNC_CALLS.name, 0): 2}


async def test_a_decision_outlives_a_failed_transaction_under_its_own_epoch(
    replica: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await replica.take(replica.calls(("success", 20)))

    async def refuse(*_: object) -> None:
        raise asyncpg.ConnectionDoesNotExistError("gone")

    with monkeypatch.context() as broken:
        broken.setattr("health_monitor.repository.counts.add_calls", refuse)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await replica.take(replica.calls(("timeout", 6)))
        assert replica.monitor.seen[RouteKey("acme", "messaging.sms")].state == "down", "the decision does not wait"
        replica.clock.advance(6)
        replica.keeper.take(replica.monitor.tick())
    await replica.keeper.save()
    found = await replica.published()
    assert [(p.epoch, p.state) for p in found] == [
        ((1, 1), "healthy"),
        ((1, 2), "suspect"),
        ((1, 3), "down"),
        ((1, 4), "down"),
    ]
    assert found[-1].probe == "burst"
    counted = await rows(replica.database.dsn, "SELECT success, timeout FROM call_minutes")
    assert [tuple(row) for row in counted] == [(20, 6)]


async def test_a_second_owner_takes_a_greater_generation_and_goes_on(make_replica: Callable[[], Any]) -> None:
    first = replica = make_replica()
    second = make_replica()
    await first.take(replica.calls(("success", 20), ("timeout", 6)))
    for record in await replica.published():
        second.monitor.learned(record)
    await second.take(replica.calls(("timeout", 1), probe=True))
    assert second.monitor.generation == 2
    await first.take(replica.calls(("success", 1)))
    found = await replica.published()
    assert [p.epoch for p in found] == sorted({p.epoch for p in found})
    assert (found[-1].epoch[0], found[-1].state) == (2, "down")
    stored = await rows(replica.database.dsn, "SELECT state, epoch_generation FROM routes")
    assert [tuple(row) for row in stored] == [("down", 2)]


async def test_a_late_save_of_an_old_owner_does_not_replace_a_newer_record(
    make_replica: Callable[[], Any],
) -> None:
    first = replica = make_replica()
    second = make_replica()
    await first.take(replica.calls(("success", 20)))
    await first.take(replica.calls(("timeout", 6)), save=False)
    for record in await replica.published():
        second.monitor.learned(record)
    await second.take(replica.calls(("success", 1)))
    await first.keeper.save()
    stored = await rows(replica.database.dsn, "SELECT state, epoch_generation FROM routes")
    assert [tuple(row) for row in stored] == [("healthy", 2)]


async def test_failovers_and_the_baseline_are_remembered_by_the_next_owner(
    make_replica: Callable[[], Any], clock: ManualClock
) -> None:
    first = replica = make_replica()
    await first.take(replica.calls(("success", 20), ("timeout", 6)))
    second = make_replica()
    for record in await replica.published():
        second.monitor.learned(record)
    await second.take(replica.calls(("success", 1)))
    machine = second.monitor.machines[RouteKey("acme", "messaging.sms")]
    assert machine.failovers(clock.monotonic()) == 1
    assert machine.track.ratio == pytest.approx(first.monitor.machines[RouteKey("acme", "messaging.sms")].track.ratio)


async def test_a_report_read_twice_counts_once_and_one_that_cannot_be_read_is_a_dead_letter(replica: Any) -> None:
    record = replica.record(encode(replica.calls(("success", 3))))
    bad: list[ConsumerRecord] = [
        replica.record(b"{}"),
        replica.record(encode(replica.calls(("success", 1)).model_copy(update={"capability": "a b"}))),
    ]
    await replica.loop.handle([record, *bad, record], replica.kafka)
    await replica.keeper.save()
    counted = await rows(replica.database.dsn, "SELECT success FROM call_minutes")
    assert [row["success"] for row in counted] == [3]
    assert len(await replica.outgoing(SYNC_CALLS.dlq)) == 2


async def test_statistics_older_than_a_day_are_forgotten(replica: Any) -> None:
    await replica.take(replica.calls(("success", 1)))
    replica.clock.advance(timedelta(hours=24, minutes=2).total_seconds())
    await replica.take(replica.calls(("success", 2), at=replica.clock.now()))
    assert [row["success"] for row in await rows(replica.database.dsn, "SELECT success FROM call_minutes")] == [2]


async def test_many_batches_at_once_lose_no_call(replica: Any) -> None:
    await asyncio.gather(
        *(replica.take(replica.calls(("success", 1), ("client_error", 5)), save=False) for _ in range(10))
    )
    await asyncio.gather(*(replica.keeper.save() for _ in range(3)))
    counted = await rows(replica.database.dsn, "SELECT success, client_error FROM call_minutes")
    assert [tuple(row) for row in counted] == [(10, 50)]
    assert len(await replica.published()) == 1, "saves at the same time write a decision once"


async def test_the_series_of_a_route_end_where_another_replica_owns_it(replica: Any) -> None:
    def exported(provider: str) -> list[float | None]:
        labels = {"provider": provider, "capability": "messaging.sms", "mode": "live"}
        named = [
            REGISTRY.get_sample_value("provider_state", labels | {"state": state})
            for state in (RouteState.HEALTHY, RouteState.DOWN)
        ]
        others = ("provider_route_epoch", "health_route_share_ratio")
        return [*named, *(REGISTRY.get_sample_value(name, labels) for name in others)]

    await replica.take(replica.calls(("success", 3), provider="stays"), replica.calls(("success", 3), provider="moves"))
    assert exported("moves") == [1, 0, 1, 1]
    before = exported("stays")
    kept = partition_for(b"stays:messaging.sms", SYNC_CALLS.partitions)
    assert kept != partition_for(b"moves:messaging.sms", SYNC_CALLS.partitions)
    await replica.loop.assigned({(SYNC_CALLS.name, kept)})
    assert (exported("stays"), exported("moves")) == (before, [None] * 4)
    await replica.loop.assigned(set())
    assert exported("stays") == [None] * 4
