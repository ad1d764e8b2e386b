"""Operations that are data: which request is built, what is refused before it is sent, how answers are read."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.errors import Invalid
from contracts.operations import arguments_of
from providers.declared import Declared
from providers.manifest.operations import Codes, OperationSpec
from providers.sdk import Account, Applied, Declined, HttpResponse

KEY = "3f" * 32
ACCOUNT = Account("shop-1", {}, {"currency": "EUR", "place": ""})
ITEM = {"effect_key": KEY, "sku": "CUT-60", "name": "Cut", "price": 6500, "currency": "EUR"}
BASE: dict[str, Any] = {
    "name": "item.upsert",
    "class": "unsafe",
    "source": "https://example.com/docs",
    "idempotency": {"kind": "none"},
    "request": {"method": "POST", "path": "/items", "json": {"sku": "{sku}"}},
    "answer": {"ref": ["/id"]},
}


def declared(codes: dict[str, Any] | None = None, **changes: Any) -> Declared:
    return Declared(OperationSpec.model_validate(BASE | changes), Codes.model_validate(codes or {}))


def item(**changes: Any) -> Any:
    return arguments_of("item.upsert").model_validate(ITEM | changes)


def looked_up(body: Any, **changes: Any) -> Applied | None:
    look_up = {"request": {"method": "GET", "path": "/items"}, "items": "/items", "ref": ["/id"]} | changes
    return declared(look_up=look_up).parse_read_back(item(), HttpResponse(200, {}, body))


def test_argument_that_was_given_chooses_its_own_request() -> None:
    update = {"method": "PUT", "path": "/items/{item}", "json": {"name": "{name}"}}
    operation = declared(request_with={"item": update})
    assert operation.build(item(), ACCOUNT).path == "/items"
    changed = operation.build(item(item="7"), ACCOUNT)
    assert (changed.method, changed.path, changed.json) == ("PUT", "/items/7", {"name": "Cut"})


def test_argument_without_a_place_is_refused_instead_of_left_out() -> None:
    operation = declared(refuses=["item"])
    assert operation.build(item(), ACCOUNT).json == {"sku": "CUT-60"}
    with pytest.raises(Invalid) as error:
        operation.build(item(item="7"), ACCOUNT)
    assert (error.value.code, error.value.field) == ("unsupported_argument", "item")


def test_argument_must_be_what_the_account_has() -> None:
    operation = declared(only={"currency": "{option.currency}"})
    operation.build(item(), ACCOUNT)
    with pytest.raises(Invalid) as error:
        operation.build(item(currency="USD"), ACCOUNT)
    assert (error.value.code, error.value.field) == ("unsupported_argument", "currency")
    with pytest.raises(Invalid) as unset:
        operation.build(item(), Account("shop-1", {}, {"currency": ""}))
    assert unset.value.code == "missing_argument"


@pytest.mark.parametrize("changes", [{"refuses": ["sku"]}, {"refuses": ["colour"]}, {"only": {"colour": "red"}}])
def test_unknown_or_needed_argument_is_a_mistake_in_the_file(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="arguments of"):
        declared(**changes)


def test_object_of_which_nothing_is_left_is_left_out() -> None:
    request = {"method": "POST", "path": "/items", "json": {"sku": "{sku}", "place": {"id": "{option.place?}"}}}
    assert declared(request=request).build(item(), ACCOUNT).json == {"sku": "CUT-60"}
    empty = {"method": "POST", "path": "/items", "json": {"place": {"id": "{option.place?}"}}}
    assert declared(request=empty).build(item(), ACCOUNT).json == {}


def test_key_is_put_at_a_pointer_of_the_body() -> None:
    idempotency = {"kind": "body", "name": "/variables/key", "max_length": 40}
    request = {"method": "POST", "path": "/graphql", "json": {"variables": {"sku": "{sku}"}}}
    built = declared(request=request, idempotency=idempotency).build(item(), ACCOUNT).json
    assert built["variables"]["sku"] == "CUT-60"
    assert len(built["variables"]["key"]) == 40


def test_path_depends_on_the_mode() -> None:
    request = {"method": "POST", "path": "/{mode|map:root|raw}v1/items"}
    operation = declared(request=request, maps={"root": {"live": "shop/", "sandbox": ""}})
    assert operation.build(item(), ACCOUNT).path == "/shop/v1/items"
    assert operation.build(item(), Account("shop-1", {}, mode="sandbox")).path == "/v1/items"


def test_line_amount_is_quantity_times_price() -> None:
    line = {"description": "Fee", "quantity": 3, "unit_amount": 1250}
    bill = {"effect_key": KEY, "supplier": "S", "currency": "EUR", "lines": [line], "reference": "B-1"}
    arguments = arguments_of("bill.create").model_validate(bill | {"issued_on": "2026-11-20", "due_on": "2026-12-20"})
    lines = {"each": "lines", "item": {"amount": "{item.unit_amount|times:item.quantity|decimal}"}}
    request = {"method": "POST", "path": "/bills", "json": {"lines": lines}}
    built = declared(name="bill.create", request=request).build(arguments, ACCOUNT)
    assert built.json == {"lines": [{"amount": "37.50"}]}


def test_error_in_an_answer_of_200_is_a_refusal() -> None:
    codes = {"details": ["/errors/0/message"]}
    operation = declared(codes, answer={"ref": ["/id"], "refused": ["/errors/0/code"]})
    refusal = {"errors": [{"code": "TAKEN", "message": "the SKU is taken"}], "id": None}
    assert operation.parse(item(), HttpResponse(200, {}, refusal)) == Declined("taken", "the SKU is taken")
    assert operation.parse(item(), HttpResponse(200, {}, {"errors": [], "id": "7"})) == Applied("7")


def test_list_that_is_not_there_is_empty_only_where_the_vendor_leaves_it_out() -> None:
    assert looked_up({"other": 1}, sparse=True) is None
    for body, changes in (({"other": 1}, {}), (None, {"sparse": True})):
        with pytest.raises(Invalid) as error:
            looked_up(body, **changes)
        assert error.value.code == "unreadable_answer"


def test_list_of_one_may_be_the_object_itself() -> None:
    assert looked_up({"items": {"id": "7"}}) == Applied("7")


@pytest.mark.parametrize(("stored", "found"), [(65, True), (65.0, True), ("65.0", True), (64, False), (None, False)])
def test_numbers_are_compared_as_numbers(stored: Any, found: Any) -> None:
    body = {"items": [{"id": "7", "price": stored}]}
    assert (looked_up(body, where={"/price": "{price|number}"}) is not None) is found
