"""OpenTelemetry traces: one trace from a provider's delivery to its last effect, through Kafka headers.

A span costs 36 µs and a record needs 40 µs in all (stack.md §10), so a record gets a span only when its sender's
sampled flag is set; otherwise its `traceparent` is handed on untouched.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.util.types import AttributeValue

_VERSION, _PARTS, _SAMPLED = "00", 4, 1
_ids = RandomIdGenerator()
_ratio = 1.0


class FileSpanExporter(SpanExporter):
    """Appends finished spans to a file as JSON lines: traces on a machine without a collector."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write `spans`; blocks for the write, on the exporter's own thread."""
        with self._lock:
            self._file.writelines(json.dumps(_as_dict(span)) + "\n" for span in spans)
            self._file.flush()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()


def _as_dict(span: ReadableSpan) -> dict[str, object]:
    context = span.get_span_context()
    return {
        "trace_id": f"{context.trace_id:032x}" if context else "",
        "span_id": f"{context.span_id:016x}" if context else "",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "service": span.resource.attributes.get("service.name"),
        "name": span.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "attributes": dict(span.attributes or {}),
        "status": span.status.status_code.name,
    }


def setup_traces(service: str, *, trace_file: Path | None, sample_ratio: float) -> TracerProvider:
    """Install the process's tracer provider; spans go to `trace_file`, else to OTLP when its endpoint is configured.

    `sample_ratio` applies to traces that start here; a caller's decision always wins.
    """
    global _ratio  # noqa: PLW0603 (of the process, like the tracer provider itself)
    _ratio = sample_ratio
    # `start_span` decides, before the SDK spends 16 µs on a span that nobody will see.
    provider = TracerProvider(resource=Resource.create({"service.name": service}), sampler=ALWAYS_ON)
    if trace_file is not None:
        provider.add_span_processor(BatchSpanProcessor(FileSpanExporter(trace_file), schedule_delay_millis=500))
    elif os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        # Imported only where it is used: 0.3 s of a service's start.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def start_span(
    name: str,
    *,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> Span:
    """Start a span under the `traceparent` string `parent`, else under the current span. The caller ends it.

    Without either it begins a trace, recorded with the probability given to `setup_traces`. A parent that is not
    sampled gives a span that records nothing and hands the parent's context on.
    """
    context = None
    above = parse_traceparent(parent)
    if above is not None:
        context = trace.set_span_in_context(NonRecordingSpan(above))
    else:
        above = trace.get_current_span().get_span_context()
    if above.is_valid:
        if not above.trace_flags.sampled:
            return NonRecordingSpan(above)
    elif random.random() >= _ratio:  # noqa: S311 (a sample, not a secret)
        unrecorded = SpanContext(_ids.generate_trace_id(), _ids.generate_span_id(), is_remote=False)
        return NonRecordingSpan(unrecorded)
    tracer = trace.get_tracer("patchbay")
    return tracer.start_span(name, context=context, kind=kind, attributes=attributes)


def begin_trace(
    name: str, *, parent: str | None, kind: SpanKind, attributes: Mapping[str, AttributeValue]
) -> tuple[str, Span | None]:
    """Return the `traceparent` for what follows and the span to end, or None where nothing is recorded.

    `start_span` for the hottest path: a trace that is not sampled costs a random number.
    """
    if parent is None and random.random() >= _ratio:  # noqa: S311 (a sample, not a secret)
        # Neither half may be all zeros (https://www.w3.org/TR/trace-context/#trace-id).
        bits = random.getrandbits(192) | 1 << 64 | 1
        return f"{_VERSION}-{bits >> 64:032x}-{bits & 0xFFFFFFFFFFFFFFFF:016x}-00", None
    span = start_span(name, parent=parent, kind=kind, attributes=attributes)
    return traceparent(span), span


def traceparent(span: Span) -> str:
    """Return the W3C `traceparent` of a span, to be put into a header."""
    context = span.get_span_context()
    return f"{_VERSION}-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def current_traceparent() -> str | None:
    """Return the `traceparent` of the current span, or None outside of any trace."""
    span = trace.get_current_span()
    return traceparent(span) if span.get_span_context().is_valid else None


def sampled(parent: str | None) -> bool:
    """Tell whether a `traceparent` asks for recording; looks at the flag byte only."""
    try:
        return parent is not None and bool(int(parent[-2:], 16) & _SAMPLED)
    except ValueError:
        return False


def parse_traceparent(text: str | None) -> SpanContext | None:
    """Return the span context of a W3C `traceparent`; None for anything malformed, since it comes from outside."""
    parts = (text or "").split("-")
    if len(parts) != _PARTS or parts[0] != _VERSION:
        return None
    try:
        trace_id, span_id, flags = int(parts[1], 16), int(parts[2], 16), int(parts[3], 16)
    except ValueError:
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & _SAMPLED))
    return context if context.is_valid else None
