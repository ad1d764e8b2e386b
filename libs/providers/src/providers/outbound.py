"""The API half of a provider: operations for sagas, credentials, the health probe.

Must never do I/O: it builds requests and reads answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property

from contracts.errors import Invalid
from providers import authorise
from providers.declared import Declared
from providers.folder import Folder
from providers.manifest import KEY_LIFETIME_OPTION, Api
from providers.sdk import Account, ClientCertificate, HttpRequest, Operations
from providers.templates import Scope, names_whole_host, render


class Outbound(Folder):
    """What a provider's `[api]` and `[[operations]]` offer."""

    @property
    def api(self) -> Api:
        """The `[api]` table; raises `Invalid` (`no_api`) for a provider without one."""
        if self.manifest.api is None:
            raise Invalid("no_api", f"{self.slug} has no API")
        return self.manifest.api

    def operations(self, name: str) -> Operations:
        """Return how an operation is carried out; its requests need `authorise` before they can be sent.

        Raises `Invalid` (`unknown_operation`) for one that the manifest does not declare.
        """
        known = self._known_operations.get(name)
        if known is not None:
            return known
        spec = self.manifest.operation(name)
        if spec is None:
            raise Invalid("unknown_operation", f"{self.slug} does not offer {name}", field="operation")
        known = self.operation_table()[name] if spec.code else Declared(spec, self.api.errors)
        self._known_operations[name] = known
        return known

    @cached_property
    def _known_operations(self) -> dict[str, Operations]:
        return {}

    def operation_table(self) -> Mapping[str, Operations]:
        """Return the `OPERATIONS` that the folder's `requests.py` writes by hand; empty without that file."""
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
        scope = Scope({"account_ref": account.account_ref, "option": account.options})
        query = {name: str(render(text, scope)) for name, text in probe.query.items()}
        return HttpRequest(method=probe.method, path=str(render(probe.path, scope, path=True)), query=query)

    def base_url(self, account: Account, request: HttpRequest) -> str:
        """Return the address that a request is sent below, its options filled in.

        Raises `Invalid` (`missing_argument`; `no_sandbox` for a sandbox account of a provider without one).
        """
        base = request.base_url or self.api.base_url
        if account.mode == "sandbox":
            if not self.api.sandbox_base_url:
                raise Invalid("no_sandbox", f"{self.slug} has no sandbox", field="mode")
            base = self.api.sandbox_base_url
        if "{" not in base:
            return base
        return str(render(base, Scope({"account_ref": account.account_ref, "option": account.options})))

    def host_is_chosen(self, account: Account, request: HttpRequest) -> bool:
        """Tell whether a tenant's option names the whole host, which then may stand anywhere."""
        base = request.base_url or (self.api.sandbox_base_url if account.mode == "sandbox" else self.api.base_url)
        return names_whole_host(base)

    def client_certificate(self, account: Account) -> ClientCertificate | None:
        """Return what this account presents in TLS handshakes; raises `Invalid` (`missing_secret`)."""
        return authorise.client_certificate(self.api.method(account.method), account)

    def authorise(self, request: HttpRequest, account: Account, now: datetime) -> HttpRequest:
        """Return the request with the account's credentials and the API version header.

        Raises `Invalid` (`missing_secret`) when the connection lacks the secret.
        """
        if self.api.version is not None:
            version = self.api.version
            request = replace(request, headers={**request.headers, version.header: version.value})
        method, base = self.api.method(account.method), self.base_url(account, request)
        return authorise.apply(method, request, account, now, base_url=base)
