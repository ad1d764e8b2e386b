"""Who plays in the demo: chosen by what providers can do, never by name."""

from __future__ import annotations

import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.events.sync import PaymentStatus
from patchbay.client import Platform
from providers import registry
from providers.conformance import fixtures_for, variants
from providers.fixtures import Fixture, api_cases
from providers.provider import Provider
from providers.sdk import KeyPair, PaymentSnapshot
from sandbox.fresh import snapshots_of

REFUND: Final = "payment.refund"
MESSAGE: Final = "message.send"
SMS: Final = "messaging.sms"


@dataclass(frozen=True, slots=True)
class Actor:
    """A provider with which the business of this run is connected."""

    provider: Provider
    account: str
    keys: KeyPair = field(repr=False)
    connection: str
    endpoint: str
    url: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The provider's slug."""
        return self.provider.slug


@dataclass(frozen=True, slots=True)
class Plot:
    """Fixtures of one provider that tell one payment's story; `older` and `disputed` where there are such."""

    provider: Provider
    paid: Fixture
    payment: PaymentSnapshot
    older: Fixture | None
    disputed: Fixture | None

    @property
    def has_phone(self) -> bool:
        """Whether the customer can get a text message."""
        return bool(self.payment.contact.get("phone"))


def senders() -> list[Provider]:
    """Return the providers that send webhooks."""
    return [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]


def messengers() -> list[Provider]:
    """Return the providers that send text messages, first those that can be asked what became of one."""
    offering = {provider.slug: provider.manifest.operation(MESSAGE) for provider in registry.with_operation(MESSAGE)}
    able = [provider for provider in registry.with_capability(SMS) if provider.slug in offering]
    return sorted(able, key=lambda one: not getattr(offering[one.slug], "read_back", False))


def plot() -> Plot | None:
    """Return the payment provider whose fixtures tell the most: a phone number, an older state, a dispute."""
    plots = [found for provider in registry.with_operation(REFUND) if (found := _plot_of(provider)) is not None]
    return max(plots, key=lambda one: (one.has_phone, one.disputed is not None, one.older is not None), default=None)


def first_fixture(provider: Provider) -> Fixture:
    """Return a provider's first fixture that tells of no dispute, which would start a refund of its own."""
    fitting = fixtures_for(provider, _scheme(provider))
    for fixture in fitting:
        if all(one.status is not PaymentStatus.DISPUTED for one in snapshots_of(provider, fixture)):
            return fixture
    return fitting[0]


def connect(platform: Platform, provider: Provider, tenant: str) -> Actor:
    """Create a connection with fresh secrets and return it; raises `Refusal`."""
    options = _options(provider)
    keys = provider.verifier(options).generate()
    needed = provider.api.method().secret_names() if provider.manifest.api is not None else ()
    secrets = {
        name: keys.verifying if name == provider.webhook.secret else spec.prefix + random.token_hex(16)
        for name, spec in provider.manifest.secrets.items()
        if name in needed or spec.required
    }
    account = f"{tenant}-{provider.slug}"
    body = {
        "provider": provider.slug,
        "tenant": tenant,
        "account_ref": account,
        "secrets": secrets,
        "options": options,
    }
    made: dict[str, Any] = platform.post("SYNC_URL", "/v1/connections", body)
    endpoint = made["endpoints"][0]
    return Actor(provider, account, keys, made["id"], endpoint["id"], endpoint["url"], options)


def _scheme(provider: Provider) -> dict[str, str]:
    """Return the options that choose a provider's first scheme; empty where there is but one."""
    return variants(provider)[0]


def _options(provider: Provider) -> dict[str, str]:
    """Return an endpoint's options: those that choose the scheme, and those of the provider's own examples."""
    operations = next((dict(case.account.options) for case in api_cases(provider.folder)), {})
    return {**first_fixture(provider).options, **_scheme(provider), **operations}


def _plot_of(provider: Provider) -> Plot | None:
    told = [(fixture, one) for fixture in provider.fixtures() for one in snapshots_of(provider, fixture)[:1]]
    paid = [(f, one) for f, one in told if one.status is PaymentStatus.SUCCEEDED and one.amount]
    if not paid:
        return None
    fixture, payment = max(paid, key=lambda pair: bool(pair[1].contact.get("phone")))
    same = [(f, one) for f, one in told if one.external_id == payment.external_id]
    older = (f for f, one in same if one.fence < payment.fence and one.status is not PaymentStatus.SUCCEEDED)
    disputed = (f for f, one in same if one.status is PaymentStatus.DISPUTED)
    return Plot(provider, fixture, payment, next(older, None), next(disputed, None))
