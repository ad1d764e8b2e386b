"""The vendors' own libraries as oracles: what we sign they accept, what they sign we accept, a changed byte nobody.

A provider is here when its vendor's package verifies or signs webhooks. The fixtures' bodies are the material.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import parse_qs, parse_qsl, urlencode

import cloudinary
import pytest
import slack_sdk.signature
import standardwebhooks
import stripe
from Adyen.util import generate_notification_sig, is_valid_hmac_notification
from cloudinary.utils import compute_hex_hash, verify_notification_signature
from discord_interactions import verify_key
from nacl.signing import SigningKey
from sendgrid.helpers.eventwebhook import EventWebhook
from square.utils.webhooks_helper import verify_signature as square_verifies
from twilio.request_validator import RequestValidator, get_signature_algorithm

from providers import registry
from providers.conformance import fixtures_for, variants
from providers.fixtures import Fixture
from providers.provider import Provider
from providers.sdk import InboundRequest, KeyPair, Refused, Secret

# The libraries look at the clock themselves.
NOW = datetime.now(UTC).replace(microsecond=0)
STAMP = int(NOW.timestamp())
_FORM = "application/x-www-form-urlencoded"

Accepts = Callable[[InboundRequest, str], bool]
Signs = Callable[[InboundRequest, str], InboundRequest]
Changes = Callable[[bytes], bytes]


def flipped(body: bytes) -> bytes:
    """Return a body with one byte changed that leaves a JSON or form body readable."""
    at = next(place for place in range(len(body) // 2, len(body)) if chr(body[place]).isalnum())
    return body[:at] + (b"7" if body[at : at + 1] != b"7" else b"8") + body[at + 1 :]


@dataclass(frozen=True)
class Oracle:
    """One vendor's library. `signs` is None when it only verifies; `pair` is for keys that it must be able to read."""

    accepts: Accepts
    signs: Signs | None = None
    changes: Changes = flipped
    pair: Callable[[], KeyPair] | None = None


def header(request: InboundRequest, name: str) -> str:
    value = request.header(name)
    assert value is not None, name
    return value


def with_headers(request: InboundRequest, headers: Mapping[str, str]) -> InboundRequest:
    return replace(request, headers={**request.headers, **{name.lower(): [text] for name, text in headers.items()}})


# --- Stripe -----------------------------------------------------------------------------------------------------------


def stripe_accepts(request: InboundRequest, secret: str) -> bool:
    try:
        stripe.Webhook.construct_event(request.body, header(request, "stripe-signature"), secret)
    except stripe.SignatureVerificationError:
        return False
    return True


def stripe_signs(request: InboundRequest, secret: str) -> InboundRequest:
    text = stripe.WebhookSignature.generate_signature_header(request.body.decode(), secret, STAMP)
    return with_headers(request, {"Stripe-Signature": text})


# --- Standard Webhooks ------------------------------------------------------------------------------------------------


def standard_accepts(request: InboundRequest, secret: str) -> bool:
    headers = {name: values[0] for name, values in request.headers.items()}
    try:
        standardwebhooks.Webhook(secret).verify(request.body, headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def standard_signs(request: InboundRequest, secret: str) -> InboundRequest:
    signature = standardwebhooks.Webhook(secret).sign("msg_1", NOW, request.body.decode())
    stamped = {"webhook-id": "msg_1", "webhook-timestamp": str(STAMP), "webhook-signature": signature}
    return with_headers(request, stamped)


# --- Twilio -----------------------------------------------------------------------------------------------------------


class Fields:
    """Form fields as the library reads those of a web framework."""

    def __init__(self, body: bytes) -> None:
        self._fields = parse_qs(body.decode(), keep_blank_values=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def getall(self, name: str) -> list[str]:
        return self._fields[name]


def _parameters(request: InboundRequest) -> object:
    if header(request, "content-type").startswith(_FORM):
        return Fields(request.body)
    return request.body.decode()


def twilio_accepts(request: InboundRequest, secret: str) -> bool:
    algorithm = get_signature_algorithm(request.header("x-twilio-webhooks-signature-settings"))
    signature = header(request, "x-twilio-signature")
    return bool(RequestValidator(secret).validate(request.url, _parameters(request), signature, algorithm))


def twilio_signs(request: InboundRequest, secret: str) -> InboundRequest:
    """Sign with the algorithm that the newer settings header names; the older one is what our side signs with."""
    validator, parameters = RequestValidator(secret), _parameters(request)
    signature = validator.compute_signature(
        request.url, {} if isinstance(parameters, str) else parameters, algorithm="HMAC_SHA256"
    )
    settings = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
    return with_headers(request, {"X-Twilio-Signature": signature, "X-Twilio-Webhooks-Signature-Settings": settings})


def twilio_changes(body: bytes) -> bytes:
    if body.startswith(b"{"):
        return flipped(body)
    (name, value), *others = parse_qsl(body.decode(), keep_blank_values=True)
    return urlencode([(name, value + "x"), *others]).encode()


# --- Slack ------------------------------------------------------------------------------------------------------------


def slack_accepts(request: InboundRequest, secret: str) -> bool:
    stamp, signature = header(request, "x-slack-request-timestamp"), header(request, "x-slack-signature")
    return slack_sdk.signature.SignatureVerifier(secret).is_valid(request.body, stamp, signature)


def slack_signs(request: InboundRequest, secret: str) -> InboundRequest:
    verifier = slack_sdk.signature.SignatureVerifier(secret)
    signature = verifier.generate_signature(timestamp=str(STAMP), body=request.body)
    assert signature is not None
    return with_headers(request, {"X-Slack-Signature": signature, "X-Slack-Request-Timestamp": str(STAMP)})


# --- Discord ----------------------------------------------------------------------------------------------------------


def discord_accepts(request: InboundRequest, secret: str) -> bool:
    stamp, signature = header(request, "x-signature-timestamp"), header(request, "x-signature-ed25519")
    return bool(verify_key(request.body, signature, stamp, secret))


def discord_signs(request: InboundRequest, secret: str) -> InboundRequest:
    """Sign with the Ed25519 implementation that the vendor's library verifies with."""
    signed = SigningKey(bytes.fromhex(secret)).sign(str(STAMP).encode() + request.body)
    return with_headers(request, {"X-Signature-Ed25519": signed.signature.hex(), "X-Signature-Timestamp": str(STAMP)})


def discord_pair() -> KeyPair:
    key = SigningKey(os.urandom(32))
    return KeyPair(key.encode().hex(), key.verify_key.encode().hex())


# --- Square, SendGrid -------------------------------------------------------------------------------------------------


def square_accepts(request: InboundRequest, secret: str) -> bool:
    return square_verifies(
        request_body=request.body.decode(),
        signature_header=header(request, "x-square-hmacsha256-signature"),
        signature_key=secret,
        notification_url=request.url,
    )


def sendgrid_accepts(request: InboundRequest, secret: str) -> bool:
    signature = header(request, "x-twilio-email-event-webhook-signature")
    stamp = header(request, "x-twilio-email-event-webhook-timestamp")
    return bool(EventWebhook(secret).verify_signature(request.body.decode(), signature, stamp))


# --- Adyen ------------------------------------------------------------------------------------------------------------


def adyen_accepts(request: InboundRequest, secret: str) -> bool:
    items = json.loads(request.body)["notificationItems"]
    return all(is_valid_hmac_notification({"notificationItems": [item]}, secret) for item in items)


def adyen_signs(request: InboundRequest, secret: str) -> InboundRequest:
    document = json.loads(request.body)
    for item in document["notificationItems"]:
        event = item["NotificationRequestItem"]
        signature = generate_notification_sig(event, secret).decode()
        event["additionalData"] = event.get("additionalData", {}) | {"hmacSignature": signature}
    return replace(request, body=json.dumps(document).encode())


def adyen_changes(body: bytes) -> bytes:
    """Change one of the fields that are signed; all others are nobody's promise."""
    document = json.loads(body)
    event = document["notificationItems"][0]["NotificationRequestItem"]
    event["merchantReference"] = event.get("merchantReference", "") + "x"
    return json.dumps(document).encode()


# --- Cloudinary -------------------------------------------------------------------------------------------------------


def cloudinary_accepts(algorithm: str) -> Accepts:
    def accepts(request: InboundRequest, secret: str) -> bool:
        stamp, signature = header(request, "x-cld-timestamp"), header(request, "x-cld-signature")
        cloudinary.config(api_secret=secret)
        try:
            return bool(verify_notification_signature(request.body.decode(), stamp, signature, algorithm=algorithm))
        finally:
            cloudinary.reset_config()

    return accepts


def cloudinary_signs(algorithm: str) -> Signs:
    def signs(request: InboundRequest, secret: str) -> InboundRequest:
        signature = compute_hex_hash(f"{request.body.decode()}{STAMP}{secret}", algorithm)
        return with_headers(request, {"X-Cld-Signature": signature, "X-Cld-Timestamp": str(STAMP)})

    return signs


# --- the tests --------------------------------------------------------------------------------------------------------

# SendGrid's and Square's libraries verify and do not sign.
ORACLES: dict[str, Oracle] = {
    "stripe": Oracle(stripe_accepts, stripe_signs),
    "standard_webhooks": Oracle(standard_accepts, standard_signs),
    "twilio": Oracle(twilio_accepts, twilio_signs, twilio_changes),
    "slack": Oracle(slack_accepts, slack_signs),
    "discord": Oracle(discord_accepts, discord_signs, pair=discord_pair),
    "square": Oracle(square_accepts),
    "sendgrid": Oracle(sendgrid_accepts),
    "adyen": Oracle(adyen_accepts, adyen_signs, adyen_changes),
    "cloudinary sha1": Oracle(cloudinary_accepts("sha1"), cloudinary_signs("sha1")),
    "cloudinary sha256": Oracle(cloudinary_accepts("sha256"), cloudinary_signs("sha256")),
}


@dataclass(frozen=True)
class Setting:
    """One delivery of one provider, unsigned, and the library that judges it."""

    oracle: Oracle
    provider: Provider
    options: dict[str, str]
    fixture: Fixture

    def ours(self, request: InboundRequest, keys: KeyPair, now: datetime = NOW) -> bool:
        """Tell whether our verifier accepts."""
        try:
            self.provider.verifier(self.options).verify(request, [Secret("k1", keys.verifying)], now)
        except Refused:
            return False
        return True

    def keys(self) -> KeyPair:
        return self.provider.verifier(self.options).generate()

    def signed(self, keys: KeyPair, body: bytes | None = None) -> InboundRequest:
        """Return the delivery as we sign it, in the sender's place."""
        draft = self.fixture.request({})
        if body is not None:
            draft = replace(draft, body=body)
        return self.provider.sign(
            draft, secret=keys.signing, now=NOW, message_id=self.fixture.message_id or "msg_1", options=self.options
        )


def settings() -> Iterator[object]:
    for name, oracle in ORACLES.items():
        slug, _, word = name.partition(" ")
        if slug not in registry.all_slugs():
            # Deleting a folder deletes a provider, its oracle included.
            continue
        provider = registry.get(slug)
        for options in variants(provider):
            if word and word not in options.values():
                continue
            for fixture in fixtures_for(provider, options):
                yield pytest.param(Setting(oracle, provider, options, fixture), id=f"{name}-{fixture.name}")


every_delivery = pytest.mark.parametrize("setting", [*settings()])


@every_delivery
def test_what_we_sign_the_vendors_library_accepts_and_refuses_once_a_byte_is_changed(setting: Setting) -> None:
    keys = setting.keys()
    request = setting.signed(keys)
    assert setting.oracle.accepts(request, keys.verifying)
    assert setting.ours(request, keys)
    changed = replace(request, body=setting.oracle.changes(request.body))
    assert changed.body != request.body
    assert not setting.oracle.accepts(changed, keys.verifying)
    assert not setting.ours(changed, keys)


@every_delivery
def test_what_the_vendors_library_signs_we_accept_and_refuse_once_a_byte_is_changed(setting: Setting) -> None:
    oracle = setting.oracle
    if oracle.signs is None:
        # What it accepts was signed by us; that another key's is refused by both is all that is left to compare.
        keys, other = setting.keys(), setting.keys()
        request = setting.signed(keys)
        assert not oracle.accepts(request, other.verifying)
        assert not setting.ours(request, other)
        return
    keys = oracle.pair() if oracle.pair else setting.keys()
    # Whatever the sender adds to the request beside its signature is there already.
    request = oracle.signs(setting.signed(setting.keys()), keys.signing)
    assert setting.ours(request, keys)
    assert oracle.accepts(request, keys.verifying)
    changed = replace(request, body=oracle.changes(request.body))
    assert not setting.ours(changed, keys)
    assert not oracle.accepts(changed, keys.verifying)
