"""Vendors' keys: only from pinned hosts, remembered, bounded in time, size and number, and checked up to a root."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from chassis.testing.clock import ManualClock
from contracts.errors import Transient
from providers.sdk import KeyRequest, Refused
from webhook_gateway.keys import MAX_BYTES, MAX_ENTRIES, MAX_FETCHES, KeyCache

URL = "https://keys.vendor.test/certs/1.pem"
PINNED = r"https://keys\.vendor\.test/certs/[a-z0-9.]+"

Answer = Callable[[httpx.Request], httpx.Response]


def reply(status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> httpx.Response:
    """An answer that is still on its way, as over a socket."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content))


def always(status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    return lambda _: reply(status, content, headers)


class Vendor:
    """What the vendor's host answers, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.answer: Answer = lambda _: reply(200, content=b"key")
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        self.reached.set()
        await self.gate.wait()
        return self.answer(request)


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def keys(vendor: Vendor, clock: ManualClock) -> AsyncIterator[KeyCache]:
    client = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    cache = KeyCache(clock, client=client, roots=[])
    yield cache
    await cache.close()


def wanted(url: str = URL, **over: Any) -> KeyRequest:
    return KeyRequest(**{"name": url, "url": url, "pinned": PINNED, **over})


@pytest.mark.asyncio
async def test_a_key_is_fetched_once_and_again_after_its_time(
    keys: KeyCache, vendor: Vendor, clock: ManualClock
) -> None:
    vendor.answer = lambda _: reply(200, content=b"key", headers={"cache-control": "public, max-age=600"})
    assert await keys.get(wanted()) == b"key"
    clock.advance(599)
    assert await keys.get(wanted()) == b"key"
    assert len(vendor.asked) == 1
    clock.advance(2)
    assert await keys.get(wanted()) == b"key"
    assert len(vendor.asked) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("header", "kept_s"), [("max-age=0", 300), ("no-store", 3600), ("max-age=999999999", 86_400), ("", 3600)]
)
async def test_what_the_vendor_says_about_caching_is_bounded(
    keys: KeyCache, vendor: Vendor, clock: ManualClock, header: str, kept_s: int
) -> None:
    vendor.answer = lambda _: reply(200, content=b"key", headers={"cache-control": header})
    await keys.get(wanted())
    clock.advance(kept_s - 1)
    await keys.get(wanted())
    assert len(vendor.asked) == 1
    clock.advance(2)
    await keys.get(wanted())
    assert len(vendor.asked) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "url",
    [
        "http://keys.vendor.test/certs/1.pem",
        "https://evil.test/certs/1.pem",
        "https://keys.vendor.test@evil.test/certs/1.pem",
        "https://keys.vendor.test/certs/1.pem?to=https://evil.test",
        "https://keys.vendor.test/other",
        "https://169.254.169.254/certs/1.pem",
    ],
)
async def test_an_address_that_is_not_pinned_is_never_asked(keys: KeyCache, vendor: Vendor, url: str) -> None:
    with pytest.raises(Transient):
        await keys.get(wanted(url))
    assert vendor.asked == []


@pytest.mark.asyncio
async def test_a_redirect_is_not_followed(keys: KeyCache, vendor: Vendor) -> None:
    vendor.answer = lambda _: reply(302, headers={"location": "https://evil.test/key"})
    with pytest.raises(Transient):
        await keys.get(wanted())
    assert [str(request.url) for request in vendor.asked] == [URL]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer",
    [
        lambda _: reply(500),
        lambda _: reply(404),
        lambda _: reply(200, content=b"x" * (MAX_BYTES + 1)),
        lambda _: reply(200, content=b"x", headers={"content-encoding": "gzip"}),
    ],
    ids=["500", "404", "huge", "compressed"],
)
async def test_a_failure_is_remembered_for_half_a_minute(
    keys: KeyCache, vendor: Vendor, clock: ManualClock, answer: Answer
) -> None:
    vendor.answer = answer
    for _ in range(3):
        with pytest.raises(Transient):
            await keys.get(wanted())
    assert len(vendor.asked) == 1
    vendor.answer = lambda _: reply(200, content=b"key")
    clock.advance(31)
    assert await keys.get(wanted()) == b"key"


@pytest.mark.asyncio
async def test_a_slow_vendor_costs_no_more_than_the_deadline(vendor: Vendor, clock: ManualClock) -> None:
    vendor.gate.clear()
    client = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    keys = KeyCache(clock, client=client, deadline_s=0.05)
    with pytest.raises(Transient, match="Timeout"):
        await asyncio.wait_for(keys.get(wanted()), timeout=5)
    await keys.close()


@pytest.mark.asyncio
async def test_everybody_who_needs_a_key_waits_for_one_fetch(keys: KeyCache, vendor: Vendor) -> None:
    vendor.gate.clear()
    waiting = [asyncio.create_task(keys.get(wanted())) for _ in range(20)]
    gone = asyncio.create_task(keys.get(wanted()))
    await vendor.reached.wait()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    vendor.gate.set()
    assert await asyncio.gather(*waiting) == [b"key"] * 20
    assert len(vendor.asked) == 1


@pytest.mark.asyncio
async def test_a_set_without_the_wanted_key_is_asked_for_again_but_not_at_a_stranger_s_pace(
    keys: KeyCache, vendor: Vendor, clock: ManualClock
) -> None:
    vendor.answer = lambda _: reply(200, content=b'{"keys":[{"kid":"old"}]}')
    await keys.get(wanted(kid="old"))
    for number in range(50):
        await keys.get(wanted(kid=f"guess-{number}"))
    assert len(vendor.asked) == 1
    vendor.answer = lambda _: reply(200, content=b'{"keys":[{"kid":"old"},{"kid":"new"}]}')
    clock.advance(31)
    assert b"new" in await keys.get(wanted(kid="new"))
    assert b"new" in await keys.get(wanted(kid="old"))
    assert len(vendor.asked) == 2


@pytest.mark.asyncio
async def test_a_host_is_not_flooded_and_the_memory_is_bounded(
    keys: KeyCache, vendor: Vendor, clock: ManualClock
) -> None:
    refused = 0
    for number in range(MAX_FETCHES + 5):
        try:
            await keys.get(wanted(f"https://keys.vendor.test/certs/{number}"))
        except Transient:
            refused += 1
    assert (len(vendor.asked), refused) == (MAX_FETCHES, 5)
    clock.advance(10)
    for number in range(MAX_ENTRIES + 20):
        clock.advance(2)
        await keys.get(wanted(f"https://keys.vendor.test/certs/x{number}"))
    assert len(keys._entries) == MAX_ENTRIES


@pytest.mark.asyncio
async def test_the_request_s_body_is_sent_and_tells_keys_apart(keys: KeyCache, vendor: Vendor) -> None:
    vendor.answer = lambda request: reply(200, content=request.content)
    one, two = (wanted(method="POST", body=body) for body in (b'{"key_id":"1"}', b'{"key_id":"2"}'))
    assert (await keys.get(one), await keys.get(two)) == (b'{"key_id":"1"}', b'{"key_id":"2"}')
    assert {request.method for request in vendor.asked} == {"POST"}
    assert vendor.asked[0].headers["content-type"] == "application/json"


@pytest.mark.asyncio
async def test_confirmations_are_fetched_over_https_only(keys: KeyCache, vendor: Vendor) -> None:
    await keys.confirm("https://keys.vendor.test/?Action=Confirm")
    for url, answer in (
        ("http://keys.vendor.test/", always(200)),
        ("https://keys.vendor.test/", always(302, headers={"location": "https://evil.test/"})),
        ("https://keys.vendor.test/", always(500)),
    ):
        vendor.answer = answer
        with pytest.raises(Transient) as error:
            await keys.confirm(url)
        assert error.value.code == "confirmation_failed"
    assert {request.url.host for request in vendor.asked} == {"keys.vendor.test"}


class Authority:
    """A root, an intermediate and a leaf, or a leaf that signed itself."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.root_key, self.middle_key, self.leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.root = self.issue("root", self.root_key, "root", self.root_key, is_ca=True)
        self.middle = self.issue("middle", self.middle_key, "root", self.root_key, is_ca=True)
        self.leaf = self.issue("signer.vendor.test", self.leaf_key, "middle", self.middle_key, is_ca=False)
        self.own = self.issue("signer.vendor.test", self.leaf_key, "signer.vendor.test", self.leaf_key, is_ca=False)

    def issue(
        self,
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        issuer_key: ec.EllipticCurvePrivateKey,
        *,
        is_ca: bool,
    ) -> x509.Certificate:
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in (subject, issuer)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - timedelta(days=1))
            .not_valid_after(self.now + timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("signer.vendor.test")]), critical=False)
        )
        if is_ca:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
            identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


@pytest.mark.asyncio
async def test_a_certificate_leads_to_a_known_root_or_is_refused(
    vendor: Vendor, clock: ManualClock, keys: KeyCache
) -> None:
    authority, stranger = Authority(clock.now()), Authority(clock.now())
    client = httpx.AsyncClient(transport=httpx.MockTransport(vendor))
    known = KeyCache(clock, client=client, roots=[authority.root])
    chain = pem(authority.leaf, authority.middle)
    vendor.answer = always(200, chain)
    assert await known.get(wanted(chain=True)) == chain
    # The same root, but brought along by the manifest.
    assert await keys.get(wanted(chain=True, root=pem(authority.root))) == chain
    for number, bad in enumerate(
        [pem(authority.leaf), pem(authority.own), pem(stranger.leaf, stranger.middle), b"no certificate"]
    ):
        vendor.answer = always(200, bad)
        with pytest.raises(Refused) as refused:
            await known.get(wanted(f"https://keys.vendor.test/certs/bad{number}", chain=True))
        assert refused.value.reason == "bad_signature"
    clock.advance(86_400 * 31)
    vendor.answer = always(200, chain)
    with pytest.raises(Refused):
        await known.get(wanted("https://keys.vendor.test/certs/late", chain=True))
    await known.close()


def test_the_roots_that_everybody_knows_can_be_read() -> None:
    from webhook_gateway.keys import _known_roots  # noqa: PLC0415 (the file is read only here)

    now = datetime.now(UTC)
    assert sum(root.not_valid_after_utc > now for root in _known_roots()) > 50
