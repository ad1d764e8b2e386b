"""Composition root of the sync worker."""

from __future__ import annotations

from chassis.claims import ClaimStore
from chassis.clock import SystemClock
from chassis.db.database import Database
from chassis.kafka.asyncapi import document
from chassis.kafka.loop import BatchLoop
from chassis.kafka.state import StateReader
from chassis.sealing import Keyring
from chassis.service import Service
from contracts.topics import GATEWAY_CODES, GATEWAY_EVENTS, HEALTH_ROUTES, ORCHESTRATOR_COMMANDS
from sync_worker.connections.vault import Vault
from sync_worker.effects.desk import EffectDesk
from sync_worker.effects.executor import Executor
from sync_worker.endpoints.configuration import Limits
from sync_worker.endpoints.desk import Endpoints
from sync_worker.endpoints.key_watch import KeyWatch
from sync_worker.endpoints.offered_codes import OfferedCodes
from sync_worker.endpoints.republish import Republisher
from sync_worker.endpoints.routes import EndpointApi, TenantApi, endpoint_routes, tenant_routes
from sync_worker.endpoints.tenant_tree import TenantTree
from sync_worker.handlers import Handlers
from sync_worker.outbound.client import ProviderClient
from sync_worker.outbound.probes import Prober
from sync_worker.outbound.reports import CallReporter
from sync_worker.outbound.route_table import RouteTable
from sync_worker.routes import Api, routes
from sync_worker.settings import Settings

NAME = "sync-worker"


def create(settings: Settings) -> Service:
    """Return the sync worker."""
    clock = SystemClock()
    keyring = Keyring.load(settings.keyring)
    vault = Vault(keyring)
    database = Database(settings.database_url.get_secret_value(), service=NAME, pool_size=settings.database_pool_size)
    service = Service(NAME, settings, database=database)
    table = RouteTable()
    reporter = CallReporter(service.publisher, table, clock, worker=settings.instance or "0")
    client = ProviderClient(reporter, clock, base_url_override=settings.provider_base_url_override)
    desk = EffectDesk(keyring, table, clock)
    executor = Executor(database, desk, client, vault=vault, routes=table, clock=clock, width=settings.executors)
    handlers = Handlers(keyring, desk, clock, ClaimStore(settings.claim_dir))
    service.add_reader(StateReader(settings.kafka_bootstrap, HEALTH_ROUTES, table.apply))
    service.add_background("call reports", reporter.run)
    service.add_background("effect executor", executor.run)
    service.add_background("probes", Prober(database, client, vault, table, clock).run)
    _configuration(service, settings, database, keyring, clock)
    # Drained last to first: calls end, then their pools, then what they reported leaves.
    for drain in (reporter.flush, client.close, executor.drain):
        service.add_drain(drain)
    service.add_loop(BatchLoop("sync-worker-deliveries", list(GATEWAY_EVENTS.values()), handlers.deliveries, database))
    # Commands have a group of their own, so that a backlog of deliveries never delays one.
    service.add_loop(
        BatchLoop("sync-worker-commands", list(ORCHESTRATOR_COMMANDS.values()), handlers.commands, database)
    )
    return service


def _configuration(
    service: Service, settings: Settings, database: Database, keyring: Keyring, clock: SystemClock
) -> None:
    """Add what serves people: the API, and the two tasks that look after endpoints and their keys."""
    limits = Limits(max_body_bytes=settings.endpoint_max_body_bytes, max_per_s=settings.endpoint_max_per_s)
    endpoints = Endpoints(keyring, clock, settings.public_gateway_url, limits)
    service.add_background("endpoint republisher", Republisher(database, endpoints, clock).run)
    service.add_background("key watch", KeyWatch(database, clock, warning_h=settings.key_warning_h).run)
    service.add_routes(routes(Api(database, keyring, clock, endpoints), service.tokens))
    codes = OfferedCodes(keyring)
    service.add_reader(StateReader(settings.kafka_bootstrap, GATEWAY_CODES, codes.apply))
    service.add_routes(endpoint_routes(EndpointApi(database, endpoints, clock, codes), service.tokens))
    service.add_routes(tenant_routes(TenantApi(database, TenantTree(endpoints, clock, limits)), service.tokens))


def asyncapi() -> str:
    """Return the AsyncAPI document of the sync worker."""
    return document(NAME)
