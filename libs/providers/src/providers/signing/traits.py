"""What a signature table promises, in words that conformance, documents and operators can use.

Must never look at a request: everything follows from the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from providers.manifest.signatures import HmacSignature, JwtSignature, OneSignature, RsaSignature
from providers.signing.base import window_of
from providers.signing.jwt import LEEWAY_S

# The body as received is covered; only some of its fields are; nothing of it is.
Covers = Literal["body", "fields", "nothing"]


@dataclass(frozen=True, slots=True)
class Traits:
    """`places` are where the signature or token stands, as in the manifest (`bearer`, `header:X-Sig`, `body:/a`).

    `fields` are pointers to body fields that are covered when the whole is not. A delivery older than `stale_after_s`
    or further ahead than `future_after_s` is refused; None means that its age is not bounded. `authenticated` is false
    when nothing proves the sender. `fetches` says that a key has to be fetched, `key_place` where a delivery names it.
    `secret_decides` is false when the secret only opens the way to the sender's keys, `reads_body` true when the body
    has to be parsed to verify it.
    """

    covers: Covers
    places: tuple[str, ...]
    fields: tuple[str, ...] = ()
    stale_after_s: int | None = None
    future_after_s: int | None = None
    authenticated: bool = True
    fetches: bool = False
    key_place: str | None = None
    secret_decides: bool = True
    reads_body: bool = False


def traits_of(signature: OneSignature, tolerance_s: int | None = None) -> Traits | None:
    """Return what a signature table promises, with the window replaced if one is given; None for a custom one."""
    describe = _DESCRIBE.get(signature.scheme)
    if describe is None:
        return None
    reads_body = re.search(r"\b(body|form):", signature.model_dump_json()) is not None
    return replace(describe(signature, window_of(signature, tolerance_s)), reads_body=reads_body)


def _of_hmac(signature: HmacSignature, window: int | None) -> Traits:
    headers = (signature.header,) if isinstance(signature.header, str) else signature.header or ()
    places = tuple(f"header:{name.replace('#', '1')}" for name in headers)
    if signature.signature is not None:
        root = f"{signature.items}/*" if signature.items else ""
        places = (signature.signature.replace("body:", f"body:{root}", 1),)
    covers, fields = _covered(signature.template)
    if signature.items is not None:
        fields = tuple(f"{signature.items}/*{field}" for field in fields)
    return Traits(covers, places, fields, window, window)


def _of_rsa(signature: RsaSignature, window: int | None) -> Traits:
    covers, fields = _covered(signature.template)
    if signature.lines is not None:
        names = {name for line in signature.lines.fields.values() for name in line}
        covers, fields = "fields", tuple(f"/{name}" for name in sorted(names) if not name.endswith("?"))
    place = signature.certificate.place
    return Traits(covers, (signature.signature,), fields, window, window, fetches=True, key_place=place)


def _covered(template: str) -> tuple[Covers, tuple[str, ...]]:
    if "{body}" in template or "{crc32}" in template:
        return "body", ()
    fields = tuple(re.findall(r"\{body:([^}|?]+)", template))
    return ("fields", fields) if fields else ("nothing", ())


def _of_jwt(signature: JwtSignature, window: int | None) -> Traits:
    covers: Covers = "body" if signature.body_hash_claim else "nothing"
    stale = window or (signature.lifetime_s or 0) + LEEWAY_S
    fetches = signature.keys != "secret"
    decides = not fetches or signature.names_secret
    place = (signature.token,)
    return Traits(covers, place, (), stale, window or LEEWAY_S, fetches=fetches, secret_decides=decides)


def _of_header(name: str, window: int | None) -> Traits:
    return Traits("body", (f"header:{name}",), stale_after_s=window, future_after_s=window)


_DESCRIBE: Final[dict[str, Callable[[Any, int | None], Traits]]] = {
    "hmac": _of_hmac,
    "digest": _of_hmac,
    "standard_webhooks": lambda table, window: _of_header(f"{table.prefixes[-1]}signature", window),
    "url_form": lambda table, _window: _of_header(table.header, None),
    "ecdsa_p256": lambda table, window: _of_header(table.header, window),
    "ed25519": lambda table, window: _of_header(table.header, window),
    "rsa": _of_rsa,
    "jwt": _of_jwt,
    "static_token": lambda table, _window: Traits("nothing", table.places),
    "mtls": lambda table, _window: Traits("nothing", (f"header:{{{table.header_option}}}",)),
    "none": lambda _table, _window: Traits("nothing", (), authenticated=False),
}
