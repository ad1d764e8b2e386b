"""Which providers the sandbox plays: every registered one with an API, by its behaviour file or by its probe alone."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from providers import registry
from sandbox.behaviours.base import Behaviour, ProbeOnly
from sandbox.world import World


def has_behaviour(slug: str) -> bool:
    """Tell whether there is a behaviour file for a provider."""
    return find_spec(f"sandbox.behaviours.{slug}") is not None


def load(world: World) -> dict[str, Behaviour]:
    """Return the behaviours of all registered providers with an API, by slug; files of others stay unloaded."""
    found: dict[str, Behaviour] = {}
    for provider in registry.all_providers():
        if provider.manifest.api is None:
            continue
        if has_behaviour(provider.slug):
            found[provider.slug] = import_module(f"sandbox.behaviours.{provider.slug}").build(world)
        else:
            found[provider.slug] = ProbeOnly(provider, world)
    return found
