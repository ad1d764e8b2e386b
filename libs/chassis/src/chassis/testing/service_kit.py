"""What integration tests of a service need: tokens, a migrated database, its API, its process in process.

Everything is real but the token issuer, which is a key in a temporary folder.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.routing import BaseRoute

from chassis.db.database import Database
from chassis.db.migrate import upgrade
from chassis.http.auth import Role, TokenVerifier
from chassis.http.server import build_app
from chassis.kafka.producer import Publisher
from chassis.kafka.topics import create_topics
from chassis.service import Service
from chassis.testing.harness import until
from chassis.testing.postgres import PostgresAdmin
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.events.base import Event
from contracts.ids import uuid7
from contracts.topics import Topic, physical_topics

ISSUER: Final = "https://issuer.test.invalid"
AUDIENCE: Final = "patchbay"
_TOKEN_LIFETIME_S: Final = 600
_KEY_ID: Final = "test"
_STOP_PATIENCE_S: Final = 30.0


class LocalIssuer:
    """A token issuer with one ES256 key; `jwks` is the path that a service's settings want."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        public = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        path = folder / "jwks.json"
        path.write_text(json.dumps({"keys": [public | {"kid": _KEY_ID, "use": "sig", "alg": "ES256"}]}))
        self.jwks = str(path)

    def token(self, *roles: Role, subject: str = "tester", **claims: Any) -> str:
        """Return a bearer token; `claims` override the standard ones, to make bad tokens."""
        now = int(time.time())  # lint-skip: PB003 PyJWT checks the expiry against the machine's clock
        standard = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "roles": [str(role) for role in roles],
            "iat": now,
            "exp": now + _TOKEN_LIFETIME_S,
        }
        return jwt.encode(standard | claims, self._key, algorithm="ES256", headers={"kid": _KEY_ID})

    def headers(self, *roles: Role, subject: str = "tester") -> dict[str, str]:
        """Return the request headers of a caller with these roles."""
        return {"authorization": f"Bearer {self.token(*roles, subject=subject)}"}

    def verifier(self) -> TokenVerifier:
        """Return a verifier that trusts this issuer."""
        return TokenVerifier(self.jwks, issuer=ISSUER, audience=AUDIENCE)

    def settings(self) -> dict[str, Any]:
        """Return the settings of a service that trusts this issuer: `jwks`, `jwt_issuer`, `jwt_audience`."""
        return {"jwks": self.jwks, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


def write_keyring(folder: Path, *, versions: int = 1) -> Path:
    """Write a keyring of fixed test keys, the highest version current, and return its path."""
    keys = {str(version): base64.b64encode(bytes([version]) * 32).decode() for version in range(1, versions + 1)}
    path = folder / "keyring.json"
    path.write_text(json.dumps({"current": versions, "keys": keys}))
    return path


async def migrated_dsn(admin: PostgresAdmin, package: str) -> str:
    """Create a database, run the migrations of a service package in it, and return its DSN."""
    name = f"{package}_{uuid.uuid4().hex[:8]}"
    dsn = await asyncio.to_thread(admin.create_database, name, name)
    await asyncio.to_thread(upgrade, package, dsn)
    return dsn


@asynccontextmanager
async def service_database(admin: PostgresAdmin, package: str, pool_size: int = 10) -> AsyncIterator[Database]:
    """Give an open database of a service, migrated and empty, under the service's name."""
    database = Database(await migrated_dsn(admin, package), service=package.replace("_", "-"), pool_size=pool_size)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def schema_differences(dsn: str, package: str) -> list[Any]:
    """Return what Alembic would change to make a migrated database equal to `<package>.models.Base`; wanted: []."""
    metadata: sa.MetaData = importlib.import_module(f"{package}.models").Base.metadata
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1))

    def compare(connection: sa.Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    try:
        async with engine.connect() as connection:
            return await connection.run_sync(compare)
    finally:
        await engine.dispose()


@asynccontextmanager
async def api_client(routes: Sequence[BaseRoute], headers: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of routes in the service's own ASGI app, errors as problem details, without a socket."""
    app = build_app(routes, live=list, ready=list)
    # The app answers its own exceptions with a 500, as it does in production.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test", headers=headers) as client:
        yield client


async def declared_topics(bootstrap: str, *topics: Topic) -> None:
    """Create topics as contracts declare them, with their retries and dead letters; idempotent."""
    prefixes = tuple(topic.name for topic in topics)
    await create_topics(bootstrap, topics=[found for found in physical_topics() if found.name.startswith(prefixes)])


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[str]:
    """Run a whole service in this process and give its URL once it is ready; it drains at the end.

    Its settings need a free `http_port` (`chassis.testing.ports.free_port`).
    """
    task = asyncio.create_task(service._main())  # noqa: SLF001 (`run` would need a process of its own)
    url = f"http://{service.settings.http_host}:{service.settings.http_port}"

    async def ready() -> bool:
        if task.done():
            task.result()
            raise AssertionError(f"{service.name} ended before it was ready")
        try:
            return (await client.get(f"{url}/ready")).is_success
        except httpx.TransportError:
            return False

    async with httpx.AsyncClient() as client:
        try:
            await until(ready, f"{service.name} ready")
            yield url
        finally:
            service.stop()
            async with asyncio.timeout(_STOP_PATIENCE_S):
                await task


async def produce(bootstrap: str, topic: Topic, key: str, *events: Event, tenant: str = "") -> None:
    """Write events to a topic, each as a new fact, and return once they are acknowledged."""
    publisher = Publisher(bootstrap)
    await publisher.start()
    try:
        for event in events:
            extensions = {"tenant": tenant} if tenant else {}
            envelope = Envelope(
                id=str(uuid7()),
                source="patchbay/test",
                type=event.TYPE,
                data=encode(event),
                extensions=extensions,
            )
            # A busy broker that has just made all topics takes its time to lead their partitions.
            await publisher.publish(topic, key, envelope, timeout_s=30)
    finally:
        await publisher.stop()
