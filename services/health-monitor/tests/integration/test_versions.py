"""API versions that answers name are kept, published once, exported and shown. Real database, no broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from contracts.codec import decode
from contracts.events.health import ApiVersionsChanged
from contracts.events.sync import ApiVersionSeen
from contracts.topics import HEALTH_API_VERSIONS
from health_monitor.api_versions import ApiVersions

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

SUNSET = "Thu, 31 Dec 2026 23:59:59 GMT"
OLD = ApiVersionSeen(version="2026-01-01", deprecation="@1767225600", sunset=SUNSET)


async def see(replica: Any, *versions: ApiVersionSeen, provider: str = "acme") -> None:
    await replica.take(replica.calls(("success", 1), versions=versions, provider=provider))


async def published(replica: Any) -> list[ApiVersionsChanged]:
    return [decode(ApiVersionsChanged, value) for value in await replica.outgoing(HEALTH_API_VERSIONS.name)]


def exported(provider: str, version: str) -> float | None:
    return REGISTRY.get_sample_value("api_version_sunset_timestamp_seconds", {"provider": provider, "version": version})


async def test_a_notice_is_published_once_and_again_only_when_it_says_something_else(replica: Any) -> None:
    registry = ApiVersions(replica.database, replica.clock)
    for _ in range(3):
        await see(replica, OLD, ApiVersionSeen())
        replica.clock.advance(60)
        await registry.review()
        await ApiVersions(replica.database, replica.clock).review()
    (first,) = await published(replica)
    assert first.provider == "acme"
    unnamed, old = first.versions
    assert (unnamed.version, unnamed.deprecated, unnamed.sunset_at) == ("", False, None)
    assert (old.version, old.in_traffic, old.deprecated) == ("2026-01-01", True, True)
    assert old.deprecation_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert old.sunset_at == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)

    await see(replica, OLD.model_copy(update={"sunset": "2027-03-31"}))
    await registry.review()
    assert [one.versions[-1].sunset_at for one in await published(replica)][-1] == datetime(2027, 3, 31, tzinfo=UTC)


async def test_an_answer_without_the_headers_takes_no_notice_back(replica: Any) -> None:
    await see(replica, OLD, ApiVersionSeen(version="2026-01-01"))
    await see(replica, ApiVersionSeen(version="2026-01-01"))
    (one,) = (await replica.get("/v1/api-versions"))["items"]
    assert (one["deprecation"], one["sunset"]) == ("@1767225600", SUNSET)
    assert (one["deprecated"], one["days_to_sunset"], one["in_traffic"]) == (True, 305, True)


async def test_headers_that_nobody_can_read_are_shown_and_mean_nothing(replica: Any) -> None:
    await see(replica, ApiVersionSeen(version="v1", sunset="later\0", deprecation="true"))
    (one,) = (await replica.get("/v1/api-versions"))["items"]
    assert (one["sunset"], one["sunset_at"], one["days_to_sunset"]) == ("later", None, None)
    assert (one["deprecated"], one["deprecation_at"]) == (True, None)


async def test_a_sunset_is_exported_while_calls_use_the_version_and_its_series_ends_then(replica: Any) -> None:
    registry = ApiVersions(replica.database, replica.clock)
    await see(replica, OLD, provider="leaver")
    await registry.review()
    assert exported("leaver", "2026-01-01") == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    replica.clock.advance(timedelta(days=8).total_seconds())
    await registry.review()
    assert exported("leaver", "2026-01-01") is None
    assert [one.versions[0].in_traffic for one in await published(replica)] == [True, False]
    replica.clock.advance(timedelta(days=90).total_seconds())
    await registry.review()
    assert (await published(replica))[-1].versions == ()
