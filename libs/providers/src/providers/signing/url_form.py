"""HMAC over the registered URL and the sorted form fields; a non-form body is bound by its hash in the URL.

Must never accept a body that neither the form fields nor a hash in the URL cover.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from providers.manifest.signatures import UrlFormSignature
from providers.sdk import InboundRequest, KeyPair, Refused, Secret, Verified
from providers.signing.base import bad_secret, matching_key, only, random_text, raw
from providers.signing.draft import Draft, Scheme

FORM: Final = "application/x-www-form-urlencoded"
# Callbacks have some twenty fields; parsing more is work for an unauthenticated stranger.
MAX_FIELDS: Final = 1000
_ALGORITHMS: Final = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class UrlFormVerifier(Scheme):
    """The scheme `url_form`. The sender may write the URL with or without the default port: both are tried."""

    def __init__(self, signature: UrlFormSignature, prefix: str) -> None:
        self._signature = signature
        self._secret_prefix = prefix

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:  # noqa: ARG002
        """Return the matching key; see `Verifier.verify`. The scheme signs no time, so `now` is not used."""
        if not secrets:
            raise Refused("no_secret")
        value = only(request, self._signature.header)
        signed = [(self._signature.header.lower(), value)]
        algorithm = "sha1"
        if self._signature.settings_header.lower() in request.headers:
            settings = only(request, self._signature.settings_header)
            algorithm = _algorithm(settings)
            signed.append((self._signature.settings_header.lower(), settings))
        tail = self._tail(request)
        messages = [url.encode("utf-8", "surrogatepass") + tail for url in _both_ports(request.url)]
        key_id = matching_key(secrets, _key, partial(_matches, raw(value), messages, algorithm))
        return Verified(key_id, None, tuple(signed))

    def generate(self) -> KeyPair:
        """Return one random secret for both ends."""
        text = self._secret_prefix + random_text()
        return KeyPair(text, text)

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` for an empty secret."""
        if _key(value) is None:
            raise bad_secret("the secret is empty")

    def _sign(self, draft: Draft) -> None:
        # A body that is no form is bound by its hash in the URL, as the sender calls it.
        is_form = (draft.request.header("content-type") or "").partition(";")[0].strip().lower() == FORM
        if not is_form and draft.request.body and not self._hashes(draft.request):
            draft.bind(with_body_hash(draft.request.url, draft.request.body, self._signature.body_hash_param))
        message = draft.request.url.encode() + self._tail(draft.request)
        digest = hmac.digest(draft.secret.encode(), message, "sha1")
        draft.header(self._signature.header, base64.b64encode(digest).decode())

    def _hashes(self, request: InboundRequest) -> list[str]:
        return [text for name, text in request.query() if name == self._signature.body_hash_param]

    def _tail(self, request: InboundRequest) -> bytes:
        """Return what is signed after the URL; raises `Refused` when nothing signed covers the body."""
        hashes = self._hashes(request)
        if hashes:
            # The content type is unsigned, so the hash alone decides that this body is not a form.
            expected = hashlib.sha256(request.body).hexdigest().encode()
            if len(hashes) != 1 or not hmac.compare_digest(expected, hashes[0].encode("utf-8", "surrogatepass")):
                raise Refused("bad_signature")
            return b""
        if (request.header("content-type") or "").partition(";")[0].strip().lower() != FORM:
            if request.body:
                raise Refused("bad_signature")
            return b""
        try:
            text = request.body.decode("ascii")
            fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
        except ValueError:
            raise Refused("undecodable_body") from None
        # Sorted by name, then value; a repeated pair counts once.
        return "".join(name + value for name, value in sorted(set(fields))).encode("utf-8", "surrogatepass")


def with_body_hash(url: str, body: bytes, param: str = "bodySHA256") -> str:
    """Return the URL with the body's SHA-256 appended to its query, as the sender calls it for a non-form body."""
    parts = urlsplit(url)
    extra = urlencode({param: hashlib.sha256(body).hexdigest()})
    return urlunsplit(parts._replace(query=f"{parts.query}&{extra}" if parts.query else extra))


def _key(value: str) -> bytes | None:
    return value.encode("utf-8", "surrogatepass") or None


def _algorithm(settings: str) -> str:
    pairs = dict(element.partition("=")[::2] for element in settings.split(","))
    algorithm = _ALGORITHMS.get(pairs.get("algorithm", "HMAC_SHA1"))
    if algorithm is None:
        raise Refused("malformed_signature")
    return algorithm


def _both_ports(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    if parts.port is not None:
        other = parts.netloc.rpartition(":")[0]
    else:
        other = f"{parts.netloc}:{_DEFAULT_PORTS.get(parts.scheme, 443)}"
    return url, urlunsplit(parts._replace(netloc=other))


def _matches(candidate: bytes, messages: list[bytes], algorithm: str, key: bytes) -> bool:
    expected = [base64.b64encode(hmac.digest(key, message, algorithm)) for message in messages]
    return any([hmac.compare_digest(text, candidate) for text in expected])  # noqa: C419 (no early exit)
