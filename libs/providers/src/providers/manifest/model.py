"""The whole of a provider's `manifest.toml`, `operations.toml` and `feeds.toml`, checked when they are loaded.

Must never hold a secret, a default that a vendor does not document, or the name of a provider.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from contracts.errors import Invalid
from providers.manifest.api import Api, Changes, Health
from providers.manifest.auth import options_of
from providers.manifest.base import FolderName, Strict, options_in
from providers.manifest.feeds import FeedSpec, SubscriptionSpec
from providers.manifest.operations import OperationSpec
from providers.manifest.signatures import ChoiceSignature, MtlsSignature, NoSignature
from providers.manifest.webhook import Webhook

# An option of these names has the same meaning for every provider that declares it.
TOLERANCE_OPTION = "tolerance_s"
KEY_LIFETIME_OPTION = "idempotency_lifetime_h"


class SecretSpec(Strict):
    """One secret of a connection. `prefix` is how every value begins; another beginning is refused when it is set."""

    description: str = Field(min_length=10)
    use: tuple[Literal["webhook", "api"], ...] = Field(min_length=1)
    required: bool
    prefix: str = ""


class OptionSpec(Strict):
    """One setting of a connection that is no secret: text, matched whole against `pattern` when it is set."""

    description: str = Field(min_length=10)
    default: str = ""
    pattern: str = ".*"


class Manifest(Strict):
    """One provider. `tier` is the quality tier that its `quality.toml` justifies."""

    schema_version: Literal[1] = Field(alias="schema")
    slug: FolderName
    name: str
    category: str
    docs: str = Field(pattern=r"^https://")
    owners: tuple[str, ...] = Field(min_length=1)
    tier: Literal["bronze", "silver", "gold"]
    capabilities: tuple[str, ...] = ()
    secrets: dict[str, SecretSpec] = Field(default_factory=dict)
    options: dict[str, OptionSpec] = Field(default_factory=dict)
    webhook: Webhook | None = None
    changes: Changes | None = None
    api: Api | None = None
    operations: tuple[OperationSpec, ...] = ()
    feeds: tuple[FeedSpec, ...] = ()
    subscriptions: tuple[SubscriptionSpec, ...] = ()
    health: Health | None = None

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        if self.webhook is not None:
            if not isinstance(self.webhook.signature, NoSignature):
                self._needs_secret(self.webhook.secret, "webhook")
            self._needs_options(self.webhook)
        elif self.changes is None and self.api is None:
            raise ValueError("a provider has [webhook], or [changes] says how changes are found")
        if self.api is not None:
            for method in self.api.auth.values():
                for name in method.secret_names():
                    self._needs_secret(name, "api")
                if options_of(method) - set(self.options):
                    raise ValueError(f"[options] lack {sorted(options_of(method) - set(self.options))}")
        elif self.operations or self.health is not None:
            raise ValueError("operations and health need [api]")
        missing = {operation.capability for operation in self.operations} - set(self.capabilities)
        if missing:
            raise ValueError(f"capabilities lack {sorted(missing)}")
        return self

    @model_validator(mode="after")
    def _feeds_have_a_source_and_a_target(self) -> Self:
        if (self.feeds or self.subscriptions) and (self.api is None or self.webhook is None):
            raise ValueError("feeds and subscriptions need [api] and [webhook]")
        return self

    def _needs_secret(self, name: str, use: Literal["webhook", "api"]) -> None:
        if name not in self.secrets or use not in self.secrets[name].use:
            raise ValueError(f"[secrets.{name}] with use {use} is missing")

    def _needs_options(self, webhook: Webhook) -> None:
        used = options_in(*webhook.sources())
        for one in webhook.handshakes:
            used |= {one.token.option} if one.token else set()
            used |= {name for text in one.texts() for name in re.findall(r"\{option:(\w+)\}", text)}
        used |= signature_options(webhook)
        if used - set(self.options):
            raise ValueError(f"[options] lack {sorted(used - set(self.options))}")
        signature = webhook.signature
        if isinstance(signature, ChoiceSignature) and self.options[signature.option].default not in signature.schemes:
            raise ValueError(f"the default of option {signature.option} names no scheme")

    def operation(self, name: str) -> OperationSpec | None:
        """Return the declaration of an operation, or None if the provider does not offer it."""
        return self._operations.get(name)

    @cached_property
    def _operations(self) -> dict[str, OperationSpec]:
        return {operation.name: operation for operation in self.operations}

    def feed(self, name: str) -> FeedSpec | None:
        """Return the declaration of a feed, or None if the provider has no such feed."""
        return next((feed for feed in self.feeds if feed.name == name), None)

    def subscription(self, name: str) -> SubscriptionSpec | None:
        """Return the declaration of a subscription, or None if the provider has no such subscription."""
        return next((one for one in self.subscriptions if one.name == name), None)

    def resolve_options(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the given options over the defaults; raises `Invalid` (`unknown_option`, `bad_option`)."""
        for name, value in given.items():
            if name not in self.options:
                raise Invalid("unknown_option", f"{self.slug} has no option {name}", field=f"options.{name}")
            if re.fullmatch(self.options[name].pattern, value) is None:
                detail = f"{name} does not match {self.options[name].pattern}"
                raise Invalid("bad_option", detail, field=f"options.{name}")
        return {name: given.get(name, spec.default) for name, spec in self.options.items()}


def signature_options(webhook: Webhook) -> set[str]:
    """Return the options that the signature table depends on."""
    signature = webhook.signature
    names: set[str] = set()
    tables = [signature]
    if isinstance(signature, ChoiceSignature):
        names.add(signature.option)
        tables += signature.schemes.values()
    for table in tables:
        if isinstance(table, MtlsSignature):
            names.add(table.header_option)
        elif isinstance(table, NoSignature):
            names.add(table.accept_option)
        text = json.dumps(table.model_dump(mode="json", exclude={"schemes"}))
        names |= set(re.findall(r"\boption:(\w+)", text))
        names |= set(re.findall(r"header:\{(\w+)\}", text))
    return names


def load(path: Path) -> Manifest:
    """Return the manifest in a file, with the operations and the feeds beside it.

    Raises `Invalid` (`bad_manifest`) that names the file and the first wrong key.
    """
    beside = (path.with_name("operations.toml"), path.with_name("feeds.toml"))
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        for more in beside:
            if more.is_file():
                document |= tomllib.loads(more.read_text(encoding="utf-8"))
        return Manifest.model_validate(document)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid("bad_manifest", f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise Invalid("bad_manifest", f"{path}: {field}: {first['msg']}", field=field) from error
