"""One provider as the services see it: its manifest, and the pure code of its folder loaded on first use.

Must never do I/O beyond reading the provider's own folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from contracts.errors import Invalid
from providers.fixtures import Fixture, webhook_fixtures
from providers.manifest import (
    KEY_LIFETIME_OPTION,
    TOLERANCE_OPTION,
    Api,
    BearerAuth,
    CustomSignature,
    Manifest,
    Webhook,
)
from providers.reading import parse_json
from providers.sdk import (
    Account,
    Applied,
    Declined,
    HttpRequest,
    HttpResponse,
    InboundRequest,
    Operations,
    PaymentSnapshot,
    Verifier,
    WebhookItem,
)
from providers.signing import build_verifier
from providers.splitting import Splitter


class Provider:
    """A provider's manifest and behaviour. Instances are shared; everything but the caches is immutable."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._verifiers: dict[int, Verifier] = {}
        self._splitters: dict[frozenset[tuple[str, str]], Splitter] = {}

    def __repr__(self) -> str:
        return f"Provider({self.slug!r})"

    @property
    def slug(self) -> str:
        """The provider's name in keys, topics and URLs."""
        return self.manifest.slug

    @property
    def webhook(self) -> Webhook:
        """The `[webhook]` table; raises `Invalid` (`no_webhook`) for a provider that sends none."""
        if self.manifest.webhook is None:
            raise Invalid("no_webhook", f"{self.slug} sends no webhooks")
        return self.manifest.webhook

    @property
    def api(self) -> Api:
        """The `[api]` table; raises `Invalid` (`no_api`) for a provider without one."""
        if self.manifest.api is None:
            raise Invalid("no_api", f"{self.slug} has no API")
        return self.manifest.api

    def verifier(self, options: Mapping[str, str] | None = None) -> Verifier:
        """Return the verifier of the provider's signing scheme, the same object for the same replay window.

        The option `tolerance_s`, where the manifest declares it, replaces the window of the signature table.
        """
        window = int(self._options(options).get(TOLERANCE_OPTION) or 0)
        if window not in self._verifiers:
            signature = self.webhook.signature
            if isinstance(signature, CustomSignature):
                self._verifiers[window] = self._module("webhook").verifier(self._options(options))
            else:
                prefix = self.manifest.secrets[self.webhook.secret].prefix
                self._verifiers[window] = build_verifier(signature, prefix, window or None)
        return self._verifiers[window]

    def split(self, request: InboundRequest, options: Mapping[str, str] | None = None) -> list[WebhookItem]:
        """Return the events of a verified delivery; raises `Invalid` (`undecodable_body`) that names the place."""
        key = frozenset(options.items()) if options else frozenset()
        splitter = self._splitters.get(key)
        if splitter is None:
            splitter = self._splitters[key] = Splitter(self.webhook, self._options(options))
        return splitter.split(request)

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

    def operations(self, name: str) -> Operations:
        """Return the code of an operation, with credentials and version header added to its requests.

        Raises `Invalid` (`unknown_operation`) for one that the manifest does not declare.
        """
        if self.manifest.operation(name) is None:
            raise Invalid("unknown_operation", f"{self.slug} does not offer {name}", field="operation")
        return _Authorised(self, self.operation_table()[name])

    def operation_table(self) -> Mapping[str, Operations]:
        """Return the bare `OPERATIONS` of the folder's `requests.py`; empty without that file."""
        if not self._has("requests"):
            return {}
        table: Mapping[str, Operations] = self._module("requests").OPERATIONS
        return table

    def key_lifetime_h(self, name: str, options: Mapping[str, str] | None = None) -> float | None:
        """Return for how many hours a repeated idempotency key is recognised, or None when nobody says.

        The connection's option wins over the manifest's published figure.
        """
        operation = self.manifest.operation(name)
        chosen = self._options(options).get(KEY_LIFETIME_OPTION)
        if operation is None or operation.idempotency.kind == "none":
            return None
        return float(chosen) if chosen else operation.idempotency.lifetime_h

    def probe(self, account: Account) -> HttpRequest | None:
        """Return the cheap read that shows whether the provider works for this account, or None."""
        if self.manifest.health is None:
            return None
        probe = self.manifest.health.probe
        path = probe.path.replace("{account_ref}", account.account_ref)
        return self.authorise(HttpRequest(method=probe.method, path=path), account)

    def authorise(self, request: HttpRequest, account: Account) -> HttpRequest:
        """Return the request with the account's credentials and the API version header.

        Raises `Invalid` (`missing_secret`) when the connection lacks the secret.
        """
        auth = self.api.auth
        secret = account.secrets.get(auth.secret)
        if not secret:
            raise Invalid("missing_secret", f"{self.slug} needs {auth.secret}", field=f"secrets.{auth.secret}")
        headers = dict(request.headers)
        if self.api.version is not None:
            headers[self.api.version.header] = self.api.version.value
        if isinstance(auth, BearerAuth):
            return replace(request, headers=headers | {"Authorization": f"Bearer {secret}"})
        return replace(request, headers=headers, basic_auth=(account.account_ref, secret))

    def check_secrets(self, secrets: Mapping[str, str]) -> None:
        """Raise `Invalid` (`unknown_secret`, `missing_secret`, `bad_secret`) unless a connection can be made of these.

        No message quotes a value.
        """
        for name in secrets:
            if name not in self.manifest.secrets:
                raise Invalid("unknown_secret", f"{self.slug} has no secret {name}", field=f"secrets.{name}")
        for name, spec in self.manifest.secrets.items():
            value = secrets.get(name)
            if value is None:
                if spec.required:
                    raise Invalid("missing_secret", f"{self.slug} needs {name}", field=f"secrets.{name}")
            elif not value or not value.startswith(spec.prefix):
                detail = f"{name} begins with {spec.prefix}" if value else f"{name} is empty"
                raise Invalid("bad_secret", detail, field=f"secrets.{name}")
            elif self.manifest.webhook is not None and name == self.webhook.secret:
                self._check_webhook_secret(name, value)

    def _check_webhook_secret(self, name: str, value: str) -> None:
        try:
            self.verifier().check_secret(value)
        except Invalid as error:
            raise Invalid(error.code, error.detail, field=f"secrets.{name}") from None

    def fixtures(self) -> list[Fixture]:
        """Return the real payload shapes of the folder, sorted by name."""
        return webhook_fixtures(self.folder)

    @cached_property
    def default_options(self) -> Mapping[str, str]:
        """The defaults of all options."""
        return self.manifest.resolve_options({})

    def _options(self, given: Mapping[str, str] | None) -> Mapping[str, str]:
        return {**self.default_options, **given} if given else self.default_options

    def _has(self, module: str) -> bool:
        return (self.folder / f"{module}.py").is_file()

    def _module(self, module: str) -> Any:
        return import_module(f"providers.{self.slug}.{module}")


class _Authorised:
    """Operations whose requests carry the account's credentials; provider code never touches them."""

    def __init__(self, provider: Provider, inner: Operations) -> None:
        self._provider = provider
        self._inner = inner

    def build(self, operation: Any, account: Account) -> HttpRequest:
        return self._provider.authorise(self._inner.build(operation, account), account)

    def parse(self, response: HttpResponse) -> Applied | Declined:
        return self._inner.parse(response)

    def read_back(self, operation: Any, account: Account) -> HttpRequest | None:
        request = self._inner.read_back(operation, account)
        return None if request is None else self._provider.authorise(request, account)

    def parse_read_back(self, operation: Any, response: HttpResponse) -> Applied | None:
        return self._inner.parse_read_back(operation, response)
