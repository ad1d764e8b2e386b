"""Endpoints in memory: the newest record counts, a tombstone removes, and what cannot be used is not served."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

from contracts.events.sync import EndpointConfigured, EndpointToken, SealedSecret
from providers import registry

PROVIDER = next(provider for provider in registry.all_providers() if provider.manifest.webhook)


def record(provider: str, *, version: int = 1, sealed: str = "AAAA", options: dict[str, str] | None = None) -> Any:
    return EndpointConfigured(
        endpoint="ep-1",
        connection=uuid4(),
        provider=provider,
        tenant="t1",
        url="https://hooks.test/hooks/ep-1",
        secrets=(SealedSecret(key_id="k1", sealed=sealed),),
        options=options or {},
        version=version,
    )


def test_the_newest_version_counts_whatever_the_order(bench: Any) -> None:
    for version in (2, 3, 1, 2):
        bench.configure(PROVIDER, "ep-1", [(f"k{version}", f"secret-{version}", None, None)], version=version)
    found = bench.endpoints.get("ep-1").endpoint
    assert (found.configured.version, [s.key_id for s in found.secrets_at(bench.clock.now())]) == (3, ["k3"])


def test_a_tombstone_removes_and_the_endpoint_can_come_back(bench: Any) -> None:
    bench.configure(PROVIDER, "ep-1", [("k1", "secret", None, None)])
    bench.endpoints.apply("ep-1", None)
    assert bench.endpoints.get("ep-1") is None
    bench.endpoints.apply("never-there", None)
    bench.configure(PROVIDER, "ep-1", [("k1", "secret", None, None)])
    assert bench.endpoints.get("ep-1") is not None


def test_an_endpoint_of_a_provider_that_is_not_here_is_not_served(bench: Any) -> None:
    bench.configure(PROVIDER, "ep-1", [("k1", "secret", None, None)])
    bench.apply(record("nobody", version=2))
    assert bench.endpoints.get("ep-1") is None


def test_a_secret_that_does_not_open_is_left_out_and_the_others_count(bench: Any) -> None:
    good = bench.seal("good", "ep-1", "k1")
    foreign = bench.seal("foreign", "ep-2", "k1")
    under_another_key_id = bench.seal("moved", "ep-1", "k9")
    for version, sealed in enumerate([foreign, under_another_key_id, "no base64!", "", good], start=1):
        bench.apply(record(PROVIDER.slug, version=version, sealed=sealed))
        opened = [secret.value for secret in bench.endpoints.get("ep-1").endpoint.secrets_at(bench.clock.now())]
        assert opened == (["good"] if sealed == good else [])


def test_a_window_is_half_open(bench: Any) -> None:
    start = bench.clock.now()
    end = start + timedelta(seconds=10)
    bench.configure(PROVIDER, "ep-1", [("k1", "secret", start, end)])
    endpoint = bench.endpoints.get("ep-1").endpoint
    moments = [start - timedelta(microseconds=1), start, end - timedelta(microseconds=1), end]
    assert [len(endpoint.secrets_at(moment)) for moment in moments] == [0, 1, 1, 0]


def test_a_rotated_url_keeps_the_old_token_until_its_end(bench: Any) -> None:
    now = bench.clock.now()
    tokens = (
        EndpointToken(token="new", url="https://hooks.test/hooks/new"),
        EndpointToken(token="old", url="https://hooks.test/hooks/old", not_after=now + timedelta(hours=24)),
    )
    bench.configure(PROVIDER, "ep-1", [("k1", "secret", None, None)])
    bench.configure(PROVIDER, "ep-1", [("k1", "secret", None, None)], version=2, tokens=tokens)
    new, old = bench.endpoints.get("new"), bench.endpoints.get("old")
    assert new.endpoint is old.endpoint
    assert (new.url, old.url) == ("https://hooks.test/hooks/new", "https://hooks.test/hooks/old")
    assert (new.not_after, old.not_after) == (None, now + timedelta(hours=24))
    assert bench.endpoints.get("ep-1") is None, "with tokens the id is no longer one"
    bench.endpoints.apply("ep-1", None)
    assert bench.endpoints.get("new") is bench.endpoints.get("old") is None


def test_the_position_of_a_key_tells_a_rotation(bench: Any) -> None:
    bench.configure(PROVIDER, "ep-1", [("k2", "new", None, None), ("k1", "old", None, None)])
    endpoint = bench.endpoints.get("ep-1").endpoint
    assert [endpoint.position(key) for key in ("k2", "k1")] == [0, 1]


def test_a_secret_never_shows_in_a_repr(bench: Any) -> None:
    bench.configure(PROVIDER, "ep-1", [("k1", "canary", None, None)])
    assert "canary" not in repr(bench.endpoints.get("ep-1"))
