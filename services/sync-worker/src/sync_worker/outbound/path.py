"""The way of every call to a provider, in eleven steps (sync-worker.md §4.1); `Path.call` reads like that list.

Provider code builds the request and reads the answer; nothing here knows which provider it is. The account that step 1
opens says in which mode: routes, retries, quotas and reports are that mode's. Must never send before
the effect is marked as sent, and never twice on its own account but for a credential that was refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.telemetry.metrics import bound_counter, bound_histogram
from contracts.errors import Invalid, PatchbayError, Terminal, Transient
from contracts.events.health import CallClass
from contracts.events.sync import ApiVersionSeen, Outcome
from contracts.modes import Mode, keyed
from providers.classify import Meaning, classify
from providers.provider import Provider
from providers.sdk import Account, HttpRequest, HttpResponse
from sync_worker.connections.tokens import Tokens
from sync_worker.limiter.feedback import Feedback
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.policies import CallPath, PolicyBook, Turn
from sync_worker.limiter.pools import Grant
from sync_worker.limiter.usage import RetryBudgets
from sync_worker.metrics import REQUEST_SECONDS, REQUESTS
from sync_worker.outbound.breaker import WorkerBreakers
from sync_worker.outbound.client import Failure, FailureKind, ProviderClient
from sync_worker.outbound.reports import Call, CallReporter, InFlight
from sync_worker.outbound.route_table import Place, RouteTable

# No attempt starts with less time than this: it would only be cut off (sync-worker.md §4.1).
LEAST_TIME_S: Final = 0.1
# While nobody knows yet whether a provider is gone, calls wait rather than fail: about as long as a decision takes.
DOUBT_S: Final = 1.0
DOUBT_POLL_S: Final = 0.05
# What kept a call from being made, beside what an answer can mean.
Verdict = Meaning | str
_FAILED: Final[dict[FailureKind, tuple[str, Outcome]]] = {
    "unsent": ("unsent", "connect_error"),
    "timeout": ("unclear", "timeout"),
    "broken": ("unclear", "server_error"),
    "crowded": ("unsent", "client_error"),
    "ours": ("ours", "client_error"),
}
_BREAKS: Final[frozenset[Outcome]] = frozenset({"server_error", "timeout", "connect_error"})


# Not frozen, though nobody changes one: the frozen constructor is three times as slow, and runs per call.
@dataclass(slots=True)
class Plan:
    """One call: what to ask of whom, on whose behalf, and how urgent it is; `turn` orders calls of the class bulk.

    `build` makes the bare request for an account. `repeatable` calls may be sent twice without harm. `deadline` is when
    the caller no longer wants an answer; `attempt` counts from 1 over all attempts of one effect. A `probe` tests a
    route, so it takes shut ones, and is never retried. `account` is used instead of the connection's own, and never
    renewed: it tests credentials that are not active.
    """

    provider: Provider
    connection: UUID
    tenant: str
    capability: str
    operation: str
    build: Callable[[Account], HttpRequest]
    timeout_s: float
    call_class: CallClass = "interactive"
    turn: Turn = "backfill"
    repeatable: bool = False
    cost: float = 1.0
    quota: str = ""
    deadline: datetime | None = None
    attempt: int = 1
    effect: str = ""
    probe: bool = False
    emergency: bool = False
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a call ended. `meaning` is what the answer means, or why there was no call.

    Beside the meanings of an answer: `unsent` (it provably never left), `unclear` (nobody knows), `parked` (the way is
    shut), `expired`, `superseded` (somebody else has the effect), `no_connection`, `ours`. `code` and `detail` are
    words for programs and people.
    """

    meaning: Verdict
    code: str = ""
    detail: str = ""
    response: HttpResponse | None = None
    retry_after_s: float | None = None
    account: Account | None = None


class NotTried(Exception):  # noqa: N818 (a reason, not a fault)
    """A step decided against the call."""

    def __init__(self, meaning: str, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(code)
        self.result = Result(meaning, code, detail, retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limiter with its books."""

    limiter: Limiter
    policies: PolicyBook
    retries: RetryBudgets
    feedback: Feedback


class Path:
    """Makes calls. One per process."""

    def __init__(
        self,
        tokens: Tokens,
        client: ProviderClient,
        routes: RouteTable,
        *,
        breakers: WorkerBreakers,
        quotas: Quotas,
        reporter: CallReporter,
        clock: Clock,
    ) -> None:
        self._tokens = tokens
        self._client = client
        self._routes = routes
        self._breakers = breakers
        self._quotas = quotas
        self._reporter = reporter
        self._clock = clock

    async def call(self, plan: Plan, mark: Callable[[], Awaitable[bool]] | None = None) -> Result:
        """Make one call, or say why not; raises nothing that the provider, the network or a tenant causes.

        `mark` commits that the request leaves now; while it is false nothing does.
        """
        admitted: Account | None = None
        try:
            account = await self._connection(plan)  # 1
            self._route(plan, account)  # 2
            await self._breaker(plan, account)  # 3
            admitted = account
            self._time_left(plan)  # 4
            self._retry_budget(plan, account)  # 5
            path, grant = await self._quota(plan, account)  # 6
        except NotTried as reason:
            if admitted is not None:
                self._heard(plan, admitted.mode, failed=None)
            return reason.result
        try:
            if mark is not None and not await mark():  # 7
                self._heard(plan, account.mode, failed=None)
                return Result("superseded")
            account = await self._credential(plan, account)  # 8
            result = await self._send(plan, account, path)  # 9, 10 and 11
            if result.meaning == "credential" and plan.account is None:
                return await self._with_new_credential(plan, account, path, result)
        except NotTried as reason:
            return reason.result
        else:
            return result
        finally:
            grant.release()

    async def _connection(self, plan: Plan) -> Account:
        """(1) The connection is live, and its credentials can be opened."""
        if plan.account is not None:
            return plan.account
        try:
            return await self._tokens.account(plan.connection, wait_s=self._time_left(plan))
        except Terminal as error:
            raise NotTried("no_connection", error.code, error.detail) from None
        except Transient as error:
            raise NotTried("parked", error.code, error.detail, error.retry_after_s) from None

    def _route(self, plan: Plan, account: Account) -> None:
        """(2) The health monitor lets calls through in the connection's mode."""
        if plan.probe:
            return
        place = _route(plan, account.mode)
        shut = self._routes.admit(place, repeatable=plan.repeatable)
        if shut is not None:
            raise NotTried("parked", "route_shut", shut.reason, shut.retry_after_s)

    async def _breaker(self, plan: Plan, account: Account) -> None:
        """(3) This worker itself has not just seen it fail again and again.

        Where its last two calls of the route failed, it waits for a trial's outcome or a decision of the health
        monitor.
        """
        if plan.probe:
            return
        shut_s = self._breakers.account.shut_for_s(_place(plan))
        if shut_s > 0:
            raise NotTried("parked", "breaker_open", "the last calls of this worker failed", shut_s)
        route = _route(plan, account.mode)
        until = 0.0
        while (doubt_s := self._breakers.route.shut_for_s(route)) > 0:
            now = self._clock.monotonic()
            until = until or now + min(DOUBT_S, self._time_left(plan))
            if now + doubt_s > until:
                raise NotTried("parked", "breaker_open", "the last calls of this worker failed", doubt_s)
            await self._clock.sleep(min(doubt_s, DOUBT_POLL_S))
            self._route(plan, account)

    def _time_left(self, plan: Plan) -> float:
        """(4) Return the seconds that an attempt may take: the operation's limit, or what the caller has left."""
        if plan.deadline is None:
            return plan.timeout_s
        left = (plan.deadline - self._clock.now()).total_seconds()
        if left < LEAST_TIME_S:
            raise NotTried("expired", "expired", "there is no time left before the deadline")
        return min(plan.timeout_s, left)

    def _retry_budget(self, plan: Plan, account: Account) -> None:
        """(5) Retries are a small part of the traffic, or a provider in trouble drowns in them."""
        if plan.attempt <= 1 or plan.probe:
            return
        if not self._quotas.retries.may_retry(keyed(plan.provider.slug, mode=account.mode)):
            raise NotTried("parked", "retry_budget", "too many retries to this provider are under way")

    async def _quota(self, plan: Plan, account: Account) -> tuple[CallPath, Grant]:
        """(6) The provider's limit has room for this call; waits for its turn until the deadline."""
        credential, mode = str(plan.connection), account.mode
        path = self._quotas.policies.path(plan.provider.slug, credential, endpoint=plan.quota, mode=mode)
        until = self._clock.monotonic() + self._time_left(plan)
        call_class: CallClass = "probe" if plan.probe else plan.call_class
        try:
            turn: Turn = plan.turn if call_class == "bulk" else "pull"
            take = self._quotas.limiter.take
            grant = await take(path, call_class, plan.cost, until, emergency=plan.emergency, turn=turn)
        except Transient as error:
            raise NotTried("parked", error.code, error.detail, error.retry_after_s) from None
        except Invalid as error:
            raise NotTried("ours", error.code, error.detail) from None
        return path, grant

    async def _credential(self, plan: Plan, account: Account) -> Account:
        """(8) The credential as it is now: one that was renewed while the call waited may have ended the old one."""
        if plan.account is not None:
            return plan.account
        try:
            return await self._tokens.account(plan.connection, wait_s=LEAST_TIME_S)
        except Exception as error:
            # Nothing has left yet, and the effect is marked: to give up here would leave it in doubt for nothing.
            if not (isinstance(error, PatchbayError) or is_unavailable(error)):
                raise
            return account

    async def _send(self, plan: Plan, account: Account, path: CallPath) -> Result:
        """(9) Send, (10) read what the answer means and what it says about limits, (11) record how it ended."""
        try:
            request = plan.provider.authorise(plan.build(account), account, self._clock.now())
        except PatchbayError as error:
            return Result("ours", error.code, error.detail)
        flight = self._reporter.started(_call_of(plan, account), plan.timeout_s)
        sent_at = self._clock.monotonic()
        try:
            seconds = self._time_left(plan)
            answer = await self._client.send(plan.provider, account, request, seconds, fresh=plan.probe)
        except BaseException:
            self._reporter.abandoned(flight)
            raise
        if isinstance(answer, Failure):
            meaning, outcome = _FAILED[answer.kind]
            self._record(plan, flight, outcome, None, breaks=answer.kind not in ("crowded", "ours"))
            return Result(meaning, answer.detail.lower() or answer.kind, _SAID[answer.kind], account=account)
        reading = classify(answer, plan.provider.api.errors, self._clock.now())
        self._quotas.feedback.answered(path, reading.outcome, answer.headers, sent_at)
        self._record(plan, flight, reading.outcome, answer)
        return Result(reading.meaning, "", "", answer, reading.retry_after_s, account)

    def _record(
        self, plan: Plan, flight: InFlight, outcome: Outcome, answer: HttpResponse | None, *, breaks: bool = True
    ) -> None:
        slug = plan.provider.slug
        seconds = self._reporter.ended(flight, outcome, effect=plan.effect, version=_version(plan.provider, answer))
        bound_counter(REQUESTS, slug, plan.operation, outcome, flight.call.mode).inc()
        bound_histogram(REQUEST_SECONDS, slug, plan.operation, flight.call.mode).observe(seconds)
        failed = outcome in _BREAKS
        if breaks:
            self._heard(plan, flight.call.mode, failed=failed if failed or outcome == "success" else None)

    def _heard(self, plan: Plan, mode: Mode, *, failed: bool | None) -> None:
        """Tell the breakers; None says nothing of the provider, and lets another call be the trial."""
        self._breakers.account.record(_place(plan), failed=failed)
        self._breakers.route.record(_route(plan, mode), failed=failed)

    async def _with_new_credential(self, plan: Plan, refused: Account, path: CallPath, first: Result) -> Result:
        """Send once more with a renewed credential; a provider that refuses it too waits for a person."""
        try:
            renewed = await self._tokens.renew(plan.connection, refused, wait_s=self._time_left(plan))
        except Terminal as error:
            if error.code == "credential_refused" and not plan.probe:
                await self._tokens.needs_reauth(plan.connection, "the provider refuses the credential")
            return first
        except (Transient, NotTried):
            # A slow token endpoint is no reason to call for a person.
            return first
        again = await self._send(plan, renewed, path)
        if again.meaning == "credential" and not plan.probe:
            await self._tokens.needs_reauth(plan.connection, "the provider refuses a renewed credential")
        return again


_NO_VERSION: Final = ApiVersionSeen()
_SAID: Final[dict[FailureKind, str]] = {
    "unsent": "no connection to the provider could be made",
    "timeout": "the provider did not answer in time",
    "broken": "the provider's answer broke off or could not be read",
    "crowded": "all connections to this provider are in use",
    "ours": "the connection's settings do not make a request that can be sent",
}


def _place(plan: Plan) -> tuple[str, str, str]:
    return plan.provider.slug, plan.operation, str(plan.connection)


def _route(plan: Plan, mode: Mode) -> Place:
    return Place(plan.provider.slug, plan.capability, mode)


def _call_of(plan: Plan, account: Account) -> Call:
    place = (plan.provider.slug, plan.capability, plan.operation)
    return Call(*place, "success", plan.tenant, str(plan.connection), plan.probe, mode=account.mode)


def _version(provider: Provider, answer: HttpResponse | None) -> ApiVersionSeen:
    """Return what an answer says about the API version, by RFC 9745 and RFC 8594 and the manifest's own header."""
    if answer is None:
        return _NO_VERSION
    pinned = provider.api.version
    shown = answer.headers.get(pinned.header.lower(), "") if pinned else ""
    return _version_seen(
        (shown or (pinned.value if pinned else ""))[:64],
        answer.headers.get("deprecation", "")[:64],
        answer.headers.get("sunset", "")[:64],
    )


@lru_cache(maxsize=1024)
def _version_seen(version: str, deprecation: str, sunset: str) -> ApiVersionSeen:
    """Return the model: nearly every answer of a provider says the same."""
    return ApiVersionSeen(version=version, deprecation=deprecation, sunset=sunset)
