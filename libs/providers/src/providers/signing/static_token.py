"""A shared secret that every delivery shows, a client certificate that a proxy vouches for, and nothing at all.

These prove who sent a delivery at most: never what is in it, nor when it was sent.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from contracts.errors import Invalid
from providers.manifest.signatures import MtlsSignature, NoSignature, StaticTokenSignature
from providers.sdk import InboundRequest, KeyPair, Refused, Secret, Verified
from providers.signing.base import bad_secret, matching_key, only, random_text, strict_base64
from providers.signing.draft import Draft, Scheme
from providers.signing.message import Reads
from providers.sources import Reading, every

UNAUTHENTICATED = "unauthenticated"


def key_of(value: str) -> bytes | None:
    """Return the bytes of a text secret, None when it is empty."""
    return value.encode("utf-8", "surrogatepass") or None


class StaticTokenVerifier(Scheme):
    """The scheme `static_token`. A token at two places at once is ambiguous, and refused."""

    def __init__(self, signature: StaticTokenSignature, prefix: str, reads: Reads) -> None:
        self._reads = reads
        self._secret_prefix = prefix
        self._places = signature.places
        self._finders = [_finder(place, reads.options) for place in signature.places]

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:  # noqa: ARG002
        """Return the matching key; see `Verifier.verify`. The scheme knows no time, so `now` is not used."""
        if not secrets:
            raise Refused("no_secret")
        reading = self._reads.of(request)
        try:
            found = [tokens for find in self._finders if (tokens := find(reading))]
        except Invalid:
            raise Refused("undecodable_body") from None
        if not found:
            raise Refused("missing_signature")
        if len(found) > 1:
            raise Refused("malformed_signature")
        return Verified(matching_key(secrets, key_of, partial(_all_equal, found[0])), None, ())

    def generate(self) -> KeyPair:
        """Return one random token for both ends."""
        text = f"user:{random_text()}" if "basic" in self._places else self._secret_prefix + random_text()
        return KeyPair(text, text)

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` for an empty token, or one without a colon where it is a user's name and password."""
        if key_of(value) is None:
            raise bad_secret("the token is empty")
        if "basic" in self._places and ":" not in value:
            raise bad_secret("expected user:password")

    def _sign(self, draft: Draft) -> None:
        place = self._places[0]
        if place == "bearer":
            draft.header("Authorization", f"Bearer {draft.secret}")
        elif place == "basic":
            draft.header("Authorization", f"Basic {base64.b64encode(draft.secret.encode()).decode()}")
        else:
            draft.put(_with_options(place, self._reads.options), draft.secret)


def _with_options(place: str, options: Mapping[str, str]) -> str:
    for name, value in options.items():
        place = place.replace(f"{{{name}}}", value)
    return place


def _finder(place: str, options: Mapping[str, str]) -> Callable[[Reading], list[bytes]]:
    """Return the function that finds the tokens at a place: none when it has no value, all of them when it has some."""
    if place in {"bearer", "basic"}:
        return partial(_authorisation, place)
    if place.startswith("header:"):
        header = _with_options(place, options).removeprefix("header:").lower()
        return partial(_header, header)
    read = every(place, options)

    def find(reading: Reading) -> list[bytes]:
        texts = read(reading)
        # One element without the token makes the whole delivery unproven: an empty text equals no secret.
        return [(text or "").encode("utf-8", "surrogatepass") for text in texts] if any(texts) else []

    return find


def _header(name: str, reading: Reading) -> list[bytes]:
    if name not in reading.request.headers:
        return []
    return [_latin(only(reading.request, name))]


def _authorisation(kind: str, reading: Reading) -> list[bytes]:
    if "authorization" not in reading.request.headers:
        return []
    scheme, _, text = only(reading.request, "authorization").partition(" ")
    if scheme.lower() != kind:
        return []
    if kind == "bearer":
        return [_latin(text)]
    decoded = strict_base64(_latin(text))
    if decoded is None:
        raise Refused("malformed_signature")
    return [decoded]


def _latin(text: str) -> bytes:
    """Return a header's bytes; text beyond Latin-1 was never a header, and becomes bytes that equal no secret."""
    return text.encode("latin-1") if text.isascii() else text.encode("utf-8", "surrogatepass") + b"\xff"


def _all_equal(tokens: list[bytes], key: bytes) -> bool:
    return all([hmac.compare_digest(token, key) for token in tokens])  # noqa: C419 (no early exit)


class MtlsVerifier(Scheme):
    """The scheme `mtls`: the secret is the certificate's identity exactly as the proxy writes it."""

    def __init__(self, signature: MtlsSignature, reads: Reads) -> None:
        self._header = reads.options[signature.header_option].lower()

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:  # noqa: ARG002
        """Return the matching key; see `Verifier.verify`. Without a configured header nothing is believed."""
        if not secrets or not self._header:
            raise Refused("no_secret")
        identity = _latin(only(request, self._header))
        return Verified(matching_key(secrets, key_of, partial(_all_equal, [identity])), None, ())

    def generate(self) -> KeyPair:
        """Return a random subject for both ends."""
        text = f"CN={random_text()}"
        return KeyPair(text, text)

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` for an empty identity."""
        if key_of(value) is None:
            raise bad_secret("the certificate's identity is empty")

    def _sign(self, draft: Draft) -> None:
        if self._header:
            draft.header(self._header, draft.secret)


class NoVerifier(Scheme):
    """The scheme `none`: everything is believed where the endpoint says so, and nothing anywhere else."""

    def __init__(self, signature: NoSignature, reads: Reads) -> None:
        self._accepts = reads.options[signature.accept_option] == "yes"

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:  # noqa: ARG002
        """Return the word that marks an unproven delivery; raises `Refused` unless the endpoint opted in."""
        if not self._accepts:
            raise Refused("no_secret")
        return Verified(UNAUTHENTICATED, None, ())

    def generate(self) -> KeyPair:
        """Return an empty pair: there is no key."""
        return KeyPair("", "")

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` for any secret: it would never be used."""
        if value:
            raise bad_secret("this scheme has no secret")

    def _sign(self, draft: Draft) -> None:
        """Leave the request as it is."""
