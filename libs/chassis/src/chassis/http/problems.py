"""Errors of the HTTP APIs as RFC 9457 problem details, each with a stable `code`.

A 5xx never explains itself to the caller; the log has the traceback under the same trace id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chassis.db.connection import is_bad_value, is_unavailable
from chassis.telemetry.logs import logger
from contracts.codec import field_path
from contracts.errors import Invalid, Terminal, Transient

log = logger(__name__)

M = TypeVar("M", bound=BaseModel)
RETRY_AFTER_S = 2


class Problem(Exception):  # noqa: N818 (the standard's word)
    """An answer that is not 2xx, raised from anywhere below a route."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra

    def response(self) -> Response:
        """Return the problem-details response."""
        body = {"type": "about:blank", "status": self.status, "code": self.code, "detail": self.detail} | self.extra
        return JSONResponse(body, self.status, self.headers, media_type="application/problem+json")


def not_found(what: str) -> Problem:
    """Return the 404 for an unknown id."""
    return Problem(404, "not_found", f"no such {what}")


def invalid(field: str, rule: str, code: str = "invalid_field") -> Problem:
    """Return the 422 that names a field and the rule it breaks."""
    return Problem(422, code, f"{field}: {rule}", errors=[{"field": field, "rule": rule}])


def path_uuid(request: Request, name: str) -> UUID:
    """Return a path parameter as a UUID; anything else cannot exist, so it is a `Problem` 404."""
    try:
        return UUID(request.path_params[name])
    except ValueError:
        raise not_found(name.removesuffix("_id")) from None


def json_response(body: object, status: int = 200) -> Response:
    """Return JSON in which UUIDs, instants and other plain values need no conversion by the caller."""
    return Response(orjson.dumps(body, default=str), status, media_type="application/json")


async def body_of(request: Request, model: type[M]) -> M:
    """Return the JSON body as `model`; a `Problem` 422 names every offending field, never its value."""
    raw = await request.body()
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise _validation_problem(error) from None


def query_of(request: Request, model: type[M]) -> M:
    """Return the query parameters as `model`; a `Problem` 422 names what is unknown, repeated or malformed."""
    pairs = request.query_params.multi_items()
    names = [name for name, _ in pairs]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise invalid(repeated, "may be given once", "repeated_parameter")
    try:
        return model.model_validate(dict(pairs))
    except ValidationError as error:
        raise _validation_problem(error) from None


def _validation_problem(error: ValidationError) -> Problem:
    errors = [
        {"field": field_path(item) or "body", "rule": item["msg"]}
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    return Problem(422, "invalid_request", f"{errors[0]['field']}: {errors[0]['rule']}", errors=errors)


async def render(request: Request, error: Exception) -> Response:
    """Turn any exception below a route into a problem-details response."""
    problem = _callers_problem(error)
    if problem is not None:
        return problem.response()
    if isinstance(error, Transient) or is_unavailable(error):
        log.warning("request_unavailable", route=_route(request), error=type(error).__name__)
        headers = {"retry-after": str(RETRY_AFTER_S)}
        return Problem(503, "unavailable", "try again later", headers=headers).response()
    log.error("request_failed", route=_route(request), exc_info=error)
    return Problem(500, "internal_error", "the error was logged").response()


def _callers_problem(error: Exception) -> Problem | None:
    """Return what the caller did wrong, or None when it was not the caller."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return Problem(error.status_code, code, error.detail, headers=error.headers)
    if isinstance(error, Invalid):
        extra: dict[str, Any] = {}
        if error.errors:
            extra["errors"] = [{"field": field, "rule": rule} for field, rule in error.errors]
        return Problem(422, error.code, error.detail, **extra)
    if isinstance(error, Terminal):
        return Problem(409, error.code, error.detail)
    if is_bad_value(error):
        # A well-formed cursor of another list, or a character that text cannot hold: no layer can name the field.
        return Problem(422, "invalid_value", "a parameter has a value that cannot exist")
    return None


def _route(request: Request) -> str:
    """Return the route's template: the path itself may hold a customer's id, which no log may."""
    return str(getattr(request.scope.get("route"), "path", "unmatched"))


Endpoint = Callable[[Request], Awaitable[Response]]
