"""Reports of use: whose bucket it is, also in the form of older workers; and kinds that there are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.codec import decode, encode
from contracts.errors import Invalid
from contracts.events.health import MAX_TRIMMED_OWNERS, QuotaPolicy, is_kind
from contracts.events.sync import QuotaUsage

AT = "2026-03-01T12:00:00Z"


def usage(**fields: Any) -> QuotaUsage:
    body = {"provider": "acme", "worker": "w", "used": {}, "since": AT, "until": AT, **fields}
    return decode(QuotaUsage, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("older", "kind", "owner"),
    [
        ("app|", "app", ""),
        ("account|c-1", "account", "c-1"),
        ("endpoint:search|c-1", "endpoint:search", "c-1"),
        ("address|2001:db8::1", "address", "2001:db8::1"),
        ("account|c|1", "account", "c|1"),
    ],
)
def test_a_report_of_an_older_worker_is_read_as_one_of_today(older: str, kind: str, owner: str) -> None:
    read = usage(bucket=older)
    assert (read.bucket, read.owner) == (kind, owner)
    assert read == usage(bucket=kind, owner=owner) == decode(QuotaUsage, encode(read))


@pytest.mark.parametrize("bucket", ["", "moon", "moon|c", "endpoint:", "account:c", "|c", 7])
def test_a_kind_that_there_is_not_is_refused_by_name(bucket: Any) -> None:
    with pytest.raises(Invalid) as refused:
        usage(bucket=bucket)
    assert (refused.value.code, refused.value.field) == ("undecodable", "bucket")
    assert not is_kind(str(bucket))


def test_a_policy_names_no_more_owners_than_a_record_has_room_for() -> None:
    body: dict[str, Any] = {
        "provider": "acme",
        "bucket": "account",
        "windows": [{"limit": 5, "seconds": 1}],
        "version": 1,
        "decided_at": AT,
        "trims": {f"0190a2b4-0000-7000-8000-{at:012}": {"bulk": 0.1 + 0.2} for at in range(MAX_TRIMMED_OWNERS)},
    }
    assert len(encode(decode(QuotaPolicy, json.dumps(body).encode()))) < 150_000
    body["trims"]["one more"] = {"bulk": 1}
    with pytest.raises(Invalid) as refused:
        decode(QuotaPolicy, json.dumps(body).encode())
    assert refused.value.field == "trims"
