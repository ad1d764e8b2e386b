"""Which way to authenticate a new connection takes, and whether it has what that needs. Pure.

Must never quote a secret.
"""

from __future__ import annotations

from collections.abc import Mapping

from contracts.errors import Invalid
from providers.manifest import AuthMethod, OAuth2Auth
from providers.provider import Provider


def choose(provider: Provider, named: str, secrets: Mapping[str, str]) -> str:
    """Return the name of the way that these secrets are for; empty for a connection that only receives.

    Without a name it is the manifest's first one, unless a provider with webhooks got no secret of its API. Raises
    `Invalid` that names the field (`unknown_method`, `unknown_secret`, `missing_secret`, `unneeded_secret`,
    `bad_secret`).
    """
    provider.check_secrets(secrets)
    api = provider.manifest.api
    if api is None:
        if named:
            raise Invalid("unknown_method", f"{provider.slug} has no API to authenticate at", field="method")
        return ""
    needed = api.method(named).secret_names()
    for_api = {name for name in secrets if "webhook" not in provider.manifest.secrets[name].use}
    absent = next((name for name in needed if name not in secrets), None)
    if absent is not None:
        if not named and not for_api and provider.manifest.webhook is not None:
            return ""
        raise Invalid("missing_secret", f"{provider.slug} needs {absent}", field=f"secrets.{absent}")
    _check_needed(named or next(iter(api.auth)), needed, for_api)
    return named or next(iter(api.auth))


def check_change(provider: Provider, method: str, secrets: Mapping[str, str]) -> None:
    """Raise `Invalid` that names the field unless these may replace secrets of a connection with this method."""
    if not secrets:
        raise Invalid("missing_secret", "name at least one secret", field="secrets")
    webhook = provider.manifest.webhook
    needed = method_of(provider, method).secret_names() if provider.manifest.api is not None and method else ()
    for name, value in secrets.items():
        spec = provider.manifest.secrets.get(name)
        if spec is None:
            raise Invalid("unknown_secret", f"{provider.slug} has no secret {name}", field=f"secrets.{name}")
        if not value or not value.startswith(spec.prefix):
            detail = f"{name} begins with {spec.prefix}" if value else f"{name} is empty"
            raise Invalid("bad_secret", detail, field=f"secrets.{name}")
        if webhook is not None and name == webhook.secret and name not in needed:
            detail = f"{name} verifies deliveries: rotate it at the endpoint"
            raise Invalid("unneeded_secret", detail, field=f"secrets.{name}")
    _check_needed(method, needed, set(secrets))


def method_of(provider: Provider, method: str) -> AuthMethod:
    """Return a connection's way to authenticate; raises `Invalid` (`no_api`, `unknown_method`)."""
    return provider.api.method(method)


def code_flow(provider: Provider, method: str) -> OAuth2Auth | None:
    """Return the way to authenticate if a person grants it at the provider's site, else None."""
    found = tokens_of(provider, method)
    return found if found is not None and found.grant == "authorization_code" else None


def tokens_of(provider: Provider, method: str) -> OAuth2Auth | None:
    """Return the way to authenticate if it is one with tokens, else None."""
    if provider.manifest.api is None or not method:
        return None
    found = method_of(provider, method)
    return found if isinstance(found, OAuth2Auth) else None


def _check_needed(method: str, needed: tuple[str, ...], given: set[str]) -> None:
    superfluous = sorted(given - set(needed))
    if superfluous:
        detail = f"{superfluous[0]} is not used by {method or 'this connection'}"
        raise Invalid("unneeded_secret", detail, field=f"secrets.{superfluous[0]}")
