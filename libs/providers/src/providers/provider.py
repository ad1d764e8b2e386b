"""One provider as the services see it: its manifest, and the pure code of its folder loaded on first use.

Must never do I/O beyond reading the provider's own folder.
"""

from __future__ import annotations

from collections.abc import Mapping

from contracts.errors import Invalid
from providers.inbound import Inbound
from providers.outbound import Outbound


class Provider(Inbound, Outbound):
    """A provider's manifest and behaviour: webhooks in (`Inbound`), requests out (`Outbound`)."""

    def check_secrets(self, secrets: Mapping[str, str], options: Mapping[str, str] | None = None) -> None:
        """Raise `Invalid` (`unknown_secret`, `missing_secret`, `bad_secret`) unless a connection can be made of these.

        A connection receives, calls, or does both: one with secrets of the API can do without those of webhooks.
        `options` are the endpoint's, for providers whose scheme is chosen by one. No message quotes a value.
        """
        known = self.manifest.secrets
        calls = any("api" in known[name].use for name in secrets if name in known)
        for name in secrets:
            if name not in self.manifest.secrets:
                raise Invalid("unknown_secret", f"{self.slug} has no secret {name}", field=f"secrets.{name}")
        for name, spec in self.manifest.secrets.items():
            value = secrets.get(name)
            if value is None:
                if spec.required and not (calls and spec.use == ("webhook",)):
                    raise Invalid("missing_secret", f"{self.slug} needs {name}", field=f"secrets.{name}")
            elif not value or not value.startswith(spec.prefix):
                detail = f"{name} begins with {spec.prefix}" if value else f"{name} is empty"
                raise Invalid("bad_secret", detail, field=f"secrets.{name}")
            elif self.manifest.webhook is not None and name == self.webhook.secret:
                self._check_webhook_secret(name, value, options)

    def _check_webhook_secret(self, name: str, value: str, options: Mapping[str, str] | None) -> None:
        try:
            self.verifier(options).check_secret(value)
        except Invalid as error:
            raise Invalid(error.code, error.detail, field=f"secrets.{name}") from None
