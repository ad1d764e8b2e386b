# lint-skip: PB007 test files cannot import each other, so what they share stands in one
"""Providers that do not exist, a client whose answers are scripted, and a desk with its executor on a real database."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.effects import table
from chassis.effects.desk import EffectDesk
from chassis.effects.executor import Executor
from chassis.effects.states import Effect
from chassis.http.auth import Role
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, service_database
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.errors import Invalid, Transient
from contracts.events.health import RouteChanged, RouteState
from contracts.events.orchestrator import Command, RefundPayment, SendMessage
from contracts.events.platform import AuditRecorded
from contracts.events.sync import CommandAnswered, EndpointConfigured
from contracts.ids import effect_key, uuid7
from contracts.topics import PLATFORM_AUDIT, SYNC_ENDPOINTS, SYNC_RESULTS
from providers import registry
from providers.manifest import Manifest
from providers.provider import Provider
from providers.sdk import Account, Applied, Declined, HttpRequest, HttpResponse, PaymentSnapshot
from sync_worker import payments as rule
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.connections.probe import ConnectionTest
from sync_worker.connections.routes import ConnectionApi, connection_routes
from sync_worker.effects.participant import ProviderEffects
from sync_worker.effects.routes import EffectApi, effect_routes
from sync_worker.effects.targets import Targets
from sync_worker.endpoints.configuration import Limits
from sync_worker.endpoints.desk import Endpoints
from sync_worker.endpoints.offered_codes import OfferedCodes
from sync_worker.endpoints.routes import EndpointApi, TenantApi, endpoint_routes, tenant_routes
from sync_worker.endpoints.tenant_tree import TenantTree
from sync_worker.limiter.feedback import Feedback
from sync_worker.limiter.policies import PolicyBook
from sync_worker.limiter.pools import FREE, Grant
from sync_worker.limiter.usage import RetryBudgets, UsageBook
from sync_worker.models import Connection
from sync_worker.outbound.breaker import Breakers
from sync_worker.outbound.client import Failure
from sync_worker.outbound.path import Path as CallPath
from sync_worker.outbound.path import Quotas
from sync_worker.outbound.reports import CallReporter
from sync_worker.outbound.route_table import RouteTable
from sync_worker.repository import connections, payments
from sync_worker.routes import Api, routes

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TENANT = "t1"
LIMITS = Limits(max_body_bytes=1_000_000, max_per_s=1000.0)
LIFETIME = {"idempotency_lifetime_h": {"description": "hours that a key is known", "default": "", "pattern": "|[0-9]+"}}


class Operations:
    """One provider's operations: `id` is the effect's name, `code` a refusal; other words test the readers' errors."""

    def build(self, operation: Any, account: Account) -> HttpRequest:
        if account.account_ref == "no-sender":
            raise Invalid("missing_option", "no sender is set", field="options.sender")
        body = {
            name: str(getattr(operation, name)) for name in ("amount", "recipient", "text") if hasattr(operation, name)
        }
        return HttpRequest("POST", "/effects", headers={"Idempotency-Key": operation.effect_key}, json=body)

    def parse(self, operation: Any, response: HttpResponse) -> Applied | Declined:  # noqa: ARG002 (protocol)
        if response.status >= 400:
            return Declined(response.json["code"], "no")
        content = {"content": response.json["content"]} if "content" in response.json else {}
        return Applied(response.json["id"], {"status": "done", **content})

    def read_back(self, operation: Any, account: Account) -> HttpRequest | None:
        return None if account.account_ref == "mute" else HttpRequest("GET", f"/effects/{operation.effect_key}")

    def parse_read_back(self, operation: Any, response: HttpResponse) -> Applied | None:  # noqa: ARG002 (protocol)
        if "more" in response.json:
            raise Transient("read_back_incomplete", "there is more")
        if "id" not in response.json:
            raise Invalid("unreadable_answer", "no id")
        return Applied(response.json["id"]) if response.json["id"] else None


class FakeProvider(Provider):
    """A provider of which only the manifest's shape matters."""

    def __init__(self, slug: str, *, read_back: bool, keyed: bool, operation: str, capability: str) -> None:
        idempotency = {"kind": "header", "name": "Idempotency-Key"} if keyed else {"kind": "none"}
        signature = {"scheme": "hmac", "header": "X-Signature", "encoding": "hex", "template": "{body}"}
        identity = {"schema": 1, "slug": slug, "name": slug, "category": "test", "docs": "https://docs.test/"}
        spec = {"name": operation, "class": "pinned", "source": "https://docs.test/", "code": True, "timeout_s": 10}
        spec |= {"look_up_by_code": read_back}
        document: dict[str, Any] = identity | {
            "owners": ["@tests"],
            "tier": "bronze",
            "capabilities": [capability],
            "secrets": {
                "webhook": {"description": "signing secret", "use": ["webhook"], "required": True},
                "api_key": {"description": "key of the API", "use": ["api"], "required": False},
            },
            "options": LIFETIME,
            "webhook": {"signature": signature, "event_id": ["body:/id"], "event_type": ["body:/type"]},
            "api": {"base_url": "https://api.test", "auth": {"api_key": {"kind": "bearer", "secret": "api_key"}}},
            "operations": [spec | {"idempotency": idempotency}],
            "health": {"probe": {"path": "/probe/{account_ref}", "timeout_ms": 500}},
        }
        super().__init__(Path("/nowhere"), Manifest.model_validate(document))

    def operation_table(self) -> Mapping[str, Any]:
        return {one.name: Operations() for one in self.manifest.operations}

    def normalise(self, event_type: str, data: bytes) -> list[PaymentSnapshot]:
        body = json.loads(data)
        if event_type != "payment":
            return []
        if "external_id" not in body:
            raise Invalid("unreadable_payload", "no external_id")
        return [snapshot(**body)]


PAYER = FakeProvider("payer", read_back=True, keyed=True, operation="payment.refund", capability="payments")
MUTE = FakeProvider("mutepay", read_back=False, keyed=True, operation="payment.refund", capability="payments")
TEXTER = FakeProvider("texter", read_back=True, keyed=False, operation="message.send", capability="messaging.sms")
OTHER = FakeProvider("othertext", read_back=True, keyed=False, operation="message.send", capability="messaging.sms")


def snapshot(external_id: str = "p1", **known: Any) -> PaymentSnapshot:
    """Return a snapshot of a succeeded payment of 1000, but for what is given."""
    defaults: dict[str, Any] = {"status": "succeeded", "amount": 1000, "amount_refunded": None, "currency": "EUR"}
    return PaymentSnapshot(external_id=external_id, occurred_at=START, **(defaults | {"fence": 10} | known))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Provider]:
    """Let the registry hold the fake providers and no other."""
    found: dict[str, Provider] = {one.slug: one for one in (PAYER, MUTE, TEXTER, OTHER)}

    def get(slug: str) -> Provider:
        if slug not in found:
            raise Invalid("unknown_provider", "there is no such provider", field="provider")
        return found[slug]

    monkeypatch.setattr(registry, "get", get)
    monkeypatch.setattr(registry, "all_providers", lambda: list(found.values()))
    monkeypatch.setattr(
        registry, "with_operation", lambda name: [p for p in found.values() if p.manifest.operation(name)]
    )
    return found


def answered(status: int, document: Any = None, retry_after_s: float | None = None) -> HttpResponse:
    """Return an answer with this status."""
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return HttpResponse(status, headers, document)


@dataclass
class ScriptedClient:
    """The port of the provider client: answers from `script`, in order; an exception in it is raised."""

    script: list[HttpResponse | Failure | BaseException | Callable[[], Any]] = field(default_factory=list)
    calls: list[tuple[Provider, HttpRequest]] = field(default_factory=list)

    async def send(
        self, provider: Provider, account: Account, request: HttpRequest, timeout_s: float, *, fresh: bool = False
    ) -> HttpResponse | Failure:
        del account, timeout_s, fresh
        self.calls.append((provider, request))
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        result: HttpResponse | Failure = step if isinstance(step, HttpResponse | Failure) else await step()
        return result

    @property
    def methods(self) -> list[str]:
        return [request.method for _, request in self.calls]


class FreeLimiter:
    """A limiter that lets everything pass and remembers what it was told."""

    def __init__(self) -> None:
        self.blocks: list[tuple[str, float]] = []

    async def take(self, *_: Any, **__: Any) -> Grant:
        return FREE

    def throttled(self, _path: Any, bucket: str, block_s: float, _sent_at: float | None) -> None:
        self.blocks.append((bucket, block_s))


class SilentPublisher:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []

    async def publish(self, _topic: Any, _key: str, envelope: Envelope) -> None:
        self.sent.append(envelope)


def path_of(tokens: Any, client: Any, routes: RouteTable, clock: ManualClock, limiter: Any = None) -> CallPath:
    """Return the outbound path around a scripted client."""
    policies, retries = PolicyBook(), RetryBudgets()
    free: Any = limiter or FreeLimiter()
    feedback = Feedback(free, policies, UsageBook(clock, "w"), retries, clock)
    publisher: Any = SilentPublisher()
    return CallPath(
        tokens,
        client,
        routes,
        breakers=Breakers(clock.monotonic, lambda _low, high: high),
        quotas=Quotas(free, policies, retries, feedback),
        reporter=CallReporter(publisher, routes, clock, worker="w"),
        clock=clock,
    )


@dataclass
class Desk:
    """A sync worker without Kafka: commands in, answers out, provider calls as scripted."""

    database: Database
    keyring: Keyring
    client: ScriptedClient = field(default_factory=ScriptedClient)
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    routes: RouteTable = field(default_factory=RouteTable)
    saga: UUID = field(default_factory=uuid7)

    def __post_init__(self) -> None:
        acts = Endpoints(self.keyring, self.clock, "https://gateway.test", LIMITS)
        parts = Parts.build(self.database, self.keyring, acts, self.clock, Surroundings("https://api.patchbay.test"))
        self.vault, self.tokens = parts.vault, parts.tokens
        self.limiter = FreeLimiter()
        self.path = path_of(parts.tokens, self.client, self.routes, self.clock, self.limiter)
        self.targets = Targets(self.keyring, self.routes, self.clock)
        self.participant = ProviderEffects(self.targets, parts.tokens, self.path)
        self.desk = EffectDesk(self.participant, SYNC_RESULTS, self.clock)
        self.executor = self.new_executor()

    def new_executor(self, width: int = 4) -> Executor:
        return Executor(self.database, self.desk, self.participant, self.clock, width=width)

    async def connect(self, provider: Provider, account_ref: str = "acct", **knobs: Any) -> UUID:
        """Store a live connection; `options` and `secrets` may be given."""
        connection = Connection(
            id=uuid7(),
            tenant=knobs.get("tenant", TENANT),
            provider=provider.slug,
            account_ref=account_ref,
            state="live",
            options=knobs.get("options", {}),
            created_at=self.clock.now(),
            created_by="test",
        )
        secrets = knobs.get("secrets", {"webhook": "w", "api_key": "canary-api-key"})
        async with self.database.unit_of_work() as uow:
            sealed = self.vault.seal(connection.tenant, connection.id, secrets)
            assert await connections.insert(uow.connection, connection, sealed)
        return connection.id

    async def pay(self, provider: Provider, connection: UUID, phone: str = "", **known: Any) -> UUID:
        """Store a canonical payment."""
        shot = snapshot(**known)
        place = rule.contact_place(TENANT, provider.slug, shot.external_id)
        contact = self.keyring.seal(json.dumps({"phone": phone}), place) if phone else None
        payment = rule.merge(None, rule.Seen(TENANT, provider.slug, connection, shot, contact), self.clock.now())
        assert payment is not None
        async with self.database.unit_of_work() as uow:
            await payments.upsert(uow.connection, [payment])
        return payment.id

    async def refundable(self, provider: Provider = PAYER, account_ref: str = "acct", **knobs: Any) -> UUID:
        return await self.pay(provider, await self.connect(provider, account_ref, **knobs))

    def refund(self, payment: UUID, attempt: int = 1, **fields: Any) -> RefundPayment:
        direction = fields.get("direction", "do")
        key = effect_key(str(self.saga), "refund", direction)
        known = {"saga_id": self.saga, "step": "refund", "effect_key": key, "attempt": attempt, "tenant": TENANT}
        return RefundPayment(**(known | {"payment_id": payment} | fields))

    def message(self, payment: UUID, attempt: int = 1) -> SendMessage:
        key = effect_key(str(self.saga), "notify", "do")
        known = {"saga_id": self.saga, "step": "notify", "effect_key": key, "attempt": attempt, "tenant": TENANT}
        return SendMessage(**known, payment_id=payment, text="Refunded.")

    async def take(self, command: Command) -> None:
        async with self.database.unit_of_work() as uow:
            await self.desk.take(uow, [(command, "")])

    async def run(self, command: Command, *script: Any) -> CommandAnswered:
        """Take a command, let the executor work until nothing is left to do, and return the newest answer."""
        self.client.script += script
        await self.take(command)
        await self.work(command.effect_key)
        return (await self.answers())[-1]

    async def work(self, key: str) -> None:
        for _ in range(2):  # a look-up that finds nothing is followed by a new request at once
            await self.execute(key)

    async def execute(self, key: str, executor: Executor | None = None) -> None:
        """Let an executor take an effect one step further, as it stands in the table."""
        async with self.database.connection() as connection:
            found = await table.get(connection, key)
        if found is not None:
            await (executor or self.executor).execute(found)

    async def answers(self) -> list[CommandAnswered]:
        found = await rows(
            self.database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", SYNC_RESULTS.name
        )
        return [decode(CommandAnswered, row["value"]) for row in found]

    async def effect(self, command: Command) -> Effect:
        async with self.database.connection() as connection:
            found = await table.get(connection, command.effect_key)
        assert found is not None
        return found

    def route(self, state: RouteState, epoch: int, provider: Provider = PAYER) -> None:
        """Apply a route as the state reader would."""
        changed = RouteChanged(
            provider=provider.slug,
            capability=provider.manifest.capabilities[0],
            epoch=(1, epoch),
            state=state,
            share=0 if state is RouteState.DOWN else 100,
            reason="test",
            decided_at=START,
        )
        self.routes.apply("", Envelope(id="1", source="test", type=changed.TYPE, data=encode(changed)))

    def later(self, **delta: float) -> None:
        self.clock.advance(timedelta(**delta).total_seconds())


def connection_api(database: Database, keyring: Keyring, acts: Endpoints, clock: ManualClock) -> ConnectionApi:
    """Return the connection handlers of a deployment that reaches no provider."""
    parts = Parts.build(database, keyring, acts, clock, Surroundings("https://api.patchbay.test"))
    client: Any = ScriptedClient()
    return ConnectionApi(database, parts, ConnectionTest(database, client, clock), clock)


def effect_api(database: Database, keyring: Keyring, clock: ManualClock) -> EffectApi:
    """Return the effect handlers of a deployment that reaches no provider."""
    targets = Targets(keyring, RouteTable(), clock)
    unreachable: Any = None
    desk = EffectDesk(ProviderEffects(targets, unreachable, unreachable), SYNC_RESULTS, clock)
    return EffectApi(database, desk, targets, clock)


@dataclass(frozen=True)
class Platform:
    """All routes with the role operator, and what was published about endpoints and tenants."""

    database: Database
    api: httpx.AsyncClient

    async def connect(self, secret: str, tenant: str = "t1", account_ref: str = "acct") -> tuple[str, str]:
        """Connect an account and return the connection and the path of its endpoint."""
        secrets = {"webhook": secret, "api_key": f"{secret}-api"}
        body = {"provider": "payer", "tenant": tenant, "account_ref": account_ref, "secrets": secrets}
        made = (await self.api.post("/v1/connections", json=body)).json()
        return made["id"], f"/v1/endpoints/{made['endpoints'][0]['id']}"

    async def records(self, endpoint: str) -> list[EndpointConfigured | None]:
        """Return what was published about an endpoint, in the order of the topic; None is its tombstone."""
        key = endpoint.rpartition("/")[2].encode()
        query = "SELECT value FROM outbox WHERE topic = $1 AND key = $2 ORDER BY xid, id"
        found = [row["value"] for row in await rows(self.database.dsn, query, SYNC_ENDPOINTS.name, key)]
        return [None if value is None else decode(EndpointConfigured, value) for value in found]

    async def newest(self, endpoint: str) -> Any:
        return (await self.records(endpoint))[-1]

    async def audited(self) -> list[tuple[str, str, dict[str, str]]]:
        """Return who did what to endpoints and tenants, with the details."""
        query = "SELECT value FROM outbox WHERE topic = $1 ORDER BY xid, id"
        found = await rows(self.database.dsn, query, PLATFORM_AUDIT.name)
        entries = [decode(AuditRecorded, row["value"]) for row in found]
        return [(one.actor, one.action, one.detail) for one in entries if not one.target.startswith("connection/")]


@dataclass(frozen=True)
class Kit:
    """What test files need from here: they cannot import a conftest."""

    new_id: Callable[[], UUID] = uuid7
    payer: Provider = PAYER
    mute: Provider = MUTE
    texter: Provider = TEXTER
    other: Provider = OTHER
    answered: Callable[..., HttpResponse] = answered
    path_of: Callable[..., CallPath] = path_of
    snapshot: Callable[..., PaymentSnapshot] = snapshot
    start: datetime = START
    limits: Limits = LIMITS
    unanswered: Failure = field(default_factory=lambda: Failure("timeout"))
    unsent: Failure = field(default_factory=lambda: Failure("unsent"))
    broken: Failure = field(default_factory=lambda: Failure("broken"))


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return Keyring({1: b"\x01" * 32}, 1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def acts(keyring: Keyring, clock: ManualClock) -> Endpoints:
    return Endpoints(keyring, clock, "https://gateway.test", LIMITS)


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)


@pytest_asyncio.fixture(scope="session")
async def migrated(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "sync_worker") as opened:
        yield opened


@pytest_asyncio.fixture
async def database(migrated: Database) -> Database:
    """Give the service's database, emptied: migrating one per test would take a second each."""
    async with migrated.connection() as connection:
        await connection.execute(
            """TRUNCATE connections, credentials, oauth_flows, endpoints, endpoint_secrets, endpoint_tokens, tenants,
                        payments, cursors, subscriptions, effects, inbox, outbox, idempotent_answers"""
        )
    return migrated


@pytest.fixture
def desk(database: Database, keyring: Keyring, fakes: dict[str, Provider]) -> Desk:  # noqa: ARG001 (its effect)
    return Desk(database, keyring)


@pytest_asyncio.fixture
async def platform(
    database: Database, keyring: Keyring, issuer: LocalIssuer, clock: ManualClock, acts: Endpoints
) -> AsyncIterator[Platform]:
    tokens = issuer.verifier()
    served = [
        *routes(Api(database), tokens),
        *connection_routes(connection_api(database, keyring, acts, clock), tokens),
        *effect_routes(effect_api(database, keyring, clock), tokens),
        *endpoint_routes(EndpointApi(database, acts, clock, OfferedCodes(keyring)), tokens),
        *tenant_routes(TenantApi(database, TenantTree(acts, clock, LIMITS)), tokens),
    ]
    async with api_client(served, issuer.headers(Role.OPERATOR, subject="ann")) as client:
        yield Platform(database, client)


@pytest.fixture
def api(platform: Platform) -> httpx.AsyncClient:
    return platform.api
