"""The signed string of PayPal's own sample, whose certificate is not published."""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from providers import registry
from providers.sdk import InboundRequest, KeyNeeded, Refused, Secret
from providers.signing.message import Reads, Template

# github paypal/PayPal-Python-SDK test/unit_tests/notifications_test.py
PAYLOAD = (Path(__file__).parent / "sample.json").read_text(encoding="utf-8")
WEBHOOK_ID = "4JH86294D6297924G"
ADDRESS = "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-a5cafa77"
HEADERS = {
    "paypal-transmission-id": ["dfb3be50-fd74-11e4-8bf3-77339302725b"],
    "paypal-transmission-time": ["2015-05-18T15:45:13Z"],
    "paypal-auth-algo": ["SHA256withRSA"],
    "paypal-cert-url": [ADDRESS],
    "paypal-transmission-sig": [base64.b64encode(bytes(256)).decode()],
}
EXPECTED = b"dfb3be50-fd74-11e4-8bf3-77339302725b|2015-05-18T15:45:13Z|4JH86294D6297924G|2771810304"
NOW = datetime(2026, 11, 21, tzinfo=UTC)
REQUEST = InboundRequest("POST", "https://hooks.example.com/hooks/ep", HEADERS, PAYLOAD.encode())


def test_the_signed_string_is_the_published_one() -> None:
    signature = registry.get("paypal").signature()
    reads = Reads({})
    template = Template(signature.template, reads)  # type: ignore[union-attr]
    assert template.fill(reads.of(REQUEST), b"2015-05-18T15:45:13Z", WEBHOOK_ID.encode()) == EXPECTED
    assert zlib.crc32(PAYLOAD.encode()) == 2771810304


def test_the_certificate_is_asked_for_at_the_sample_s_address_with_its_chain() -> None:
    with pytest.raises(KeyNeeded) as needed:
        registry.get("paypal").verifier().verify(REQUEST, [Secret("k", WEBHOOK_ID)], NOW)
    wanted = needed.value.request
    assert (wanted.url, wanted.name, wanted.chain) == (ADDRESS, ADDRESS, True)
    assert b"BEGIN CERTIFICATE" in wanted.root


@pytest.mark.parametrize(
    "url",
    [
        "http://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com.example.net/v1/notifications/certs/CERT-1",
        "https://examplepaypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com@example.net/v1/notifications/certs/CERT-1",
        "https://example.net/api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/../../redirect?to=https://example.net",
        "https://api.paypal.com:8443/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1\n",
        "https://API.PAYPAL.COM/v1/notifications/certs/CERT-1",
    ],
)
def test_no_other_address_is_asked(url: str) -> None:
    request = replace(REQUEST, headers={**HEADERS, "paypal-cert-url": [url]})
    with pytest.raises(Refused) as refused:
        registry.get("paypal").verifier().verify(request, [Secret("k", WEBHOOK_ID)], NOW)
    assert refused.value.reason == "malformed_signature"


def test_the_pinned_hosts_are_paypal_s() -> None:
    assert (urlsplit(ADDRESS).hostname or "").endswith(".paypal.com")
