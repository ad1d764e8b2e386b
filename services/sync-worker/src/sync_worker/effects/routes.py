"""HTTP API of effects: see them, ask for one, settle one that nobody can look up.

Arguments that are personal data are sealed before they are stored, and never shown.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db import tenancy
from chassis.db.database import Database, UnitOfWork
from chassis.effects import table
from chassis.effects.desk import EffectDesk
from chassis.effects.executor import EMERGENCY, OPERATOR
from chassis.effects.states import NEEDS_SETTLEMENT, Effect, Verdict
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.idempotency import write_once
from chassis.http.paging import PageQuery, page
from chassis.http.problems import Problem, body_of, invalid, json_response, not_found, query_of
from chassis.sealing import SealError
from contracts.errors import Invalid
from contracts.events.base import Slug
from contracts.events.orchestrator import RunOperation
from contracts.events.sync import AnswerStatus
from contracts.ids import effect_key, uuid7
from contracts.modes import Mode
from contracts.operations import arguments_of
from contracts.topics import Lane
from providers import registry
from sync_worker.audit import Audit
from sync_worker.effects.commands import open_arguments
from sync_worker.effects.targets import CONTENT, Targets, as_personal

STEP: Final = "operator"
_LEAST_REASON: Final = 3
_SETTLEABLE: Final = ("sent", "unknown")


class NewOperation(BaseModel):
    """Body of `POST /v1/operations`: a canonical operation with all of its arguments, personal ones included.

    An `emergency` draws on the twentieth of the provider's quota that is kept for it, and needs a `reason`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation: str = Field(max_length=64)
    tenant: Slug
    connection: UUID | None = None
    provider: Slug | None = None
    mode: Mode = "live"
    lane: Lane = Lane.STANDARD
    deadline: AwareDatetime | None = None
    arguments: dict[str, JsonValue] = Field(default_factory=dict, repr=False)
    emergency: bool = False
    reason: str = Field(default="", max_length=500)

    @model_validator(mode="after")
    def _an_emergency_has_a_reason(self) -> NewOperation:
        if self.emergency and len(self.reason.strip()) < _LEAST_REASON:
            raise ValueError("reason is needed for an emergency, in three characters or more")
        if self.emergency and self.lane is Lane.BULK:
            raise ValueError("lane: an emergency is never bulk")
        return self


class Settlement(BaseModel):
    """Body of `POST /v1/effects/{key}/settle`: what a person found out at the provider, and where from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: Literal["applied", "refused", "retry"]
    provider_ref: str = Field(default="", max_length=255)
    reason: str = Field(min_length=_LEAST_REASON, max_length=500)

    @model_validator(mode="after")
    def _applied_has_a_reference(self) -> Settlement:
        if (self.outcome == "applied") != bool(self.provider_ref):
            raise ValueError("provider_ref is needed for applied, and for nothing else")
        return self


class EffectQuery(PageQuery):
    """Filters of the effect list."""

    saga_id: UUID | None = None
    tenant: str | None = None
    provider: str | None = None
    operation: str | None = None
    state: str | None = None


class EffectApi:
    """Handlers of the routes with what they need."""

    def __init__(self, database: Database, desk: EffectDesk, targets: Targets, clock: Clock) -> None:
        self._database = database
        self._desk = desk
        self._targets = targets
        self._clock = clock
        self._audit = Audit(clock)

    async def list_effects(self, request: Request) -> Response:
        """List effects by key."""
        query = query_of(request, EffectQuery)
        async with self._database.connection() as connection:
            found = await table.search(connection, query.filters(), query.cursor(1), query.limit + 1)
        return json_response(page(found, query.limit, ("key",)))

    async def show_effect(self, request: Request) -> Response:
        """Show one effect, and in words what happens to it next."""
        async with self._database.connection() as connection:
            found = await table.get(connection, request.path_params["key"])
        if found is None:
            raise not_found("effect")
        return json_response(_shown(found, self._clock.now()))

    async def show_result(self, request: Request) -> Response:
        """Show what the provider answered, unsealed: it may be personal data, so who read it is audited.

        409 while there is none (`no_result_yet`), where there will be none (`no_result`), and where no key opens it any
        more (`result_unreadable`).
        """
        key = request.path_params["key"]
        actor = request.state.principal.subject
        async with self._database.unit_of_work() as uow:
            effect = await table.get(uow.connection, key)
            if effect is None:
                raise not_found("effect")
            result = self._opened(effect)
            self._audit.record(
                *(uow, actor, "effect.result_read"),
                tenant=effect.tenant,
                target=f"effects/{key}",
                operation=effect.operation,
            )
        about = {name: getattr(effect, name) for name in ("key", "operation", "provider", "provider_ref")}
        return json_response(about | {"result": result})

    def _opened(self, effect: Effect) -> dict[str, Any]:
        if effect.state in ("refused", "voided"):
            raise Problem(409, "no_result", f"the effect is {effect.state}: it has no result")
        if effect.state != "applied":
            raise Problem(409, "no_result_yet", f"the effect is {effect.state}: it has no result yet")
        try:
            result = self._targets.result(effect)
        except (SealError, Invalid):
            raise Problem(409, "result_unreadable", "no key of this service opens the result") from None
        return result | ({CONTENT: _readable(result[CONTENT])} if CONTENT in result else {})

    async def run_operation(self, request: Request) -> Response:
        """Ask for an operation: 202 with its effect key, or 422 and 404 for what can never be carried out."""
        new = await body_of(request, NewOperation)
        if not tenancy.allows(new.tenant):
            raise not_found("tenant")
        if new.provider is not None and new.provider not in registry.all_slugs():
            raise not_found("provider")
        saga_id = uuid7()
        key = effect_key(str(saga_id), STEP, "do")
        personal_names = arguments_of(new.operation).personal_fields()
        open_arguments(new.operation, key, dict(new.arguments), {})
        if new.deadline is not None and new.deadline <= self._clock.now():
            raise invalid("deadline", "it is over", "expired")
        personal = {name: value for name, value in new.arguments.items() if name in personal_names}
        sealed = self._targets.seal(new.tenant, key, personal)
        command = RunOperation(
            saga_id=saga_id,
            step=STEP,
            effect_key=key,
            attempt=1,
            tenant=new.tenant,
            lane=new.lane,
            deadline=new.deadline,
            operation=new.operation,
            connection=new.connection,
            provider=new.provider,
            mode=new.mode,
            arguments={name: value for name, value in new.arguments.items() if name not in personal},
            personal=as_personal(sealed),
        )
        actor = request.state.principal.subject

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            await self._desk.take(uow, [(command, "")], origin=EMERGENCY if new.emergency else OPERATOR)
            detail = {"operation": new.operation, "provider": new.provider or "", "mode": new.mode}
            if new.emergency:
                detail["emergency"] = "yes"
            if new.reason:
                detail["reason"] = new.reason
            self._audit.record(uow, actor, "operation.requested", tenant=new.tenant, target=f"effects/{key}", **detail)
            return 202, {"key": key, "saga_id": str(saga_id), "operation": new.operation}

        return await write_once(request, self._database, write)

    async def settle(self, request: Request) -> Response:
        """Write down what a person found out about an unknown effect, and answer its command. Audited."""
        settlement = await body_of(request, Settlement)
        key = request.path_params["key"]
        actor = request.state.principal.subject
        async with self._database.unit_of_work() as uow:
            effect = (await table.lock(uow.connection, [key])).get(key)
            if effect is None:
                raise not_found("effect")
            now = self._clock.now()
            if effect.state not in _SETTLEABLE or (effect.lease_until is not None and effect.lease_until > now):
                raise Problem(409, "effect_not_unknown", f"the effect is {effect.state}: there is nothing to settle")
            self._apply(uow, effect, settlement)
            effect.version, effect.lease_until, effect.updated_at = effect.version + 1, None, now
            await table.save(uow.connection, [effect])
            detail = {"outcome": settlement.outcome, "provider_ref": settlement.provider_ref}
            self._audit.record(uow, actor, "effect.settled", tenant=effect.tenant, target=f"effects/{key}", **detail)
        return json_response(_shown(effect, now))

    def _apply(self, uow: UnitOfWork, effect: Effect, settlement: Settlement) -> None:
        if settlement.outcome == "retry":
            effect.state, effect.sent_at = "reserved", None
            effect.attempt = max(effect.attempt, effect.answered + 1)
            uow.after_commit(lambda: self._desk.wake(effect))
            return
        effect.attempt = max(effect.attempt, 1)
        effect.answered = effect.attempt
        effect.code, effect.detail = "settled", settlement.reason
        if settlement.outcome == "applied":
            effect.state, effect.provider_ref = "applied", settlement.provider_ref
            self._desk.answer(uow, effect, Verdict(AnswerStatus.APPLIED, "settled", settlement.reason))
        else:
            effect.state = "refused"
            self._desk.answer(uow, effect, Verdict(AnswerStatus.REFUSED, "settled", settlement.reason))


def effect_routes(api: EffectApi, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of effects."""
    viewer, operator = requires(tokens, Role.VIEWER), requires(tokens, Role.OPERATOR)
    return [
        Route("/v1/effects", viewer(api.list_effects)),
        Route("/v1/effects/{key}", viewer(api.show_effect)),
        # A result may hold what a viewer must not see: balances, employees, documents.
        Route("/v1/effects/{key}/result", operator(api.show_result)),
        Route("/v1/effects/{key}/settle", operator(api.settle), methods=["POST"]),
        Route("/v1/operations", operator(api.run_operation), methods=["POST"]),
    ]


def _shown(effect: Effect, now: datetime) -> dict[str, Any]:
    hidden = {"personal", "command", "trace", "request_hash", "version"}
    shown = {name: getattr(effect, name) for name in Effect.__slots__ if name not in hidden}
    # What is sealed tells nobody anything; that there is something does.
    shown["result"] = {name: value for name, value in effect.result.items() if name != CONTENT}
    return shown | {"sealed_result": CONTENT in effect.result, "explanation": explain(effect, now)}


def _readable(content: Any) -> Any:
    """Return the JSON document that base64 stands for, digit for digit, or the base64 itself where it is none."""
    try:
        raw = base64.b64decode(content, validate=True)
        orjson.loads(raw)
    except (ValueError, TypeError):
        return content
    return orjson.Fragment(raw)


def explain(effect: Effect, now: datetime) -> str:
    """Return in words what is known of an effect and who moves next."""
    final = {
        "applied": _done(effect),
        "refused": f"refused ({effect.code}): {effect.detail}",
        "voided": "its undo came first; it will never be sent",
    }
    if effect.state in final:
        return final[effect.state]
    if effect.lease_until is not None and effect.lease_until > now:
        return f"a worker is at it, until {effect.lease_until:%H:%M:%S} at the latest"
    if effect.attempt > effect.answered:
        return "it waits for a worker of this service"
    if effect.state == "reserved":
        shut = effect.parked_until is not None and effect.parked_until > now
        why = f"the way to {effect.provider} is shut" if shut else "nothing was sent yet"
        return f"{why}; whoever asked for it tries again"
    if effect.code == NEEDS_SETTLEMENT.code:
        return (
            f"needs you: it was sent to {effect.provider} and nobody can ask what became of it. Find out there, then "
            f"patchbay effects settle {effect.key} --outcome applied|refused|retry --reason <how you know>"
        )
    return (
        f"sent to {effect.provider} without a known outcome; whoever asked for it has it looked up again, or a person "
        f"finds out and settles it (patchbay effects settle {effect.key})"
    )


def _done(effect: Effect) -> str:
    told = f"done by {effect.provider} as {effect.provider_ref}"
    if CONTENT in effect.result:
        return f"{told}; what it answered is sealed: patchbay effects result {effect.key}"
    return told
