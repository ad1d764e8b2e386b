"""No birth date, name, digits or customer id in any column, any message, or any guessable hash."""

from __future__ import annotations

import hashlib
import json
import re

import httpx
import pytest

from chassis.db.database import Database
from chassis.testing.harness import rows

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

BODY = {
    "customerId": "canary-customer-77",
    "fullName": "Zebediah Quillfeather",
    "dateOfBirth": "1987-03-14",
    "idNumberLast4": "7319",
    "state": "WY",
}
WORDS = ("canary-customer", "zebediah", "quillfeather", "1987-03-14", "19870314", "14.03.1987", "03/14/1987")
# Not within a longer number or hexadecimal text, where four digits occur by chance.
DIGITS = re.compile(r"(?<![0-9a-fA-F.:-])7319(?![0-9a-fA-F.:-])")


async def everything(database: Database) -> dict[str, str]:
    """Return the whole content of each table as text, byte columns decoded as far as they are text."""
    tables = await rows(database.dsn, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    content: dict[str, str] = {}
    for (table,) in tables:
        found = await rows(database.dsn, f'SELECT * FROM "{table}"')
        values = [value for row in found for value in row.values()]
        raw = b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)
        content[table] = raw.decode(errors="replace") + raw.hex()
    return content


async def test_no_table_and_no_message_holds_personal_data(client: httpx.AsyncClient, database: Database) -> None:
    url = "/v1/age-verification/verify"
    raw = json.dumps(BODY).encode()
    for headers in ({}, {"idempotency-key": "one"}):
        assert (await client.post(url, content=raw, headers=headers)).json()["verified"] is True
    for changes in ({"idNumberLast4": "0000"}, {"dateOfBirth": "2015-03-14"}):
        assert (await client.post(url, json=BODY | changes)).json()["verified"] is False
    content = await everything(database)
    for table in ("verification", "attempts", "outbox", "idempotent_answers"):
        assert content[table], f"{table} is empty, so this test would prove nothing"
    plain_hashes = [
        hashlib.sha256(text).hexdigest()
        for text in (raw, f"POST {url}\n".encode() + raw, *(value.encode() for value in BODY.values()))
    ]
    for table, text in content.items():
        for canary in (*WORDS, *(word.encode().hex() for word in WORDS), *plain_hashes):
            assert canary not in text.lower(), f"{table} holds {canary}"
        assert not DIGITS.search(text), f"{table} holds the digits"


async def test_the_search_of_this_test_finds_what_it_looks_for(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO outbox (topic, headers, value) VALUES ('t', $1, $2)", b"", json.dumps(BODY).encode()
        )
    text = (await everything(database))["outbox"]
    assert "quillfeather" in text.lower()
    assert DIGITS.search(text)
