"""All providers that have a folder here: discovered by their `manifest.toml`, loaded once, sorted by slug.

Must never name a provider: adding or deleting a folder is all it takes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from contracts.errors import Invalid
from providers.manifest import load
from providers.provider import Provider

ROOT = Path(__file__).parent


@lru_cache(maxsize=8)
def discover(root: Path) -> dict[str, Provider]:
    """Return the providers below a folder by slug, sorted; read once per process.

    Raises `Invalid` (`bad_manifest`) for a manifest that does not load or whose slug is not its folder's name.
    """
    found: dict[str, Provider] = {}
    for path in sorted(root.glob("*/manifest.toml")):
        manifest = load(path)
        if manifest.slug != path.parent.name:
            raise Invalid("bad_manifest", f"{path}: slug {manifest.slug} is not the folder's name", field="slug")
        found[manifest.slug] = Provider(path.parent, manifest)
    return found


@lru_cache(maxsize=8)
def _by_operation(root: Path) -> dict[str, list[Provider]]:
    """Return the providers below a folder by the operations that they offer: asked for every command."""
    found: dict[str, list[Provider]] = {}
    for provider in discover(root).values():
        for operation in provider.manifest.operations:
            found.setdefault(operation.name, []).append(provider)
    return found


def all_slugs() -> list[str]:
    """Return the slugs of all providers, sorted."""
    return list(discover(ROOT))


def all_providers() -> list[Provider]:
    """Return all providers, sorted by slug."""
    return list(discover(ROOT).values())


def get(slug: str) -> Provider:
    """Return a provider; raises `Invalid` (`unknown_provider`)."""
    provider = discover(ROOT).get(slug)
    if provider is None:
        raise Invalid("unknown_provider", f"there is no provider {slug[:64]}", field="provider")
    return provider


def with_operation(name: str) -> list[Provider]:
    """Return the providers that offer an operation such as `payment.refund`, sorted by slug."""
    return list(_by_operation(ROOT).get(name, ()))


def with_capability(capability: str) -> list[Provider]:
    """Return the providers that have a capability such as `messaging.sms`, sorted by slug."""
    return [provider for provider in all_providers() if capability in provider.manifest.capabilities]
