"""Endpoints as the ledger knows them: their state, rhythm and redaction. Secrets in it stay sealed.

Must never be asked before the state topic was read to its end: an endpoint that is missing then reads as removed.
"""

from __future__ import annotations

from collections.abc import Iterator

from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.sync import EndpointConfigured
from webhook_gateway.hidden import Hidden, credentials_of


class EndpointBook:
    """All configured endpoints by id; `apply` is the state reader's callback."""

    def __init__(self) -> None:
        self._endpoints: dict[str, EndpointConfigured] = {}

    def apply(self, key: str, envelope: Envelope | None) -> None:
        """Take one record; an older version than the known one is ignored, a tombstone removes the endpoint."""
        if envelope is None:
            self._endpoints.pop(key, None)
            return
        configured = decode(EndpointConfigured, envelope.data)
        known = self._endpoints.get(key)
        if known is None or configured.version > known.version:
            self._endpoints[key] = configured

    def get(self, endpoint: str) -> EndpointConfigured | None:
        """Return an endpoint's configuration, or None when there is none of this id."""
        return self._endpoints.get(endpoint)

    def __iter__(self) -> Iterator[EndpointConfigured]:
        return iter(list(self._endpoints.values()))

    def hidden(self, endpoint: str, provider: str) -> Hidden:
        """Return what must not be shown of an endpoint's deliveries: its redactions, and its provider's credentials."""
        found = self._endpoints.get(endpoint)
        if found is None:
            return credentials_of(provider, ())
        return credentials_of(provider, tuple(sorted(found.options.items()))).with_pointers(found.redact)
