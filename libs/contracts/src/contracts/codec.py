"""JSON on the wire: pydantic models to bytes and back, with errors that name the field."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from contracts.errors import Invalid

M = TypeVar("M", bound=BaseModel)


def encode(model: BaseModel) -> bytes:
    """Return the model as UTF-8 JSON; absent optional fields are left out."""
    return model.model_dump_json(exclude_none=True).encode()


def decode(model: type[M], data: bytes) -> M:
    """Return `data` as `model`.

    Raises `Invalid` with code `undecodable`, naming the first offending field; the value itself is never quoted, since
    it may be personal.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = field_path(first)
        raise Invalid("undecodable", f"{field or 'body'}: {first['msg']}", field=field) from None


def field_path(error: ErrorDetails) -> str | None:
    """Return the dotted path of a pydantic error, or None when it concerns the whole document."""
    return ".".join(str(part) for part in error["loc"]) or None
