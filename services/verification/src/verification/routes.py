"""HTTP API of the age checks; request bodies are strict, and no answer holds an age."""

from __future__ import annotations

from datetime import date
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.problems import body_of, json_response, not_found, query_of
from contracts.events.base import Slug
from verification.checks import Identity
from verification.verify import AgeVerifier

DEFAULT_TENANT = "default"
LEGAL_AGE_21 = 21


class VerifyRequest(BaseModel):
    """Body of `POST verify`. A field that is unknown, missing or of a wrong type is refused and is no attempt."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)

    tenant: Slug = DEFAULT_TENANT
    customer_id: str = Field(min_length=1, max_length=128, repr=False)
    full_name: str = Field(max_length=200, repr=False)
    date_of_birth: date = Field(repr=False)
    id_number_last4: str = Field(pattern=r"^[0-9]{4}$", repr=False, alias="idNumberLast4")
    state: str = Field(pattern=r"^[A-Z]{2}$", repr=False)

    def identity(self) -> Identity:
        """Return the claimed identity."""
        return Identity(self.full_name, self.date_of_birth, self.id_number_last4, self.state)


class StatusQuery(BaseModel):
    """Query of `GET status`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Slug = DEFAULT_TENANT


def routes(verifier: AgeVerifier, tokens: TokenVerifier, clock: Clock) -> list[BaseRoute]:
    """Return the routes of the age checks."""

    @requires(tokens, Role.OPERATOR, Role.SERVICE)
    async def verify(request: Request) -> Response:
        body = await body_of(request, VerifyRequest)
        return await verifier.answer(request, verifier.asked(body.tenant, body.customer_id, body.identity()))

    @requires(tokens, Role.OPERATOR, Role.SERVICE)
    async def status(request: Request) -> Response:
        query = query_of(request, StatusQuery)
        found = await verifier.status(query.tenant, request.path_params["customer_id"])
        if found is None or found.status == "refused":
            raise not_found("verification")
        live = found.live(clock.now())
        # An expired pass proves nothing any more, so a caller that forgets to look at `expired` fails closed.
        thresholds = list(found.thresholds_passed) if live else []
        answer: dict[str, Any] = {
            "verified": live,
            "expired": found.status == "verified" and not live,
            "verifiedAt": found.verified_at.isoformat(),
            "expiresAt": found.expires_at.isoformat() if found.expires_at is not None else None,
            "verificationId": found.verification_id,
            "ageOver21": LEGAL_AGE_21 in thresholds,
            "thresholds": thresholds,
        }
        return json_response(answer)

    return [
        Route("/v1/age-verification/verify", verify, methods=["POST"]),
        Route("/v1/age-verification/status/{customer_id}", status),
    ]
