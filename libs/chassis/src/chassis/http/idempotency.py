"""`Idempotency-Key` on writes: a second create with the same key returns the first answer.

The answer is stored in the same transaction as the effect, so a crash leaves both or neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chassis.db.connection import Connection
from chassis.db.database import Database, UnitOfWork
from chassis.http.problems import Problem

MAX_KEY_CHARS: Final = 255

Write = Callable[[UnitOfWork], Awaitable[tuple[int, dict[str, Any]]]]


async def write_once(
    request: Request, database: Database, write: Write, *, fingerprint: bytes | None = None
) -> Response:
    """Run `write` in a unit of work and answer with its (status, body), once per caller and `Idempotency-Key`.

    Without the header the write just runs. The same key with another body is a `Problem` 409
    (`idempotency_key_reused`). Two concurrent requests with one key are serialised by the row. `fingerprint` stands for
    the body where a plain hash of it could be guessed back (personal data): a keyed hash of what was asked.
    """
    key = _key(request)
    caller = request.state.principal.subject
    request_hash = await _request_hash(request, fingerprint)
    async with database.unit_of_work() as uow:
        if key is not None:
            stored = await _claim(uow, caller, key, request_hash)
            if stored is not None:
                return _replayed(stored)
        status, body = await write(uow)
        if key is not None:
            await uow.connection.execute(
                "UPDATE idempotent_answers SET status = $3, body = $4 WHERE caller = $1 AND key = $2",
                caller,
                key,
                status,
                body,
            )
    return JSONResponse(body, status)


async def stored_answer(request: Request, database: Database, *, fingerprint: bytes | None = None) -> Response | None:
    """Return the answer that `write_once` stored for this request, or None.

    For writes that call somebody outside before their transaction: a replay must not call again.
    """
    key = _key(request)
    if key is None:
        return None
    async with database.connection() as connection:
        stored = await _find(
            connection, request.state.principal.subject, key, await _request_hash(request, fingerprint)
        )
    return _replayed(stored) if stored is not None else None


def _key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_KEY_CHARS:
        raise Problem(422, "bad_idempotency_key", f"Idempotency-Key: 1 to {MAX_KEY_CHARS} characters")
    return key


async def _request_hash(request: Request, fingerprint: bytes | None) -> bytes:
    what = fingerprint if fingerprint is not None else await request.body()
    return hashlib.sha256(f"{request.method} {request.url.path}\n".encode() + what).digest()


def _replayed(stored: dict[str, Any]) -> Response:
    return JSONResponse(stored["body"], stored["status"], {"idempotency-replayed": "true"})


async def _claim(uow: UnitOfWork, caller: str, key: str, request_hash: bytes) -> dict[str, Any] | None:
    """Return the stored answer, or None after inserting a row that other requests with this key will wait for."""
    inserted = await uow.connection.fetchval(
        """INSERT INTO idempotent_answers (caller, key, request_hash, status, body) VALUES ($1, $2, $3, 0, '{}')
           ON CONFLICT DO NOTHING RETURNING 1""",
        caller,
        key,
        request_hash,
    )
    if inserted:
        return None
    return await _find(uow.connection, caller, key, request_hash)


async def _find(connection: Connection, caller: str, key: str, request_hash: bytes) -> dict[str, Any] | None:
    """Return the stored answer of this caller and key; raises `Problem` 409 if it answers another request."""
    row = await connection.fetchrow(
        "SELECT request_hash, status, body FROM idempotent_answers WHERE caller = $1 AND key = $2", caller, key
    )
    if row is not None and row["request_hash"] != request_hash:
        raise Problem(409, "idempotency_key_reused", "Idempotency-Key: was used for another request")
    return None if row is None else dict(row)
