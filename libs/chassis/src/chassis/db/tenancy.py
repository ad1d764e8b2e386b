"""Whose rows a session may see: row-level security by a list of tenants that the session carries.

The list is the session's setting `patchbay.tenants`: tenants separated by commas, or `*` for a service's own work. A
session without it sees and writes no row. Must never be built from text that could hold a comma or `*`: tenants are
slugs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

SETTING: Final = "patchbay.tenants"
EVERYONE: Final = "*"

# Follows the task, so that whatever a request does in this process is done in its caller's name.
_scope: ContextVar[str] = ContextVar("tenant_scope", default=EVERYONE)


def current() -> str:
    """Return the setting's value for what runs now: `*`, or tenants separated by commas; empty shows nothing."""
    return _scope.get()


def allows(tenant: str) -> bool:
    """Tell whether what runs now may see and write rows of this tenant."""
    scope = _scope.get()
    return scope == EVERYONE or tenant in scope.split(",")


@contextmanager
def scope(tenants: Collection[str] | None) -> Iterator[None]:
    """Let what runs inside see these tenants only; None means all, an empty collection none."""
    value = EVERYONE if tenants is None else ",".join(sorted(one for one in tenants if one != EVERYONE))
    token = _scope.set(value)
    try:
        yield
    finally:
        _scope.reset(token)


def protect(table: str, column: str = "tenant") -> tuple[str, ...]:
    """Return the DDL that puts a table under forced row-level security; for migrations.

    Forced, because the service owns its tables and would pass by an ordinary policy. The setting is read in a
    sub-select, so that Postgres reads it once for each statement and not for each row.
    """
    allowed = f"(SELECT current_setting('{SETTING}', true))"
    rule = f"{allowed} = '{EVERYONE}' OR {column} = ANY (SELECT unnest(string_to_array({allowed}, ',')))"
    return (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY tenants ON {table} USING ({rule}) WITH CHECK ({rule})",
    )
