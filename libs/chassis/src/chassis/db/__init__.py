"""Postgres: pool, unit of work, inbox, outbox, parked keys, migrations. The only importer of asyncpg."""
