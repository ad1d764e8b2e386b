"""JSON Web Tokens: the algorithms of the manifest and no other, keys from the secret or fetched from one address.

Must never let a token's own header choose the kind of key, nor fetch a key for a token that is wrong anyway.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from contracts.errors import Invalid
from providers.manifest.signatures import FetchedKeys, JwtSignature
from providers.reading import parse_json
from providers.sdk import InboundRequest, KeyPair, Refused, Secret, Verified
from providers.signing.base import bad_secret, matching_key, only, random_text, strict_base64
from providers.signing.draft import Draft, Scheme
from providers.signing.fetched import PublicKey, base64url, fetched_key, jwk, key_request, self_signed
from providers.signing.message import Reads
from providers.signing.sender_keys import PrivateKey, new_keys, sender
from providers.signing.stamps import check_age
from providers.signing.static_token import key_of
from providers.sources import every

# Clocks differ; a token that is a minute over its end is not an attack.
LEEWAY_S: Final = 60
MAX_TOKEN: Final = 16_384
# One token for each account that a batch speaks of; each costs a signature check.
MAX_TOKENS: Final = 16
_P256_BYTES: Final = 32
_MAX_TIME: Final = 10**11


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart, with nothing about it proven."""

    algorithm: str
    kid: str
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes


class JwtVerifier(Scheme):
    """The scheme `jwt`."""

    def __init__(self, signature: JwtSignature, tolerance_s: int | None, reads: Reads) -> None:
        self._table = signature
        self._tolerance_s = tolerance_s
        self._reads = reads
        is_header = signature.token.startswith("header:") and signature.body_hash_claim
        self._header = signature.token.removeprefix("header:") if is_header else None
        self._find = None if signature.token == "bearer" else every(signature.token, reads.options)  # noqa: S105

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return the matching key; see `Verifier.verify`. Every token of a delivery must hold for the same secret."""
        if not secrets:
            raise Refused("no_secret")
        tokens = [taken_apart(text) for text in self._texts(request)]
        key_id, signed_at = "", None
        for token in tokens:
            signed_at = self._check_claims(token, request, now)
            live = self._named(token, secrets)
            key_id = self._signed_by(token, request, live)
            secrets = [secret for secret in secrets if secret.key_id == key_id]
        # A bearer token is a credential by itself; one that is bound to the body proves nothing about another.
        shown = ((self._header.lower(), request.header(self._header) or ""),) if self._header else ()
        return Verified(key_id, signed_at, shown)

    def generate(self) -> KeyPair:
        """Return one random secret, or a sender's private key and what its receiver is called."""
        if self._table.keys != "secret":
            return new_keys(random_text(), elliptic=self._table.algorithms[0] == "ES256")
        if self._table.algorithms[0] == "HS256":
            text = random_text()
            return KeyPair(text, text)
        pair = new_keys("", elliptic=self._table.algorithms[0] == "ES256")
        public = sender(pair.signing)[2].public_key()
        data = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return KeyPair(pair.signing, base64.b64encode(data).decode())

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` for an empty secret, or one that is no public key where one is needed."""
        if self._table.keys == "secret" and self._table.algorithms[0] != "HS256":
            if public_key(value) is None:
                raise bad_secret("expected a public key as base64 SubjectPublicKeyInfo or as a JWK")
        elif key_of(value) is None:
            raise bad_secret("the secret is empty")

    def _texts(self, request: InboundRequest) -> list[str]:
        if self._find is None:
            scheme, _, text = only(request, "authorization").partition(" ")
            if scheme.lower() != "bearer" or not text:
                raise Refused("missing_signature")
            return [text]
        if self._table.token.startswith("header:"):
            return [only(request, self._table.token.removeprefix("header:"))]
        try:
            found = self._find(self._reads.of(request))
        except Invalid:
            raise Refused("undecodable_body") from None
        texts = [text for text in found if text is not None]
        if not texts or len(texts) != len(found):
            raise Refused("missing_signature")
        if len(texts) > MAX_TOKENS:
            raise Refused("malformed_signature")
        return texts

    def _check_claims(self, token: Token, request: InboundRequest, now: datetime) -> datetime | None:
        """Return when the token was issued; raises `Refused` for a claim that is wrong whoever signed it."""
        table = self._table
        if token.algorithm not in table.algorithms:
            raise Refused("malformed_signature")
        issued = _time(token.claims.get("iat"))
        if self._tolerance_s is not None and issued is None:
            raise Refused("malformed_signature")
        if issued is not None:
            check_age(issued, now, self._tolerance_s)
            if (issued - now).total_seconds() > LEEWAY_S and self._tolerance_s is None:
                raise Refused("future_timestamp")
        _check_end(token.claims, now, required=table.lifetime_s is not None)
        if table.issuer and token.claims.get("iss") not in [_filled(one, token.claims) for one in table.issuer]:
            raise Refused("bad_signature")
        for name, wanted in self._fixed_claims(request).items():
            if not _claim_equals(token.claims.get(name), wanted.encode("utf-8", "surrogatepass")):
                raise Refused("bad_signature")
        if table.body_hash_claim:
            digest = hashlib.sha256(request.body).hexdigest().encode()
            if not _claim_equals(token.claims.get(table.body_hash_claim), digest):
                raise Refused("bad_signature")
        return issued

    def _fixed_claims(self, request: InboundRequest) -> dict[str, str]:
        claims = {name: text for name, text in self._table.claims.items() if text != "secret"}
        if self._table.audience == "url":
            claims["aud"] = request.url
        elif self._table.audience.startswith("option:"):
            # An option that nobody has set stands for the registered address, which is what senders put there.
            claims["aud"] = self._reads.options[self._table.audience.removeprefix("option:")] or request.url
        return claims

    def _named(self, token: Token, secrets: Sequence[Secret]) -> Sequence[Secret]:
        """Return the secrets that the token names; raises `Refused` when it names none of ours."""
        names = [name for name, text in self._table.claims.items() if text == "secret"]
        names += ["aud"] if self._table.audience == "secret" else []
        if not names:
            live = [secret for secret in secrets if secret.value]
            if not live:
                raise Refused("no_secret")
            return live
        found = [token.claims.get(name) for name in names]
        key_id = matching_key(secrets, key_of, lambda key: all([_claim_equals(one, key) for one in found]))  # noqa: C419
        return [secret for secret in secrets if secret.key_id == key_id]

    def _signed_by(self, token: Token, request: InboundRequest, secrets: Sequence[Secret]) -> str:
        keys = self._table.keys
        if isinstance(keys, FetchedKeys):
            wanted = key_request(keys, self._reads.options, token.kid, secrets[0].value)
            if not verifies(token, fetched_key(keys, wanted, request)):
                raise Refused("bad_signature")
            return secrets[0].key_id
        load: Callable[[str], Any] = key_of if token.algorithm == "HS256" else public_key
        return matching_key(secrets, load, partial(verifies, token))

    def _sign(self, draft: Draft) -> None:
        table, now = self._table, int(draft.now.timestamp())
        identity, kid, key = draft.secret, "", None
        if table.keys != "secret" or table.algorithms[0] != "HS256":
            identity, kid, key = sender(draft.secret)
        claims: dict[str, Any] = {"iat": now}
        if table.issuer:
            claims |= dict.fromkeys(re.findall(r"\{claim:(\w+)\}", table.issuer[0]), "0")
            claims["iss"] = _filled(table.issuer[0], claims)
        if table.lifetime_s is not None:
            claims["exp"] = now + table.lifetime_s
        claims |= {name: _as_claim(text) for name, text in self._fixed_claims(draft.request).items()}
        claims |= {name: identity for name, text in table.claims.items() if text == "secret"}
        if table.audience == "secret":
            claims["aud"] = identity
        if table.body_hash_claim:
            claims[table.body_hash_claim] = hashlib.sha256(draft.request.body).hexdigest()
        header = {"alg": table.algorithms[0], "typ": "JWT"} | ({"kid": kid} if kid else {})
        text = _signed(header, claims, key, draft.secret)
        if table.token == "bearer":  # noqa: S105 (a word of the manifest)
            draft.header("Authorization", f"Bearer {text}")
        else:
            draft.put(table.token.replace("*", "0"), text)
        if isinstance(table.keys, FetchedKeys) and key is not None:
            wanted = key_request(table.keys, self._reads.options, kid, identity)
            draft.keep(wanted.name, _published(table.keys, kid, key))


def taken_apart(text: str) -> Token:
    """Return the parts of a compact token; raises `Refused` (`malformed_signature`) for any looseness."""
    parts = text.split(".")
    if len(text) > MAX_TOKEN or len(parts) != 3:  # noqa: PLR2004 (header, claims, signature)
        raise Refused("malformed_signature")
    decoded = [base64url(part) for part in parts]
    if None in decoded:
        raise Refused("malformed_signature")
    try:
        header, claims = parse_json(decoded[0] or b""), parse_json(decoded[1] or b"")
    except Invalid:
        raise Refused("malformed_signature") from None
    if not isinstance(header, dict) or not isinstance(claims, dict) or "crit" in header:
        raise Refused("malformed_signature")
    kid = header.get("kid", "")
    signing_input = f"{parts[0]}.{parts[1]}".encode()
    return Token(str(header.get("alg")), kid if isinstance(kid, str) else "", claims, signing_input, decoded[2] or b"")


def verifies(token: Token, key: bytes | PublicKey) -> bool:
    """Tell whether a key signed a token; a key of another kind than the algorithm's did not."""
    try:
        if token.algorithm == "HS256" and isinstance(key, bytes):
            return hmac.compare_digest(hmac.digest(key, token.signing_input, "sha256"), token.signature)
        if token.algorithm == "RS256" and isinstance(key, rsa.RSAPublicKey):
            key.verify(token.signature, token.signing_input, padding.PKCS1v15(), hashes.SHA256())
            return True
        if token.algorithm == "ES256" and isinstance(key, ec.EllipticCurvePublicKey):
            if len(token.signature) != 2 * _P256_BYTES:
                return False
            r, s = (int.from_bytes(half, "big") for half in (token.signature[:32], token.signature[32:]))
            key.verify(encode_dss_signature(r, s), token.signing_input, ec.ECDSA(hashes.SHA256()))
            return True
    except (InvalidSignature, ValueError):
        return False
    return False


@lru_cache(maxsize=4096)
def public_key(value: str) -> PublicKey | None:
    """Return the key of a secret that is a public one: base64 SubjectPublicKeyInfo, PEM armour allowed, or a JWK."""
    if value.lstrip().startswith("{"):
        try:
            return jwk(parse_json(value.encode()))
        except Invalid:
            return None
    data = strict_base64("".join(line.strip() for line in value.splitlines() if not line.startswith("-----")))
    if not data:
        return None
    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else None


def _time(value: Any) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_TIME:
        return None
    return datetime.fromtimestamp(value, UTC)


def _check_end(claims: Mapping[str, Any], now: datetime, *, required: bool) -> None:
    end, start = _time(claims.get("exp")), _time(claims.get("nbf"))
    if end is None and (required or "exp" in claims):
        raise Refused("malformed_signature")
    if end is not None and (now - end).total_seconds() > LEEWAY_S:
        raise Refused("stale_timestamp")
    if start is not None and (start - now).total_seconds() > LEEWAY_S:
        raise Refused("future_timestamp")


def _claim_equals(claim: Any, wanted: bytes) -> bool:
    """Compare in constant time; a claim that is `true` equals the text, and one that is a list of one its element."""
    if isinstance(claim, list) and len(claim) == 1:
        claim = claim[0]
    text = json.dumps(claim) if isinstance(claim, bool) else claim
    return isinstance(text, str) and hmac.compare_digest(text.encode("utf-8", "surrogatepass"), wanted)


def _as_claim(text: str) -> str | bool:
    return {"true": True, "false": False}.get(text, text)


def _filled(issuer: str, claims: Mapping[str, Any]) -> str:
    return re.sub(r"\{claim:(\w+)\}", lambda match: str(claims.get(match[1], "")), issuer)


def _signed(header: Mapping[str, str], claims: Mapping[str, Any], key: PrivateKey | None, secret: str) -> str:
    parts = [json.dumps(one, separators=(",", ":")).encode() for one in (header, claims)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    if isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(text, padding.PKCS1v15(), hashes.SHA256())
    elif key is not None:
        r, s = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(_P256_BYTES, "big") + s.to_bytes(_P256_BYTES, "big")
    else:
        signature = hmac.digest(secret.encode(), text, "sha256")
    return b".".join((text, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def _published(table: FetchedKeys, kid: str, key: PrivateKey) -> bytes:
    """Return what the sender's key server would answer."""
    if table.format == "x509" and isinstance(key, rsa.RSAPrivateKey):
        found: Any = {kid: self_signed(key, "signer").decode()}
    else:
        one = _public_jwk(kid, key)
        found = {"keys": [one]} if table.format == "jwks" else one
    for step in reversed(table.pointer.split("/")[1:]):
        found = {step: found}
    return json.dumps(found).encode()


def _public_jwk(kid: str, key: PrivateKey) -> dict[str, str]:
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return {"kty": "RSA", "kid": kid, "n": _text(numbers.n, 256), "e": _text(numbers.e, 3)}
    point = key.public_key().public_numbers()
    return {"kty": "EC", "crv": "P-256", "kid": kid, "x": _text(point.x, 32), "y": _text(point.y, 32)}


def _text(number: int, length: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(length, "big")).rstrip(b"=").decode()
