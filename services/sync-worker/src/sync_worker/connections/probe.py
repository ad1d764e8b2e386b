"""A test of a connection: the manifest's cheap read, with the connection's own credentials. It changes nothing."""

from __future__ import annotations

from typing import Any, Final, Protocol

from chassis.clock import Clock
from chassis.db.database import Database
from contracts.errors import Terminal
from providers import registry
from providers.sdk import Account, HttpRequest
from sync_worker.models import Connection
from sync_worker.outbound.path import Plan, Result
from sync_worker.repository import connections

# What kept the call from being made at all, so that it says nothing about the connection.
_NOT_MADE: Final = frozenset({"no_connection", "parked", "expired", "superseded"})


class Caller(Protocol):
    """The way of every call, `outbound.path.Path`."""

    async def call(self, plan: Plan) -> Result:
        """Make one call, or say why not."""
        ...


class ConnectionTest:
    """Tests connections on request."""

    def __init__(self, database: Database, path: Caller, clock: Clock) -> None:
        self._database = database
        self._path = path
        self._clock = clock

    async def run(self, found: Connection) -> dict[str, Any]:
        """Make the call, remember how it ended, and return that: `outcome`, `status` (0 without an answer) and `at`.

        A refused token is renewed once on the way. Raises `Terminal` (`no_probe`, or why the call could not be made).
        """
        result = await self.ask(found)
        if result.meaning in _NOT_MADE:
            raise Terminal(result.code or result.meaning, result.detail or "the call was not made")
        status = result.response.status if result.response is not None else 0
        noted = {"outcome": result.meaning, "status": status, "at": self._clock.now().isoformat()}
        async with self._database.unit_of_work() as uow:
            await connections.note_test(uow.connection, found.id, noted)
        return noted

    async def ask(self, found: Connection, account: Account | None = None) -> Result:
        """Make the call and return how it ended; with `account` instead of the connection's credentials if given.

        Raises `Terminal` (`no_probe`).
        """
        provider = registry.get(found.provider)
        health = provider.manifest.health
        if health is None:
            raise Terminal("no_probe", f"{provider.slug} declares no cheap read to test with")

        def build(asker: Account) -> HttpRequest:
            asked = provider.probe(asker)
            if asked is None:
                raise Terminal("no_probe", f"{provider.slug} declares no cheap read to test with")
            return asked

        plan = Plan(
            provider=provider,
            connection=found.id,
            tenant=found.tenant,
            capability=next(iter(provider.manifest.capabilities), ""),
            operation="test",
            build=build,
            timeout_s=health.probe.timeout_ms / 1000,
            probe=True,
            account=account,
        )
        return await self._path.call(plan)
