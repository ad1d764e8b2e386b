"""The webhook half of a provider: verifying, splitting, shaking hands, and signing as the provider would.

Must never decide what an event means, nor trust a request before its verifier did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic_core import to_json

from contracts.errors import Invalid
from providers.fixtures import Fixture, HandshakeFixture, handshake_fixtures, webhook_fixtures
from providers.folder import Folder
from providers.handshakes import Handshakes
from providers.manifest import (
    TOLERANCE_OPTION,
    ChoiceSignature,
    CustomSignature,
    Manifest,
    OneSignature,
    Webhook,
    signature_options,
)
from providers.reading import at, parse_json
from providers.sdk import HandshakeReply, InboundRequest, PaymentSnapshot, Secret, Verifier, WebhookItem
from providers.signing import Reads, Traits, build_verifier, traits_of
from providers.splitting import Splitter


class Inbound(Folder):
    """What a provider's `[webhook]` says. Instances are shared; everything but the caches is immutable."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        self._verifiers: dict[tuple[str, ...], Verifier] = {}
        self._splitters: dict[frozenset[tuple[str, str]], Splitter] = {}
        self._handshakes: dict[frozenset[tuple[str, str]], Handshakes] = {}

    @property
    def webhook(self) -> Webhook:
        """The `[webhook]` table; raises `Invalid` (`no_webhook`) for a provider that sends none."""
        if self.manifest.webhook is None:
            raise Invalid("no_webhook", f"{self.slug} sends no webhooks")
        return self.manifest.webhook

    def signature(self, options: Mapping[str, str] | None = None) -> OneSignature:
        """Return the signature table that holds for these options.

        Raises `Invalid` (`bad_option`) when the option of a choice names none.
        """
        signature = self.webhook.signature
        if not isinstance(signature, ChoiceSignature):
            return signature
        name = self._options(options)[signature.option]
        if name not in signature.schemes:
            raise Invalid("bad_option", f"{name[:64]} names no scheme", field=f"options.{signature.option}")
        return signature.schemes[name]

    def traits(self, options: Mapping[str, str] | None = None) -> Traits | None:
        """Return what the signature promises; None when the folder's own code decides."""
        return traits_of(self.signature(options), self._window(options))

    def verifier(self, options: Mapping[str, str] | None = None) -> Verifier:
        """Return the verifier of the provider's signing scheme, the same object for the same options of the scheme.

        The option `tolerance_s`, where the manifest declares it, replaces the window of the signature table.
        """
        given = self._options(options)
        key = tuple([given[name] for name in self._signature_options])
        if key not in self._verifiers:
            signature = self.signature(options)
            if isinstance(signature, CustomSignature):
                self._verifiers[key] = self._module("webhook").verifier(given)
            else:
                spec = self.manifest.secrets.get(self.webhook.secret)
                reads = Reads(given, self.webhook.formats, self.webhook.form_json, self.folder)
                self._verifiers[key] = build_verifier(
                    signature, spec.prefix if spec else "", self._window(options), reads
                )
        return self._verifiers[key]

    def sign(
        self,
        request: InboundRequest,
        *,
        secret: str,
        now: datetime,
        message_id: str = "",
        options: Mapping[str, str] | None = None,
    ) -> InboundRequest:
        """Return a request as the provider would send it: signed in its headers, body or query, with the keys to fetch.

        `secret` is the sender's half (`KeyPair.signing`).
        """
        return self.verifier(options).sign_request(request, secret=secret, now=now, message_id=message_id)

    def split(self, request: InboundRequest, options: Mapping[str, str] | None = None) -> list[WebhookItem]:
        """Return the events of a verified delivery; raises `Invalid` (`undecodable_body`) that names the place."""
        return self.splitter(options).split(request)

    def splitter(self, options: Mapping[str, str] | None = None) -> Splitter:
        """Return what splits deliveries, the same object for the same options."""
        key = frozenset(options.items()) if options else frozenset()
        splitter = self._splitters.get(key)
        if splitter is None:
            splitter = self._splitters[key] = Splitter(self.webhook, self._options(options))
        return splitter

    def identity(self, item: WebhookItem) -> bytes:
        """Return the bytes by which a repeat of an event is told from another event with its id."""
        if not self.webhook.volatile:
            return item.data
        try:
            document = parse_json(item.data)
        except Invalid:
            return item.data
        for pointer in self.webhook.volatile:
            parent, _, last = pointer.rpartition("/")
            holder = at(document, parent)
            if isinstance(holder, dict):
                holder.pop(last, None)
        return to_json(document)

    def handshake(
        self, request: InboundRequest, secrets: Sequence[Secret], options: Mapping[str, str] | None, now: datetime
    ) -> HandshakeReply | None:
        """Return the answer to a handshake, None for a delivery, which costs next to nothing to tell.

        Raises `Refused` for a handshake that must be refused, and `KeyNeeded` as `Verifier.verify` does.
        """
        if not self.webhook.handshakes:
            return None
        key = frozenset(options.items()) if options else frozenset()
        handshakes = self._handshakes.get(key)
        if handshakes is None:
            handshakes = self._handshakes[key] = Handshakes(self.webhook, self._options(options))
        return handshakes.answer(request, secrets, now, self.verifier(options))

    def request_url(self, registered: str, query: str) -> str:
        """Return the URL that was signed: the registered one, with the received query if the provider extends it.

        Only parameters that the manifest lists may come on top of the registered ones; otherwise the received query is
        ignored, so a signature over it fails closed.
        """
        allowed = self.webhook.query
        parts = urlsplit(registered)
        if not allowed or query == parts.query:
            return registered
        known = parse_qsl(parts.query, keep_blank_values=True)
        received = parse_qsl(query, keep_blank_values=True)
        extra = [name for name, text in received if (name, text) not in known]
        if not set(known) <= set(received) or not set(extra) <= set(allowed):
            return registered
        return urlunsplit(parts._replace(query=query))

    def normalise(self, event_type: str, data: bytes) -> list[PaymentSnapshot]:
        """Return what an event says about payments; empty when it says nothing or the folder has no `normalise.py`.

        Raises `Invalid` (`undecodable_body`, `unreadable_payload`) that names the place.
        """
        if not self._has("normalise"):
            return []
        snapshots: list[PaymentSnapshot] = self._module("normalise").normalise(event_type, parse_json(data))
        return snapshots

    def fixtures(self) -> list[Fixture]:
        """Return the real payload shapes of the folder, sorted by name."""
        return webhook_fixtures(self.folder, self.webhook.methods[0])

    def handshake_fixtures(self) -> list[HandshakeFixture]:
        """Return the documented handshakes of the folder, sorted by name."""
        return handshake_fixtures(self.folder)

    @cached_property
    def _signature_options(self) -> tuple[str, ...]:
        names = signature_options(self.webhook) | {TOLERANCE_OPTION}
        if isinstance(self.webhook.signature, CustomSignature):
            names |= set(self.manifest.options)
        return tuple(sorted(names & set(self.manifest.options)))

    def _window(self, options: Mapping[str, str] | None) -> int | None:
        return int(self._options(options).get(TOLERANCE_OPTION) or 0) or None
