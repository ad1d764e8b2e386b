"""Client certificates of connections: presented on calls and token calls, kept apart, never on a disk."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from chassis.clock import SystemClock
from contracts.errors import Invalid, Transient
from providers.oauth import TokenCall
from providers.provider import Provider
from providers.sdk import Account, ClientCertificate, HttpRequest, HttpResponse
from sync_worker.connections.token_endpoint import TokenEndpoint
from sync_worker.outbound import certificates
from sync_worker.outbound.certificates import TlsContexts
from sync_worker.outbound.client import Failure, ProviderClient

# TLS checks dates by the machine's clock.
CLOCK = SystemClock()


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign("authority", self.key, ca=True)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, name: str) -> ClientCertificate:
        key = ec.generate_private_key(ec.SECP256R1())
        return ClientCertificate(self._sign(name, key).public_bytes(Encoding.PEM).decode(), pem_of(key))

    def _sign(self, name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> x509.Certificate:
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(CLOCK.now() - timedelta(days=1))
            .not_valid_after(CLOCK.now() + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def pem_of(key: ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> str:
    lock = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock).decode()


@dataclass
class Vendor:
    """A server that wants a client certificate, and whose it saw on each connection."""

    authority: Authority
    url: str = ""
    seen: list[str] = field(default_factory=list)


@pytest_asyncio.fixture
async def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Vendor]:
    authority = Authority()
    (tmp_path / "ca.pem").write_text(authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    own = authority.issue("vendor")
    (tmp_path / "server.pem").write_text(own.key + own.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    context.load_verify_locations(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    found = Vendor(authority)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.seen.append(writer.get_extra_info("ssl_object").getpeercert()["subject"][0][0][1])
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        found.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield found


@pytest.fixture
def certified(vendor: Vendor, kit: Any, monkeypatch: pytest.MonkeyPatch) -> Provider:
    """Give a provider at the vendor's address, whose accounts carry a certificate."""
    monkeypatch.setattr(Provider, "base_url", lambda *_: vendor.url)
    monkeypatch.setattr(Provider, "client_certificate", lambda _self, account: account.secrets.get("certificate"))
    provider: Provider = kit.payer
    return provider


async def send(client: ProviderClient, provider: Provider, certificate: Any) -> HttpResponse | Failure:
    account = Account("acct", {"certificate": certificate} if certificate else {})
    return await client.send(provider, account, HttpRequest(method="GET", path="/"), 5.0)


@pytest.mark.asyncio
async def test_each_connection_presents_its_own_certificate_and_shares_no_connection(
    vendor: Vendor, certified: Provider
) -> None:
    client = ProviderClient(CLOCK)
    first, second = vendor.authority.issue("first"), vendor.authority.issue("second")
    for certificate in (first, second, first):
        answer = await send(client, certified, certificate)
        assert isinstance(answer, HttpResponse), answer
        assert answer.status == 200
    assert vendor.seen == ["first", "second"], "the third call went over the first one's connection"
    assert isinstance(await send(client, certified, None), Failure)
    assert vendor.seen == ["first", "second"]
    await client.close()


@pytest.mark.asyncio
async def test_a_token_call_presents_it_too(vendor: Vendor) -> None:
    endpoint = TokenEndpoint(CLOCK)
    certificate = vendor.authority.issue("first")
    for _ in range(2):
        assert await endpoint.post("acme", TokenCall(f"{vendor.url}/token", {}, certificate=certificate)) == (200, {})
    assert vendor.seen == ["first", "first"], "a client with a certificate lives for one call"
    with pytest.raises(Transient):
        await endpoint.post("acme", TokenCall(f"{vendor.url}/token", {}))
    await endpoint.close()


@pytest.mark.asyncio
async def test_a_certificate_that_cannot_be_used_is_named_and_nothing_is_sent(
    vendor: Vendor, certified: Provider
) -> None:
    one, other = vendor.authority.issue("one"), vendor.authority.issue("other")
    locked = pem_of(ec.generate_private_key(ec.SECP256R1()), b"a passphrase")
    client = ProviderClient(CLOCK)
    unusable = (
        ClientCertificate(one.certificate, other.key),
        ClientCertificate("no certificate", one.key),
        ClientCertificate(one.certificate, locked),
    )
    for certificate in unusable:
        assert await send(client, certified, certificate) == Failure("ours", "bad_secret")
    with pytest.raises(Invalid) as refused:
        TlsContexts().of(unusable[0])
    assert "PRIVATE" not in str(refused.value)
    assert vendor.seen == []
    await client.close()


def test_no_key_is_written_to_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = ssl.SSLContext.load_cert_chain

    def spy(self: ssl.SSLContext, path: str, **named: Any) -> None:
        loaded.append(str(Path(path).readlink()))
        load(self, path, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spy)
    certificate = Authority().issue("one")
    assert "PRIVATE" not in repr(certificate)
    TlsContexts().of(certificate)
    (where,) = loaded
    assert where.startswith("/memfd:"), "memory that looks like a file"


def test_contexts_are_kept_for_a_while_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "MOST_CONTEXTS", 2)
    contexts, authority = TlsContexts(), Authority()
    first = authority.issue("first")
    kept = contexts.of(first)
    assert contexts.of(first) is kept
    assert contexts.of(None) is contexts.plain
    for name in ("second", "third"):
        contexts.of(authority.issue(name))
    assert contexts.of(first) is not kept
