from __future__ import annotations

import re
from collections import Counter

import pytest

from contracts.topics import (
    GATEWAY_EVENTS,
    MAX_MESSAGE_BYTES,
    ORCHESTRATOR_COMMANDS,
    RETRY_DELAYS,
    SYNC_CHANGES,
    SYNC_ENDPOINTS,
    TOPICS,
    Lane,
    physical_topics,
)

SERVICES = {"webhook-gateway", "sync-worker", "health-monitor", "verification", "orchestrator"}
PHYSICAL = {topic.name: topic for topic in physical_topics()}


def test_names_are_unique_and_well_formed() -> None:
    repeated = {name for name, count in Counter(topic.name for topic in TOPICS).items() if count > 1}
    assert repeated == set()
    assert all(re.fullmatch(r"[a-z]+\.[a-z-]+\.v[1-9]\d*", topic.name) for topic in TOPICS)


def test_writers_and_readers_are_services() -> None:
    assert {writer for topic in TOPICS for writer in topic.writers} <= SERVICES | {"every service"}
    assert {reader for topic in TOPICS for reader in topic.readers} <= SERVICES


def test_a_topic_is_named_after_its_writer() -> None:
    owners = {
        "webhook-gateway": "gateway",
        "sync-worker": "sync",
        "health-monitor": "health",
        "every service": "platform",
    }
    assert [t.name for t in TOPICS if not t.name.startswith(owners.get(t.writer, t.writer) + ".")] == []


def test_each_lane_has_its_own_topic() -> None:
    assert [GATEWAY_EVENTS[lane].name for lane in Lane] == [f"gateway.events-{lane}.v1" for lane in Lane]
    assert [ORCHESTRATOR_COMMANDS[lane].name for lane in Lane] == [f"orchestrator.commands-{lane}.v1" for lane in Lane]


def test_a_topic_that_is_retried_has_a_reader() -> None:
    assert [topic.name for topic in TOPICS if topic.retries and not topic.readers] == []


def test_physical_topics_are_unique_and_hold_every_retry_and_dead_letter() -> None:
    assert len(PHYSICAL) == len(physical_topics())
    for topic in TOPICS:
        failures = {topic.dlq, *(topic.retry(delay) for delay in RETRY_DELAYS)}
        assert topic.name in PHYSICAL
        assert failures & PHYSICAL.keys() == (failures if topic.retries else set())


def test_names_of_retries_and_dead_letters() -> None:
    assert SYNC_CHANGES.dlq == "sync.changes.v1.dlq"
    assert SYNC_CHANGES.retry("1m") == "sync.changes.v1.retry.1m"
    with pytest.raises(KeyError):
        SYNC_CHANGES.retry("2m")


def test_a_compacted_topic_is_compacted_and_the_others_expire() -> None:
    assert PHYSICAL[SYNC_ENDPOINTS.name].config["cleanup.policy"] == "compact"
    assert "retention.ms" not in PHYSICAL[SYNC_ENDPOINTS.name].config
    assert PHYSICAL[SYNC_CHANGES.name].config["retention.ms"] == "604800000"


def test_a_failed_record_of_the_largest_size_still_fits_its_failure_topics() -> None:
    for name in (SYNC_CHANGES.dlq, *(SYNC_CHANGES.retry(delay) for delay in RETRY_DELAYS)):
        assert int(PHYSICAL[name].config["max.message.bytes"]) > MAX_MESSAGE_BYTES


def test_a_retry_outlives_its_delay_twice() -> None:
    for delay, seconds in RETRY_DELAYS.items():
        assert int(PHYSICAL[SYNC_CHANGES.retry(delay)].config["retention.ms"]) >= 2 * seconds * 1000
