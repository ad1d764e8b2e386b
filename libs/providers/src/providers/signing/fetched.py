"""Public keys that have to be fetched: the request for them, and the strict reading of certificates and key sets.

Must never open a connection, nor ask for an address that the manifest does not pin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from contracts.errors import Invalid
from providers.manifest.signatures import Certificate, FetchedKeys
from providers.reading import at, parse_json
from providers.sdk import InboundRequest, KeyNeeded, KeyRequest, Refused
from providers.signing.base import strict_base64

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

# Key ids are UUIDs, hashes and dates; anything else is no reason to call somebody.
_KID: Final = re.compile(r"[A-Za-z0-9._~:=+/-]{1,128}")
# In an address there must be no way up, no query and no other host.
_KID_IN_URL: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
MAX_URL: Final = 512
MIN_RSA_BITS: Final = 2048


def certificate_key(
    certificate: Certificate, root: bytes, url: str, request: InboundRequest, now: datetime
) -> rsa.RSAPublicKey:
    """Return the public key of the certificate at an address that a delivery names.

    Raises `Refused` for an address that is not pinned or a certificate that is not valid now, `KeyNeeded` when it is
    not there yet.
    """
    if len(url) > MAX_URL or not url.isascii() or re.fullmatch(certificate.url, url) is None:
        raise Refused("malformed_signature")
    data = request.keys.get(url)
    if data is None:
        raise KeyNeeded(KeyRequest(url, url, certificate.url, chain=certificate.chain, root=root))
    found = _certificate(data)
    if found is None:
        raise Refused("bad_signature")
    if not found.not_valid_before_utc <= now <= found.not_valid_after_utc:
        raise Refused("bad_signature")
    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if certificate.name_suffix and not (names and str(names[0].value).endswith(certificate.name_suffix)):
        raise Refused("bad_signature")
    key = found.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < MIN_RSA_BITS:
        raise Refused("bad_signature")
    return key


@lru_cache(maxsize=256)
def _certificate(data: bytes) -> x509.Certificate | None:
    """Return the first certificate of a PEM text: the leaf, if its chain follows."""
    try:
        return x509.load_pem_x509_certificates(data)[0]
    except (ValueError, UnsupportedAlgorithm):
        return None


def key_request(table: FetchedKeys, options: Mapping[str, str], kid: str, secret: str) -> KeyRequest:
    """Return the request for the keys of a manifest's table; raises `Refused` for an impossible key id."""
    allowed = _KID_IN_URL if "{kid}" in table.url else _KID
    if allowed.fullmatch(kid) is None:
        raise Refused("malformed_signature")
    url = _filled(table.url, options, kid, secret)
    body = b""
    if table.json_body:
        values = {name: _filled(text, options, kid, secret) for name, text in table.json_body.items()}
        body = json.dumps(values, separators=(",", ":")).encode()
    name = f"{url}#{kid}" if table.format == "jwk" else url
    return KeyRequest(name, url, re.escape(url), table.method, body, kid)


def _filled(text: str, options: Mapping[str, str], kid: str, secret: str) -> str:
    text = re.sub(r"\{option:(\w+)\}", lambda match: options[match[1]], text)
    return text.replace("{kid}", kid).replace("{secret}", secret)


def fetched_key(table: FetchedKeys, wanted: KeyRequest, request: InboundRequest) -> PublicKey:
    """Return the wanted key; raises `KeyNeeded` when nobody has fetched it, `Refused` if it is bad."""
    data = request.keys.get(wanted.name)
    if data is None:
        raise KeyNeeded(wanted)
    key = _key_in(data, table.format, table.pointer, wanted.kid)
    if key is None:
        if table.format == "jwk":
            raise Refused("bad_signature")
        raise KeyNeeded(wanted)
    return key


@lru_cache(maxsize=1024)
def _key_in(data: bytes, kind: str, pointer: str, kid: str) -> PublicKey | None:
    try:
        document = at(parse_json(data), pointer)
    except Invalid:
        return None
    if kind == "x509":
        pem = document.get(kid) if isinstance(document, dict) else None
        found = _certificate(pem.encode()) if isinstance(pem, str) else None
        key = found.public_key() if found is not None else None
        return key if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else None
    if kind == "jwk":
        return jwk(document)
    keys = document.get("keys") if isinstance(document, dict) else None
    return next((jwk(one) for one in keys or () if isinstance(one, dict) and one.get("kid") == kid), None)


def jwk(value: Any) -> PublicKey | None:
    """Return the RSA or P-256 key of a JWK; None for any other, or one that has expired (`expired_at`)."""
    if not isinstance(value, dict) or value.get("expired_at") is not None:
        return None
    try:
        if value.get("kty") == "RSA":
            return rsa.RSAPublicNumbers(_number(value["e"]), _number(value["n"])).public_key()
        if value.get("kty") == "EC" and value.get("crv") == "P-256":
            return ec.EllipticCurvePublicNumbers(_number(value["x"]), _number(value["y"]), ec.SECP256R1()).public_key()
    except (KeyError, ValueError, TypeError):
        return None
    return None


def _number(text: Any) -> int:
    data = base64url(text) if isinstance(text, str) else None
    if not data:
        raise ValueError("no number")
    return int.from_bytes(data, "big")


def base64url(text: str) -> bytes | None:
    """Return what canonical base64url without padding stands for, or None."""
    if "=" in text or "+" in text or "/" in text:
        return None
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    return strict_base64(padded)


def self_signed(key: rsa.RSAPrivateKey, common_name: str) -> bytes:
    """Return a certificate as PEM, valid for a century around today: for tests, the sandbox and the CLI."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=36_500))
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
