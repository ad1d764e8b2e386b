"""Tables of the sync worker."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TSTZMULTIRANGE
from sqlmodel import Field, SQLModel

from chassis.db.schema import INSTANT, service_registry
from chassis.effects.table import add_effects_table
from contracts.modes import Mode
from sync_worker.connections.states import ConnectionState


def _words(*words: str) -> str:
    return ", ".join(f"'{word}'" for word in words)


# The first four bytes of a sealed value (chassis.sealing).
_KEY_VERSION = """CASE WHEN octet_length(sealed) < 4 THEN 0
    ELSE (get_byte(sealed, 0) << 24) | (get_byte(sealed, 1) << 16) | (get_byte(sealed, 2) << 8)
         | get_byte(sealed, 3) END"""


class Base(SQLModel, registry=service_registry()):
    """Base of the sync worker's tables."""


class Connection(Base, table=True):
    """A tenant's account at a provider, in one mode.

    `account_ref` is empty until an OAuth flow has told it. `method` names the manifest's way to authenticate, `reason`
    says why the state is what it is, `scopes` are those that were asked for, `last_test` is `{"outcome", "status",
    "at"}`. `version` grows with each change of the row but those of `last_test`.
    """

    __tablename__ = "connections"
    __table_args__ = (
        # A revoked account may be connected again, as a new connection.
        sa.Index(
            "uq_connections_account",
            *("tenant", "provider", "account_ref", "mode"),
            unique=True,
            postgresql_where=sa.text("state NOT IN ('revoked', 'erased') AND account_ref <> ''"),
        ),
        sa.CheckConstraint(f"state IN ({_words(*ConnectionState)})", name="state"),
        sa.CheckConstraint("mode IN ('live', 'sandbox')", name="mode"),
    )

    id: UUID = Field(primary_key=True)
    tenant: str = Field(sa_type=sa.Text)
    provider: str = Field(sa_type=sa.Text)
    account_ref: str = Field(sa_type=sa.Text)
    mode: Mode = Field(default="live", sa_type=sa.Text)
    state: str = Field(sa_type=sa.Text)
    reason: str = Field(default="", sa_type=sa.Text)
    method: str = Field(default="", sa_type=sa.Text)
    options: dict[str, str] = Field(sa_column=sa.Column(JSONB, nullable=False))
    scopes: list[str] = Field(default_factory=list, sa_column=sa.Column(JSONB, nullable=False))
    missing_scopes: list[str] = Field(default_factory=list, sa_column=sa.Column(JSONB, nullable=False))
    last_test: dict[str, Any] | None = Field(default=None, sa_column=sa.Column(JSONB))
    version: int = 1
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=sa.Text)


class Credential(Base, table=True):
    """One sealed secret of a connection, or its OAuth tokens (`kind` `oauth`); `version` never decreases.

    One version of a kind is active. `expires_at` and `refresh_after` are those of tokens. Whoever holds the lease, by
    the database's clock, may ask for the next token; `failed_at` is when that went wrong last.

    At `due_at` a `next` one is abandoned and a `draining` one ends; `requested_by` asked for the rotation, `old_check`
    says whether the provider still took a credential after it was replaced (`refused`, `still_accepted`,
    `not_probed`). `key_version` is that of the key that wraps it, read from `sealed`.
    """

    __tablename__ = "credentials"
    __table_args__ = (
        sa.CheckConstraint("state IN ('next', 'active', 'draining', 'revoked')", name="state"),
        sa.Index(
            "uq_credentials_active",
            *("connection", "kind"),
            unique=True,
            postgresql_where=sa.text("state = 'active'"),
        ),
        sa.Index(
            "ix_credentials_refresh_after",
            "refresh_after",
            postgresql_where=sa.text("state = 'active' AND refresh_after IS NOT NULL"),
        ),
        sa.Index("ix_credentials_due_at", "due_at", postgresql_where=sa.text("due_at IS NOT NULL")),
        sa.Index("ix_credentials_key_version", "key_version", postgresql_where=sa.text("sealed <> ''")),
    )

    connection: UUID = Field(primary_key=True, foreign_key="connections.id")
    kind: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    version: int = Field(sa_column=sa.Column(sa.BigInteger, primary_key=True))
    tenant: str = Field(sa_type=sa.Text)
    state: str = Field(default="active", sa_type=sa.Text)
    sealed: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))
    expires_at: datetime | None = Field(default=None, sa_type=INSTANT)
    refresh_after: datetime | None = Field(default=None, sa_type=INSTANT)
    lease_owner: str = Field(default="", sa_type=sa.Text)
    lease_until: datetime | None = Field(default=None, sa_type=INSTANT)
    failed_at: datetime | None = Field(default=None, sa_type=INSTANT)
    due_at: datetime | None = Field(default=None, sa_type=INSTANT)
    requested_by: str = Field(default="", sa_type=sa.Text)
    old_check: str = Field(default="", sa_type=sa.Text)
    key_version: int | None = Field(default=None, sa_column=sa.Column(sa.Integer, sa.Computed(_KEY_VERSION)))


class OAuthFlow(Base, table=True):
    """A person on the way to grant access. The state is known by its SHA-256 only, and the row goes when it is used."""

    __tablename__ = "oauth_flows"

    state_hash: bytes = Field(sa_column=sa.Column(BYTEA, primary_key=True))
    connection: UUID = Field(foreign_key="connections.id", index=True)
    tenant: str = Field(sa_type=sa.Text)
    verifier: bytes = Field(sa_column=sa.Column(BYTEA, nullable=False))
    redirect_uri: str = Field(sa_type=sa.Text)
    scopes: list[str] = Field(sa_column=sa.Column(JSONB, nullable=False))
    expires_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=sa.Text)


class Endpoint(Base, table=True):
    """A webhook endpoint of a connection, as published on `sync.endpoints.v1`.

    `url` is the newest of its addresses, `settings` what `PATCH /v1/endpoints/{id}` set (`EndpointSettings`), and
    `keys_issued` counts key ids, which are never used again. At `republish_at` the record has to be published anew:
    a key or token ends then, or a limit of the tenant changed. `version` grows when `record_hash` changes.
    """

    __tablename__ = "endpoints"
    __table_args__ = (
        sa.CheckConstraint("state IN ('live', 'paused')", name="state"),
        sa.Index("ix_endpoints_republish_at", "republish_at", postgresql_where=sa.text("republish_at IS NOT NULL")),
    )

    id: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    connection: UUID = Field(foreign_key="connections.id", index=True)
    url: str = Field(sa_type=sa.Text)
    lane: str = Field(sa_type=sa.Text)
    version: int
    state: str = Field(default="live", sa_type=sa.Text)
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=sa.Column(JSONB, nullable=False))
    keys_issued: int = 0
    republish_at: datetime | None = Field(default=None, sa_type=INSTANT)
    record_hash: str = Field(default="", sa_type=sa.Text)


class EndpointKey(Base, table=True):
    """One secret that verifies an endpoint's deliveries while `not_before <= now < not_after`.

    `sealed` is absent for the first key of an endpoint that is older than this table: the connection's own secret is
    sealed for the endpoint when its record is next published. `last_used_at` is exact to a minute.
    """

    __tablename__ = "endpoint_secrets"

    endpoint: str = Field(
        sa_column=sa.Column(sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True)
    )
    key_id: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    sealed: bytes | None = Field(default=None, sa_column=sa.Column(BYTEA))
    not_before: datetime | None = Field(default=None, sa_type=INSTANT)
    not_after: datetime | None = Field(default=None, sa_type=INSTANT)
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=sa.Text)
    last_used_at: datetime | None = Field(default=None, sa_type=INSTANT)
    warned_at: datetime | None = Field(default=None, sa_type=INSTANT)


class EndpointAddress(Base, table=True):
    """One opaque token of an endpoint's URL, served until `not_after`."""

    __tablename__ = "endpoint_tokens"

    token: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    endpoint: str = Field(
        sa_column=sa.Column(sa.Text, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), nullable=False, index=True)
    )
    url: str = Field(sa_type=sa.Text)
    not_after: datetime | None = Field(default=None, sa_type=INSTANT)
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=sa.Text)


class Tenant(Base, table=True):
    """A node of the franchise tree: network, franchisee, location. One that nobody declared is a root of its own.

    `limits` is `{"deliveries_per_s", "burst"}` for all deliveries of the tenant together, or nothing.
    """

    __tablename__ = "tenants"

    slug: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    parent: str | None = Field(default=None, sa_column=sa.Column(sa.Text, sa.ForeignKey("tenants.slug"), index=True))
    name: str = Field(sa_type=sa.Text)
    limits: dict[str, float] | None = Field(default=None, sa_column=sa.Column(JSONB))
    version: int = 1


class Payment(Base, table=True):
    """A canonical payment. `fence` orders the provider's snapshots, `version` our own changes; contact is sealed.

    A snapshot need not know everything, so amounts and contact remember the fence of the snapshot they came from.
    """

    __tablename__ = "payments"
    __table_args__ = (
        sa.UniqueConstraint("tenant", "provider", "external_id"),
        sa.Index(None, "updated_at", "id"),
    )

    id: UUID = Field(primary_key=True)
    tenant: str = Field(sa_type=sa.Text)
    provider: str = Field(sa_type=sa.Text)
    connection: UUID
    external_id: str = Field(sa_type=sa.Text)
    status: str = Field(sa_type=sa.Text)
    amount: int | None = Field(sa_column=sa.Column(sa.BigInteger))
    amount_refunded: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    currency: str | None = Field(sa_type=sa.Text)
    contact: bytes | None = Field(sa_column=sa.Column(BYTEA))
    fence: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    amount_fence: int | None = Field(sa_column=sa.Column(sa.BigInteger))
    refunded_fence: int | None = Field(sa_column=sa.Column(sa.BigInteger))
    contact_fence: int | None = Field(sa_column=sa.Column(sa.BigInteger))
    version: int = Field(sa_column=sa.Column(sa.BigInteger, nullable=False))
    occurred_at: datetime = Field(sa_type=INSTANT)
    updated_at: datetime = Field(sa_type=INSTANT)


class Cursor(Base, table=True):
    """How far one feed of a connection was read: `done` are the spans of time of which every event is here.

    `window_*` is the span that is being read, `page_cursor` the page of it that comes next, good until
    `page_expires_at`. `calls` were spent on `calls_day` (UTC). `gen` grows with each lease and is its fence. `error`
    says why the last run ended early, and `enabled_at` when the provider was asked to keep events.
    """

    __tablename__ = "cursors"
    __table_args__ = (sa.Index("ix_cursors_due_at", "due_at"),)

    connection: UUID = Field(primary_key=True, foreign_key="connections.id")
    stream: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    tenant: str = Field(sa_type=sa.Text)
    done: Any = Field(default=None, sa_column=sa.Column(TSTZMULTIRANGE, nullable=False))
    window_from: datetime | None = Field(default=None, sa_type=INSTANT)
    window_until: datetime | None = Field(default=None, sa_type=INSTANT)
    page_cursor: str = Field(default="", sa_type=sa.Text)
    page_expires_at: datetime | None = Field(default=None, sa_type=INSTANT)
    enabled_at: datetime | None = Field(default=None, sa_type=INSTANT)
    gen: int = Field(default=0, sa_column=sa.Column(sa.BigInteger, nullable=False))
    lease_owner: str = Field(default="", sa_type=sa.Text)
    lease_until: datetime | None = Field(default=None, sa_type=INSTANT)
    due_at: datetime = Field(sa_type=INSTANT)
    calls_day: date | None = Field(default=None, sa_type=sa.Date)
    calls: int = 0
    found: int = Field(default=0, sa_column=sa.Column(sa.BigInteger, nullable=False))
    missed: int = Field(default=0, sa_column=sa.Column(sa.BigInteger, nullable=False))
    last_run_at: datetime | None = Field(default=None, sa_type=INSTANT)
    error: str = Field(default="", sa_type=sa.Text)


class Subscription(Base, table=True):
    """A webhook or watch that is registered at the provider by API, for one of the connection's endpoints.

    `wanted` is to be registered at `due_at`, `active` to be renewed then; `ending` is to be taken away. `ext_id` is
    the provider's id, `more` what its renewal will need. `checked_at` is when the provider's list was compared last,
    `drift` what it showed. `gen` grows with each lease and is its fence.
    """

    __tablename__ = "subscriptions"
    __table_args__ = (
        sa.CheckConstraint("state IN ('wanted', 'active', 'ending')", name="state"),
        sa.Index("ix_subscriptions_due_at", "due_at"),
    )

    connection: UUID = Field(primary_key=True, foreign_key="connections.id")
    stream: str = Field(sa_column=sa.Column(sa.Text, primary_key=True))
    tenant: str = Field(sa_type=sa.Text)
    endpoint: str = Field(sa_type=sa.Text)
    parameters: dict[str, str] = Field(default_factory=dict, sa_column=sa.Column(JSONB, nullable=False))
    state: str = Field(default="wanted", sa_type=sa.Text)
    ext_id: str = Field(default="", sa_type=sa.Text)
    url: str = Field(default="", sa_type=sa.Text)
    more: dict[str, str] = Field(default_factory=dict, sa_column=sa.Column(JSONB, nullable=False))
    expires_at: datetime | None = Field(default=None, sa_type=INSTANT)
    due_at: datetime = Field(sa_type=INSTANT)
    checked_at: datetime | None = Field(default=None, sa_type=INSTANT)
    drift: str = Field(default="", sa_type=sa.Text)
    error: str = Field(default="", sa_type=sa.Text)
    gen: int = Field(default=0, sa_column=sa.Column(sa.BigInteger, nullable=False))
    lease_owner: str = Field(default="", sa_type=sa.Text)
    lease_until: datetime | None = Field(default=None, sa_type=INSTANT)
    created_at: datetime = Field(sa_type=INSTANT)
    created_by: str = Field(sa_type=sa.Text)


add_effects_table(Base.metadata)
