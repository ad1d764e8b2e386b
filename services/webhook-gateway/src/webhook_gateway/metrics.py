"""Metrics of the gateway."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

DELIVERIES = Metric(
    "gateway_deliveries_total",
    "counter",
    "Webhook requests by provider and outcome: accepted, a rejection reason, unavailable (broker),"
    " claim_store_unavailable, sender_left, unknown_endpoint, or a lack: no_slot, no_turn, no_room, not_loaded.",
    ("provider", "outcome"),
)
ACK_SECONDS = Metric(
    "gateway_ack_duration_seconds", "histogram", "From the request's first byte to its answer.", ("provider",)
)
UNRECORDED = Metric(
    "gateway_rejections_unrecorded_total", "counter", "Rejections that the broker did not take in time."
)
ENDPOINTS = Metric("gateway_endpoints", "gauge", "Webhook endpoints held in memory.")
KEY_MATCHES = Metric(
    "gateway_key_matches_total",
    "counter",
    "Verified deliveries by the position of the secret that matched; anything but 0 means a rotation is under way.",
    ("provider", "position"),
)
SAMPLED_OUT = Metric(
    "gateway_rejections_sampled_out_total",
    "counter",
    "Rejections that were counted and answered, but not recorded: their endpoint had too many.",
    ("provider",),
)
REPEATED = Metric("gateway_repeated_total", "counter", "Events that were durable already.", ("provider",))
CONFLICTS = Metric(
    "gateway_conflicts_total", "counter", "Events whose id came before with another body; quarantined.", ("provider",)
)
CARDS = Metric("gateway_card_numbers_total", "counter", "Deliveries with a card number in their body.", ("provider",))
DEDUP = Metric(
    "gateway_dedup_misses_total",
    "counter",
    "Look-ups that the memory did not answer: unavailable (a round trip failed) or skipped (right after one).",
    ("why",),
)
IN_FLIGHT = Metric("gateway_in_flight", "gauge", "What the process holds of unanswered requests.", ("what",))
FLEET = Metric("gateway_fleet_processes", "gauge", "Ingest processes that share the rate limits, as seen by this one.")
LIMITER_OPEN = Metric(
    "gateway_limiter_open", "gauge", "1 while the fleet cannot be counted and each process allows the whole limit."
)
BULK_LIMIT = Metric(
    "gateway_bulk_limit_per_second",
    "gauge",
    "Bulk deliveries per second that all processes let in together.",
)
HANDSHAKES = Metric(
    "gateway_handshakes_total", "counter", "Handshakes answered, by their name in the manifest.", ("provider", "name")
)
CLAIMS_SWEPT = Metric(
    "gateway_claims_swept_total", "counter", "Bodies deleted from the claim-check store after their time (ledger role)."
)
ADMISSION_LAG = Metric(
    "gateway_consumer_lag_seconds", "gauge", "Estimated time that bulk waits for its slowest consumer (ledger role)."
)

LEDGER_PARTITIONS = Metric("ledger_partitions", "gauge", "Daily partitions of a table of the ledger.", ("table",))
LEDGER_PARTITIONS_DROPPED = Metric(
    "ledger_partitions_dropped_total", "counter", "Daily partitions dropped when their retention was over.", ("table",)
)
LEDGER_DELIVERIES = Metric(
    "ledger_deliveries_total", "counter", "Deliveries stored by the ledger, by outcome.", ("outcome",)
)
LEDGER_REPLAYED = Metric(
    "ledger_replayed_total", "counter", "Deliveries written again, by the kind of act: replay or release.", ("kind",)
)
LEDGER_REPLAYS_OPEN = Metric("ledger_replay_jobs_open", "gauge", "Replay jobs that are queued or running.")
LEDGER_HELD = Metric("ledger_held_deliveries", "gauge", "Deliveries held back from the lanes, by why.", ("outcome",))
LEDGER_DEAD_LETTERS = Metric(
    "ledger_dead_letters_open", "gauge", "Dead letters that nobody settled, by service.", ("service",)
)
LEDGER_ISSUES = Metric("ledger_issues_open", "gauge", "Issues that are open or acknowledged, by kind.", ("kind",))
METRICS: Final[tuple[Metric, ...]] = (
    DELIVERIES,
    ACK_SECONDS,
    UNRECORDED,
    ENDPOINTS,
    KEY_MATCHES,
    SAMPLED_OUT,
    REPEATED,
    CONFLICTS,
    CARDS,
    DEDUP,
    IN_FLIGHT,
    FLEET,
    LIMITER_OPEN,
    BULK_LIMIT,
    HANDSHAKES,
    CLAIMS_SWEPT,
    ADMISSION_LAG,
    LEDGER_PARTITIONS,
    LEDGER_PARTITIONS_DROPPED,
    LEDGER_DELIVERIES,
    LEDGER_REPLAYED,
    LEDGER_REPLAYS_OPEN,
    LEDGER_HELD,
    LEDGER_DEAD_LETTERS,
    LEDGER_ISSUES,
)
