"""The API half of a provider: operations for sagas, credentials, the health probe.

Must never do I/O: it builds requests and reads answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from contracts.errors import Invalid
from providers.folder import Folder
from providers.manifest import KEY_LIFETIME_OPTION, Api, BearerAuth
from providers.sdk import Account, Applied, Declined, HttpRequest, HttpResponse, Operations


class Outbound(Folder):
    """What a provider's `[api]` and `[[operations]]` offer."""

    @property
    def api(self) -> Api:
        """The `[api]` table; raises `Invalid` (`no_api`) for a provider without one."""
        if self.manifest.api is None:
            raise Invalid("no_api", f"{self.slug} has no API")
        return self.manifest.api

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


class _Authorised:
    """Operations whose requests carry the account's credentials; provider code never touches them."""

    def __init__(self, provider: Outbound, inner: Operations) -> None:
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
