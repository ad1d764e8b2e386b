"""Structured logs: one JSON object a line on standard output, with the current trace id.

Must never log a payload, a header value or a secret; callers pass identifiers and codes only.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger

# While a broker is away, each loop of aiokafka says so ten times a second.
REPEATED: Final = "aiokafka"
REPEAT_EVERY_S: Final = 10.0
_REMEMBERED: Final = 1000


class Seldom(logging.Filter):
    """Lets a library say the same thing once in `REPEAT_EVERY_S`, with the number of times that were left out."""

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(name)
        self._monotonic = monotonic
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is written; records of other loggers always are."""
        if not super().filter(record):
            return True
        now, key = self._monotonic(), (record.name, str(record.msg))
        at, left_out = self._said.get(key, (float("-inf"), 0))
        if now - at < REPEAT_EVERY_S:
            self._said[key] = at, left_out + 1
            return False
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said[key] = now, 0
        if left_out:
            record.msg = f"{record.msg} ({left_out} like this left out)"
        return True


def _add_trace_id(_logger: Any, _method: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
    return event


def setup_logs(service: str, level: str) -> None:
    """Send structlog and the standard library's logging to standard output as JSON. Call once per process."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_id,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(Seldom(REPEATED))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # These two log a line per rebalance step or request at INFO; their warnings are what an operator needs.
    for noisy in ("aiokafka", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)


def logger(name: str) -> FilteringBoundLogger:
    """Return a logger; `name` is the module's."""
    return structlog.get_logger(name)  # type: ignore[no-any-return]
