"""Effects at providers: how the participant kit's effects are carried out over the outbound path.

Must never decide whether an effect may be sent again: the kit does, from the traits given here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from chassis.db.connection import Connection
from chassis.effects.executor import EMERGENCY
from chassis.effects.participant import Mark, Prepared, Target
from chassis.effects.states import (
    Action,
    Applied,
    Effect,
    Missing,
    NotApplied,
    Outcome,
    Parked,
    Refused,
    Superseded,
    Traits,
    Unclear,
)
from chassis.sealing import SealError
from chassis.telemetry.logs import logger
from contracts.errors import Invalid, Terminal, Transient
from contracts.events.health import CallClass
from contracts.events.orchestrator import Command
from contracts.operations import Arguments
from contracts.topics import Lane
from providers import registry
from providers.manifest import OperationSpec
from providers.provider import Provider
from providers.sdk import Declined
from sync_worker.connections.tokens import Tokens
from sync_worker.effects.commands import open_arguments
from sync_worker.effects.targets import CONTENT, Targets, as_personal
from sync_worker.outbound.path import Path, Plan, Result

log = logger(__name__)

_Answer = TypeVar("_Answer")

CREDENTIAL_RETRY_S: Final = 30.0
_CLASSES: Final[dict[Lane, CallClass]] = {
    Lane.CRITICAL: "critical",
    Lane.STANDARD: "interactive",
    Lane.BULK: "bulk",
}


@dataclass(frozen=True, slots=True)
class _Job:
    provider: Provider
    spec: OperationSpec
    arguments: Arguments


class ProviderEffects:
    """The sync worker's participant."""

    def __init__(self, targets: Targets, tokens: Tokens, path: Path) -> None:
        self._targets = targets
        self._tokens = tokens
        self._path = path

    async def resolve(self, connection: Connection, command: Command) -> Target:
        """Return where a new command goes; raises `Refusal`."""
        return await self._targets.resolve(connection, command)

    async def undo(self, connection: Connection, done: Effect, command: Command) -> Target | None:
        """Return what takes a done effect back, or None."""
        return await self._targets.undo(connection, done, command)

    async def prepare(self, effect: Effect) -> Prepared | Outcome:
        """Return the effect with its operation and arguments, or why there can be no request."""
        try:
            return await self._prepared(effect)
        except Terminal as error:
            return _account_problem(error)
        except Transient as error:
            return Parked(error.code, error.detail, error.retry_after_s or CREDENTIAL_RETRY_S)
        except Invalid as error:
            return Refused(error.code, error.detail)
        except SealError:
            return NotApplied("credential_unreadable", "no key opens it", CREDENTIAL_RETRY_S)

    async def _prepared(self, effect: Effect) -> Prepared:
        if effect.connection is None:
            raise Invalid("no_connection", "the effect names no connection")
        provider = registry.get(effect.provider)
        spec = provider.manifest.operation(effect.operation)
        if spec is None:
            raise Invalid("unknown_operation", f"{effect.provider} does not offer {effect.operation}")
        account = await self._tokens.account(effect.connection)
        arguments = open_arguments(effect.operation, effect.key, effect.command, self._targets.personal(effect))
        looks_up = spec.read_back and (
            effect.state == "reserved"
            or provider.operations(effect.operation).read_back(arguments, account) is not None
        )
        traits = Traits(
            timeout_s=spec.timeout_s,
            key_lifetime_h=provider.key_lifetime_h(effect.operation, account.options),
            repeatable=spec.idempotency.kind == "natural" or not spec.writes,
            look_up=looks_up,
            lag_s=spec.lag_s,
        )
        return Prepared(traits, _Job(provider, spec, arguments))

    async def perform(self, effect: Effect, prepared: Prepared, action: Action, mark: Mark) -> Outcome:
        """Send the request or the question, and read what came back."""
        job: _Job = prepared.job
        if action == "look_up":
            return self._looked_up(job, await self._path.call(self._question(effect, job), mark))
        result = await self._path.call(self._request(effect, job), mark)
        if result.meaning == "missing_scope" and effect.connection is not None:
            wanted = ", ".join(job.spec.scopes) or effect.operation
            await self._tokens.limited(effect.connection, f"scope missing: {wanted}")
        outcome = self._sent(job, result)
        return self._sealed(effect, outcome) if isinstance(outcome, Applied) else outcome

    def _sealed(self, effect: Effect, done: Applied) -> Applied:
        """Return the outcome with a whole answer sealed: balances, employees, documents never lie open on a topic."""
        content = done.result.get(CONTENT)
        if content is None:
            return done
        sealed = self._targets.seal(effect.tenant, effect.key, {CONTENT: content})
        return Applied(done.provider_ref, {**done.result, CONTENT: as_personal(sealed)})

    def _request(self, effect: Effect, job: _Job) -> Plan:
        operations = job.provider.operations(job.spec.name)
        return self._plan(
            effect, job, job.spec.name, lambda account: operations.build(job.arguments, account), deadline=True
        )

    def _question(self, effect: Effect, job: _Job) -> Plan:
        operations = job.provider.operations(job.spec.name)

        def build(account: Any) -> Any:
            asked = operations.read_back(job.arguments, account)
            if asked is None:
                raise Invalid("needs_settlement", "this account cannot be asked")
            return asked

        # What was sent has to be known even when nobody waits for it any more.
        return self._plan(effect, job, f"{job.spec.name}.look_up", build, deadline=False)

    def _plan(self, effect: Effect, job: _Job, operation: str, build: Any, *, deadline: bool) -> Plan:
        assert effect.connection is not None  # noqa: S101 (prepare has refused it)
        return Plan(
            provider=job.provider,
            connection=effect.connection,
            tenant=effect.tenant,
            capability=job.spec.capability,
            operation=operation,
            build=build,
            timeout_s=job.spec.timeout_s,
            call_class=_CLASSES[effect.lane],
            repeatable=not deadline or job.spec.retry_class == "retry_safe" or job.spec.idempotency.kind != "none",
            cost=job.spec.cost,
            quota=job.spec.quota,
            deadline=effect.deadline if deadline and effect.state == "reserved" else None,
            attempt=effect.calls + 1,
            effect=effect.key,
            emergency=effect.origin == EMERGENCY,
        )

    def _sent(self, job: _Job, result: Result) -> Outcome:
        response = result.response
        if response is None or result.meaning not in ("success", "refused", "missing_scope"):
            return _without_answer(result)
        found = _read(lambda: job.provider.operations(job.spec.name).parse(job.arguments, response))
        if result.meaning == "missing_scope":
            # Nothing was done, in whatever words it is said.
            told = found.detail if isinstance(found, Declined) else f"the provider answered {response.status}"
            return NotApplied("missing_scope", told, CREDENTIAL_RETRY_S)
        if isinstance(found, Unclear):
            return found
        if isinstance(found, Declined):
            return Refused(found.code, found.detail)
        return Applied(found.provider_ref, found.result)

    def _looked_up(self, job: _Job, result: Result) -> Outcome:
        look_up, response = job.spec.look_up, result.response
        absent = look_up is not None and response is not None and response.status in look_up.absent
        if response is None or not (absent or result.meaning == "success"):
            told = _without_answer(result)
            return Unclear(told.code, told.detail) if isinstance(told, Refused) else told
        found = _read(lambda: job.provider.operations(job.spec.name).parse_read_back(job.arguments, response))
        if isinstance(found, Unclear):
            return found
        return Applied(found.provider_ref, found.result) if found else Missing()


def _read(read: Callable[[], _Answer]) -> _Answer | Unclear:
    """Return what an answer says; one that cannot be read proves nothing."""
    try:
        return read()
    except Transient as error:
        return Unclear(error.code, error.detail)
    except Exception as error:  # noqa: BLE001 (whatever provider code stumbles over)
        log.error("answer_unreadable", error=type(error).__name__)
        return Unclear("answer_unreadable", "the provider answered something that cannot be read")


def _without_answer(result: Result) -> Outcome:
    """Return the outcome of a call whose answer says nothing about the effect, or that was not made."""
    status = f"the provider answered {result.response.status}" if result.response else result.detail
    outcomes: dict[str, Outcome] = {
        "superseded": Superseded(),
        "parked": Parked(result.code, result.detail, result.retry_after_s or 1.0),
        "expired": Refused("expired", result.detail),
        "throttled": NotApplied("throttled", status, result.retry_after_s or 1.0),
        "credential": NotApplied("credential_refused", status, CREDENTIAL_RETRY_S),
        "missing_scope": NotApplied("missing_scope", status, CREDENTIAL_RETRY_S),
        "unsent": NotApplied("connect_error", result.detail),
        "no_connection": NotApplied(result.code, result.detail, CREDENTIAL_RETRY_S),
        "ours": Refused(result.code, result.detail),
    }
    code = "timeout" if result.code == "timeout" else "unclear_answer"
    return outcomes.get(result.meaning, Unclear(code, status))


def _account_problem(error: Terminal) -> Outcome:
    """Return what an account that may not be called means: a person can mend it, unless it is gone."""
    if error.code == "no_connection":
        return Refused(error.code, error.detail)
    return NotApplied(error.code, error.detail, CREDENTIAL_RETRY_S)
