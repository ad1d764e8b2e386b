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
_JSON = "application/json"
_JSON_HEADER = ("content-type", _JSON.encode())
_REQUIRED = ("ce_id", "ce_source", "ce_type", "ce_time")
_KNOWN = frozenset({*_REQUIRED, "ce_specversion", "ce_subject", "content-type", "traceparent"})


# Not frozen, though nobody changes one: the frozen constructor is three times as slow, 6 % of a consumer's CPU.
@dataclass(slots=True)
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
    content_type: str = _JSON
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
            _JSON_HEADER if self.content_type == _JSON else ("content-type", self.content_type.encode()),
        ]
        if self.subject is not None:
            out.append(("ce_subject", self.subject.encode()))
        if self.traceparent is not None:
            out.append(("traceparent", self.traceparent.encode()))
        if self.extensions:
            out += [(_PREFIX + name, value.encode()) for name, value in self.extensions.items()]
        return out


def from_record(value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Envelope:
    """Return the envelope of a Kafka record.

    Raises `Invalid` (`envelope_missing_attribute`, `envelope_bad_attribute`, `envelope_no_data`) for anything that is
    not a CloudEvents 1.0 message in binary mode. Later headers win over earlier ones of the same name.
    """
    known: dict[str, bytes] = {}
    extensions: dict[str, str] = {}
    try:
        for name, raw in headers:
            if name in _KNOWN:
                known[name] = raw
            elif name.startswith(_PREFIX):
                extensions[name[len(_PREFIX) :]] = (raw or b"").decode()
        if known.get("ce_specversion") != _SPEC_HEADER[1]:
            raise Invalid("envelope_missing_attribute", "ce_specversion must be 1.0", field="ce_specversion")
        for name in _REQUIRED:
            # Kafka allows a header without a value, which aiokafka gives as None whatever its types say.
            if not known.get(name):
                raise Invalid("envelope_missing_attribute", f"{name} is required", field=name)
        if value is None:
            raise Invalid("envelope_no_data", "a tombstone is not an event", field="value")
        subject, trace, content_type = known.get("ce_subject"), known.get("traceparent"), known.get("content-type")
        return Envelope(
            id=known["ce_id"].decode(),
            source=known["ce_source"].decode(),
            type=known["ce_type"].decode(),
            data=value,
            time=_time(known["ce_time"].decode()),
            subject=subject.decode() if subject is not None else None,
            content_type=content_type.decode() if content_type else _JSON,
            traceparent=trace.decode() if trace else None,
            extensions=extensions,
        )
    except UnicodeDecodeError as error:
        raise Invalid("envelope_bad_attribute", "a header is not UTF-8", field="headers") from error


def _time(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid("envelope_bad_attribute", "ce_time is not RFC 3339", field="ce_time") from error
    if parsed.tzinfo is None:
        raise Invalid("envelope_bad_attribute", "ce_time has no offset", field="ce_time")
    return parsed
