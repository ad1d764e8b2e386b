"""One call of catch-up on the way of every call, and what its end means for the run.

Must never read an answer other than a success as an empty one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from providers.provider import Provider
from providers.sdk import Account, HttpRequest, HttpResponse
from sync_worker.limiter.policies import Turn
from sync_worker.models import Connection
from sync_worker.outbound.path import Plan, Result

_RETRY: Final = timedelta(minutes=1)


class Caller(Protocol):
    """The way of every call, `outbound.path.Path`."""

    async def call(self, plan: Plan) -> Result:
        """Make one call, or say why not."""
        ...


class Stopped(Exception):  # noqa: N818 (a reason, not a fault)
    """A run cannot go on: `outcome` is a word for programs, `retry_in` when to try again (None: as the caller does)."""

    def __init__(self, outcome: str, detail: str, retry_in: timedelta | None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.detail = detail
        self.retry_in = retry_in


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call is: its name in metrics, its limits, whether sending it twice would do something twice, its turn."""

    operation: str
    timeout_s: float
    quota: str = ""
    turn: Turn = "pull"
    writes: bool = False


async def ask(
    path: Caller,
    provider: Provider,
    connection: Connection,
    asked: Asked,
    build: Callable[[Account], HttpRequest],
) -> tuple[Account, HttpResponse]:
    """Make one call of the bulk class and return the account with a 2xx answer; raises `Stopped` for any other end."""
    plan = Plan(
        provider=provider,
        connection=connection.id,
        tenant=connection.tenant,
        capability=next(iter(provider.manifest.capabilities), ""),
        operation=asked.operation,
        build=build,
        timeout_s=asked.timeout_s,
        call_class="bulk",
        turn=asked.turn,
        repeatable=not asked.writes,
        quota=asked.quota,
    )
    result = await path.call(plan)
    if result.meaning == "success" and result.response is not None and result.account is not None:
        return result.account, result.response
    wait = timedelta(seconds=result.retry_after_s) if result.retry_after_s is not None else _RETRY
    status = f"the provider answered {result.response.status}" if result.response is not None else ""
    raise Stopped(str(result.meaning), " ".join(one for one in (result.code, result.detail, status) if one), wait)
