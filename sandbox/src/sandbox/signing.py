"""One webhook request as its provider would send it, signed by the manifest's scheme, or spoilt on purpose.

Used by the sandbox and by `patchbay send`. Must never send anything itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from contracts.errors import Invalid
from providers.manifest import UrlFormSignature
from providers.provider import Provider
from providers.signing import with_body_hash
from sandbox.variants import FORM_TYPE

Tamper = Literal["none", "body", "signature", "stale", "future"]
TAMPERS: Final[tuple[Tamper, ...]] = ("none", "body", "signature", "stale", "future")
# Beyond any window, so that a slow machine cannot turn a stale delivery into a fresh one or back.
BEYOND_WINDOW: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be sent. `secret` is the sender's half of the key; `unsigned` are the headers that come along."""

    provider: Provider
    url: str
    secret: str = field(repr=False)
    body: bytes
    content_type: str = "application/json"
    message_id: str = ""
    unsigned: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signed:
    """A request, ready to be sent with POST."""

    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def window_s(provider: Provider) -> int | None:
    """Return for how many seconds a signature of this provider is good, or None when it signs no time."""
    return getattr(provider.webhook.signature, "tolerance_s", None)


def sign(draft: Draft, now: datetime, tamper: Tamper = "none") -> Signed:
    """Return the signed request, or one that must be refused.

    body: changed after signing. signature: made with another key. stale, future: signed outside of the window. Raises
    `Invalid` (`signs_no_time`) for the last two when the scheme has no timestamp, `Invalid` (`bad_secret`) for a secret
    that cannot sign.
    """
    verifier = draft.provider.verifier()
    secret = verifier.generate().signing if tamper == "signature" else draft.secret
    url = draft.url
    signature = draft.provider.webhook.signature
    if isinstance(signature, UrlFormSignature) and draft.content_type != FORM_TYPE:
        url = with_body_hash(url, draft.body, signature.body_hash_param)
    headers = verifier.sign(
        draft.body,
        url=url,
        secret=secret,
        now=_signing_time(draft.provider, now, tamper),
        content_type=draft.content_type,
        message_id=draft.message_id,
    )
    body = draft.body
    if tamper == "body":
        # Still a form, or still JSON: only the signature can tell.
        body += b"&tampered=1" if draft.content_type == FORM_TYPE else b" "
    return Signed(url, {**draft.unsigned, **headers}, body)


def _signing_time(provider: Provider, now: datetime, tamper: Tamper) -> datetime:
    if tamper not in ("stale", "future"):
        return now
    window = window_s(provider)
    if window is None:
        raise Invalid("signs_no_time", f"{provider.slug} signs no time that could be {tamper}", field="tamper")
    beyond = timedelta(seconds=window) + BEYOND_WINDOW
    return now - beyond if tamper == "stale" else now + beyond
