"""Spans of consumed messages: one each, only for those whose sender's trace is recorded."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.trace import SpanKind

from chassis.kafka.records import Message
from chassis.telemetry.traces import sampled, start_span


def start_spans(messages: Iterable[Message]) -> None:
    """Give each sampled message a span under its sender's; what the message causes hangs below it."""
    for message in messages:
        if sampled(message.envelope.traceparent):
            message.span = start_span(
                f"process {message.origin.topic}",
                parent=message.envelope.traceparent,
                kind=SpanKind.CONSUMER,
                attributes={
                    "messaging.system": "kafka",
                    "messaging.destination.name": message.origin.topic,
                    "messaging.kafka.offset": message.origin.offset,
                    "messaging.message.type": message.envelope.type,
                },
            )


def end_spans(messages: Iterable[Message]) -> None:
    """End the spans of a batch, whatever became of it."""
    for message in messages:
        if message.span is not None:
            message.span.end()
