"""One webhook request as its provider would send it, signed by the manifest's scheme, or spoilt on purpose.

Used by the sandbox and by `patchbay send`. Must never send anything itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from contracts.errors import Invalid
from providers import mutations
from providers.fixtures import Fixture
from providers.provider import Provider
from providers.sdk import InboundRequest
from providers.signing import Traits
from sandbox.variants import FORM_TYPE

Tamper = Literal["none", "body", "signature", "stale", "future", "old_key"]
TAMPERS: Final[tuple[Tamper, ...]] = ("none", "body", "signature", "stale", "future", "old_key")
# Beyond any window, so that a slow machine cannot turn a stale delivery into a fresh one or back.
BEYOND_WINDOW: Final = timedelta(hours=1)
# What a folder with code of its own promises: a signature over the body.
_CUSTOM: Final = Traits("body", ())


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be sent: a request without a signature, and the sender's halves of the present and the former key.

    `options` are the endpoint's. `message_id` is what schemes with a signed id put into their headers.
    """

    provider: Provider
    request: InboundRequest
    secret: str = field(repr=False)
    message_id: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    previous_secret: str = field(default="", repr=False)


def request_of(fixture: Fixture, url: str) -> InboundRequest:
    """Return a fixture as a request to a registered URL, whose query comes before the vendor's own."""
    request = fixture.request({}, url)
    query = "&".join(part for part in (urlsplit(url).query, fixture.query) if part)
    return replace(request, query_string=query)


def traits_of(provider: Provider, options: Mapping[str, str] | None = None) -> Traits:
    """Return what the provider's signature promises under these options."""
    return provider.traits(options) or _CUSTOM


def fetches_keys(provider: Provider, options: Mapping[str, str] | None = None) -> bool:
    """Tell whether a receiver has to fetch the vendor's key, so that only the sandbox can play this vendor."""
    return traits_of(provider, options).fetches


def window_s(provider: Provider, options: Mapping[str, str] | None = None) -> int | None:
    """Return for how many seconds a signature of this provider is good, or None when it bounds no time."""
    return traits_of(provider, options).stale_after_s


def sign(draft: Draft, now: datetime, tamper: Tamper = "none") -> InboundRequest:
    """Return the signed request, or one that must be refused; what a receiver has to fetch is in its `keys`.

    body: changed after signing. signature: made with another key. stale, future: signed outside of the window. old_key:
    signed with the former secret, as a vendor does that has not heard of a rotation. Raises `Invalid` for what a scheme
    cannot have (`signs_no_time`, `signs_no_body`, `signs_nothing`, `vendor_keys`), for `old_key` without a former
    secret (`no_previous_secret`), and for a secret that cannot sign (`bad_secret`).
    """
    signed = draft.provider.sign(
        draft.request,
        secret=_secret(draft, tamper),
        now=_signing_time(draft, now, tamper),
        message_id=draft.message_id,
        options=draft.options,
    )
    return _with_other_body(draft, signed) if tamper == "body" else signed


def with_headers(draft: Draft, headers: Mapping[str, str]) -> Draft:
    """Return a draft with these headers, instead of those of the same names."""
    added = {name.lower(): [text] for name, text in headers.items()}
    return replace(draft, request=replace(draft.request, headers={**draft.request.headers, **added}))


def http_arguments(request: InboundRequest, target: str = "") -> dict[str, Any]:
    """Return the arguments of an HTTP client's `request`; `target` is where to send it if not to the registered URL."""
    parts = urlsplit(target or request.url)
    pairs = [(name, value) for name, values in request.headers.items() for value in values]
    return {
        "method": request.method,
        "url": urlunsplit(parts._replace(query=request.query_string or parts.query)),
        "content": request.body,
        # HTTP/1.1 carries Latin-1; a client would refuse text beyond ASCII.
        "headers": [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in pairs],
    }


def _secret(draft: Draft, tamper: Tamper) -> str:
    traits = traits_of(draft.provider, draft.options)
    if tamper == "old_key":
        if traits.fetches:
            raise Invalid("vendor_keys", f"the keys of {draft.provider.slug} are its own", field="tamper")
        if not draft.previous_secret:
            raise Invalid("no_previous_secret", "give the secret that was replaced", field="previous_secret")
        return draft.previous_secret
    if tamper != "signature":
        return draft.secret
    if not traits.authenticated:
        raise Invalid("signs_nothing", f"{draft.provider.slug} signs nothing", field="tamper")
    other = draft.provider.verifier(draft.options).generate().signing
    if not traits.fetches:
        return other
    # The vendor's key id and the receiver's identity, but somebody else's key.
    return json.dumps({**json.loads(draft.secret), "key": json.loads(other)["key"]})


def _signing_time(draft: Draft, now: datetime, tamper: Tamper) -> datetime:
    if tamper not in ("stale", "future"):
        return now
    traits = traits_of(draft.provider, draft.options)
    if traits.stale_after_s is None or traits.future_after_s is None:
        raise Invalid("signs_no_time", f"{draft.provider.slug} bounds no time that could be {tamper}", field="tamper")
    if tamper == "stale":
        return now - timedelta(seconds=traits.stale_after_s) - BEYOND_WINDOW
    return now + timedelta(seconds=traits.future_after_s) + BEYOND_WINDOW


def _with_other_body(draft: Draft, signed: InboundRequest) -> InboundRequest:
    traits = traits_of(draft.provider, draft.options)
    if traits.covers == "nothing":
        raise Invalid("signs_no_body", f"{draft.provider.slug} proves the sender, not the body", field="tamper")
    is_form = (signed.header("content-type") or "").startswith(FORM_TYPE)
    if traits.covers == "body":
        # Still a form, or still JSON: only the signature can tell.
        return replace(signed, body=signed.body + (b"&tampered=1" if is_form else b" "))
    if not is_form:
        return mutations.with_field(signed, traits.fields[0])
    name = traits.fields[0].rpartition("/")[2]
    pairs = [pair for pair in parse_qsl(signed.body.decode(), keep_blank_values=True) if pair[0] != name]
    return replace(signed, body=urlencode([*pairs, (name, "tampered")]).encode())
