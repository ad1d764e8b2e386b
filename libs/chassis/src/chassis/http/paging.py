"""Keyset pages: `?limit&after=`, stable under inserts and as fast on page 1,000 as on page 1."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from chassis.http.problems import invalid

MAX_LIMIT: Final = 200


class PageQuery(BaseModel):
    """Base of list queries; unknown parameters are refused, so that a typo never reads as "no filter"."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=50, ge=1, le=MAX_LIMIT)
    after: str | None = None

    def filters(self) -> dict[str, Any]:
        """Return the filters that are set, by name; what a list may be filtered by is what its query declares."""
        return self.model_dump(exclude_none=True, exclude={"limit", "after"})

    def cursor(self, length: int) -> list[Any] | None:
        """Return the position after which the page starts; `Problem` 422 when it is not one of ours."""
        if self.after is None:
            return None
        try:
            values = json.loads(base64.urlsafe_b64decode(self.after.encode()))
        except (binascii.Error, ValueError):
            values = None
        if not isinstance(values, list) or len(values) != length:
            raise invalid("after", "must be the `next` of a previous page")
        return values


def page(items: Sequence[dict[str, Any]], limit: int, keys: Sequence[str]) -> dict[str, Any]:
    """Return `{items, next}` for up to `limit` of `items`; `next` is null on the last page.

    Pass one item more than `limit` to tell a full page from the last one; `keys` are the fields of the sort order.
    """
    shown = list(items[:limit])
    following = None
    if len(items) > limit:
        position = json.dumps([shown[-1][key] for key in keys], default=str)
        following = base64.urlsafe_b64encode(position.encode()).decode()
    return {"items": shown, "next": following}
