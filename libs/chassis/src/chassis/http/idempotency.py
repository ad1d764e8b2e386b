"""`Idempotency-Key` on writes: a second create with the same key returns the first answer.

The answer is stored in the same transaction as the effect, so a crash leaves both or neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from chassis.db.database import Database, UnitOfWork
from chassis.http.problems import Problem

MAX_KEY_CHARS: Final = 255

Write = Callable[[UnitOfWork], Awaitable[tuple[int, dict[str, Any]]]]


async def write_once(request: Request, database: Database, write: Write) -> Response:
    """Run `write` in a unit of work and answer with its (status, body), once per caller and `Idempotency-Key`.

    Without the header the write just runs. The same key with another body is a `Problem` 409
    (`idempotency_key_reused`). Two concurrent requests with one key are serialised by the row.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_KEY_CHARS:
        raise Problem(422, "bad_idempotency_key", f"Idempotency-Key: 1 to {MAX_KEY_CHARS} characters")
    caller = request.state.principal.subject
    request_hash = hashlib.sha256(f"{request.method} {request.url.path}\n".encode() + await request.body()).digest()
    async with database.unit_of_work() as uow:
        if key is not None:
            stored = await _claim(uow, caller, key, request_hash)
            if stored is not None:
                return JSONResponse(stored["body"], stored["status"], {"idempotency-replayed": "true"})
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
    row = await uow.connection.fetchrow(
        "SELECT request_hash, status, body FROM idempotent_answers WHERE caller = $1 AND key = $2", caller, key
    )
    if row is None or row["request_hash"] != request_hash:
        raise Problem(409, "idempotency_key_reused", "Idempotency-Key: was used for another request")
    return dict(row)
