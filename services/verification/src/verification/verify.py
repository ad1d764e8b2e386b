"""The use case of one age check: cache, reserve an attempt, ask the provider, settle in one transaction.

The provider is asked outside of any transaction, and its faults never cost an attempt. Must never let a birth date, a
name or digits get past this module's callers and the provider.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import Response

from chassis.clock import Clock
from chassis.db.database import Database, UnitOfWork
from chassis.http.idempotency import stored_answer, write_once
from chassis.http.problems import Problem
from chassis.telemetry.metrics import counter, histogram
from contracts.errors import Transient
from contracts.events.platform import AuditRecorded
from contracts.events.verification import AttestationChanged
from contracts.ids import uuid7
from contracts.topics import PLATFORM_AUDIT, VERIFICATION_ATTESTATIONS
from verification import repository
from verification.checks import AgeCheck, CheckResult, Identity
from verification.metrics import BLOCKED, CHECK_SECONDS, DECISIONS
from verification.repository import AttemptLimit, Attestation
from verification.rules import RULE_VERSION, THRESHOLDS, implausible
from verification.tags import Tag, Tagger

SERVICE: Final = "verification"
RETRY_AFTER_S: Final = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """How often one may try, how long a pass lasts, how long a provider may take."""

    attempts: int
    attempt_window: timedelta
    attestation: timedelta
    check_timeout_s: float


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: whose account, which tags stand for it, and the identity that is claimed."""

    tenant: str
    customer: Tag
    identity_tag: Tag
    identity: Identity

    def attempt_keys(self) -> list[tuple[str, bytes]]:
        """Return what attempts are counted by, always in this order, so that transactions cannot deadlock.

        A customer alone would be evaded with a new account; an identity alone would let a thief guess on one account.
        """
        return [("customer", self.customer.current), ("identity", self.identity_tag.current)]

    def fingerprint(self) -> bytes:
        """Return what an `Idempotency-Key` is bound to; keyed, since a plain hash of the body could be guessed."""
        return self.customer.current + self.identity_tag.current


@dataclass(frozen=True, slots=True)
class Decision:
    """What one check came to: `reason` is empty when it passed, `result` is None when nobody had to be asked."""

    verification_id: UUID
    method: str
    reason: str
    result: CheckResult | None

    @property
    def verified(self) -> bool:
        """Tell whether a threshold is proven."""
        return not self.reason

    def body(self, elapsed_s: float) -> dict[str, Any]:
        """Return the answer; `success` says that the check came to an end, `processingTime` is in milliseconds."""
        answer: dict[str, Any] = {
            "success": self.reason in ("", "underage"),
            "verified": self.verified,
            "verificationId": str(self.verification_id),
            "method": self.method,
            "processingTime": round(elapsed_s * 1000),
        }
        return answer | ({"reason": self.reason} if self.reason else {})


class AgeVerifier:
    """Checks ages with one provider. Safe for concurrent use."""

    def __init__(self, database: Database, check: AgeCheck, tagger: Tagger, clock: Clock, limits: Limits) -> None:
        self._database = database
        self._check = check
        self._tagger = tagger
        self._clock = clock
        self._limits = limits

    def asked(self, tenant: str, customer_id: str, identity: Identity) -> Asked:
        """Return a request with its tags."""
        customer = self._tagger.customer(tenant, customer_id)
        return Asked(tenant, customer, self._tagger.identity(tenant, identity), identity)

    async def status(self, tenant: str, customer_id: str) -> Attestation | None:
        """Return what is known of a customer, or None; not an attempt."""
        async with self._database.connection() as connection:
            return await repository.attestation_of(connection, tenant, self._tagger.customer(tenant, customer_id))

    async def answer(self, request: Request, asked: Asked) -> Response:
        """Answer one request, once per `Idempotency-Key`.

        Raises `Problem` 429 over the limit of attempts, and 503 for a fault of the provider, which gives the attempt
        back.
        """
        started = self._clock.monotonic()
        replay = await stored_answer(request, self._database, fingerprint=asked.fingerprint())
        if replay is not None:
            return replay
        known = await self._cached(asked)
        if known is not None:
            cached = Decision(known.verification_id, "cache", "", None)
            counter(DECISIONS).labels("passed", cached.method).inc()

            async def repeat(_uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
                return 200, cached.body(self._clock.monotonic() - started)

            return await write_once(request, self._database, repeat, fingerprint=asked.fingerprint())
        return await self._attempt(request, asked, started)

    async def _cached(self, asked: Asked) -> Attestation | None:
        """Return a live pass of the same identity; one that may have grown with a birthday is checked again."""
        async with self._database.connection() as connection:
            known = await repository.attestation_of(connection, asked.tenant, asked.customer)
        if known is None or not known.live(self._clock.now()) or known.identity_tag not in asked.identity_tag.all:
            return None
        return known if known.thresholds_passed == THRESHOLDS and known.rule_version == RULE_VERSION else None

    async def _attempt(self, request: Request, asked: Asked, started: float) -> Response:
        window_ends = await self._reserve(asked)
        settled = asyncio.Event()
        try:
            decision = await self._decide(asked)

            async def settle(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
                await self._settle(uow, asked, decision, request.state.principal.subject)
                uow.after_commit(settled.set)
                return 200, decision.body(self._clock.monotonic() - started)

            answer = await write_once(request, self._database, settle, fingerprint=asked.fingerprint())
        finally:
            # A fault, or a twin request with the same key that was faster: nothing was decided, so nothing is charged.
            if not settled.is_set():
                await self._refund(asked, window_ends)
        counter(DECISIONS).labels(decision.reason or "passed", decision.method).inc()
        return answer

    async def _reserve(self, asked: Asked) -> list[datetime]:
        """Use one attempt of every key, or of none when one has none left."""
        now = self._clock.now()
        limit = AttemptLimit(self._limits.attempts, now, now + self._limits.attempt_window)
        ends: list[datetime] = []
        async with self._database.unit_of_work() as uow:
            for kind, tag in asked.attempt_keys():
                allowed, window_end = await repository.reserve_attempt(uow.connection, asked.tenant, kind, tag, limit)
                if not allowed:
                    counter(BLOCKED).inc()
                    raise _too_many(window_end, now)
                ends.append(window_end)
        return ends

    async def _refund(self, asked: Asked, window_ends: list[datetime]) -> None:
        async with self._database.unit_of_work() as uow:
            for (kind, tag), window_end in zip(asked.attempt_keys(), window_ends, strict=True):
                await repository.refund_attempt(uow.connection, asked.tenant, kind, tag, window_end)

    async def _decide(self, asked: Asked) -> Decision:
        verification_id, identity = uuid7(), asked.identity
        nonsense = implausible(identity.full_name, identity.date_of_birth, identity.state, self._clock.now().date())
        if nonsense is not None:
            return Decision(verification_id, "rules", nonsense, None)
        try:
            with histogram(CHECK_SECONDS).labels(self._check.name).time():
                async with asyncio.timeout(self._limits.check_timeout_s):
                    result = await self._check.check(identity, verification_id)
        except (TimeoutError, Transient):
            raise _provider_fault() from None
        if result.outcome == "provider_error":
            raise _provider_fault()
        reason = "" if result.outcome == "passed" else result.outcome
        return Decision(verification_id, self._check.name, reason, result)

    async def _settle(self, uow: UnitOfWork, asked: Asked, decision: Decision, actor: str) -> None:
        await repository.lock_customer(uow.connection, asked.customer)
        known = await repository.attestation_of(uow.connection, asked.tenant, asked.customer)
        changed = self._attestation(asked, decision, known)
        if changed is not None:
            await repository.save_attestation(uow.connection, changed)
            _publish(uow, changed)
        detail = {"outcome": decision.reason or "passed", "method": decision.method, "rule_version": RULE_VERSION}
        if changed is not None:
            detail["subject"] = str(changed.subject_id)
        audit = AuditRecorded(
            audit_id=uuid7(),
            tenant=asked.tenant,
            service=SERVICE,
            actor=actor,
            action="age.verified" if decision.verified else "age.refused",
            target=f"verification:{decision.verification_id}",
            at=self._clock.now(),
            detail=detail,
        )
        uow.emit(PLATFORM_AUDIT, asked.tenant, audit, tenant=asked.tenant)

    def _attestation(self, asked: Asked, decision: Decision, known: Attestation | None) -> Attestation | None:
        """Return the new state of the customer, or None when the check changes nothing.

        A refusal never takes a live pass away: it may be a typing error, or somebody else's try. It keeps the outcome
        only, no thresholds and no identity tag.
        """
        now = self._clock.now()
        if decision.result is None or (not decision.verified and known is not None and known.live(now)):
            return None
        return Attestation(
            subject_id=known.subject_id if known is not None else uuid4(),
            tenant=asked.tenant,
            customer_ref=asked.customer.current,
            verification_id=decision.verification_id,
            epoch=known.epoch + 1 if known is not None else 1,
            status="verified" if decision.verified else "refused",
            outcome=decision.result.outcome,
            thresholds_passed=decision.result.thresholds if decision.verified else (),
            assurance=self._check.assurance,
            provider=self._check.name,
            rule_version=RULE_VERSION,
            verified_at=now,
            expires_at=now + self._limits.attestation if decision.verified else None,
            identity_tag=asked.identity_tag.current if decision.verified else None,
            evidence_ref=decision.result.evidence_ref,
        )


def _publish(uow: UnitOfWork, attestation: Attestation) -> None:
    changed = AttestationChanged(
        subject=attestation.subject_id,
        tenant=attestation.tenant,
        epoch=attestation.epoch,
        status=attestation.status,
        thresholds=attestation.thresholds_passed,
        verified_at=attestation.verified_at,
        expires_at=attestation.expires_at,
    )
    uow.emit(VERIFICATION_ATTESTATIONS, str(attestation.subject_id), changed, tenant=attestation.tenant)


def _too_many(resets_at: datetime, now: datetime) -> Problem:
    wait_s = max(1, round((resets_at - now).total_seconds()))
    return Problem(
        429,
        "too_many_attempts",
        f"Too many attempts; the next one is possible at {resets_at.isoformat()}",
        headers={"retry-after": str(wait_s)},
        resetAt=resets_at.isoformat(),
    )


def _provider_fault() -> Problem:
    detail = "the check could not be completed and does not count as an attempt; try again later"
    return Problem(503, "provider_error", detail, headers={"retry-after": str(RETRY_AFTER_S)})
