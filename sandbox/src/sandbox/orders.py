"""What can be ordered from the sandbox, as bodies of its control routes, and the drafts that follow from it.

Must never let an order name a host outside of loopback unless it was allowed by name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr

from contracts.errors import Invalid
from contracts.events.base import Slug
from contracts.ids import uuid7
from providers import registry
from providers.fixtures import Fixture
from providers.provider import Provider
from sandbox.fresh import batched, freshened
from sandbox.signing import Draft, Tamper, fetches_keys, request_of
from sandbox.variants import changed, fixture_of
from sandbox.vendor_keys import VendorKeys

MAX_COPIES: Final = 100
MAX_EVENTS: Final = 1000
_URL: Final = r"^https?://"


class Endpoint(BaseModel):
    """The endpoint that a vendor speaks to.

    `secret` is the sender's half of the endpoint's key; where the vendor's key is fetched, the endpoint's own secret.
    `options` are the endpoint's. `registered_url` is the address that was registered at the vendor, if that is not
    where to send to: some vendors sign it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Slug
    url: str = Field(pattern=_URL, max_length=2000)
    registered_url: str | None = Field(default=None, pattern=_URL, max_length=2000)
    secret: SecretStr
    options: dict[str, str] = Field(default_factory=dict)


class Content(BaseModel):
    """What a delivery says: exactly one of `fixture` and `body`; `changes` are JSON pointers with new values.

    With `fresh` the fixture's events and entities get new ids (equal for equal suffixes) before `changes` are made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fixture: str | None = None
    body: str | None = None
    content_type: str = "application/json"
    message_id: str | None = None
    changes: dict[str, JsonValue] = Field(default_factory=dict)
    fresh: str = Field(default="", max_length=200)
    headers: dict[str, str] = Field(default_factory=dict)


class NewDelivery(Endpoint, Content):
    """Body of `POST /_control/deliveries`.

    `copies` are sent one after the other; what is `lost` stands in the vendor's log of events and is never sent.
    `events` asks for a batch. `later` is another delivery that overtakes this one. `previous_secret` is what
    `tamper = "old_key"` signs with. `retry` repeats what was not taken on the vendor's schedule, its waits multiplied
    by `time_factor`. `deadline_ms` replaces the vendor's; after `disable_after` failures in a row a vendor that
    punishes sends no more.
    """

    copies: int = Field(default=1, ge=1, le=MAX_COPIES)
    lost: bool = False
    events: int = Field(default=1, ge=1, le=MAX_EVENTS)
    later: Content | None = None
    tamper: Tamper = "none"
    previous_secret: SecretStr = SecretStr("")
    retry: bool = False
    time_factor: float = Field(default=1.0, ge=0, le=1)
    deadline_ms: int | None = Field(default=None, ge=1, le=60_000)
    disable_after: int | None = Field(default=None, ge=1)


class Drafts:
    """Makes drafts of orders."""

    def __init__(self, keys: VendorKeys, allowed_hosts: frozenset[str]) -> None:
        self._keys = keys
        self._allowed_hosts = allowed_hosts

    def provider(self, new: Endpoint) -> Provider:
        """Return an endpoint's provider.

        Raises `Invalid` for one that is unknown or sends no webhooks, for wrong options, for a target not allowed.
        """
        provider = registry.get(new.provider)
        _ = provider.webhook
        provider.manifest.resolve_options(new.options)
        self._check_target(new.url)
        return provider

    def secret(self, new: Endpoint, options: Mapping[str, str]) -> str:
        """Return the sender's secret under these options; raises `Invalid` for a wrong option or an empty secret."""
        provider, given = registry.get(new.provider), new.secret.get_secret_value()
        return self._keys.sender(provider, options, given) if fetches_keys(provider, options) else given

    def delivery(self, new: NewDelivery, content: Content) -> Draft:
        """Return a delivery to be signed; raises `Invalid` for one that cannot be made."""
        provider = self.provider(new)
        fixture = _fixture(provider, content, new.options)
        options = {**fixture.options, **new.options}
        if new.events > 1:
            fixture = batched(provider, fixture, new.events, options)
        fixture = freshened(provider, fixture, content.fresh, options)
        fixture = changed(fixture, content.changes, provider.webhook.form_json)
        fixture = replace(fixture, headers={**fixture.headers, **content.headers})
        return Draft(
            provider=provider,
            request=request_of(fixture, new.registered_url or new.url),
            secret=self.secret(new, options),
            message_id=content.message_id or fixture.message_id,
            options=options,
            previous_secret=new.previous_secret.get_secret_value(),
        )

    def _check_target(self, url: str) -> None:
        host = (urlsplit(url).hostname or "").lower()
        if host == "localhost" or host in self._allowed_hosts:
            return
        try:
            allowed = ipaddress.ip_address(host).is_loopback
        except ValueError:
            allowed = False
        if not allowed:
            detail = "only loopback, and the hosts in PATCHBAY_SANDBOX_ALLOW_HOSTS"
            raise Invalid("target_not_allowed", detail, field="url")


def _fixture(provider: Provider, content: Content, options: Mapping[str, str]) -> Fixture:
    if (content.fixture is None) == (content.body is None):
        raise Invalid("fixture_or_body", "give a fixture or a body, not both", field="fixture")
    if content.fixture is not None:
        return fixture_of(provider, content.fixture)
    return Fixture(
        name="",
        body=(content.body or "").encode(),
        content_type=content.content_type,
        headers={},
        message_id=f"msg_{uuid7().hex}",
        source="",
        method=provider.webhook.methods[0],
        options=options,
    )
