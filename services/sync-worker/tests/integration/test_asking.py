"""What `POST /v1/operations` says to somebody who asks wrongly: everything at once, and never a value."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


async def asked(platform: Any, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    answer = await platform.api.post(
        "/v1/operations", json={"operation": operation, "tenant": "t1", "arguments": arguments}
    )
    assert answer.status_code == 422, answer.text
    problem: dict[str, Any] = answer.json()
    return problem


async def test_every_missing_wrong_and_unknown_argument_is_named_at_once(platform: Any) -> None:
    problem = await asked(platform, "payment.refund", {"amount": -7, "reason": "canary-reason", "note": "canary-note"})
    assert problem["code"] == "bad_argument"
    rules = {one["field"]: one["rule"] for one in problem["errors"]}
    assert rules == {
        "arguments.payment_external_id": "Field required",
        "arguments.amount": "Input should be greater than 0",
        "arguments.currency": "Field required",
        "arguments.note": "Extra inputs are not permitted",
    }
    assert problem["detail"] == (
        "arguments.payment_external_id: Field required "
        "(and 3 more: arguments.amount, arguments.currency, arguments.note)"
    )
    assert "canary" not in str(problem)


async def test_a_list_that_is_wrong_all_over_is_told_in_one_readable_sentence(platform: Any) -> None:
    given = {"customer": "c", "currency": "EUR", "lines": [{}] * 100, "issued_on": "2026-03-01", "due_on": "2026-03-09"}
    problem = await asked(platform, "invoice.create", given | {"reference": "r"})
    assert len(problem["errors"]) >= 200
    assert problem["errors"][0]["field"] == "arguments.lines.0.description"
    assert (len(problem["detail"]) < 300, problem["detail"].endswith("…)")) == (True, True)


async def test_an_operation_that_is_misspelt_is_answered_with_what_comes_near(platform: Any) -> None:
    problem = await asked(platform, "payment.refnd", {})
    assert problem["code"] == "unknown_operation"
    assert problem["errors"][0]["field"] == "operation"
    assert "did you mean payment.refund" in problem["detail"]
    assert "docs/reference/operations.md" in problem["detail"]
    far = await asked(platform, "zzzzzz", {})
    assert "did you mean" not in far["detail"]
