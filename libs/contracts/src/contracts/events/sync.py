"""What the sync worker says: endpoints, changes of canonical records, outcomes of calls, answers to commands."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, JsonValue, model_validator

from contracts.events.base import Currency, Event, Instant, Slug
from contracts.events.health import CallClass, is_kind
from contracts.modes import Mode
from contracts.topics import Lane


class SealedSecret(Event):
    """One live secret of an endpoint; `sealed` is base64 of the envelope-encrypted value, never the value.

    The validity window is half open: `not_before <= now < not_after`.
    """

    TYPE: ClassVar[str] = "endpoint.secret.v1"

    key_id: str
    sealed: str
    not_before: Instant | None = None
    not_after: Instant | None = None


def endpoint_secret_place(tenant: str, endpoint: str, key_id: str) -> str:
    """Return the place that an endpoint's secret is sealed for: moved to another endpoint, it does not open."""
    return f"endpoint|{tenant}|{endpoint}|{key_id}"


class EndpointToken(Event):
    """One opaque token of an endpoint's URL; more than one lives while the URL is being rotated.

    `url` is the address with this token as registered at the provider, which some schemes sign; empty means the
    endpoint's own `url`.
    """

    TYPE: ClassVar[str] = "endpoint.token.v1"

    token: str
    not_after: Instant | None = None
    url: str = ""


class RateLimit(Event):
    """A token bucket: `per_s` deliveries a second on average, `burst` at once."""

    TYPE: ClassVar[str] = "endpoint.rate.v1"

    per_s: float = Field(gt=0)
    burst: int = Field(ge=1)


class EndpointLaneRule(Event):
    """Deliveries that belong to another lane than the manifest says; the first rule that matches wins.

    All conditions that are given must hold: `types` are globs over the event type; `amount` is a JSON pointer to a
    number that is at least `min_amount`; `due` is a JSON pointer to a date or an instant which is today in `timezone`
    (an IANA name). A condition whose field is absent from the body does not hold.
    """

    TYPE: ClassVar[str] = "endpoint.lane.v1"

    lane: Lane
    types: tuple[str, ...] = ("*",)
    amount: str = ""
    min_amount: float | None = None
    due: str = ""
    timezone: str = "UTC"


class TenantRoutes(Event):
    """Whose delivery it is: the value at `source` (as in a manifest: `body:/account`) names a tenant in `accounts`.

    A value that is not listed, or absent, leaves the delivery with the endpoint's own tenant.
    """

    TYPE: ClassVar[str] = "endpoint.routes.v1"

    source: str
    accounts: dict[str, Slug]


class ArrivalProfile(Event):
    """What silence means for an endpoint: `learned` from its own rhythm, a fixed longest gap in seconds, or nothing."""

    TYPE: ClassVar[str] = "endpoint.arrivals.v1"

    mode: Literal["learned", "fixed", "off"] = "learned"
    max_gap_s: float | None = Field(default=None, gt=0)


class EndpointConfigured(Event):
    """A webhook endpoint as the gateway must serve it from now on; a tombstone removes it.

    `url` is the address as registered at the provider, because some schemes sign it. Without `tokens` the endpoint's
    id is its token. While it is `paused`, deliveries are verified, acknowledged and held back from the lanes.
    `tenant_rate` is shared by all endpoints of the tenant. `redact` are JSON pointers that the ledger does not show;
    `card_numbers` says what happens to a card number in a body: only marked, or also masked before it is written.
    """

    TYPE: ClassVar[str] = "endpoint.configured.v1"

    endpoint: str
    connection: UUID
    provider: Slug
    tenant: Slug
    url: str
    lane: Lane = Lane.STANDARD
    secrets: tuple[SealedSecret, ...]
    # Configuration that a manifest declares for one endpoint, e.g. the header name of a generic scheme.
    options: dict[str, str] = Field(default_factory=dict)
    state: Literal["live", "paused"] = "live"
    tokens: tuple[EndpointToken, ...] = ()
    allowed_ips: tuple[str, ...] = Field(default=(), description="CIDR ranges; empty allows every address")
    rate: RateLimit | None = None
    tenant_rate: RateLimit | None = None
    max_body_bytes: int | None = Field(default=None, ge=1)
    lane_rules: tuple[EndpointLaneRule, ...] = ()
    tenant_routes: TenantRoutes | None = None
    arrivals: ArrivalProfile = ArrivalProfile()
    redact: tuple[str, ...] = ()
    card_numbers: Literal["mark", "mask"] = "mark"
    version: int


class PaymentStatus(StrEnum):
    """States of a canonical payment, in lattice order: a later one outranks an earlier one at the same instant."""

    PENDING = "pending"
    AUTHORIZED = "authorized"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


class PaymentChanged(Event):
    """A canonical payment is now like this. Consumers drop anything whose `version` is not greater than their own."""

    TYPE: ClassVar[str] = "payment.changed.v1"

    payment_id: UUID
    tenant: Slug
    connection: UUID
    provider: Slug
    external_id: str
    status: PaymentStatus
    previous_status: PaymentStatus | None = None
    amount: int | None = Field(default=None, ge=0, description="in the currency's minor unit; absent while unknown")
    amount_refunded: int = Field(default=0, ge=0)
    currency: Currency | None = None
    occurred_at: Instant
    version: int = Field(ge=1, description="grows by one with every change of this payment")
    cause: str = Field(description="the delivery that caused the change")


Outcome = Literal["success", "client_error", "server_error", "timeout", "connect_error", "throttled"]


class CallRun(Event):
    """`count` consecutive calls with the same outcome, in order, of one operation by one tenant's credential.

    `slow` calls took more than two seconds. `kind` is `final` for calls that ended; `provisional` for calls in flight
    that are older than usual and count as failed; `retracted` takes back as many provisional ones, because they
    succeeded after all.
    """

    TYPE: ClassVar[str] = "calls.run.v1"

    operation: str
    outcome: Outcome
    count: int = Field(ge=1)
    tenant: Slug
    credential: str
    probe: bool = False
    slow: bool = False
    kind: Literal["final", "provisional", "retracted"] = "final"
    latency_ms_sum: float = Field(ge=0)
    latency_ms_max: float = Field(ge=0)


class ApiVersionSeen(Event):
    """What answers said about the API version: the version itself, and the headers of RFC 9745 and RFC 8594."""

    TYPE: ClassVar[str] = "calls.version.v1"

    version: str = ""
    deprecation: str = ""
    sunset: str = ""


class CallsObserved(Event):
    """Outcomes of provider calls by one worker since its last flush (100 ms, at once on a first failure).

    All of them in one mode; the key is `contracts.modes.calls_key`.
    """

    TYPE: ClassVar[str] = "calls.observed.v1"

    worker: str
    provider: Slug
    capability: str
    mode: Mode = "live"
    route_epoch: tuple[int, int] = (0, 0)
    observed_at: Instant
    in_flight: int = Field(default=0, ge=0)
    versions: tuple[ApiVersionSeen, ...] = ()
    runs: tuple[CallRun, ...]


def _kind(bucket: str) -> str:
    if not is_kind(bucket):
        raise ValueError("not a kind of bucket: app, account, address or endpoint:<class>")
    return bucket


class QuotaUsage(Event):
    """What one worker spent and learned of one bucket in one mode since its last report; key as in `QuotaPolicy`.

    `bucket` is its kind as in `QuotaPolicy`, `owner` whose it is: the credential of an account or of a class of
    endpoints, the address, the app; empty for the app that is the only one there. `used` is cost by class;
    `throttled` counts 429s. `seen_limit`, `seen_remaining` and `seen_reset_at` are what the provider's headers said
    last, absent where it says nothing, and `seen_window_s` the length of the window that they are about, absent where
    the worker does not know; `estimate` is the rate (per second) to which 429s have taught the workers to slow down.
    """

    TYPE: ClassVar[str] = "quota.usage.v1"

    provider: Slug
    mode: Mode = "live"
    bucket: Annotated[str, AfterValidator(_kind)]
    owner: str = Field(default="", max_length=200)
    worker: str
    used: dict[CallClass, float]
    throttled: int = Field(default=0, ge=0)
    seen_limit: float | None = None
    seen_remaining: float | None = None
    seen_reset_at: Instant | None = None
    seen_window_s: float | None = Field(default=None, gt=0)
    estimate: float | None = None
    since: Instant
    until: Instant

    @model_validator(mode="before")
    @classmethod
    def _owner_in_bucket(cls, data: Any) -> Any:
        """Read the older form, `<kind>|<owner>` in `bucket`."""
        bucket = data.get("bucket") if isinstance(data, dict) else None
        if not isinstance(bucket, str) or "|" not in bucket:
            return data
        kind, _, owner = bucket.partition("|")
        return {**data, "bucket": kind, "owner": owner}


class AnswerStatus(StrEnum):
    """How a command ended for now: final are applied, refused, voided; the others say when or by whom it goes on."""

    APPLIED = "applied"
    REFUSED = "refused"
    VOIDED = "voided"
    TRANSIENT = "transient"
    PARKED = "parked"
    UNKNOWN = "unknown"


class CommandAnswered(Event):
    """The answer to one command; a replayed command gets the stored one again."""

    TYPE: ClassVar[str] = "command.answered.v1"

    saga_id: UUID
    step: str
    direction: Literal["do", "undo"]
    effect_key: str
    attempt: int
    status: AnswerStatus
    code: str = ""
    detail: str = ""
    retry_after_s: float | None = None
    provider: str = ""
    provider_ref: str = ""
    result: dict[str, JsonValue] = Field(default_factory=dict)
    answered_at: Instant
