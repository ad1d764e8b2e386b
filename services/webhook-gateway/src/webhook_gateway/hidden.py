"""What of a delivery nobody may be shown: fields that an endpoint redacts, and credentials that come with it.

Some schemes prove the sender by a secret that every delivery carries, in a header or in the body; whoever sees such a
delivery could forge the next one. Where the secret is, the provider's manifest says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from contracts.errors import Invalid
from providers import registry
from providers.manifest import ChoiceSignature
from providers.signing import traits_of

# Headers that hold a secret whatever the scheme.
_SECRET_WORDS: Final = ("token", "secret", "password", "api-key", "apikey", "authorization", "cookie")


@dataclass(frozen=True, slots=True)
class Hidden:
    """JSON pointers into an event's own body (`*` stands for every member), and lower-case names of headers."""

    pointers: tuple[str, ...] = ()
    headers: frozenset[str] = frozenset()

    def with_pointers(self, more: Iterable[str]) -> Hidden:
        """Return this and more pointers."""
        return replace(self, pointers=(*self.pointers, *more))

    def hides(self, header: str) -> bool:
        """Tell whether a header must not be shown."""
        name = header.lower()
        return name in self.headers or any(word in name for word in _SECRET_WORDS)


@lru_cache(1024)
def credentials_of(provider: str, options: tuple[tuple[str, str], ...]) -> Hidden:
    """Return where deliveries of a provider carry a secret by itself, for an endpoint with these options."""
    try:
        found = registry.get(provider)
        webhook = found.webhook
    except Invalid:
        return Hidden()
    signature, chosen = webhook.signature, {**found.default_options, **dict(options)}
    # All schemes of a choice: an endpoint may have had another one when the delivery came.
    tables = signature.schemes.values() if isinstance(signature, ChoiceSignature) else (signature,)
    pointers: list[str] = []
    headers: set[str] = set()
    for table in tables:
        traits = traits_of(table)
        if traits is None or traits.covers != "nothing":
            continue
        for place in traits.places:
            kind, _, name = place.partition(":")
            if kind == "header":
                headers.add(re.sub(r"\{(\w+)\}", lambda match: chosen.get(match[1], ""), name).lower())
            elif kind == "body":
                # A place in the request is also one in each of its events, when it lies within them.
                within = [f"{pointer}/*" for pointer in webhook.pointers]
                pointers += [name, *(name.removeprefix(part) for part in within if name.startswith(f"{part}/"))]
    return Hidden(tuple(pointers), frozenset(headers - {""}))
