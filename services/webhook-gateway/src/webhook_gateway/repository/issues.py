"""SQL of `issues`: one unresolved issue per kind and subject, however often it is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from chassis.db.connection import Connection
from contracts.ids import uuid7
from webhook_gateway.repository.pages import Listing, newest

Kind = Literal["silence", "drift", "conflict", "rejections", "dead_letter"]
KINDS: Final = ("silence", "drift", "conflict", "rejections", "dead_letter")
_SHOWN: Final = """id, kind, subject, state, tenant, provider, endpoint, detail, occurrences, opened_at, last_seen,
    acknowledged_at, acknowledged_by, resolved_at"""


@dataclass(frozen=True, slots=True)
class Report:
    """Something wrong about a subject, such as an endpoint or a shape. `detail` replaces what was known of it."""

    kind: Kind
    subject: str
    at: datetime
    tenant: str = ""
    provider: str = ""
    endpoint: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    occurrences: int = 1


async def report(connection: Connection, reports: Sequence[Report]) -> None:
    """Open an issue per report, or count it on the one that is unresolved."""
    await connection.executemany(
        """INSERT INTO issues (id, kind, subject, state, tenant, provider, endpoint, detail, occurrences, opened_at,
               last_seen, acknowledged_by)
           VALUES ($1, $2, $3, 'open', $4, $5, $6, $7, $8, $9, $9, '')
           ON CONFLICT (kind, subject) WHERE state <> 'resolved' DO UPDATE SET
               detail = issues.detail || excluded.detail,
               occurrences = issues.occurrences + excluded.occurrences,
               last_seen = greatest(issues.last_seen, excluded.last_seen)""",
        [
            (
                *(uuid7(), one.kind, one.subject, one.tenant, one.provider, one.endpoint),
                *(dict(one.detail), one.occurrences, one.at),
            )
            for one in sorted(reports, key=lambda one: (one.kind, one.subject))
        ],
    )


async def resolve(connection: Connection, kind: Kind, subjects: Sequence[str], at: datetime) -> list[str]:
    """Resolve the unresolved issues of these subjects and return which there were."""
    rows = await connection.fetch(
        """UPDATE issues SET state = 'resolved', resolved_at = $3
           WHERE kind = $1 AND subject = ANY($2::text[]) AND state <> 'resolved' RETURNING subject""",
        kind,
        list(subjects),
        at,
    )
    return [row["subject"] for row in rows]


async def acknowledge(connection: Connection, issue: UUID, by: str, at: datetime) -> dict[str, Any] | None:
    """Mark an open issue as seen by somebody; None when there is none. A second time changes nothing."""
    await connection.execute(
        """UPDATE issues SET state = 'acknowledged', acknowledged_by = $2, acknowledged_at = $3
           WHERE id = $1 AND state = 'open'""",
        issue,
        by,
        at,
    )
    row = await connection.fetchrow(f"SELECT {_SHOWN} FROM issues WHERE id = $1", issue)  # noqa: S608 (names of ours)
    return None if row is None else dict(row)


async def listed(
    connection: Connection, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` issues, newest first, that match and stand behind `after` (opened_at, id)."""
    return await newest(connection, Listing("issues", _SHOWN, "opened_at"), filters, after, limit)


async def unresolved(connection: Connection, kind: Kind) -> dict[str, datetime]:
    """Return when each unresolved issue of a kind was opened, by subject."""
    rows = await connection.fetch("SELECT subject, opened_at FROM issues WHERE kind = $1 AND state <> 'resolved'", kind)
    return {row["subject"]: row["opened_at"] for row in rows}


async def spans(connection: Connection, kind: Kind, since: datetime) -> list[tuple[str, datetime, datetime | None]]:
    """Return (subject, opened, resolved or None) of the issues of a kind that were unresolved at or after `since`."""
    rows = await connection.fetch(
        """SELECT subject, opened_at, resolved_at FROM issues
           WHERE kind = $1 AND (resolved_at IS NULL OR resolved_at >= $2)""",
        kind,
        since,
    )
    return [(row["subject"], row["opened_at"], row["resolved_at"]) for row in rows]


async def open_counts(connection: Connection) -> dict[str, int]:
    """Return how many issues are unresolved, by kind; every kind is there."""
    rows = await connection.fetch("SELECT kind, count(*) AS found FROM issues WHERE state <> 'resolved' GROUP BY 1")
    return dict.fromkeys(KINDS, 0) | {row["kind"]: row["found"] for row in rows}
