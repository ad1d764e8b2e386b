"""Metrics as declared data: a name that is not declared cannot be exported, and the reference page lists them all.

Labels are bounded sets; never a tenant, an id or a URL (health-monitor.md §2.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram

# Seconds; an explicit 2.0, because "slow" is defined as more than two seconds (health-monitor.md §4.1).
LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)


# Compared by identity: each is declared once, and hashing four fields on every look-up would cost a microsecond.
@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric family: its full name, kind, help text and label names."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


@cache
def counter(metric: Metric) -> Counter:
    """Return the counter of a declared metric; the same object every time."""
    return Counter(metric.name, metric.help, metric.labels)


@cache
def bound_counter(metric: Metric, *labels: str) -> Counter:
    """Return the counter of a metric for one set of label values, bound once: a third of the cost of `labels()`."""
    return counter(metric).labels(*labels) if labels else counter(metric)


@cache
def bound_histogram(metric: Metric, *labels: str) -> Histogram:
    """Return the histogram of a metric for one set of label values, bound once."""
    return histogram(metric).labels(*labels) if labels else histogram(metric)


@cache
def gauge(metric: Metric) -> Gauge:
    """Return the gauge of a declared metric; the same object every time."""
    return Gauge(metric.name, metric.help, metric.labels)


@cache
def bound_gauge(metric: Metric, *labels: str) -> Gauge:
    """Return the gauge of a metric for one set of label values, bound once."""
    return gauge(metric).labels(*labels) if labels else gauge(metric)


@cache
def histogram(metric: Metric) -> Histogram:
    """Return the histogram of a declared metric, in seconds; the same object every time."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=LATENCY_BUCKETS)


LOOP_RECORDS = Metric(
    "kafka_loop_records_total", "counter", "Records handled, by what became of them.", ("topic", "outcome")
)
LOOP_HALTED = Metric("kafka_loop_halted", "gauge", "1 when the dead-letter limit stopped the consumer.", ("consumer",))
LOOP_LAG = Metric("kafka_loop_lag_records", "gauge", "Records on the broker that are not handled yet.", ("topic",))
LOOP_BATCH_SECONDS = Metric(
    "kafka_loop_batch_duration_seconds", "histogram", "From poll to offset commit of one batch.", ("consumer",)
)
OUTBOX_PENDING = Metric("outbox_pending_rows", "gauge", "Rows waiting in the outbox.")
OUTBOX_AGE = Metric("outbox_oldest_age_seconds", "gauge", "Age of the oldest row in the outbox.")
OUTBOX_RELAYED = Metric("outbox_relayed_total", "counter", "Messages published from the outbox.", ("topic",))
PRODUCER_REBUILDS = Metric(
    "kafka_producer_rebuilds_total", "counter", "Producers replaced after losing their idempotent sequence."
)
SERVICE_READY = Metric("service_ready", "gauge", "1 while the service is ready.", ("service",))
HTTP_REQUESTS = Metric("http_requests_total", "counter", "API requests.", ("route", "method", "status"))

METRICS: Final[tuple[Metric, ...]] = (
    LOOP_RECORDS,
    LOOP_HALTED,
    LOOP_LAG,
    LOOP_BATCH_SECONDS,
    OUTBOX_PENDING,
    OUTBOX_AGE,
    OUTBOX_RELAYED,
    PRODUCER_REBUILDS,
    SERVICE_READY,
    HTTP_REQUESTS,
)
