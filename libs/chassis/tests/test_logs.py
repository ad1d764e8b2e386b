"""What a library repeats is written seldom; what we say ourselves, always."""

from __future__ import annotations

import logging

from chassis.telemetry.logs import REPEAT_EVERY_S, Seldom


def record(name: str, text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, text, args, None)


def test_a_library_says_the_same_once_in_a_while_and_how_often_it_would_have() -> None:
    now = 100.0
    seldom = Seldom("aiokafka", lambda: now)
    first = record("aiokafka.conn", "Unable connect to node with id %s", 1)
    assert seldom.filter(first)
    assert first.getMessage() == "Unable connect to node with id 1"
    assert not any(seldom.filter(record("aiokafka.conn", "Unable connect to node with id %s", 2)) for _ in range(30))
    assert seldom.filter(record("aiokafka.conn", "something else")), "another message waits for nothing"
    now += REPEAT_EVERY_S
    again = record("aiokafka.conn", "Unable connect to node with id %s", 1)
    assert seldom.filter(again)
    assert again.getMessage() == "Unable connect to node with id 1 (30 like this left out)"


def test_our_own_lines_are_never_left_out() -> None:
    seldom = Seldom("aiokafka", lambda: 0.0)
    assert all(seldom.filter(record("sync_worker.outbound.path", "the same")) for _ in range(3))
    assert all(seldom.filter(record("aiokafkaesque", "the same")) for _ in range(3))
