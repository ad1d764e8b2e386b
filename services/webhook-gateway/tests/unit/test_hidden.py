"""Credentials that deliveries carry are never shown, for whichever providers there are."""

from __future__ import annotations

import pytest

from providers import registry
from providers.manifest import ChoiceSignature
from providers.signing import traits_of
from webhook_gateway.hidden import Hidden, credentials_of

SENDERS = [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]


def places(slug: str) -> list[str]:
    """Return where a provider's deliveries carry a secret that covers nothing."""
    signature = registry.get(slug).webhook.signature
    tables = list(signature.schemes.values()) if isinstance(signature, ChoiceSignature) else [signature]
    traits = [found for table in tables if (found := traits_of(table)) is not None and found.covers == "nothing"]
    return [place for one in traits for place in one.places]


@pytest.mark.parametrize("slug", [one.slug for one in SENDERS if places(one.slug)])
def test_every_token_place_of_a_manifest_is_hidden(slug: str) -> None:
    hidden = credentials_of(slug, ())
    for place in places(slug):
        kind, _, name = place.partition(":")
        if kind == "header" and "{" not in name:
            assert hidden.hides(name)
        elif kind == "body":
            assert name in hidden.pointers
            within = [f"{pointer}/*/" for pointer in registry.get(slug).webhook.pointers]
            assert all(f"/{name.removeprefix(part)}" in hidden.pointers for part in within if name.startswith(part))


def test_an_option_may_name_the_header() -> None:
    named = [one for one in SENDERS for place in places(one.slug) if place.startswith("header:{")]
    assert named
    for provider in named:
        option = next(place for place in places(provider.slug) if place.startswith("header:{"))[8:-1]
        assert credentials_of(provider.slug, ((option, "X-Mine"),)).hides("x-mine")


def test_signatures_are_shown_and_unknown_providers_harmless() -> None:
    assert credentials_of("nosuch", ()) == Hidden()
    assert credentials_of("standard_webhooks", ()) == Hidden()
    assert not Hidden().hides("X-Signature")
    assert Hidden().hides("X-Any-Token")
