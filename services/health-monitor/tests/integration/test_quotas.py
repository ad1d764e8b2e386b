"""Policies follow manifests, use, 429s and operators, and survive a restart. Real database, no broker."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.kafka.producer import partition_for
from chassis.kafka.records import Message, Origin
from chassis.telemetry.metrics import bound_gauge
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.service_kit import LocalIssuer, api_client
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.events.health import QuotaPolicy, QuotaWindow
from contracts.events.platform import AuditRecorded
from contracts.events.sync import QuotaUsage
from contracts.modes import quota_key
from contracts.topics import HEALTH_QUOTAS, PLATFORM_AUDIT, SYNC_QUOTA_USAGE
from health_monitor.handlers import UsageLoop
from health_monitor.limits import published
from health_monitor.metrics import QUOTA_FORECAST
from health_monitor.quota_routes import quota_routes
from health_monitor.quotas import Quotas
from health_monitor.repository.quotas import BucketKey

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

FOUND = sorted(published().items())
# A limit by the minute for each account, and a quota that all accounts share.
KEY, WINDOWS = next(
    (key, known) for key, known in FOUND if key.bucket == "account" and len(known) == 1 and known[0].seconds == 60
)
APP, APP_WINDOWS = next((key, known) for key, known in FOUND if key.bucket == "app" and known[0].seconds >= 60)
SECOND = WINDOWS[0].limit / WINDOWS[0].seconds
OFFSETS = itertools.count()


async def policies(database: Database, provider: str = "") -> list[QuotaPolicy]:
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", HEALTH_QUOTAS.name)
    told = [decode(QuotaPolicy, row["value"]) for row in found]
    return [policy for policy in told if provider in ("", policy.provider)]


def report(clock: ManualClock, key: BucketKey = KEY, **fields: Any) -> Message:
    """Return a report as a worker sends it: of one connection's account, unless it is the app's."""
    usage = QuotaUsage(
        provider=key.provider,
        bucket=key.bucket,
        worker="w",
        since=clock.now(),
        until=clock.now(),
        **({"used": {}, "owner": "" if key.bucket == "app" else "c1"} | fields),
    )
    envelope = Envelope(id="1", source="test", type=QuotaUsage.TYPE, data=encode(usage))
    return Message(envelope, b"key", Origin(SYNC_QUOTA_USAGE.name, 0, next(OFFSETS)), [])


async def use(
    database: Database, quotas: Quotas, clock: ManualClock, key: BucketKey = KEY, *more: Message, **fields: Any
) -> None:
    async with database.unit_of_work() as uow:
        await quotas.handle(uow, [*more, report(clock, key, **fields)])


def forecast(key: BucketKey) -> float:
    return float(bound_gauge(QUOTA_FORECAST, *key)._value.get())


async def test_the_first_use_publishes_the_manifests_limit_and_more_of_the_same_nothing(
    database: Database, clock: ManualClock
) -> None:
    quotas = Quotas(database, clock)
    for _ in range(3):
        await use(database, quotas, clock, used={"interactive": 0.001})
        clock.advance(1)
    (policy,) = await policies(database)
    assert (policy.windows, policy.source, policy.trim, policy.version) == (WINDOWS, "published", {}, 1)


async def test_a_forecast_beyond_the_quota_trims_bulk_first_of_the_owner_alone(
    database: Database, clock: ManualClock
) -> None:
    quotas = Quotas(database, clock)
    for _ in range(50):
        quiet = report(clock, owner="c2", used={"bulk": SECOND / 10})
        await use(database, quotas, clock, KEY, quiet, used={"bulk": SECOND * 0.95})
        clock.advance(1)
    told = await policies(database)
    assert told[-1].trims["c1"]["bulk"] > 0
    assert (set(told[-1].trims), told[-1].trim) == ({"c1"}, {})
    assert "c1, " in told[-1].reason
    assert "expected at the end of the window" in told[-1].reason
    assert [policy.version for policy in told] == list(range(1, len(told) + 1))
    assert len(told) < 20, "trims are told in steps"
    assert forecast(KEY) > 0.8


async def test_a_provider_whose_interactive_calls_are_trimmed_everywhere_takes_nothing_over(
    database: Database, clock: ManualClock
) -> None:
    quotas = Quotas(database, clock)
    assert quotas.has_quota(KEY.provider, "live")
    for _ in range(20):
        await use(database, quotas, clock, used={"interactive": SECOND * 3})
        clock.advance(1)
    assert not quotas.has_quota(KEY.provider, "live")
    assert quotas.has_quota(KEY.provider, "sandbox")
    await use(database, quotas, clock, owner="another", used={"interactive": 0.001})
    assert quotas.has_quota(KEY.provider, "live"), "one whose connection has room does"


async def test_what_the_apps_answers_teach_is_published_and_survives_a_restart(
    database: Database, clock: ManualClock
) -> None:
    quotas = Quotas(database, clock)
    await use(database, quotas, clock, APP, seen_limit=7, seen_window_s=APP_WINDOWS[0].seconds)
    learned = QuotaWindow(limit=7, seconds=APP_WINDOWS[0].seconds, shape="fixed")
    expected = ("learned", (learned, *APP_WINDOWS[1:]))
    await use(database, Quotas(database, clock), clock, APP)
    for last in [(await policies(database))[-1], (await policies(database))[0]]:
        assert (last.source, last.windows) == expected
    await use(database, quotas, clock, APP, estimate=0.75)
    assert any(window.limit == 0.75 for window in (await policies(database))[-1].windows)


async def test_what_one_accounts_answers_teach_becomes_no_limit_of_the_others(
    database: Database, clock: ManualClock
) -> None:
    quotas = Quotas(database, clock)
    await use(database, quotas, clock, seen_limit=1, seen_window_s=WINDOWS[0].seconds, throttled=3)
    await use(database, quotas, clock, estimate=0.5)
    told = await policies(database)
    assert {(policy.windows, policy.source) for policy in told} == {(WINDOWS, "published")}


async def test_a_report_of_an_older_worker_counts_as_any_other(database: Database, clock: ManualClock) -> None:
    quotas = Quotas(database, clock)
    for _ in range(20):
        older = report(clock, used={"bulk": SECOND * 2})
        older.envelope = Envelope(
            id="1",
            source="test",
            type=QuotaUsage.TYPE,
            data=older.envelope.data.replace(b'"bucket":"account"', b'"bucket":"account|c9"').replace(b'"c1"', b'""'),
        )
        async with database.unit_of_work() as uow:
            await quotas.handle(uow, [older])
        clock.advance(1)
    assert set((await policies(database))[-1].trims) == {"c9"}


async def test_a_report_counts_once_though_its_transaction_is_repeated(database: Database, clock: ManualClock) -> None:
    quotas, spent = Quotas(database, clock), report(clock, used={"critical": SECOND * 10})

    async def fail() -> None:
        async with database.unit_of_work() as uow:
            await quotas.handle(uow, [spent])
            raise ZeroDivisionError

    clock.advance(25)
    for _ in range(20):
        with pytest.raises(ZeroDivisionError):
            await fail()
    assert await policies(database) == []
    await quotas.review()
    (policy,) = await policies(database, KEY.provider)
    assert policy.trims == {}
    assert 0.1 < forecast(KEY) < 0.3


async def test_trims_end_when_nobody_reports_any_more(database: Database, clock: ManualClock) -> None:
    quotas = Quotas(database, clock)
    for _ in range(30):
        await use(database, quotas, clock, used={"bulk": SECOND * 2})
        clock.advance(1)
    assert (await policies(database, KEY.provider))[-1].trims
    for _ in range(20):
        clock.advance(5)
        await quotas.review()
    last = (await policies(database, KEY.provider))[-1]
    assert (last.trims, last.trim) == ({}, {})
    assert forecast(KEY) == 0


async def test_only_the_replica_that_sees_the_reports_moves_trims(database: Database, clock: ManualClock) -> None:
    owner, other = Quotas(database, clock), Quotas(database, clock)
    mine = partition_for(quota_key(*KEY).encode(), SYNC_QUOTA_USAGE.partitions)
    everything = {(SYNC_QUOTA_USAGE.name, at) for at in range(SYNC_QUOTA_USAGE.partitions)}
    await UsageLoop(owner, database, clock).assigned({(SYNC_QUOTA_USAGE.name, mine), ("other", 0)})
    await UsageLoop(other, database, clock).assigned(everything - {(SYNC_QUOTA_USAGE.name, mine)})
    for _ in range(30):
        await use(database, owner, clock, used={"bulk": SECOND * 2})
        clock.advance(1)
    trims = (await policies(database, KEY.provider))[-1].trims
    assert set(trims) == {"c1"}
    await use(database, other, clock, used={"bulk": 0.001})
    await other.review()
    async with database.unit_of_work() as uow:
        configured = await other.configure(uow, KEY, WINDOWS)
    assert configured is not None
    assert configured.trims == trims, "who cannot know leaves them as they are"
    taken = (await policies(database, KEY.provider))[-1]
    other.apply("", Envelope(id="2", source="test", type=QuotaPolicy.TYPE, data=encode(taken)))
    await UsageLoop(owner, database, clock).assigned(set())
    assert forecast(KEY) == 0
    other.own(range(SYNC_QUOTA_USAGE.partitions))
    await other.review()
    assert (await policies(database, KEY.provider))[-1].trims == trims
    clock.advance(60)
    await other.review()
    assert (await policies(database, KEY.provider))[-1].trims == {}, "nobody has reported for a minute"


async def test_other_windows_in_a_manifest_are_told_without_a_call(
    database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = QuotaWindow(limit=1, seconds=1)
    monkeypatch.setattr("health_monitor.quotas.published", lambda: {KEY: (older,)})
    await Quotas(database, clock).review()
    monkeypatch.undo()
    quotas = Quotas(database, clock)
    for policy in await policies(database):
        quotas.apply("", Envelope(id="1", source="test", type=QuotaPolicy.TYPE, data=encode(policy)))
    await quotas.review()
    told = [(policy.version, policy.windows) for policy in await policies(database, KEY.provider)]
    assert told == [(1, (older,)), (2, WINDOWS)]
    everything = {(one.provider, one.bucket): one.windows for one in await policies(database)}
    assert everything == {(key.provider, key.bucket): windows for key, windows in FOUND}


async def test_the_listing_says_how_many_owners_are_slowed_and_which_is_worst(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    quotas = Quotas(database, clock)
    table = quota_routes(database, issuer.verifier(), clock, quotas)

    async def listed() -> dict[str, Any]:
        await quotas.review()
        async with api_client(table, issuer.headers(Role.VIEWER)) as api:
            items = (await api.get("/v1/quotas", params={"limit": 200})).json()["items"]
        return next(one for one in items if (one["provider"], one["bucket"]) == KEY[:2])

    assert [(await listed())[name] for name in ("owners_trimmed", "used_ratio", "worst_owner")] == [0, 0, ""]
    for _ in range(30):
        more = [report(clock, owner=f"c{number}", used={"bulk": SECOND * number}) for number in (2, 3)]
        await use(database, quotas, clock, KEY, *more, used={"bulk": SECOND / 10})
        clock.advance(1)
    shown = await listed()
    assert (shown["owners_trimmed"], shown["worst_owner"], shown["trim"]) == (2, "c3", {})
    assert shown["used_ratio"] == pytest.approx(forecast(KEY), abs=0.01)
    clock.advance(30)
    later = await listed()
    assert later["used_ratio"] < shown["used_ratio"], "forecasts are kept up to date between policies"


async def test_an_operator_sets_a_limit_and_takes_it_back(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    quotas = Quotas(database, clock)
    await use(database, quotas, clock)
    table = quota_routes(database, issuer.verifier(), clock, quotas)
    url = f"/v1/quotas/{KEY[0]}/{KEY[1]}"
    wanted = {"windows": [{"limit": 500, "seconds": 60, "shape": "fixed"}], "reason": "contract of March"}
    async with api_client(table, issuer.headers(Role.OPERATOR, subject="kim")) as api:
        put = await api.put(url, json=wanted)
        assert put.status_code == 200, put.text
        assert (put.json()["source"], put.json()["windows"][0]["limit"]) == ("configured", 500)
        clock.advance(timedelta(hours=1).total_seconds())
        await use(database, quotas, clock)
        listed = (await api.get("/v1/quotas", headers=issuer.headers(Role.VIEWER))).json()["items"]
        assert [(one["provider"], one["bucket"], one["mode"], one["configured"]) for one in listed] == [(*KEY, True)]
        back = await api.put(url, json={"windows": [], "reason": "over"})
        assert back.json()["source"] == "published"
        assert (await api.put("/v1/quotas/nobody/account", json=wanted)).status_code == 404
        assert (await api.put(f"/v1/quotas/{KEY[0]}/moon", json=wanted)).status_code == 404
        assert (await api.put(url, json={"windows": []})).status_code == 422
        assert (await api.put(url, json=wanted, headers=issuer.headers(Role.VIEWER))).status_code == 403
    assert [policy.source for policy in await policies(database)] == ["published", "configured", "published"]
    assert [policy.mode for policy in await policies(database)] == ["live"] * 3
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1", PLATFORM_AUDIT.name)
    audited = [decode(AuditRecorded, row["value"]) for row in found]
    assert {(one.actor, one.action) for one in audited} == {("kim", "quota.configured")}


async def test_what_the_sandbox_uses_and_learns_is_its_own(database: Database, clock: ManualClock) -> None:
    quotas = Quotas(database, clock)
    second = APP_WINDOWS[0].limit / APP_WINDOWS[0].seconds
    await use(database, quotas, clock, APP, used={"interactive": 0.001})
    for _ in range(30):
        await use(database, quotas, clock, APP, mode="sandbox", used={"interactive": second * 3})
        clock.advance(1)
    assert (quotas.has_quota(APP.provider, "live"), quotas.has_quota(APP.provider, "sandbox")) == (True, False)
    length = APP_WINDOWS[0].seconds
    await use(database, quotas, clock, APP, mode="sandbox", seen_limit=0.75, seen_window_s=length)
    await use(database, quotas, clock, APP, used={"interactive": 0.001})
    told = {policy.mode: policy for policy in await policies(database)}
    assert (told["live"].windows, told["live"].trims, told["live"].version) == (APP_WINDOWS, {}, 1)
    assert (told["sandbox"].source, told["sandbox"].windows[0].limit) == ("learned", 0.75)
    keys = await rows(database.dsn, "SELECT DISTINCT key FROM outbox WHERE topic = $1", HEALTH_QUOTAS.name)
    place = f"{APP.provider}:{APP.bucket}"
    assert {bytes(row["key"]).decode() for row in keys} == {place, f"{place}:sandbox"}


async def test_the_sandbox_has_the_operators_live_limit_until_it_has_its_own(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    quotas = Quotas(database, clock)
    table = quota_routes(database, issuer.verifier(), clock, quotas)
    url = f"/v1/quotas/{KEY.provider}/{KEY.bucket}"

    def wanted(limit: int, **more: str) -> dict[str, Any]:
        return {"windows": [{"limit": limit, "seconds": 60, "shape": "fixed"}], "reason": "contract", **more}

    async def in_sandbox() -> tuple[str, float]:
        await use(database, quotas, clock, mode="sandbox", used={"bulk": 0.001})
        last = next(one for one in reversed(await policies(database)) if one.mode == "sandbox")
        return last.source, last.windows[0].limit

    async with api_client(table, issuer.headers(Role.OPERATOR, subject="kim")) as api:
        assert await in_sandbox() == ("published", WINDOWS[0].limit)
        assert (await api.put(url, json=wanted(500))).json()["mode"] == "live"
        assert await in_sandbox() == ("configured", 500)
        assert (await api.put(url, json=wanted(7, mode="sandbox"))).json()["mode"] == "sandbox"
        assert await in_sandbox() == ("configured", 7)
        assert (await api.put(url, json=wanted(7, mode="test"))).status_code == 422
        listed = (await api.get("/v1/quotas", headers=issuer.headers(Role.VIEWER))).json()["items"]
    assert [(one["mode"], one["windows"][0]["limit"]) for one in listed] == [("live", 500), ("sandbox", 7)]
