"""Which hosts a tenant chooses as a whole, and which are a vendor's with a part filled in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from providers import registry
from providers.manifest.auth import OAuth2Auth
from providers.oauth import refresh_call
from providers.sdk import Account, HttpRequest
from providers.templates import names_whole_host

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("address", "whole"),
    [
        ("https://{option.server}", True),
        ("https://{option.server}:8443", True),
        ("https://{option.instance}/api/token", True),
        ("https://{option.shop}.vendor.example", False),
        ("https://{option.shop}.vendor.example/{option.path}", False),
        ("https://api.vendor.example/{option.path}", False),
        ("https://api-{option.region}.vendor.example", False),
    ],
)
def test_a_host_is_chosen_when_nothing_of_it_is_the_vendors(address: str, whole: bool) -> None:  # noqa: FBT001
    assert names_whole_host(address) is whole


@pytest.mark.parametrize(
    ("slug", "options", "host", "chosen"),
    [
        ("looker", {"instance": "bi.example.com"}, "bi.example.com", True),
        ("zendesk", {"subdomain": "shop"}, "shop.zendesk.com", False),
    ],
)
def test_calls_and_token_calls_say_so_alike(slug: str, options: dict[str, str], host: str, chosen: bool) -> None:  # noqa: FBT001
    provider = registry.get(slug)
    method = next(one for one in provider.api.auth.values() if isinstance(one, OAuth2Auth))
    account = Account("acct", {"client_id": "i", "client_secret": "s"}, options=options)
    made = refresh_call(method, account, "r", NOW)
    assert (made.url.split("/")[2], made.host_is_chosen) == (host, chosen)
    assert provider.host_is_chosen(account, HttpRequest(method="GET", path="/")) is chosen
