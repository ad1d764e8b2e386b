"""From a manifest's signature table to the verifier that it names."""

from __future__ import annotations

from providers.manifest import (
    CustomSignature,
    EcdsaSignature,
    HmacSignature,
    Signature,
    StandardWebhooksSignature,
)
from providers.sdk import Verifier
from providers.signing.ecdsa import EcdsaVerifier
from providers.signing.hmac_template import HmacVerifier
from providers.signing.standard_webhooks import StandardWebhooksVerifier
from providers.signing.url_form import UrlFormVerifier


def build_verifier(signature: Signature, prefix: str, tolerance_s: int | None) -> Verifier:
    """Return the verifier of a manifest's signature table.

    `prefix` is how the provider's secrets begin; `tolerance_s` replaces the manifest's window when it is given.
    """
    if isinstance(signature, HmacSignature):
        return HmacVerifier(signature, prefix, tolerance_s or signature.tolerance_s)
    if isinstance(signature, StandardWebhooksSignature):
        return StandardWebhooksVerifier(signature, tolerance_s or signature.tolerance_s)
    if isinstance(signature, EcdsaSignature):
        return EcdsaVerifier(signature, tolerance_s or signature.tolerance_s)
    if isinstance(signature, CustomSignature):
        raise TypeError("a custom signature is built by the folder's webhook.py")
    return UrlFormVerifier(signature, prefix)
