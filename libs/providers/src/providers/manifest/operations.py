"""The `operations.toml` of a provider: how canonical operations are carried out there, as data.

Must never hold a limit, lifetime or path that a vendor does not document.
"""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from contracts.errors import Invalid
from contracts.operations import OPERATIONS, arguments_of
from contracts.operations.money import Balances
from providers.manifest.base import Pointer, Strict
from providers.money import Unit

Scalar = str | int | float | bool | None

# Names under which vendors' answers hold money.
MONEY: Final = frozenset({"amount", "total", "price", "fee", "tax", "balance"})


class Idempotency(Strict):
    """What protects from a second effect when a request is repeated.

    `header`, `body` and `query` are places of an idempotency key: its name (in a body a JSON pointer or form field),
    greatest length, form and lifetime in hours where published. `natural` says that repeating the request leaves the
    same state: it names what it is about. The option `idempotency_lifetime_h` overrides the lifetime.
    """

    kind: Literal["header", "body", "query", "natural", "none"]
    name: str = ""
    max_length: int | None = Field(default=None, ge=22)
    format: Literal["text", "uuid"] = "text"
    lifetime_h: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _named_where_it_has_a_place(self) -> Self:
        if (self.kind in {"header", "body", "query"}) != bool(self.name):
            raise ValueError("a key in header, body or query has a name, `natural` and `none` have not")
        return self


class RequestTemplate(Strict):
    """A request as a template: texts may hold `{name}` of an argument; see `providers/templates.py`.

    `path` stands below the base URL, or below `base_url` where the vendor has another host for it. One of `json`,
    `form` and `text` at most; `text` has a content type.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str = Field(pattern=r"^/")
    base_url: str = Field(default="", pattern=r"^(https://[^/]+)?$")
    query: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    json_body: Any = Field(default=None, alias="json")
    form: dict[str, str] | None = None
    text: str | None = None
    content_type: str = ""

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if sum(body is not None for body in (self.json_body, self.form, self.text)) > 1:
            raise ValueError("a request has one of json, form and text")
        if (self.text is not None) != bool(self.content_type):
            raise ValueError("a text has a content_type, and nothing else has")
        return self


class Results(Strict):
    """What is read from a document: values a saga may want at `result`, and money at `amounts`.

    An amount becomes an integer in the currency's minor unit, whether the vendor writes it in that or in its major
    `unit`, and the result has the `currency` beside it: that of the document, else that of the arguments.
    """

    result: dict[str, Pointer] = Field(default_factory=dict)
    amounts: dict[str, Pointer] = Field(default_factory=dict)
    currency: Pointer | None = None
    unit: Unit = "minor"

    @model_validator(mode="after")
    def _amounts_have_a_currency(self) -> Self:
        if not self.amounts and (self.currency is not None or self.unit != "minor"):
            raise ValueError("currency and unit are for amounts")
        if "currency" in self.result or self.amounts.keys() & (self.result.keys() | {"currency"}):
            raise ValueError("amounts bring their currency with them, and have names of their own")
        return self


class BalancesTemplate(Strict):
    """Where an answer lists balances: `items` is a list, or one object; `account`, `currency` and amounts in each."""

    items: Pointer
    account: Pointer | None = None
    currency: Pointer
    amounts: dict[Literal["available", "pending", "withheld", "total"], Pointer] = Field(min_length=1)
    unit: Unit = "minor"


class AnswerTemplate(Results):
    """What an answer of status 2xx says: the effect's id at `ref`, and `Results`.

    Without `ref`, or while nothing stands there, the effect is known by `ref_from`, a template over the arguments.
    `declined` are values that mean a refusal though the status is 2xx, `refused` are places where only an error has a
    text, which is its code; `already` are statuses that say that the state asked for was there before, such as 404 for
    a deletion. `header_ref` is a header that holds the id. With `content` the body itself is the result, in base64;
    with `balances` it is what stands there, in the form of `contracts.operations.money.Balances`.
    """

    ref: tuple[Pointer, ...] = ()
    header_ref: str = ""
    ref_from: str = ""
    declined: dict[Pointer, tuple[Scalar, ...]] = Field(default_factory=dict)
    refused: tuple[Pointer, ...] = ()
    already: tuple[int, ...] = ()
    content: bool = False
    balances: tuple[BalancesTemplate, ...] = ()

    @model_validator(mode="after")
    def _says_what_it_did(self) -> Self:
        if not (self.ref or self.ref_from or self.header_ref):
            raise ValueError("an answer needs ref, header_ref or ref_from")
        return self


class LookUp(Results):
    """How the provider is asked whether an effect exists: the request, and which object of the answer is it.

    `items` is the list (without it the body itself is the object); `where` are values, as templates, that the object
    has, or `contains` texts that stand somewhere inside of them. `absent` are statuses that mean that there is none,
    `sparse` says that an empty list is left out of the answer.
    """

    request: RequestTemplate
    items: Pointer | None = None
    where: dict[Pointer, str] = Field(default_factory=dict)
    contains: dict[Pointer, str] = Field(default_factory=dict)
    ref: tuple[Pointer, ...] = ()
    ref_from: str = ""
    absent: tuple[int, ...] = ()
    sparse: bool = False
    # What makes an object that is found the same as none, such as a refund that failed.
    ignored: dict[Pointer, tuple[Scalar, ...]] = Field(default_factory=dict)
    more: Pointer | None = None


class OperationSpec(Strict):
    """One operation. `retry_class` (in the file: `class`) follows sync-worker.md §4.1.

    `retry_safe` may go to a backup provider, `unsafe` only if it provably never left, `pinned` never leaves the
    provider that holds the object. `code` says that the folder's `requests.py` builds and reads it; otherwise `request`
    and `answer` do. `read_back` says that the provider can be asked whether the effect exists, `lag_s` how long a
    write may take until it shows; `cost` is what one call takes from the quota, `scopes` what a token needs.
    `maps` are tables for the filter `map:<name>`. `request_with` holds other requests, by the optional argument whose
    presence calls for them. `refuses` are optional arguments that the vendor has no place for, though leaving them out
    would do something else than what was asked; `only` are arguments that must be what an option of the connection
    says, such as the one currency of a shop.
    """

    name: str = Field(pattern=r"^[a-z]+(\.[a-z_]+)+$")
    retry_class: Literal["retry_safe", "unsafe", "pinned"] = Field(alias="class")
    idempotency: Idempotency
    source: str = Field(pattern=r"^(https://|pypi:|gh:|disco:)")
    timeout_s: float = Field(default=20, gt=0, le=60)
    cost: float = Field(default=1, gt=0, le=10_000)
    quota: str = Field(default="", pattern=r"^[a-z0-9_.-]*$")
    scopes: tuple[str, ...] = ()
    code: bool = False
    request: RequestTemplate | None = None
    request_with: dict[str, RequestTemplate] = Field(default_factory=dict)
    refuses: tuple[str, ...] = ()
    only: dict[str, str] = Field(default_factory=dict)
    answer: AnswerTemplate | None = None
    look_up: LookUp | None = None
    look_up_by_code: bool = False
    lag_s: float = Field(default=2, ge=0, le=3600)
    maps: dict[str, dict[str, Scalar]] = Field(default_factory=dict)
    note: str = ""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.code == any(part is not None for part in (self.request, self.answer)) or (
            (self.request is None) != (self.answer is None)
        ):
            raise ValueError("an operation is `code = true`, or has request and answer")
        self._money_is_money()
        if self.look_up_by_code and not self.code:
            raise ValueError("look_up_by_code is for operations with code")
        try:
            fields = arguments_of(self.name).model_fields
        except Invalid as error:
            raise ValueError(error.detail) from None
        unknown = {*self.refuses, *self.request_with} - {name for name, one in fields.items() if not one.is_required()}
        unknown |= set(self.only) - set(fields)
        if unknown:
            raise ValueError(f"{sorted(unknown)} are no (optional) arguments of {self.name}")
        return self

    def _money_is_money(self) -> None:
        """Raise `ValueError` for an amount that would be handed on in a vendor's own unit."""
        model = OPERATIONS.get(self.name)
        if model is None:
            return
        parts = [part for part in (self.answer, self.look_up) if part is not None]
        if "currency" in model.model_fields:
            loose = sorted(MONEY & {name for part in parts for name in part.result})
            if loose:
                raise ValueError(f"{', '.join(loose)}: money stands in amounts, not in result")
        if self.answer is not None and bool(self.answer.balances) != (model.CONTENT is Balances):
            raise ValueError("balances are for balance.read, which has nothing else")
        if self.answer is not None and self.answer.balances and (self.answer.content or self.answer.amounts):
            raise ValueError("an answer with balances has no other content and no amounts")

    @property
    def capability(self) -> str:
        """The capability that the operation belongs to."""
        return arguments_of(self.name).CAPABILITY

    @property
    def read_back(self) -> bool:
        """Whether the provider can be asked for the effect."""
        return self.look_up is not None or self.look_up_by_code

    @property
    def writes(self) -> bool:
        """Whether it changes anything at the provider."""
        return arguments_of(self.name).WRITES


class Codes(Strict):
    """What a provider's errors look like, for all of its operations.

    `codes` and `details` are where its word and its explanation stand, the first that has a text counts. `quiet` says
    that explanations quote personal data and are left out. `ok` must be true (or one of `ok_values`) in an answer of
    2xx. Codes in `busy` mean that the same request is still running, in `throttled` that a quota is used up whatever
    the status, in `unauthorised` that the credential was refused, in `missing_scope` that it lacks a permission, and
    in `retry` that nothing was done and it may be asked again.
    """

    codes: tuple[Pointer, ...] = ()
    details: tuple[Pointer, ...] = ()
    quiet: bool = False
    ok: Pointer | None = None
    busy: frozenset[str] = frozenset()
    throttled: frozenset[str] = frozenset()
    unauthorised: frozenset[str] = frozenset()
    missing_scope: frozenset[str] = frozenset()
    retry: frozenset[str] = frozenset()
