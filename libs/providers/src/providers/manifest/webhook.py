"""The `[webhook]` table: how deliveries come in, what is read from them, and how they are answered.

Must never decide business meaning: it says where things stand, not what they are worth.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from contracts.events.base import Slug
from contracts.topics import Lane
from providers.manifest.base import Choice, HeaderName, Place, Pointer, Source, Strict, flat
from providers.manifest.signatures import Signature

Method = Literal["POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS"]
# What went wrong with an attempt, as `RetryReasons` calls it.
Failure = Literal["timeout", "connection", "status"]
_WORDS = frozenset({"retry", "attempt", "first_at", "reason"})
_WORD = re.compile(r"\{(retry|attempt|first_at|reason)\}")
# A hash of a challenge must not be one of a delivery: neither JSON nor "v0:<time>:" fits into this.
_HASHABLE = re.compile(r"\[A-Za-z0-9_-\]\{\d+,\d{1,3}\}")


class LaneRule(Strict):
    """Event types (globs) that belong to another lane than the default one."""

    match: tuple[str, ...] = Field(min_length=1)
    lane: Lane


class EntityRule(Strict):
    """Event types (globs) and where the id of the entity that they are about stands; the first one present wins."""

    match: tuple[str, ...] = Field(min_length=1)
    kind: Slug
    id: tuple[Source, ...] = Field(min_length=1)


class EventAnswer(Strict):
    """Event types (globs) whose sender wants another yes than the usual one: a status and a JSON body."""

    match: tuple[str, ...] = Field(min_length=1)
    status: int = Field(default=200, ge=200, le=299)
    json_body: dict[str, Any] = Field(min_length=1)


class RetryReasons(Strict):
    """The vendor's words for why it sends again: no answer in time, no connection, an answer that is no yes."""

    timeout: str = Field(min_length=1)
    connection: str = Field(min_length=1)
    status: str = Field(min_length=1)


class Retries(Strict):
    """How the provider repeats a refused delivery: waits in seconds, or only the horizon in hours if that is all known.

    An empty schedule with horizon 0 means that it never does. `headers` are those that a repeat has and a first attempt
    has not, or otherwise: their texts may hold `{retry}` (1 for the first repeat), `{attempt}` (2 for it), `{first_at}`
    (when the first attempt was, RFC 3339) and `{reason}`, one of `reasons`.
    """

    schedule_s: tuple[int, ...] = ()
    horizon_h: float = Field(ge=0)
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    reasons: RetryReasons | None = None

    def headers_of(self, retry: int, first_at: datetime, failure: Failure) -> dict[str, str]:
        """Return the headers of the `retry`-th repeat, after an attempt that failed so."""
        words = {
            "retry": str(retry),
            "attempt": str(retry + 1),
            "first_at": first_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "reason": getattr(self.reasons, failure, ""),
        }
        return {name: _WORD.sub(lambda found: words[found[1]], text) for name, text in self.headers.items()}

    @model_validator(mode="after")
    def _headers_can_be_written(self) -> Self:
        used = {word for text in self.headers.values() for word in re.findall(r"\{([^{}]*)\}", text)}
        unknown = used - _WORDS
        if unknown:
            raise ValueError(f"headers: {{{min(unknown)}}} is none of {', '.join(sorted(_WORDS))}")
        if ("reason" in used) != (self.reasons is not None):
            raise ValueError("headers: {reason} and the table reasons need each other")
        if self.headers and not self.schedule_s and self.horizon_h == 0:
            raise ValueError("headers: a provider that never repeats adds none")
        return self


class TokenCheck(Strict):
    """A value at `place` that must equal the option of that name; an empty option refuses everything."""

    place: Place
    option: str


class ChallengeHash(Strict):
    """`{hmac}`: HMAC of the challenge with the endpoint's secret."""

    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"


class Confirmation(Strict):
    """An address that has to be fetched to agree; `url` is a regular expression for the whole of it."""

    place: Place
    url: str = Field(pattern=r"^https://")


class Handshake(Strict):
    """A request that is no delivery, and its answer.

    It is meant when the method fits and every place in `match` has the value given (`*`: any, empty: absent). With
    `verified` the signature must hold first. `challenge` is what may be reflected, if all of it matches `pattern`;
    texts of the answer may hold `{challenge}`, `{hmac}` and `{option:name}`. With `learn` the challenge is a code that
    an operator must see; it never becomes a secret by itself.
    """

    name: Slug
    methods: tuple[Method, ...] = ("POST",)
    match: dict[Place, str] = Field(default_factory=dict)
    verified: bool
    token: TokenCheck | None = None
    challenge: Place | None = None
    pattern: str = "[ -~]{1,1024}"
    hmac: ChallengeHash | None = None
    status: int = Field(default=200, ge=200, le=299)
    text: str = ""
    json_body: dict[str, str | int] = Field(default_factory=dict)
    headers: dict[HeaderName, str] = Field(default_factory=dict)
    confirm: Confirmation | None = None
    learn: bool = False

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.challenge is None and (self.hmac is not None or self.learn or "{challenge}" in " ".join(self.texts())):
            raise ValueError("{challenge}, hmac and learn need `challenge`")
        if self.hmac is not None and _HASHABLE.fullmatch(self.pattern) is None:
            # Otherwise a stranger could have any body signed by asking for the hash of it.
            raise ValueError("a challenge that is hashed needs a pattern [A-Za-z0-9_-]{m,n}")
        if self.confirm is not None and not self.verified:
            raise ValueError("only a verified request may name an address to fetch")
        if not self.match and set(self.methods) - {"HEAD", "OPTIONS"}:
            raise ValueError("a handshake needs `match`, to be told from a delivery")
        return self

    def texts(self) -> list[str]:
        """Return all texts of the answer."""
        return [self.text, *(text for text in self.json_body.values() if isinstance(text, str)), *self.headers.values()]


class Webhook(Strict):
    """How deliveries come in. `secret` names the entry of `[secrets]` that verifies them.

    `formats` are the bodies that are read (`opaque`: none is); `form_json` is a form field that holds the JSON body.
    `items` says whether one delivery is one event, an array of them (at `items_pointer`, one or several, `*` for every
    element on the way), or either (`auto`). `account` and `api_version` are read when they are there. `volatile`
    are fields of an event that differ from one attempt to deliver it to the next: two bodies that differ only there are
    the same. `unsigned` are headers that the signature does not cover, though they are read: they may only hint.
    `query` lists parameters that the provider itself appends to the registered URL. `throttle` is how it takes 429 and
    503: it retries, or it punishes. `stop_status` tells it to stop for good. `answers` are for event types that want
    another yes than `success_status` and `success_body`. `ack_deadline_ms` is absent if not published.
    """

    secret: str = "webhook"  # noqa: S105 (the name of a secret)
    methods: tuple[Method, ...] = ("POST",)
    signature: Signature
    handshakes: tuple[Handshake, ...] = ()
    success_status: int = Field(default=200, ge=200, le=299)
    success_body: str = ""
    success_type: str = "text/plain; charset=utf-8"
    answers: tuple[EventAnswer, ...] = ()
    refused_status: int = Field(default=401, ge=400, le=499)
    stop_status: int = Field(default=410, ge=400, le=499)
    formats: tuple[Literal["json", "form", "multipart", "xml", "opaque"], ...] = ("json",)
    form_json: str = ""
    items: Literal["single", "array", "auto"] = "single"
    items_pointer: Pointer | tuple[Pointer, ...] = ""
    event_id: tuple[Choice, ...] = Field(min_length=1)
    event_type: tuple[Choice, ...] = Field(min_length=1)
    volatile: tuple[Pointer, ...] = ()
    account: tuple[Choice, ...] = ()
    api_version: tuple[Choice, ...] = ()
    unsigned: tuple[HeaderName, ...] = ()
    query: tuple[str, ...] = ()
    ack_deadline_ms: int | None = Field(default=None, ge=100)
    retries: Retries | None = None
    throttle: Literal["retry", "punish"] = "retry"
    ip_ranges: tuple[str, ...] = ()
    ip_ranges_url: str = Field(default="", pattern=r"^(https://.*)?$")
    lane: Lane = Lane.STANDARD
    lanes: tuple[LaneRule, ...] = ()
    entities: tuple[EntityRule, ...] = ()

    @property
    def accepted_methods(self) -> tuple[str, ...]:
        """Return the methods of deliveries and handshakes, each once."""
        return tuple(dict.fromkeys([*self.methods, *(name for one in self.handshakes for name in one.methods)]))

    @property
    def comes_back(self) -> bool:
        """Tell whether a delivery refused with 429 or 503 is known to be sent again; if not, refusing it loses it."""
        return self.throttle == "retry" and self.retries is not None and self.retries.horizon_h > 0

    @property
    def pointers(self) -> tuple[str, ...]:
        """Return the pointers to arrays of events."""
        return (self.items_pointer,) if isinstance(self.items_pointer, str) else self.items_pointer

    def sources(self) -> list[str]:
        """Return every source that events are read from."""
        entity_ids = [source for rule in self.entities for source in rule.id]
        choices = (*self.event_id, *self.event_type, *self.account, *self.api_version)
        return [*flat(choices), *entity_ids]

    def lane_for(self, event_type: str) -> Lane:
        """Return the lane of an event type: the first rule that matches, else the default."""
        for rule in self.lanes:
            if any(fnmatchcase(event_type, glob) for glob in rule.match):
                return rule.lane
        return self.lane

    def answer_for(self, event_type: str) -> EventAnswer | None:
        """Return the answer that an event type wants instead of the usual one; the first rule that matches."""
        return next((rule for rule in self.answers if any(fnmatchcase(event_type, glob) for glob in rule.match)), None)

    @model_validator(mode="after")
    def _unsigned_headers_only_hint(self) -> Self:
        # gateway.md §3.3: an unsigned field alone never chooses the critical lane or the dedup identity.
        unsigned = {f"header:{name}".lower() for name in self.unsigned}
        if unsigned & {source.lower() for source in flat(self.event_id)}:
            raise ValueError("event_id reads an unsigned header: a captured request could come back under a new id")
        critical = self.lane is Lane.CRITICAL or any(rule.lane is Lane.CRITICAL for rule in self.lanes)
        if critical and unsigned & {source.lower() for source in flat(self.event_type)}:
            raise ValueError("event_type reads an unsigned header, so it cannot choose the critical lane")
        return self

    @model_validator(mode="after")
    def _repeats_stay_one_event(self) -> Self:
        varying = {f"header:{name}".lower() for name in (self.retries.headers if self.retries else ())}
        if varying & {source.lower() for source in self.sources()}:
            raise ValueError("retries.headers: no event is read from what differs from one attempt to the next")
        return self

    @model_validator(mode="after")
    def _bodies_can_be_read(self) -> Self:
        if self.form_json and "form" not in self.formats:
            raise ValueError("form_json needs the format form")
        if self.items == "single" and self.items_pointer:
            raise ValueError("items_pointer needs items = array or auto")
        return self
