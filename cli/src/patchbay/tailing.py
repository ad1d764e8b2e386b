"""Records of a topic for people: one line of facts, then the data."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from chassis.kafka.records import ConsumerRecord
from chassis.kafka.tail import tail
from chassis.telemetry.traces import parse_traceparent
from contracts.errors import Invalid, Transient
from patchbay.environment import CliError

Start = Literal["end", "beginning"] | datetime


@dataclass(frozen=True, slots=True)
class Shown:
    """A record as it is shown; `data` is JSON where it is JSON, else text."""

    place: str
    key: str
    event_type: str
    event_id: str
    trace_id: str
    data: Any

    def lines(self) -> str:
        """Return two lines: the facts, and the data."""
        data = self.data if isinstance(self.data, str) else json.dumps(self.data, ensure_ascii=False)
        facts = (
            f"{self.place}  key={self.key}  type={self.event_type}  id={self.event_id}  trace={self.trace_id or '-'}"
        )
        return f"{facts}\n    {data}"


def shown(record: ConsumerRecord) -> Shown:
    """Return a record for showing; never fails, whatever the record holds."""
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    context = parse_traceparent(headers.get("traceparent"))
    return Shown(
        place=f"{record.topic}/{record.partition}/{record.offset}",
        key=(record.key or b"").decode(errors="replace"),
        event_type=headers.get("ce_type", ""),
        event_id=headers.get("ce_id", ""),
        trace_id=f"{context.trace_id:032x}" if context else "",
        data=_data(record.value),
    )


def follow(bootstrap: str, topic: str, start: Start, see: Callable[[Shown], bool], within_s: float | None) -> bool:
    """Show records to `see` until it returns True, which is returned too; False after `within_s` seconds.

    Blocking; for ever when `within_s` is None. Raises `CliError` for an unknown topic or a broker that is away.
    """

    async def run() -> bool:
        try:
            async with asyncio.timeout(within_s), aclosing(tail(bootstrap, topic, start)) as records:  # type: ignore[type-var]
                async for record in records:
                    if see(shown(record)):
                        return True
        except TimeoutError:
            return False
        return False

    try:
        return asyncio.run(run())
    except Invalid as error:
        raise CliError(error.detail) from None
    except Transient as error:
        raise CliError(f"Kafka does not answer ({error.detail}); is the platform up? make status") from None


def _data(value: bytes | None) -> Any:
    if value is None:
        return "(tombstone)"
    try:
        return json.loads(value)
    except ValueError:
        return value.decode(errors="replace")
