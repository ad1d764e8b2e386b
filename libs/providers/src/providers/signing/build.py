"""From a manifest's signature table to the verifier that it names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from providers.manifest.signatures import OneSignature
from providers.sdk import Verifier
from providers.signing.base import window_of
from providers.signing.hmac_template import HmacVerifier
from providers.signing.jwt import JwtVerifier
from providers.signing.message import Reads
from providers.signing.public_key import PublicKeyVerifier
from providers.signing.rsa import RsaVerifier
from providers.signing.standard_webhooks import StandardWebhooksVerifier
from providers.signing.static_token import MtlsVerifier, NoVerifier, StaticTokenVerifier
from providers.signing.url_form import UrlFormVerifier

# (table, prefix of secrets, window in seconds, how bodies are read)
_BUILD: Final[dict[str, Callable[[Any, str, Any, Reads], Verifier]]] = {
    "hmac": HmacVerifier,
    "digest": HmacVerifier,
    "standard_webhooks": lambda table, _prefix, window, _reads: StandardWebhooksVerifier(table, window),
    "url_form": lambda table, prefix, _window, _reads: UrlFormVerifier(table, prefix),
    "ecdsa_p256": lambda table, _prefix, window, reads: PublicKeyVerifier(table, window, reads),
    "ed25519": lambda table, _prefix, window, reads: PublicKeyVerifier(table, window, reads),
    "rsa": lambda table, _prefix, window, reads: RsaVerifier(table, window, reads),
    "jwt": lambda table, _prefix, window, reads: JwtVerifier(table, window, reads),
    "static_token": lambda table, prefix, _window, reads: StaticTokenVerifier(table, prefix, reads),
    "mtls": lambda table, _prefix, _window, reads: MtlsVerifier(table, reads),
    "none": lambda table, _prefix, _window, reads: NoVerifier(table, reads),
}


def build_verifier(
    signature: OneSignature, prefix: str, tolerance_s: int | None, reads: Reads | None = None
) -> Verifier:
    """Return the verifier of a manifest's signature table.

    `prefix` is how the provider's secrets begin; `tolerance_s` replaces the manifest's window when it is given; `reads`
    says how bodies are read, and holds the options. Raises `TypeError` for `custom`, which the folder builds.
    """
    build = _BUILD.get(signature.scheme)
    if build is None:
        raise TypeError("a custom signature is built by the folder's webhook.py")
    return build(signature, prefix, window_of(signature, tolerance_s), reads or Reads({}))
