"""Composition root of the sync worker."""

from __future__ import annotations

import random
import socket

from chassis.claims import open_claims
from chassis.clock import Clock
from chassis.db.database import Database
from chassis.effects.desk import EffectDesk
from chassis.effects.executor import Executor
from chassis.kafka.asyncapi import document
from chassis.kafka.loop import BatchLoop
from chassis.kafka.state import StateReader
from chassis.redis import connect
from chassis.sealing import Keyring
from chassis.sealing.envelopes import KmsSealer
from chassis.sealing.transit import TransitKeys
from chassis.service import Service
from contracts.topics import (
    GATEWAY_CODES,
    GATEWAY_EVENTS,
    GATEWAY_SILENCES,
    HEALTH_QUOTAS,
    HEALTH_ROUTES,
    ORCHESTRATOR_COMMANDS,
    SYNC_RESULTS,
)
from sync_worker.catchup.engine import CatchUp, Timing
from sync_worker.catchup.routes import CatchUpApi, catch_up_routes
from sync_worker.catchup.silences import Silences
from sync_worker.catchup.subscriptions import Subscriptions
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.connections.probe import ConnectionTest
from sync_worker.connections.rewrap import Rewrapper
from sync_worker.connections.rotation import Rotations
from sync_worker.connections.routes import ConnectionApi, RotationApi, connection_routes, rotation_routes
from sync_worker.connections.scope import widen
from sync_worker.connections.vault import Vault
from sync_worker.effects.participant import ProviderEffects
from sync_worker.effects.routes import EffectApi, effect_routes
from sync_worker.effects.targets import Targets
from sync_worker.endpoints.configuration import Limits
from sync_worker.endpoints.desk import Endpoints
from sync_worker.endpoints.key_watch import KeyWatch
from sync_worker.endpoints.offered_codes import OfferedCodes
from sync_worker.endpoints.republish import Republisher
from sync_worker.endpoints.routes import EndpointApi, TenantApi, endpoint_routes, tenant_routes
from sync_worker.endpoints.tenant_tree import TenantTree
from sync_worker.handlers import Handlers
from sync_worker.outbound.parts import OutboundParts
from sync_worker.outbound.probes import Prober
from sync_worker.routes import Api, routes
from sync_worker.settings import Settings

NAME = "sync-worker"


def create(settings: Settings) -> Service:
    """Return the sync worker."""
    keyring = Keyring.load(settings.keyring)
    database = Database(settings.database_url.get_secret_value(), service=NAME, pool_size=settings.database_pool_size)
    # Leases and deadlines that workers write for each other: by one clock, whatever a machine's own says.
    clock = database.clock
    service = Service(NAME, settings, database=database, clock=clock)
    limits = Limits(max_body_bytes=settings.endpoint_max_body_bytes, max_per_s=settings.endpoint_max_per_s)
    vault = _vault(service, settings, keyring, clock)
    endpoints = Endpoints(keyring, clock, settings.public_gateway_url, limits, vault)
    parts = Parts.build(database, keyring, endpoints, clock, _surroundings(settings))
    outbound = _outbound(service, settings, database, parts)
    targets = Targets(keyring, outbound.routes, clock)
    participant = ProviderEffects(targets, parts.tokens, outbound.path)
    desk = EffectDesk(participant, SYNC_RESULTS, clock)
    executor = Executor(database, desk, participant, clock, width=settings.executors)
    handlers = Handlers(keyring, desk, clock, open_claims(settings))
    service.add_background("effect executor", executor.run)
    service.add_background("token refresh", parts.tokens.run)
    service.add_background("credential re-wrap", Rewrapper(database, vault, clock).run)
    service.tokens.widen = widen(database)
    test = ConnectionTest(database, outbound.path, clock)
    service.add_routes(connection_routes(ConnectionApi(database, parts, test, clock), service.tokens))
    rotations = Rotations(database, parts, test, clock)
    service.add_background("credential rotation", rotations.run)
    service.add_routes(rotation_routes(RotationApi(database, rotations), service.tokens))
    service.add_routes(effect_routes(EffectApi(database, desk, targets, clock), service.tokens))
    _configuration(service, settings, database, keyring, endpoints)
    _catch_up(service, settings, database, keyring, outbound)
    # Drained last to first: calls end, then their pools, then what they reported leaves.
    for drain in (parts.close, outbound.reporter.flush, outbound.client.close, executor.drain):
        service.add_drain(drain)
    service.add_loop(
        BatchLoop("sync-worker-deliveries", list(GATEWAY_EVENTS.values()), handlers.deliveries, database, clock=clock)
    )
    # Commands have a group of their own, so that a backlog of deliveries never delays one.
    service.add_loop(
        BatchLoop(
            "sync-worker-commands", list(ORCHESTRATOR_COMMANDS.values()), handlers.commands, database, clock=clock
        )
    )
    return service


def _vault(service: Service, settings: Settings, keyring: Keyring, clock: Clock) -> Vault:
    """Return the vault of credentials, sealed by the KMS if there is one."""
    if not settings.kms_url:
        return Vault(keyring)
    keys = TransitKeys(settings.kms_url, settings.kms_key, settings.kms_token_file, ca_file=settings.kms_ca_file)
    service.add_drain(keys.close)
    return Vault(keyring, KmsSealer(keyring, keys, clock))


def _outbound(service: Service, settings: Settings, database: Database, parts: Parts) -> OutboundParts:
    """Put the way to providers together, with what feeds it and what it reports."""
    clock = database.clock
    redis = connect(settings.redis_url.get_secret_value())
    outbound = OutboundParts.build(
        service.publisher,
        redis,
        parts.tokens,
        clock,
        worker=f"{socket.gethostname()}:{settings.http_port}:{settings.instance or 0}",
        base_url_override=settings.provider_base_url_override,
    )
    prober = Prober(database, outbound.path, outbound.routes, clock, random.uniform)
    outbound.reporter.on_call, outbound.reporter.on_first_failure = prober.saw_call, prober.saw_failure
    outbound.routes.on_change = prober.saw_route
    outbound.breakers.route.on_open = prober.saw_doubt
    service.add_reader(StateReader(settings.kafka_bootstrap, HEALTH_ROUTES, outbound.routes.apply))
    service.add_reader(StateReader(settings.kafka_bootstrap, HEALTH_QUOTAS, outbound.policies.apply))
    service.add_background("call reports", outbound.reporter.run)
    service.add_background("quota leases", outbound.limiter.run)
    service.add_background("quota usage", outbound.usage.run)
    service.add_background("route mirror", outbound.subscriber.run)
    service.add_background("probes", prober.run)
    service.add_drain(redis.aclose)
    return outbound


def _catch_up(
    service: Service, settings: Settings, database: Database, keyring: Keyring, outbound: OutboundParts
) -> None:
    """Add what fetches missed events and keeps subscriptions alive."""
    clock, owner = database.clock, f"{socket.gethostname()}:{settings.http_port}:{settings.instance or 0}"
    engine = CatchUp(
        *(database, outbound.path, open_claims(settings), clock),
        owner=owner,
        timing=Timing(interval_s=settings.catch_up_interval_s),
    )
    keeper = Subscriptions(
        database, outbound.path, keyring, clock, owner=owner, check_every_s=settings.subscription_check_s
    )
    service.add_background("catch-up", engine.run)
    service.add_background("subscriptions", keeper.run)
    service.add_routes(catch_up_routes(CatchUpApi(database, clock, engine.wake, keeper), service.tokens))
    silences = Silences(clock, engine.wake)
    service.add_loop(BatchLoop("sync-worker-silences", [GATEWAY_SILENCES], silences.handle, database, clock=clock))


def _surroundings(settings: Settings) -> Surroundings:
    listening = f"http://{settings.http_host}:{settings.http_port}"
    return Surroundings(settings.public_api_url or listening, settings.provider_base_url_override)


def _configuration(
    service: Service, settings: Settings, database: Database, keyring: Keyring, endpoints: Endpoints
) -> None:
    """Add what serves people: the API, and the two tasks that look after endpoints and their keys."""
    clock = database.clock
    service.add_background("endpoint republisher", Republisher(database, endpoints, clock).run)
    service.add_background("key watch", KeyWatch(database, clock, warning_h=settings.key_warning_h).run)
    service.add_routes(routes(Api(database), service.tokens))
    codes = OfferedCodes(keyring)
    service.add_reader(StateReader(settings.kafka_bootstrap, GATEWAY_CODES, codes.apply))
    service.add_routes(endpoint_routes(EndpointApi(database, endpoints, clock, codes), service.tokens))
    service.add_routes(
        tenant_routes(TenantApi(database, TenantTree(endpoints, clock, endpoints.limits)), service.tokens)
    )


def asyncapi() -> str:
    """Return the AsyncAPI document of the sync worker."""
    return document(NAME)
