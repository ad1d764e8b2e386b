"""The model of a provider's `manifest.toml`: what data can say about a provider, checked when it is loaded.

Must never hold a secret, a default that a vendor does not document, or the name of a provider.
"""

from __future__ import annotations

from providers.manifest.api import Api, Changes
from providers.manifest.auth import AuthMethod, OAuth2Auth
from providers.manifest.base import Choice, Place, Source
from providers.manifest.model import (
    KEY_LIFETIME_OPTION,
    TOLERANCE_OPTION,
    Manifest,
    OptionSpec,
    SecretSpec,
    load,
    signature_options,
)
from providers.manifest.operations import OperationSpec
from providers.manifest.signatures import (
    ChoiceSignature,
    CustomSignature,
    HmacSignature,
    JwtSignature,
    MtlsSignature,
    NoSignature,
    OneSignature,
    PublicKeySignature,
    RsaSignature,
    Signature,
    SignatureElements,
    StandardWebhooksSignature,
    StaticTokenSignature,
    UrlFormSignature,
)
from providers.manifest.webhook import EntityRule, EventAnswer, Failure, Handshake, LaneRule, Retries, Webhook

__all__ = [
    "KEY_LIFETIME_OPTION",
    "TOLERANCE_OPTION",
    "Api",
    "AuthMethod",
    "Changes",
    "Choice",
    "ChoiceSignature",
    "CustomSignature",
    "EntityRule",
    "EventAnswer",
    "Failure",
    "Handshake",
    "HmacSignature",
    "JwtSignature",
    "LaneRule",
    "Manifest",
    "MtlsSignature",
    "NoSignature",
    "OAuth2Auth",
    "OneSignature",
    "OperationSpec",
    "OptionSpec",
    "Place",
    "PublicKeySignature",
    "Retries",
    "RsaSignature",
    "SecretSpec",
    "Signature",
    "SignatureElements",
    "Source",
    "StandardWebhooksSignature",
    "StaticTokenSignature",
    "UrlFormSignature",
    "Webhook",
    "load",
    "signature_options",
]
