"""What every event and command model has in common."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, StringConstraints


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


# Every time on the wire is an instant: naive values are refused, aware ones are turned into UTC.
Instant = Annotated[AwareDatetime, AfterValidator(_utc)]
# A slug of ours: provider, tenant, capability. Lower-case, so that keys and metrics cannot differ by case.
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
# ISO 4217; amounts beside it are in the currency's minor unit.
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


class Event(BaseModel):
    """Base of all message models: frozen, and tolerant of fields that a newer writer added."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    TYPE: ClassVar[str]
