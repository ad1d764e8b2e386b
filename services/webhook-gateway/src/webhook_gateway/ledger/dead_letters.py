"""`/v1/dead-letters`: what consumers gave up, sent back as it was or repaired, or discarded."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.db.database import UnitOfWork
from chassis.http.auth import Role, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import Problem, body_of, invalid, json_response, not_found, path_uuid, query_of
from webhook_gateway import audit, privacy
from webhook_gateway.deadletters import envelope_facts, fingerprint, replay_row, subject_of
from webhook_gateway.ledger.api import LedgerApi, wants_raw
from webhook_gateway.models import DeadLetter
from webhook_gateway.repository import deadletters, issues
from webhook_gateway.repository.deadletters import Settled

MAX_AT_ONCE: Final = 1000


class Filters(BaseModel):
    """Which dead letters; absent means any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    service: str | None = None
    consumer: str | None = None
    origin_topic: str | None = None
    message_type: str | None = None
    error_code: str | None = None
    tenant: str | None = None
    seen_from: AwareDatetime | None = None
    seen_to: AwareDatetime | None = None


class DeadLetterQuery(PageQuery, Filters):
    """Filters of the list, and the page."""

    state: Literal["open", "replayed", "discarded"] | None = None


class Replay(BaseModel):
    """Send one back. `value` (text) or `value_base64` replaces the record's value: the repair."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = Field(min_length=3, max_length=500)
    value: str | None = None
    value_base64: str | None = None

    def repaired(self) -> bytes | None:
        """Return the new value, or None to send the record back as it was; raises `Problem` 422."""
        if self.value is not None and self.value_base64 is not None:
            raise invalid("value", "give value or value_base64")
        if self.value_base64 is None:
            return None if self.value is None else self.value.encode()
        try:
            return base64.b64decode(self.value_base64, validate=True)
        except binascii.Error:
            raise invalid("value_base64", "is no base64") from None


class Discard(BaseModel):
    """Give one up for good."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = Field(min_length=3, max_length=500)


class ReplayMany(Filters):
    """Send back all open ones that match, at most `MAX_AT_ONCE` at a time, in the order of their source."""

    reason: str = Field(min_length=3, max_length=500)
    dry_run: bool = False


def routes(api: LedgerApi) -> list[BaseRoute]:
    """Return the routes of dead letters."""

    @requires(api.tokens, Role.VIEWER)
    async def list_letters(request: Request) -> Response:
        query = query_of(request, DeadLetterQuery)
        async with api.database.connection() as connection:
            found = await deadletters.listed(connection, query.filters(), query.cursor(2), query.limit + 1)
        return json_response(page(found, query.limit, ("last_seen", "id")))

    @requires(api.tokens, Role.OPERATOR)
    async def show(request: Request) -> Response:
        wanted = path_uuid(request, "dead_letter_id")
        async with api.database.connection() as connection:
            letter = await deadletters.one(connection, wanted)
        if letter is None:
            raise not_found("dead letter")
        raw = await wants_raw(api, request, f"dead-letter:{wanted}", letter.tenant)
        return json_response(_shown(api, letter, raw=raw))

    @requires(api.tokens, Role.OPERATOR)
    async def replay(request: Request) -> Response:
        wanted, asked = path_uuid(request, "dead_letter_id"), await body_of(request, Replay)
        value, by = asked.repaired(), request.state.principal.subject
        async with api.database.unit_of_work() as uow:
            letter = await _open(uow, wanted)
            uow.publish_raw(replay_row(letter, value))
            hashes = {"sha256_before": fingerprint(letter.value)}
            if value is not None:
                hashes["sha256_after"] = fingerprint(value)
            await _settle(uow, api, [letter], Settled("replayed", by, asked.reason, api.clock.now()))
            action = "dead_letter.replayed" if value is None else "dead_letter.repaired"
            _record(
                uow, api, audit.Act(by, action, f"dead-letter:{wanted}", letter.tenant, _why(asked.reason) | hashes)
            )
        return json_response({"id": wanted, "state": "replayed", "topic": letter.origin_topic})

    @requires(api.tokens, Role.OPERATOR)
    async def replay_many(request: Request) -> Response:
        asked = await body_of(request, ReplayMany)
        return json_response(await _replay_many(api, asked, request.state.principal.subject))

    @requires(api.tokens, Role.OPERATOR)
    async def discard(request: Request) -> Response:
        wanted, asked = path_uuid(request, "dead_letter_id"), await body_of(request, Discard)
        by = request.state.principal.subject
        async with api.database.unit_of_work() as uow:
            letter = await _open(uow, wanted)
            await _settle(uow, api, [letter], Settled("discarded", by, asked.reason, api.clock.now()))
            act = audit.Act(by, "dead_letter.discarded", f"dead-letter:{wanted}", letter.tenant, _why(asked.reason))
            _record(uow, api, act)
        return json_response({"id": wanted, "state": "discarded"})

    return [
        Route("/v1/dead-letters", list_letters),
        Route("/v1/dead-letters/replay", replay_many, methods=["POST"]),
        Route("/v1/dead-letters/{dead_letter_id}", show),
        Route("/v1/dead-letters/{dead_letter_id}/replay", replay, methods=["POST"]),
        Route("/v1/dead-letters/{dead_letter_id}/discard", discard, methods=["POST"]),
    ]


async def _replay_many(api: LedgerApi, asked: ReplayMany, by: str) -> dict[str, Any]:
    filters = asked.model_dump(exclude_none=True, exclude={"reason", "dry_run"})
    async with api.database.unit_of_work() as uow:
        total = await deadletters.count_open(uow.connection, filters)
        if asked.dry_run:
            return {"dry_run": True, "total": total}
        letters = await deadletters.open_ones(uow.connection, filters, MAX_AT_ONCE)
        for letter in letters:
            uow.publish_raw(replay_row(letter))
        await _settle(uow, api, letters, Settled("replayed", by, asked.reason, api.clock.now()))
        detail = _why(asked.reason) | {"dead_letters": str(len(letters))}
        _record(uow, api, audit.Act(by, "dead_letters.replayed", "dead-letters", asked.tenant or "", detail))
    return {"replayed": len(letters), "left": total - len(letters)}


async def _open(uow: UnitOfWork, wanted: UUID) -> DeadLetter:
    letter = await deadletters.one(uow.connection, wanted, lock=True)
    if letter is None:
        raise not_found("dead letter")
    if letter.state != "open":
        raise Problem(409, "already_settled", f"this dead letter was {letter.state}")
    return letter


async def _settle(uow: UnitOfWork, api: LedgerApi, letters: list[DeadLetter], settled: Settled) -> None:
    """Settle dead letters, and resolve the issues that have no open one left."""
    await deadletters.settle(uow.connection, [letter.id for letter in letters], settled)
    over: list[str] = []
    for subject in {subject_of(letter) for letter in letters}:
        consumer, _, code = subject.partition(":")
        if not await deadletters.count_open(uow.connection, {"consumer": consumer, "error_code": code}):
            over.append(subject)
    await issues.resolve(uow.connection, "dead_letter", over, api.clock.now())


def _record(uow: UnitOfWork, api: LedgerApi, act: audit.Act) -> None:
    audit.record(uow, api.clock, act)


def _why(reason: str) -> dict[str, str]:
    return {"reason": reason}


def _shown(api: LedgerApi, letter: DeadLetter, *, raw: bool) -> dict[str, Any]:
    headers = envelope_facts(letter)
    out = letter.model_dump(exclude={"key", "value", "headers"})
    out |= {"key": (letter.key or b"").decode(errors="replace"), "headers": _safe(headers, raw=raw)}
    if letter.value is None:
        return out | {"value": None}
    hidden = api.book.hidden(headers.get("ce_endpoint", ""), headers.get("ce_provider", ""))
    value = privacy.readable(letter.value, headers.get("content-type", ""), () if raw else hidden.pointers)
    if raw:
        return out | {"value": value, "value_base64": base64.b64encode(letter.value).decode()}
    return out | {"value": value}


def _safe(headers: dict[str, str], *, raw: bool) -> dict[str, str]:
    """Return a record's headers without the provider's own, which may hold a secret."""
    return headers if raw else {name: value for name, value in headers.items() if name != "ce_signed"}
