"""What all operations have in common: an effect key, and fields that say whether they hold personal data.

Must never name a provider: an operation means the same wherever it is carried out.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.fields import FieldInfo

from contracts.events.base import Instant

# A provider's own identifier: it becomes part of URLs, so it holds no space or control character.
Reference = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,255}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=16_000)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
# In the minor unit of the currency beside it.
Amount = Annotated[int, Field(gt=0, le=10**15)]
Zone = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")]
Moment = Instant

_PERSONAL = "personal"


def personal(default: Any = ..., *, description: str) -> Any:
    """Mark a field that holds personal data: on a topic and in a table it is sealed, in a log it is absent."""
    return Field(default=default, description=description, repr=False, json_schema_extra={_PERSONAL: True})


class Arguments(BaseModel):
    """What one operation is asked with. `effect_key` is equal for all attempts of one effect."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    OPERATION: ClassVar[str]
    CAPABILITY: ClassVar[str]
    # Whether it changes anything at the provider.
    WRITES: ClassVar[bool] = True
    # What the sealed content of a result is, where all providers give the same; else it is the provider's own answer.
    CONTENT: ClassVar[type[BaseModel] | None] = None

    effect_key: str = Field(min_length=1, max_length=128)

    @classmethod
    def personal_fields(cls) -> frozenset[str]:
        """Return the names of the fields that hold personal data."""
        return frozenset(name for name, field in cls.model_fields.items() if _is_personal(field))


def _is_personal(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(_PERSONAL))


def as_document(arguments: Arguments) -> dict[str, Any]:
    """Return the arguments that were given, by name, with instants as such; for templates."""
    found: dict[str, Any] = {}
    for name in type(arguments).model_fields:
        value = getattr(arguments, name)
        if value is not None:
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | AwareDatetime):
        return value
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value
