"""RSA over a template or lines of fields, with a certificate from a pinned host.

Must never believe a certificate because a delivery names it: only the manifest's addresses are asked.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from providers.manifest.signatures import Lines, RsaSignature
from providers.sdk import InboundRequest, KeyPair, Refused, Secret, Verified
from providers.signing.base import bad_secret, matching_key, random_text, raw, strict_base64
from providers.signing.draft import Draft, Scheme
from providers.signing.fetched import certificate_key, self_signed
from providers.signing.message import Reads, Stamp, Template, read_or_refuse, required
from providers.signing.sender_keys import new_keys, sender
from providers.signing.static_token import key_of
from providers.sources import Reader, Reading, reader

_HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1(),  # noqa: S303 (the sender chose it)
    "sha256": hashes.SHA256(),
    "sha512": hashes.SHA512(),
}
_IDENTITY: Final = re.compile(r"[\x21-\x7e]{1,256}")


class RsaVerifier(Scheme):
    """The scheme `rsa`. The secret is the receiver's identity at the sender, not a key."""

    def __init__(self, signature: RsaSignature, tolerance_s: int | None, reads: Reads) -> None:
        self._table = signature
        self._reads = reads
        self._signature = required(signature.signature, reads)
        self._hash = required(signature.hash.place, reads)
        self._certificate = required(signature.certificate.place, reads)
        self._template = Template(signature.template, reads)
        self._stamp = Stamp(signature.timestamp, signature.timestamp_unit, tolerance_s, reads)
        self._root = reads.file(signature.certificate.root)
        self._lines = _Lines(signature.lines, reads) if signature.lines else None
        self._identity = required(signature.identity, reads) if signature.identity else None
        places = (signature.signature, signature.hash.place, signature.certificate.place, signature.timestamp or "")
        self._own_headers = [one.removeprefix("header:") for one in places if one.startswith("header:")]

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return the identity that the signature is for; see `Verifier.verify`."""
        if not secrets:
            raise Refused("no_secret")
        reading = self._reads.of(request)
        signature = strict_base64(raw(self._signature(reading)))
        if signature is None:
            raise Refused("malformed_signature")
        algorithm = self._table.hash.values.get(self._hash(reading))
        if algorithm is None:
            raise Refused("malformed_signature")
        stamp = self._stamp.read(reading)
        key_id = ""
        if self._identity is not None:
            # Cheap and decisive: a signature for somebody else is not worth fetching a certificate.
            found = self._identity(reading).encode("utf-8", "surrogatepass")
            key_id = matching_key(secrets, key_of, partial(hmac.compare_digest, found))
        address = self._certificate(reading)
        check = partial(
            _verifies, certificate_key(self._table.certificate, self._root, address, request, now), signature, algorithm
        )
        if self._identity is None:
            key_id = matching_key(secrets, key_of, lambda secret: check(self._message(reading, stamp, secret)))
        elif not check(self._message(reading, stamp, b"")):
            raise Refused("bad_signature")
        names = [*self._template.headers, *self._own_headers]
        signed = [(name.lower(), text) for name in names if (text := request.header(name))]
        return Verified(key_id, self._stamp.check(stamp, now), tuple(dict.fromkeys(signed)))

    def generate(self) -> KeyPair:
        """Return a random identity and a private key for the sender of it."""
        return new_keys(random_text())

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` for an identity that no sender would use."""
        if _IDENTITY.fullmatch(value) is None:
            raise bad_secret("expected an id as the sender shows it: printable text without spaces")

    def _message(self, reading: Reading, stamp: str, secret: bytes) -> bytes:
        if self._lines is not None:
            return self._lines.fill(reading)
        return self._template.fill(reading, raw(stamp), secret)

    def _sign(self, draft: Draft) -> None:
        identity, _, key = sender(draft.secret)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise bad_secret("the signing key is not RSA")
        table = self._table
        word, algorithm = next(reversed(table.hash.values.items()))
        if table.identity is not None:
            draft.put(table.identity, identity)
        draft.put(table.hash.place, word)
        url = table.certificate.example
        draft.put(table.certificate.place, url)
        stamp = self._stamp.put(draft)
        self._template.complete(draft)
        message = self._message(self._reads.of(draft.request), stamp, identity.encode())
        signature = key.sign(message, padding.PKCS1v15(), _HASHES[algorithm])
        draft.put(table.signature, base64.b64encode(signature).decode())
        draft.keep(url, self_signed(key, f"signer{table.certificate.name_suffix}"))


class _Lines:
    """A name and a value on a line each, of the fields that belong to the word at another place."""

    def __init__(self, table: Lines, reads: Reads) -> None:
        self._by = required(table.by, reads)
        self._fields = {
            word: [(name.removesuffix("?"), name.endswith("?"), _top_level(name)) for name in names]
            for word, names in table.fields.items()
        }

    def fill(self, reading: Reading) -> bytes:
        """Return the message; raises `Refused` for an unknown word or an absent field."""
        fields = self._fields.get(self._by(reading))
        if fields is None:
            raise Refused("malformed_signature")
        lines: list[str] = []
        for name, optional, read in fields:
            text = read_or_refuse(read, reading)
            if text is None and not optional:
                raise Refused("missing_signature")
            if text is not None:
                lines.append(f"{name}\n{text}\n")
        return "".join(lines).encode("utf-8", "surrogatepass")


def _top_level(name: str) -> Reader:
    pointer = "/" + name.removesuffix("?").replace("~", "~0").replace("/", "~1")
    return reader(f"body:{pointer}", {})


def _verifies(key: rsa.RSAPublicKey, signature: bytes, algorithm: str, message: bytes) -> bool:
    try:
        key.verify(signature, message, padding.PKCS1v15(), _HASHES[algorithm])
    except InvalidSignature:
        return False
    return True
