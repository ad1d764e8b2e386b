"""`/v1/admission`: how bulk is let in, and the operator's switch that sheds all of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db.database import Database, UnitOfWork
from chassis.http.auth import Role, requires
from chassis.http.problems import body_of, json_response
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.gateway import AdmissionChanged
from contracts.topics import GATEWAY_ADMISSION
from webhook_gateway import audit
from webhook_gateway.ledger.api import LedgerApi

# One key, so that compaction keeps the newest decision only.
KEY: Final = "admission"


class Switch(BaseModel):
    """Body of `PUT /v1/admission`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    emergency: bool
    reason: str = Field(min_length=3, max_length=500)


class AdmissionDesk:
    """The newest decision, and the two who change it: operators the switch, the drain watch the limit."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._newest: AdmissionChanged | None = None

    def apply(self, _key: str, envelope: Envelope | None) -> None:
        """Take one record of `gateway.admission.v1`."""
        self._newest = None if envelope is None else decode(AdmissionChanged, envelope.data)

    def shown(self) -> dict[str, Any]:
        """Return the decision that holds, for people."""
        if self._newest is None:
            return {"emergency": False, "bulk_per_s": None, "reason": "nothing was decided yet", "by": "", "at": None}
        return self._newest.model_dump(mode="json")

    async def switch(self, uow: UnitOfWork, actor: str, switch: Switch) -> AdmissionChanged:
        """Turn the emergency on or off, leaving the limit as it is."""
        limit = self._newest.bulk_per_s if self._newest else None
        changed = self._changed(switch.emergency, limit, switch.reason, actor)
        self._emit(uow, changed)
        action = "emergency.declared" if switch.emergency else "emergency.ended"
        audit.record(uow, self._clock, audit.Act(actor, action, "admission", detail={"reason": switch.reason}))
        return changed

    async def limit(self, per_s: float | None, reason: str) -> None:
        """Publish what bulk may come in per second; the drain watch's callback."""
        emergency = self._newest.emergency if self._newest else False
        async with self._database.unit_of_work() as uow:
            self._emit(uow, self._changed(emergency, per_s, reason, audit.SELF))

    def _changed(self, emergency: bool, per_s: float | None, reason: str, actor: str) -> AdmissionChanged:  # noqa: FBT001
        now: datetime = self._clock.now()
        return AdmissionChanged(emergency=emergency, bulk_per_s=per_s, reason=reason, by=actor, at=now)

    def _emit(self, uow: UnitOfWork, changed: AdmissionChanged) -> None:
        # Remembered at once, so that two changes within the time of the round trip do not undo each other.
        self._newest = changed
        uow.emit(GATEWAY_ADMISSION, KEY, changed)


def routes(api: LedgerApi, desk: AdmissionDesk) -> list[BaseRoute]:
    """Return the routes of admission."""

    @requires(api.tokens, Role.VIEWER)
    async def show(_request: Request) -> Response:
        return json_response(desk.shown())

    @requires(api.tokens, Role.OPERATOR)
    async def switch(request: Request) -> Response:
        wanted = await body_of(request, Switch)
        async with api.database.unit_of_work() as uow:
            await desk.switch(uow, request.state.principal.subject, wanted)
        return json_response(desk.shown())

    return [Route("/v1/admission", show), Route("/v1/admission", switch, methods=["PUT"])]
