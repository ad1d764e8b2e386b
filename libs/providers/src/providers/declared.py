"""Operations that are data: requests rendered from `operations.toml`, answers read by pointers.

Pure, like the operations that a folder's `requests.py` writes by hand; both look the same from outside.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from contracts.errors import Invalid, Transient
from contracts.operations import Arguments, as_document
from contracts.operations.money import AccountBalance, Balances
from providers.manifest.operations import (
    AnswerTemplate,
    Codes,
    Idempotency,
    LookUp,
    OperationSpec,
    RequestTemplate,
    Results,
)
from providers.money import currency_of, exact, minor_units
from providers.reading import at, fitting_key
from providers.sdk import Account, Applied, Declined, HttpRequest, HttpResponse
from providers.templates import ABSENT, Scope, render

_Part = TypeVar("_Part")

_CLIENT_ERROR: Final = 400
_MAX_TEXT: Final = 300
# Answers to commands are records on a topic: beyond this a document is fetched from its provider by whoever needs it.
MAX_CONTENT_BYTES: Final = 256 * 1024
# What is read from an answer depends on what was asked, never on who asked.
_NOBODY: Final = Account(account_ref="", secrets={})


@dataclass(frozen=True, slots=True)
class Declared:
    """One operation of one provider."""

    spec: OperationSpec
    codes: Codes

    def template(self, arguments: Arguments) -> RequestTemplate:
        """Return the template of the request: that of the first argument in `request_with` that was given."""
        if not self.spec.request_with:
            return _there(self.spec.request)
        given = as_document(arguments)
        chosen = (template for name, template in self.spec.request_with.items() if name in given)
        return next(chosen, None) or _there(self.spec.request)

    def build(self, arguments: Arguments, account: Account) -> HttpRequest:
        """Return the request, its idempotency key in place.

        Raises `Invalid` (`missing_argument`, or `unsupported_argument` for one that the vendor has no place for).
        """
        spec = self.spec
        superfluous = next((name for name in spec.refuses if getattr(arguments, name, None) is not None), "")
        if superfluous:
            raise Invalid("unsupported_argument", f"the provider has no place for {superfluous}", field=superfluous)
        scope = _scope(spec, arguments, account)
        for name, template in spec.only.items():
            if render(template, scope) != scope.look(name):
                raise Invalid("unsupported_argument", f"this account takes another {name}", field=name)
        request = render_request(self.template(arguments), scope)
        return _with_key(request, spec.idempotency, scope.values["key"])

    def parse(self, arguments: Arguments, response: HttpResponse) -> Applied | Declined:
        """Read a 2xx or 4xx answer; see `Operations.parse`."""
        answer = _there(self.spec.answer)
        if response.status in answer.already:
            return Applied(_ref_from(answer.ref_from, self.spec, arguments), {"already": 1})
        refusal = refused(self.codes, response)
        if refusal is not None:
            return refusal
        error = _first(response.json, answer.refused)
        if error:
            return Declined(_word(error), self._detail(response))
        for pointer, values in answer.declined.items():
            value = at(response.json, pointer)
            if value in values and not (value is None and None not in values):
                return Declined(_word(value), "the provider said so in its answer")
        result = _result(answer, response.json, exact(response) if answer.amounts else None, arguments)
        if answer.content or answer.balances:
            content = _balances(answer, response) if answer.balances else response.body
            if len(content) > MAX_CONTENT_BYTES:
                return Declined("content_too_large", f"at most {MAX_CONTENT_BYTES} bytes are handed on")
            result["content"] = base64.b64encode(content).decode()
        return Applied(self._ref(answer, arguments, response), result)

    def read_back(self, arguments: Arguments, account: Account) -> HttpRequest | None:
        """Return the request that asks whether the effect exists, or None where there is none."""
        if self.spec.look_up is None:
            return None
        return render_request(self.spec.look_up.request, _scope(self.spec, arguments, account))

    def parse_read_back(self, arguments: Arguments, response: HttpResponse) -> Applied | None:
        """Read a 2xx answer to `read_back`, or one whose status means that there is nothing."""
        look_up = _there(self.spec.look_up)
        if response.status in look_up.absent:
            return None
        scope = _scope(self.spec, arguments, _NOBODY)
        candidates = _candidates(look_up, response.json)
        written = _candidates(look_up, exact(response)) if look_up.amounts else candidates
        for one, as_written in zip(candidates, written, strict=True):
            if _fits(look_up, one, scope):
                ref = _first(one, look_up.ref) or _ref_from(look_up.ref_from, self.spec, arguments)
                return Applied(ref, _result(look_up, one, as_written, arguments))
        if look_up.more is not None and at(response.json, look_up.more) not in {None, False, ""}:
            raise Transient("read_back_incomplete", "the effect may be on a further page")
        return None

    def _detail(self, response: HttpResponse) -> str:
        detail = "" if self.codes.quiet else _first(response.json, self.codes.details)
        return (detail or "the provider said so in its answer")[:_MAX_TEXT]

    def _ref(self, answer: AnswerTemplate, arguments: Arguments, response: HttpResponse) -> str:
        found = _first(response.json, answer.ref) or response.headers.get(answer.header_ref.lower(), "")
        if not found and answer.ref_from:
            found = _ref_from(answer.ref_from, self.spec, arguments)
        if not found:
            raise Invalid("unreadable_answer", "the answer does not name the effect", field=(*answer.ref, "")[0])
        return found


def refused(codes: Codes, response: HttpResponse) -> Declined | None:
    """Return the refusal in an answer, or None; raises `Transient` when it may be asked again."""
    if response.status < _CLIENT_ERROR and (codes.ok is None or at(response.json, codes.ok) is True):
        return None
    code = _first(response.json, codes.codes) or (str(response.status) if response.status >= _CLIENT_ERROR else "")
    if not code:
        raise Invalid("unreadable_answer", f"status {response.status} that is neither a success nor an error")
    if code in codes.busy:
        raise Transient(_word(code), "a request with the same key is still running")
    if code in codes.retry:
        raise Transient(_word(code), "nothing was done; it may be asked again")
    detail = "" if codes.quiet else _first(response.json, codes.details)
    return Declined(_word(code), (detail or f"the provider answered {response.status}")[:_MAX_TEXT])


def _there(part: _Part | None) -> _Part:
    """Return a part that the manifest's checks promise."""
    if part is None:
        raise Invalid("no_template", "the operation is not carried out by data")
    return part


def _scope(spec: OperationSpec, arguments: Arguments, account: Account) -> Scope:
    key = arguments.effect_key
    if spec.idempotency.format == "uuid":
        key = str(render("{effect_key|uuid}", Scope({"effect_key": key})))
    elif spec.idempotency.max_length is not None:
        key = fitting_key(key, spec.idempotency.max_length)
    built_in = {"account_ref": account.account_ref, "mode": account.mode, "option": account.options, "key": key}
    return Scope({**as_document(arguments), **built_in}, spec.maps)


def render_request(template: RequestTemplate, scope: Scope) -> HttpRequest:
    """Return a template as a request, its names filled; raises `Invalid` as `templates.render` does."""
    body = render(template.json_body, scope) if template.json_body is not None else None
    body = {} if body is ABSENT else body
    text = render(template.text, scope) if template.text is not None else None
    form = _texts(template.form, scope) if template.form is not None else None
    return HttpRequest(
        method=template.method,
        path=str(render(template.path, scope, path=True)),
        base_url=template.base_url,
        headers=_texts(template.headers, scope),
        query=_texts(template.query, scope),
        form=form,
        json=body,
        content=_content(text) if text is not None else None,
        content_type=str(render(template.content_type, scope)),
    )


def _content(text: Any) -> bytes:
    """Return the bytes of a text body, or of the document that a single `{…|bytes}` stands for."""
    return text if isinstance(text, bytes) else str(text).encode()


def _texts(templates: Mapping[str, str], scope: Scope) -> dict[str, str]:
    rendered = {name: render(template, scope) for name, template in templates.items()}
    return {name: _plain(value) for name, value in rendered.items() if value is not ABSENT}


def _plain(value: Any) -> str:
    return str(render("{value}x", Scope({"value": value})))[:-1]


def _with_key(request: HttpRequest, idempotency: Idempotency, key: str) -> HttpRequest:
    name = idempotency.name
    if idempotency.kind == "header":
        return replace(request, headers={**request.headers, name: key})
    if idempotency.kind == "query":
        return replace(request, query={**request.query, name: key})
    if idempotency.kind == "body":
        if request.form is not None:
            return replace(request, form={**request.form, name: key})
        return replace(request, json=_placed(request.json, name if name.startswith("/") else f"/{name}", key))
    return request


def _placed(document: Any, pointer: str, value: str) -> dict[str, Any]:
    """Return a copy of an object with a value at a pointer, making what is missing on the way."""
    name, _, rest = pointer[1:].partition("/")
    inside = document if isinstance(document, dict) else {}
    return {**inside, name: _placed(inside.get(name), f"/{rest}", value) if rest else value}


def _candidates(look_up: LookUp, document: Any) -> list[Any]:
    if look_up.items is None:
        return [document]
    items = at(document, look_up.items)
    left_out = look_up.sparse and isinstance(document, dict)
    if items is None and look_up.absent == () and not left_out:
        raise Invalid("unreadable_answer", "the list is not there", field=look_up.items)
    # Some vendors turn a list of one into its only object.
    return items if isinstance(items, list) else [items] if isinstance(items, dict) else []


def _fits(look_up: LookUp, one: Any, scope: Scope) -> bool:
    for pointer, template in look_up.where.items():
        wanted, value = render(template, scope), at(one, pointer)
        if wanted is ABSENT or value in (None, "") or not _same(value, wanted):
            return False
    for pointer, template in look_up.contains.items():
        wanted, value = render(template, scope), at(one, pointer)
        if wanted is ABSENT or not isinstance(value, str) or str(wanted) not in value:
            return False
    return not any(at(one, pointer) in values for pointer, values in look_up.ignored.items())


def _same(value: Any, wanted: Any) -> bool:
    """Compare numbers as such, since `42` and `42.0` are one, and everything else as text."""
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (value, wanted))
    return bool(value == wanted) if numbers else _plain(value) == _plain(wanted)


def _ref_from(template: str, spec: OperationSpec, arguments: Arguments) -> str:
    if not template:
        raise Invalid("unreadable_answer", "the answer does not name the effect")
    return _plain(render(template, _scope(spec, arguments, _NOBODY)))


def _first(document: Any, pointers: tuple[str, ...]) -> str:
    for pointer in pointers:
        value = at(document, pointer)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return str(value)
    return ""


def _result(part: Results, document: Any, written: Any, arguments: Arguments) -> dict[str, str | int]:
    """Return what a document says; `written` is the same with decimals as they were written, for its amounts."""
    found: dict[str, str | int] = {}
    for name, pointer in part.result.items():
        value = at(document, pointer)
        if isinstance(value, bool):
            found[name] = int(value)
        elif isinstance(value, str | int):
            found[name] = value
        elif isinstance(value, float):
            found[name] = str(value)
    return found | (_amounts(part, written, arguments) if part.amounts else {})


def _amounts(part: Results, document: Any, arguments: Arguments) -> dict[str, str | int]:
    """Return amounts in minor units with their currency; one that cannot be read is left out, as an absent value is."""
    stated = at(document, part.currency) if part.currency is not None else None
    currency = currency_of(stated) or currency_of(getattr(arguments, "currency", None))
    if currency is None:
        return {}
    read = {name: minor_units(at(document, pointer), currency, part.unit) for name, pointer in part.amounts.items()}
    known: dict[str, str | int] = {name: amount for name, amount in read.items() if amount is not None}
    return known | {"currency": currency} if known else {}


def _balances(answer: AnswerTemplate, response: HttpResponse) -> bytes:
    """Return all balances of an answer in the form of the contract, as JSON; raises `Invalid` where none are listed."""
    document, found = exact(response), dict[tuple[str, str], dict[str, Any]]()
    for template in answer.balances:
        items = at(document, template.items)
        if not isinstance(items, list | dict):
            raise Invalid("unreadable_answer", "the balances are not there", field=template.items)
        for number, one in enumerate(items if isinstance(items, list) else [items]):
            account = _first(one, (template.account,)) if template.account is not None else ""
            currency = currency_of(at(one, template.currency))
            # What has no code of its own must not be taken for another that has none.
            place = (account, currency or f"{template.items}/{number}")
            balance = found.setdefault(place, {"account": account or None, "currency": currency})
            if currency is not None:
                balance |= {
                    name: minor_units(at(one, pointer), currency, template.unit)
                    for name, pointer in template.amounts.items()
                }
    return (
        Balances(balances=tuple(map(AccountBalance.model_validate, found.values())))
        .model_dump_json(exclude_none=True)
        .encode()
    )


def _word(value: Any) -> str:
    return _plain(value).lower()[:128]
