"""Every topic, declared once: key, partitions, retention, compaction, event types, writer and readers.

`make up` and the compose file create exactly these; a service subscribes only to topics of this module. Adding a topic
or changing a partition count needs a decision record, because keys move when partitions change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Lane(StrEnum):
    """How urgent an event or command is; each lane is a topic of its own, so that bulk never delays critical."""

    CRITICAL = "critical"
    STANDARD = "standard"
    BULK = "bulk"


DAY_MS: Final = 24 * 60 * 60 * 1000

# More partitions than workers of one service on a large site; changing it later would move keys (stack.md §2c).
PARTITIONS: Final = 12
# Retries and dead letters are rare, and the waiting records of a key are parked in the consumer's database, not here:
# one partition each keeps due times monotonic and saves 11 idle logs per source and delay.
FAILURE_PARTITIONS: Final = 1
# The sequencer of the audit chain is one consumer, hence one partition (verification.md §4.8).
AUDIT_PARTITIONS: Final = 1

# Delay classes in seconds: within one class due times only grow, so pausing at the head of a partition is enough.
RETRY_DELAYS: Final[dict[str, int]] = {"10s": 10, "1m": 60, "10m": 600, "1h": 3600}
# Records that were parked behind a retry come back through a class of their own, so that nothing delays them further.
RELEASE_DELAY: Final = "0s"
RETRY_RETENTION_MS: Final = 2 * DAY_MS
DLQ_RETENTION_MS: Final = 30 * DAY_MS
# The gateway's events carry the provider's raw body (≤ 960 KiB) and its headers; the broker's own default is 1 MB.
MAX_MESSAGE_BYTES: Final = 1_048_576


@dataclass(frozen=True, slots=True)
class Topic:
    """A declared topic. `retries` says whether its consumers use delayed retries and dead letters.

    `writer` owns the topic, which has its name; `also_by` are services that add records in the owner's form.
    """

    name: str
    key: str
    types: tuple[str, ...]
    writer: str
    readers: tuple[str, ...]
    partitions: int = PARTITIONS
    retention_ms: int = 7 * DAY_MS
    compacted: bool = False
    retries: bool = True
    also_by: tuple[str, ...] = ()

    @property
    def writers(self) -> tuple[str, ...]:
        """All who write to this topic, its owner first."""
        return (self.writer, *self.also_by)

    @property
    def dlq(self) -> str:
        """The dead-letter topic of this topic's consumers."""
        return f"{self.name}.dlq"

    def retry(self, delay: str) -> str:
        """Return the delayed-retry topic of a delay class: one of `RETRY_DELAYS`, or `RELEASE_DELAY`."""
        if delay != RELEASE_DELAY and delay not in RETRY_DELAYS:
            raise KeyError(delay)
        return f"{self.name}.retry.{delay}"


_GATEWAY_READERS = ("webhook-gateway", "sync-worker")


def _events(lane: Lane) -> Topic:
    return Topic(
        name=f"gateway.events-{lane}.v1",
        key="canonical entity, else endpoint",
        types=("delivery.accepted.v1",),
        writer="webhook-gateway",
        # What was missed and is fetched later, as `origin` reconcile.
        also_by=("sync-worker",),
        readers=_GATEWAY_READERS,
    )


def _commands(lane: Lane) -> Topic:
    return Topic(
        name=f"orchestrator.commands-{lane}.v1",
        key="saga + step",
        types=("payment.refund.v1", "message.send.v1", "operation.run.v1"),
        writer="orchestrator",
        readers=("sync-worker",),
    )


GATEWAY_EVENTS: Final = {lane: _events(lane) for lane in Lane}
GATEWAY_REJECTIONS: Final = Topic(
    name="gateway.rejections.v1",
    key="endpoint",
    types=("delivery.rejected.v1", "delivery.repeated.v1"),
    writer="webhook-gateway",
    readers=("webhook-gateway",),
    retention_ms=30 * DAY_MS,
)
GATEWAY_QUARANTINE: Final = Topic(
    name="gateway.quarantine.v1",
    key="canonical entity, else endpoint",
    types=("delivery.accepted.v1",),
    writer="webhook-gateway",
    readers=("webhook-gateway",),
    retention_ms=30 * DAY_MS,
)
GATEWAY_ADMISSION: Final = Topic(
    name="gateway.admission.v1",
    key="the word admission",
    types=("admission.changed.v1",),
    writer="webhook-gateway",
    readers=("webhook-gateway",),
    compacted=True,
    retries=False,
)
GATEWAY_CODES: Final = Topic(
    name="gateway.codes.v1",
    key="endpoint",
    types=("endpoint.code.v1",),
    writer="webhook-gateway",
    readers=("sync-worker",),
    compacted=True,
    retries=False,
)
GATEWAY_SILENCES: Final = Topic(
    name="gateway.silences.v1",
    key="endpoint",
    types=("source.silent.v1",),
    writer="webhook-gateway",
    readers=("sync-worker",),
    retention_ms=DAY_MS,
)
SYNC_ENDPOINTS: Final = Topic(
    name="sync.endpoints.v1",
    key="endpoint",
    types=("endpoint.configured.v1",),
    writer="sync-worker",
    readers=("webhook-gateway",),
    compacted=True,
    retries=False,
)
SYNC_CHANGES: Final = Topic(
    name="sync.changes.v1",
    key="canonical entity",
    types=("payment.changed.v1",),
    writer="sync-worker",
    readers=("orchestrator", "webhook-gateway"),
)
SYNC_CALLS: Final = Topic(
    name="sync.calls.v1",
    key="provider + capability, + sandbox in that mode",
    types=("calls.observed.v1",),
    writer="sync-worker",
    readers=("health-monitor",),
    retention_ms=DAY_MS,
)
SYNC_RESULTS: Final = Topic(
    name="sync.results.v1",
    key="saga",
    types=("command.answered.v1",),
    writer="sync-worker",
    readers=("orchestrator", "webhook-gateway"),
)
HEALTH_ROUTES: Final = Topic(
    name="health.routes.v1",
    key="capability + provider, + sandbox in that mode",
    types=("route.changed.v1",),
    writer="health-monitor",
    readers=("sync-worker", "health-monitor"),
    compacted=True,
    retries=False,
)
HEALTH_QUOTAS: Final = Topic(
    name="health.quotas.v1",
    key="provider + bucket, + sandbox in that mode",
    types=("quota.policy.v1",),
    writer="health-monitor",
    readers=("sync-worker", "health-monitor"),
    compacted=True,
    retries=False,
)
HEALTH_API_VERSIONS: Final = Topic(
    name="health.api-versions.v1",
    key="provider",
    types=("versions.changed.v1",),
    writer="health-monitor",
    readers=(),
    compacted=True,
    retries=False,
)
SYNC_QUOTA_USAGE: Final = Topic(
    name="sync.quota-usage.v1",
    key="provider + bucket, + sandbox in that mode",
    types=("quota.usage.v1",),
    writer="sync-worker",
    readers=("health-monitor",),
    retention_ms=DAY_MS,
)
ORCHESTRATOR_COMMANDS: Final = {lane: _commands(lane) for lane in Lane}
ORCHESTRATOR_SAGA_EVENTS: Final = Topic(
    name="orchestrator.saga-events.v1",
    key="saga",
    types=("saga.advanced.v1",),
    writer="orchestrator",
    readers=("webhook-gateway",),
    retention_ms=30 * DAY_MS,
)
VERIFICATION_ATTESTATIONS: Final = Topic(
    name="verification.attestations.v1",
    key="subject",
    types=("attestation.changed.v1",),
    writer="verification",
    readers=(),
    compacted=True,
    retries=False,
)
PLATFORM_AUDIT: Final = Topic(
    name="platform.audit.v1",
    key="tenant",
    types=("audit.recorded.v1",),
    writer="every service",
    readers=("verification",),
    partitions=AUDIT_PARTITIONS,
    retention_ms=30 * DAY_MS,
)

TOPICS: Final[tuple[Topic, ...]] = (
    *GATEWAY_EVENTS.values(),
    GATEWAY_REJECTIONS,
    GATEWAY_QUARANTINE,
    GATEWAY_ADMISSION,
    GATEWAY_CODES,
    GATEWAY_SILENCES,
    SYNC_ENDPOINTS,
    SYNC_CHANGES,
    SYNC_CALLS,
    SYNC_RESULTS,
    HEALTH_ROUTES,
    HEALTH_QUOTAS,
    HEALTH_API_VERSIONS,
    SYNC_QUOTA_USAGE,
    *ORCHESTRATOR_COMMANDS.values(),
    ORCHESTRATOR_SAGA_EVENTS,
    VERIFICATION_ATTESTATIONS,
    PLATFORM_AUDIT,
)


@dataclass(frozen=True, slots=True)
class PhysicalTopic:
    """What a broker has to be told about one topic, retry and dead-letter topics included."""

    name: str
    partitions: int
    config: dict[str, str]


def physical_topics() -> list[PhysicalTopic]:
    """Return every topic to create, in a stable order: the declared ones with their retries and dead letters."""
    out: list[PhysicalTopic] = []
    for topic in TOPICS:
        config = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
        if topic.compacted:
            config["cleanup.policy"] = "compact"
        else:
            config["retention.ms"] = str(topic.retention_ms)
        out.append(PhysicalTopic(topic.name, topic.partitions, config))
        if topic.retries:
            # Failure headers ride on top of a record that may already have the largest size.
            failed = {"max.message.bytes": str(MAX_MESSAGE_BYTES + 65_536)}
            for delay in (RELEASE_DELAY, *RETRY_DELAYS):
                retry_config = failed | {"retention.ms": str(RETRY_RETENTION_MS)}
                out.append(PhysicalTopic(topic.retry(delay), FAILURE_PARTITIONS, retry_config))
            out.append(PhysicalTopic(topic.dlq, FAILURE_PARTITIONS, failed | {"retention.ms": str(DLQ_RETENTION_MS)}))
    return out
