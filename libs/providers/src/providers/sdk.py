"""The shapes through which services use a provider; the manifest and a few pure functions stand behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, Protocol
from urllib.parse import parse_qsl, urlsplit

from contracts.events.gateway import RejectionReason
from contracts.events.sync import PaymentStatus
from contracts.modes import Mode

# Nobody's callback has more; parsing them is work for an unauthenticated stranger.
MAX_PARAMETERS: Final = 100


class Refused(Exception):  # noqa: N818 (a verdict on a delivery, not a fault of ours)
    """A delivery failed verification. `reason` is a closed word; the message never holds a secret or a signature."""

    def __init__(self, reason: RejectionReason) -> None:
        super().__init__(reason)
        self.reason: RejectionReason = reason


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A certificate or key set that somebody with a network has to fetch: from `url` and nowhere else.

    `url` matches the whole of `pinned`, a regular expression of the manifest, so a delivery cannot choose the host.
    `kid` is the key that was looked for in a set. With `chain` the certificate must lead to a known root, or to the one
    in `root` (PEM), before it is believed. The answer goes into `InboundRequest.keys` under `name`.
    """

    name: str
    url: str
    pinned: str
    method: Literal["GET", "POST"] = "GET"
    body: bytes = field(default=b"", repr=False)
    kid: str = ""
    chain: bool = False
    root: bytes = field(default=b"", repr=False)


class KeyNeeded(Exception):  # noqa: N818 (a request, not a fault)
    """Verification cannot go on without a key that has to be fetched; then it is tried again."""

    def __init__(self, request: KeyRequest) -> None:
        super().__init__(request.url)
        self.request = request


# Not frozen, though nobody changes one: the frozen constructor is three times as slow, and runs per webhook.
@dataclass(slots=True)
class InboundRequest:
    """One HTTP request as received.

    `url` is the address as registered at the provider (scheme, host, path, query), not as reconstructed behind a
    proxy. `headers` are lower-case names to raw values in order of arrival; `body` are the bytes that were signed.
    `query_string` is the query as received: tokens and challenges are read there, and never in the registered address.
    `keys` are fetched certificates and key sets by `KeyRequest.name`.
    """

    method: str
    url: str
    headers: Mapping[str, Sequence[str]]
    body: bytes
    query_string: str = ""
    keys: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def header(self, name: str) -> str | None:
        """Return the value of a header that occurs exactly once; None when absent or repeated.

        A repeated signature header is ambiguous, and ambiguity must fail closed.
        """
        values = self.headers.get(name.lower(), ())
        return values[0] if len(values) == 1 else None

    def query(self) -> list[tuple[str, str]]:
        """Return the query parameters of the registered URL, blanks kept, in order."""
        return parse_qsl(urlsplit(self.url).query, keep_blank_values=True)

    def parameter(self, name: str) -> str | None:
        """Return a parameter of the received query that occurs exactly once; None when absent or repeated."""
        if not self.query_string:
            return None
        try:
            pairs = parse_qsl(self.query_string, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            return None
        values = [text for key, text in pairs if key == name]
        return values[0] if len(values) == 1 else None


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret or public key to verify with, and the id under which a match is recorded. `repr` hides the value."""

    key_id: str
    value: str = field(repr=False)


# Not frozen, though nobody changes one: the frozen constructor is three times as slow, and runs per webhook.
@dataclass(slots=True)
class Verified:
    """A delivery is genuine: which key matched, when it was signed (if the scheme says), which headers took part."""

    key_id: str
    signed_at: datetime | None
    signed_headers: tuple[tuple[str, str], ...]


# Not frozen, though nobody changes one: the frozen constructor is three times as slow, and runs per webhook.
@dataclass(slots=True)
class WebhookItem:
    """One event of a delivery: the provider's own id and type, and the canonical entity it is about.

    `entity` is (kind, external id), or None when the manifest names none for this type. `data` is the item's JSON (or
    the body as received). `account` and `api_version` are the provider's own words, empty when it does not say.
    `path` is the JSON pointer to the item in the body, empty when the body is the event.
    """

    event_id: str
    event_type: str
    entity: tuple[str, str] | None
    data: bytes
    account: str = ""
    api_version: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class HandshakeReply:
    """The answer to a request that is no delivery. `name` is the manifest's, `verified` whether a signature held.

    `confirm_url` is an address of a pinned host that must be fetched (GET, no redirects) for the provider to begin.
    `learned_secret` is a code that an operator must see: it came unverified and must never replace a live secret by
    itself.
    """

    name: str
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    verified: bool = False
    confirm_url: str | None = field(default=None, repr=False)
    learned_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PaymentSnapshot:
    """A provider's view of one payment at one instant, in canonical terms.

    `fence` orders snapshots of one payment whatever their order of arrival: a greater one is newer. Amounts are in the
    currency's minor unit. `contact` holds at most `phone` and `email` and is personal data.
    """

    external_id: str
    status: PaymentStatus
    amount: int | None
    amount_refunded: int | None
    currency: str | None
    occurred_at: datetime
    fence: int
    contact: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request for the outbound client to send: one of `form`, `json` and `content` at most.

    `path` is below the provider's base URL, or below `base_url` where the vendor has another host for it.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    json: Any = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)
    content_type: str = ""
    base_url: str = ""
    basic_auth: tuple[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back: status, lower-case headers, the body and what it is as JSON (None if it was no JSON)."""

    status: int
    headers: Mapping[str, str]
    json: Any
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What a client presents in the TLS handshake, as PEM; a chain may follow the certificate. `repr` hides both."""

    certificate: str = field(repr=False)
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a request acts for: the account at the provider and the connection's decrypted API secrets by name.

    `method` is the manifest's way to authenticate, the first one when empty; an OAuth method has its `access_token`
    among the secrets. `version` grows with every change of the credentials.
    """

    account_ref: str
    secrets: Mapping[str, str] = field(repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    mode: Mode = "live"
    version: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """The provider did it; `provider_ref` is its identifier of the effect, `result` what a saga may want to know."""

    provider_ref: str
    result: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider understood and refused; `code` is the provider's own word, lower-case."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A fresh secret for tests, the sandbox and the CLI: what the sender signs with, what the receiver verifies with.

    Both are equal for HMAC schemes. `repr` hides them.
    """

    signing: str = field(repr=False)
    verifying: str = field(repr=False)


class Verifier(Protocol):
    """Both ends of one signing scheme. Built once per provider and options, safe to share between tasks."""

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return which secret signed the request; raises `Refused` whatever else the request holds.

        Every secret is tried, so that the time taken does not tell which one matched. Raises `KeyNeeded` when a key of
        the sender is not among `request.keys`; a caller that gets it twice for one request refuses the delivery.
        """
        ...

    def sign(
        self,
        body: bytes,
        *,
        url: str,
        secret: str,
        now: datetime,
        content_type: str = "application/json",
        message_id: str = "",
    ) -> dict[str, str]:
        """Return the headers that the provider would send with this body, the content type included.

        `secret` is the sender's half (`KeyPair.signing`). `message_id` matters to schemes that sign an id. Raises
        `ValueError` for a scheme that signs inside of the body or the query: use `sign_request`.
        """
        ...

    def sign_request(
        self, request: InboundRequest, *, secret: str, now: datetime, message_id: str = ""
    ) -> InboundRequest:
        """Return the request as the provider would send it, whatever part of it carries the signature.

        What the receiver would have to fetch is in its `keys`.
        """
        ...

    def generate(self) -> KeyPair:
        """Return a random secret in the provider's own notation."""
        ...

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` (`bad_secret`) if `verify` could never use this text; the message never quotes it."""
        ...


class Operations(Protocol):
    """How one operation is carried out at one provider, whether data or the folder's `requests.py` says so.

    All four are pure. `read_back` returns None when the provider cannot be asked whether the effect exists. Requests
    carry no credentials: `Provider.operations` adds them. `parse` and `parse_read_back` raise `Transient` when the
    provider asks for patience, and `Invalid` (`unreadable_answer`) for an answer outside of its documentation.
    """

    def build(self, arguments: Any, account: Account) -> HttpRequest:
        """Return the request that performs the operation."""
        ...

    def parse(self, arguments: Any, response: HttpResponse) -> Applied | Declined:
        """Read a 2xx or 4xx answer to `build`."""
        ...

    def read_back(self, arguments: Any, account: Account) -> HttpRequest | None:
        """Return the request that asks whether the effect exists."""
        ...

    def parse_read_back(self, arguments: Any, response: HttpResponse) -> Applied | None:
        """Read a 2xx answer to `read_back`: the effect, or None when the provider does not have it."""
        ...
