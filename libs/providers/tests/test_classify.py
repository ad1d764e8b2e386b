"""What an answer means, by status and by the vendor's own words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from providers.classify import classify, retry_after
from providers.manifest.operations import Codes
from providers.sdk import HttpResponse

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
CODES = Codes(
    codes=("/error/code",),
    throttled=frozenset({"slow_down"}),
    unauthorised=frozenset({"token_revoked"}),
    missing_scope=frozenset({"missing_scope"}),
)


@pytest.mark.parametrize(
    ("status", "code", "meaning", "outcome"),
    [
        (200, "", "success", "success"),
        (204, "", "success", "success"),
        (302, "", "redirected", "client_error"),
        (400, "bad_amount", "refused", "client_error"),
        (404, "", "refused", "client_error"),
        (401, "", "credential", "client_error"),
        (403, "", "missing_scope", "client_error"),
        (408, "", "unclear", "client_error"),
        (409, "", "unclear", "client_error"),
        (429, "", "throttled", "throttled"),
        (500, "", "unclear", "server_error"),
        (599, "", "unclear", "server_error"),
        (403, "slow_down", "throttled", "throttled"),
        (200, "token_revoked", "credential", "client_error"),
        (200, "missing_scope", "missing_scope", "client_error"),
        (200, "slow_down", "throttled", "throttled"),
    ],
)
def test_an_answer_has_one_meaning(status: int, code: str, meaning: str, outcome: str) -> None:
    document: Any = {"error": {"code": code}} if code else None
    found = classify(HttpResponse(status, {}, document), CODES, NOW)
    assert (found.meaning, found.outcome) == (meaning, outcome)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "999999"}, 3600),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 GMT"}, 30),
        # A provider's clock may be an hour off: its own date is what its deadline counts from.
        ({"retry-after": "Sat, 21 Nov 2026 13:00:30 GMT", "date": "Sat, 21 Nov 2026 13:00:00 GMT"}, 30),
        ({"retry-after": "Sat, 21 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "\u00b2"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_strictly(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after(HttpResponse(429, headers, None), NOW) == wait_s
