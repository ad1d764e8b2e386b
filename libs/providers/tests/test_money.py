"""Money in results: integers in minor units with their currency, from the digits that a vendor wrote."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.errors import Invalid
from contracts.operations import arguments_of
from providers import registry
from providers.declared import Declared
from providers.manifest import OperationSpec
from providers.manifest.operations import Codes
from providers.money import MAX_AMOUNT, currency_of, exact, minor_units
from providers.outbound_conformance import money_problem
from providers.sdk import Applied, HttpResponse

KEY = "k" * 64
PAY = {"effect_key": KEY, "payment_external_id": "p1", "amount": 500, "currency": "EUR", "reason": "damaged"}


@pytest.mark.parametrize(
    ("value", "currency", "amount"),
    [
        ("12.50", "EUR", 1250),
        (Decimal("12.5"), "EUR", 1250),
        (12, "EUR", 1200),
        ("5000", "JPY", 5000),
        ("1.234", "KWD", 1234),
        ("1.2345", "CLF", 12345),
        ("-0.01", "USD", -1),
        # What 64-bit floats get wrong, each in its own way.
        (Decimal("1.005"), "USD", 100),
        (Decimal("1.015"), "USD", 102),
        (Decimal("90071992547409.91"), "USD", 9007199254740991),
        (Decimal("23631.9805"), "USD", 2363198),
        ("1e2", "USD", 10000),
    ],
)
def test_major_units_become_minor_ones_digit_by_digit(value: Any, currency: str, amount: int) -> None:
    assert minor_units(value, currency, "major") == amount


def test_minor_units_stay_what_they_are_in_every_currency() -> None:
    assert [minor_units(1250, currency, "minor") for currency in ("EUR", "JPY", "KWD")] == [1250, 1250, 1250]
    assert minor_units("1250", "EUR", "minor") == 1250


@pytest.mark.parametrize(
    "value", [None, True, 12.5, "", "twelve", "NaN", "sNaN", "Infinity", [], {}, "1e999999999", 10**30, MAX_AMOUNT]
)
def test_what_is_no_amount_is_none(value: Any) -> None:
    assert minor_units(value, "EUR", "major") is None


def test_a_currency_is_three_letters_however_a_vendor_writes_them() -> None:
    assert [currency_of(value) for value in ("eur", "USD", "", "EURO", "E1R", "ÄÖÜ", 978, None)] == [
        *("EUR", "USD"),
        *[None] * 6,
    ]


def test_decimals_are_read_as_they_were_written() -> None:
    assert exact(HttpResponse(200, {}, None, b'{"a": 410.10}')) == {"a": Decimal("410.10")}
    assert str(exact(HttpResponse(200, {}, None, b'{"a": 410.10}'))["a"]) == "410.10"
    for body in (b"<a/>", b"", b'{"a": 1e99999999999999999999}'):
        assert exact(HttpResponse(200, {}, {"a": 1}, body)) == {"a": 1}


def declared(operation: str, **parts: Any) -> Declared:
    document: dict[str, Any] = {
        "name": operation,
        "class": "unsafe",
        "source": "https://docs.test/",
        "idempotency": {"kind": "none"},
        "request": {"method": "POST", "path": "/x"},
        "answer": {"ref": ["/id"]},
    }
    return Declared(OperationSpec.model_validate(document | parts), Codes())


def response(body: str) -> HttpResponse:
    return HttpResponse(200, {}, json.loads(body), body.encode())


ANSWER: dict[str, Any] = {"ref": ["/id"], "amounts": {"amount": "/total"}, "currency": "/cur", "unit": "major"}


@pytest.mark.parametrize(
    ("body", "result"),
    [
        ('{"id": "1", "total": 12.50, "cur": "usd"}', {"amount": 1250, "currency": "USD"}),
        ('{"id": "1", "total": "12.50"}', {"amount": 1250, "currency": "EUR"}),
        ('{"id": "1", "total": 1250, "cur": "JPY"}', {"amount": 1250, "currency": "JPY"}),
        ('{"id": "1", "total": null, "cur": "USD"}', {}),
        ('{"id": "1", "total": "soon", "cur": "USD"}', {}),
    ],
)
def test_an_answer_gives_amounts_with_their_currency_and_never_fails_for_one(body: str, result: Any) -> None:
    found = declared("payment.refund", answer=ANSWER).parse(
        arguments_of("payment.refund").model_validate(PAY), response(body)
    )
    assert found == Applied("1", result)


def test_a_look_up_reads_the_amount_of_the_very_object_that_it_found() -> None:
    look_up = {"request": {"method": "GET", "path": "/x"}, "items": "/all", "where": {"/key": "{effect_key}"}}
    money = {"ref": ["/id"], "amounts": {"amount": "/total"}, "unit": "major"}
    operation = declared("payment.refund", look_up=look_up | money)
    body = json.dumps({"all": [{"id": "a", "key": "other", "total": 1.01}, {"id": "b", "key": KEY, "total": 2.02}]})
    found = operation.parse_read_back(arguments_of("payment.refund").model_validate(PAY), response(body))
    assert found == Applied("b", {"amount": 202, "currency": "EUR"})


BALANCES = [
    {"items": "/spend", "currency": "/cur", "amounts": {"available": "/sum"}, "unit": "major"},
    {"items": "/wait", "currency": "/cur", "amounts": {"pending": "/sum"}, "unit": "major"},
]


def test_balances_of_several_lists_become_one_per_account_and_currency() -> None:
    operation = declared("balance.read", answer={"ref_from": "{effect_key}", "balances": BALANCES})
    spend = (
        '[{"cur": "eur", "sum": 10.10}, {"cur": "JPY", "sum": 7}, {"cur": null, "sum": 3}, {"cur": "BTCX", "sum": 4}]'
    )
    body = f'{{"spend": {spend}, "wait": [{{"cur": "EUR", "sum": "-0.05"}}]}}'
    asked = arguments_of("balance.read")(effect_key=KEY)
    found = operation.parse(asked, response(body))
    assert isinstance(found, Applied)
    assert json.loads(base64.b64decode(str(found.result["content"]))) == {
        "balances": [
            {"currency": "EUR", "available": 1010, "pending": -5},
            {"currency": "JPY", "available": 7},
            {},
            {},
        ]
    }
    assert found.result.keys() == {"content"}, "nothing of a balance lies open"
    with pytest.raises(Invalid) as error:
        operation.parse(asked, response('{"spend": []}'))
    assert (error.value.code, error.value.field) == ("unreadable_answer", "/wait")


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("payment.refund", {"ref": ["/id"], "result": {"amount": "/total"}}),
        ("payment.refund", {"ref": ["/id"], "unit": "major"}),
        ("payment.refund", ANSWER | {"result": {"currency": "/cur"}}),
        ("payment.refund", {"ref": ["/id"], "balances": BALANCES}),
        ("balance.read", {"ref": ["/id"], "content": True}),
        ("balance.read", {"ref": ["/id"], "content": True, "balances": BALANCES}),
    ],
)
def test_money_in_a_vendors_own_shape_is_refused_where_it_is_declared(operation: str, answer: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        declared(operation, answer=answer)


@pytest.mark.parametrize(
    ("operation", "result", "problem"),
    [
        ("payment.refund", {"amount": 500, "currency": "EUR"}, None),
        ("payment.refund", {"status": "done"}, None),
        ("payment.refund", {"amount": "5.00", "currency": "EUR"}, "whole minor units"),
        ("payment.refund", {"amount": 500}, "currency"),
        ("payment.refund", {"amount": 500, "currency": "eur"}, "currency"),
        ("balance.read", {"content": base64.b64encode(b'{"available": 1}').decode()}, "no Balances"),
        ("balance.read", {}, "no Balances"),
    ],
)
def test_the_conformance_kit_finds_money_in_another_shape(operation: str, result: Any, problem: str | None) -> None:
    offered = (one.manifest.operation(operation) for one in registry.all_providers())
    spec = next(one for one in offered if one is not None)
    found = money_problem(spec, {"applied": {"provider_ref": "1", "result": result}})
    assert found is None if problem is None else problem in str(found)
