"""Who is calling, and who may."""

from __future__ import annotations

from typing import Any

import pytest

from providers import registry
from providers.conformance import variants
from providers.manifest import MtlsSignature
from webhook_gateway.addresses import caller, networks, within

PROXIES = networks(["10.0.0.0/8", "2001:db8::/32"])
MTLS, MTLS_OPTIONS = next(
    (p, options)
    for p in registry.all_providers()
    if p.manifest.webhook
    for options in variants(p)
    if isinstance(p.signature(options), MtlsSignature)
)
PROVIDER = next(p for p in registry.all_providers() if p.manifest.webhook and not p.webhook.handshakes)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1:80", [], "192.0.2.1"),
        ("192.0.2.1:80", ["203.0.113.9"], "192.0.2.1"),
        ("10.0.0.1:80", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1:80", ["198.51.100.1, 203.0.113.9, 10.2.0.1"], "203.0.113.9"),
        ("10.0.0.1:80", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1:80", [], "10.0.0.1"),
        ("10.0.0.1:80", ["nonsense"], "None"),
        ("[2001:db8::1]:80", ["2001:db9::5"], "2001:db9::5"),
        ("[::ffff:192.0.2.1]:80", [], "192.0.2.1"),
        ("unix:0", [], "None"),
    ],
)
def test_only_a_trusted_proxy_is_believed_and_only_its_last_word(
    peer: str, forwarded: list[str], expected: str
) -> None:
    assert str(caller(peer, forwarded, PROXIES)) == expected


def test_an_unknown_address_lies_nowhere() -> None:
    assert not within(None, networks(["0.0.0.0/0", "::/0"]))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("client", "forwarded", "status"),
    [
        ("203.0.113.5:1", b"", PROVIDER.webhook.success_status),
        ("192.0.2.1:1", b"", 403),
        ("192.0.2.1:1", b"203.0.113.5", 403),
        ("10.0.0.1:1", b"203.0.113.5", PROVIDER.webhook.success_status),
        ("10.0.0.1:1", b"203.0.113.5, 192.0.2.1", 403),
    ],
)
async def test_an_address_that_is_not_on_the_list_is_refused_before_its_body_is_read(
    make_bench: Any, client: str, forwarded: bytes, status: int
) -> None:
    bench = make_bench(trusted_proxies=("10.0.0.0/8",))
    signer = bench.connect(PROVIDER, allowed_ips=("203.0.113.0/24",))
    request = signer.request(signer.fixture)
    headers = [(name.encode(), value.encode()) for name, values in request.headers.items() for value in values]
    headers += [(b"x-forwarded-for", forwarded)] if forwarded else []
    reply = await bench.request(signer.endpoint, [request.body], headers, query=request.query_string, client=client)
    assert reply.status == status
    if status == 403:
        assert (reply.code, reply.chunks_read) == ("address_not_allowed", 0)
        assert [one.reason for one in bench.rejected] == ["address_not_allowed"]


@pytest.mark.asyncio
async def test_a_client_certificate_is_a_proxys_word_and_nobody_elses(make_bench: Any) -> None:
    for client, status in (("10.0.0.1:1", MTLS.webhook.success_status), ("192.0.2.1:1", 403)):
        bench = make_bench(trusted_proxies=("10.0.0.0/8",))
        signer = bench.connect(MTLS, options=MTLS_OPTIONS)
        request = signer.request(signer.fixture)
        headers = [(name.encode(), value.encode()) for name, values in request.headers.items() for value in values]
        reply = await bench.request(signer.endpoint, [request.body], headers, client=client)
        assert reply.status == status
