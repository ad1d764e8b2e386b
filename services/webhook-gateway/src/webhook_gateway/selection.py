"""Which deliveries somebody asks for: the filters of the search, of an export and of a replay, and their SQL.

Values always travel as parameters; only names and operators of ours become text.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Outcome = Literal["accepted", "duplicate", "rejected", "conflict", "held"]
MAX_PATH_CHARS: Final = 500

_COLUMNS: Final = {"trace": "trace_id", "event": "event_id"}
_OPERATORS: Final = {"received_from": "received_at >=", "received_to": "received_at <"}
_LIKE: Final = str.maketrans({"%": "\\%", "_": "\\_", "\\": "\\\\", "*": "%", "?": "_"})


class DeliveryFilter(BaseModel):
    """Filters that must all hold; absent means any. `received_from` is inclusive, `received_to` exclusive.

    `type` is a glob (`*` and `?`). `path` is a JSON path of PostgreSQL over the body as JSON, redacted: a delivery
    matches when the path finds something, for example `$.data.object ? (@.amount > 1000)`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str | None = None
    tenant: str | None = None
    type: str | None = None
    entity: str | None = None
    endpoint: str | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    key_id: str | None = None
    trace: str | None = None
    event: str | None = None
    lane: Literal["critical", "standard", "bulk"] | None = None
    origin: Literal["webhook", "replay", "reconcile"] | None = None
    replay: str | None = None
    received_from: AwareDatetime | None = None
    received_to: AwareDatetime | None = None
    path: str | None = Field(default=None, min_length=1, max_length=MAX_PATH_CHARS, pattern=r"^\s*(strict|lax)?\s*\$")

    def conditions(self, values: list[Any]) -> list[str]:
        """Return the SQL conditions, appending their values to `values`, whose places they name."""
        out: list[str] = []
        for name in DeliveryFilter.model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            if name == "type":
                values.append(value if not _is_glob(value) else value.translate(_LIKE))
                out.append(f"event_type {'LIKE' if _is_glob(value) else '='} ${len(values)}")
            elif name == "path":
                values.append(value)
                out.append(f"document @? ${len(values)}::text::jsonpath")
            else:
                values.append(value)
                out.append(f"{_OPERATORS.get(name, f'{_COLUMNS.get(name, name)} =')} ${len(values)}")
        return out


def _is_glob(text: str) -> bool:
    return "*" in text or "?" in text
