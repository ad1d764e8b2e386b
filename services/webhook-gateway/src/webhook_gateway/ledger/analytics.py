"""`/v1/analytics/deliveries`: rates, latencies, duplicates and refusals by group and time, from the hourly counts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.http.auth import Role, requires
from chassis.http.problems import invalid, json_response, query_of
from webhook_gateway.ledger.api import LedgerApi
from webhook_gateway.repository import analytics, deadletters
from webhook_gateway.repository.analytics import GROUPS, LATENCY_BOUNDS_MS, Span
from webhook_gateway.silence import HOUR, floor

MAX_SPAN: Final = timedelta(days=400)
_DAY: Final = timedelta(days=1)
_QUANTILES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


class AnalyticsQuery(BaseModel):
    """`from` inclusive and `to` exclusive, widened to whole hours; `group_by` is a comma-separated list of groups."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: AwareDatetime | None = Field(default=None, alias="from")
    end: AwareDatetime | None = Field(default=None, alias="to")
    group_by: str = "provider"
    interval: Literal["hour", "day", "week", "month"] | None = None

    def groups(self) -> list[str]:
        """Return the groups; raises `Problem` 422 for one that does not exist, or is given twice."""
        groups = [name for name in self.group_by.split(",") if name]
        if len(set(groups)) != len(groups) or not set(groups) <= set(GROUPS):
            raise invalid("group_by", f"a list of {', '.join(GROUPS)}")
        return groups


def routes(api: LedgerApi) -> list[BaseRoute]:
    """Return the route of analytics."""

    @requires(api.tokens, Role.VIEWER)
    async def deliveries(request: Request) -> Response:
        query = query_of(request, AnalyticsQuery)
        groups, now = query.groups(), api.clock.now()
        end = query.end or now
        start = query.start or end - _DAY
        if not timedelta(0) < end - start <= MAX_SPAN:
            raise invalid("from", f"must be before `to`, and at most {MAX_SPAN.days} days")
        span = Span(floor(start), floor(end) if end == floor(end) else floor(end) + HOUR)
        async with api.database.connection() as connection:
            counts = await analytics.counts(connection, span, groups, query.interval)
            latencies = await analytics.latencies(connection, span, groups, query.interval)
            held = await analytics.oldest_held(connection)
            dead = await deadletters.oldest_open(connection)
        items = summarise(counts, latencies, groups)
        oldest = {
            "oldest_held_s": (now - held).total_seconds() if held else None,
            "oldest_dead_letter_s": (now - dead).total_seconds() if dead else None,
        }
        return json_response({"from": span.start, "to": span.end, "items": items, **oldest})

    return [Route("/v1/analytics/deliveries", deliveries)]


def summarise(
    counts: Sequence[dict[str, Any]], latencies: Sequence[dict[str, Any]], groups: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one entry per time and group: deliveries by outcome, refusals by reason, latency quantiles."""
    out: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in counts:
        entry = out.setdefault(_key(row, groups), {"deliveries": 0, "outcomes": {}, "rejected": {}})
        entry["deliveries"] += row["deliveries"]
        entry["outcomes"][row["outcome"]] = entry["outcomes"].get(row["outcome"], 0) + row["deliveries"]
        if row["reason"]:
            entry["rejected"][row["reason"]] = entry["rejected"].get(row["reason"], 0) + row["deliveries"]
    buckets: defaultdict[tuple[Any, ...], dict[int, int]] = defaultdict(dict)
    for row in latencies:
        buckets[_key(row, groups)][row["bucket"]] = row["deliveries"]
    return [
        {"at": key[0], **dict(zip(groups, key[1:], strict=True)), **entry, "accept_latency_ms": quantiles(buckets[key])}
        for key, entry in out.items()
    ]


def quantiles(buckets: dict[int, int]) -> dict[str, float | None]:
    """Return quantiles of a histogram in milliseconds, each as the upper bound of its bucket; None without a sample.

    The last bucket has no upper bound, so its lower one stands for it.
    """
    total = sum(buckets.values())
    out: dict[str, float | None] = dict.fromkeys(_QUANTILES)
    for name, share in _QUANTILES.items():
        seen = 0
        for bucket in sorted(buckets):
            seen += buckets[bucket]
            if total and seen >= share * total:
                out[name] = float(LATENCY_BOUNDS_MS[min(bucket, len(LATENCY_BOUNDS_MS) - 1)])
                break
    return out


def _key(row: dict[str, Any], groups: Sequence[str]) -> tuple[Any, ...]:
    return (row["at"], *(row["event_type" if name == "type" else name] for name in groups))
