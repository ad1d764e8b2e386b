"""CloudEvents 1.0 over Kafka in binary mode: attributes in `ce_*` headers, the datum in the record's value.

Spec: https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/kafka-protocol-binding.md. Must never look
inside `data`: that is the reader's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from contracts.errors import Invalid

Headers = list[tuple[str, bytes]]

SPEC_VERSION = "1.0"
_PREFIX = "ce_"
_SPEC_HEADER = ("ce_specversion", SPEC_VERSION.encode())
_REQUIRED = ("ce_id", "ce_source", "ce_type")
_KNOWN = frozenset({*_REQUIRED, "ce_specversion", "ce_time", "ce_subject", "content-type", "traceparent"})


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message: CloudEvents attributes, Patchbay's extensions, trace context and the raw datum.

    `id` is stable across redeliveries of one fact: with `source` it is the inbox key. `extensions` hold `tenant`,
    `lane`, `connection` and whatever the event's own contract adds; names are lower-case alphanumeric by the spec.
    """

    id: str
    source: str
    type: str
    data: bytes
    # lint-skip: PB003 contracts cannot import the chassis' clock; a caller that cares about time passes it
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    subject: str | None = None
    content_type: str = "application/json"
    traceparent: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)

    @property
    def tenant(self) -> str:
        """The tenant that the message belongs to; empty for platform messages."""
        return self.extensions.get("tenant", "")

    @property
    def dedupe_id(self) -> str:
        """What the inbox remembers: CloudEvents makes `source` + `id` unique per fact."""
        return f"{self.source}|{self.id}"

    def headers(self) -> Headers:
        """Return the record headers: `ce_*`, `content-type` and, when traced, `traceparent`."""
        out: Headers = [
            _SPEC_HEADER,
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("ce_time", self.time.isoformat().encode()),
            ("content-type", self.content_type.encode()),
        ]
        if self.subject is not None:
            out.append(("ce_subject", self.subject.encode()))
        if self.traceparent is not None:
            out.append(("traceparent", self.traceparent.encode()))
        out.extend((_PREFIX + name, value.encode()) for name, value in self.extensions.items())
        return out


def from_record(value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Envelope:
    """Return the envelope of a Kafka record.

    Raises `Invalid` (`envelope_missing_attribute`, `envelope_bad_attribute`, `envelope_no_data`) for anything that is
    not a CloudEvents 1.0 message in binary mode. Later headers win over earlier ones of the same name.
    """
    try:
        # Kafka allows a header without a value, which aiokafka gives as None whatever its types say.
        text = {name: (raw or b"").decode() for name, raw in headers}
    except UnicodeDecodeError as error:
        raise Invalid("envelope_bad_attribute", "a header is not UTF-8", field="headers") from error
    if text.get("ce_specversion") != SPEC_VERSION:
        raise Invalid("envelope_missing_attribute", "ce_specversion must be 1.0", field="ce_specversion")
    for name in _REQUIRED:
        if not text.get(name):
            raise Invalid("envelope_missing_attribute", f"{name} is required", field=name)
    if value is None:
        raise Invalid("envelope_no_data", "a tombstone is not an event", field="value")
    return Envelope(
        id=text["ce_id"],
        source=text["ce_source"],
        type=text["ce_type"],
        time=_time(text.get("ce_time")),
        subject=text.get("ce_subject"),
        content_type=text.get("content-type", "application/json"),
        traceparent=text.get("traceparent"),
        extensions={
            name[len(_PREFIX) :]: raw for name, raw in text.items() if name not in _KNOWN and name.startswith(_PREFIX)
        },
        data=value,
    )


def _time(text: str | None) -> datetime:
    if text is None:
        raise Invalid("envelope_missing_attribute", "ce_time is required", field="ce_time")
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid("envelope_bad_attribute", "ce_time is not RFC 3339", field="ce_time") from error
    if parsed.tzinfo is None:
        raise Invalid("envelope_bad_attribute", "ce_time has no offset", field="ce_time")
    return parsed
