"""The sync worker's consumers: deliveries become canonical payments, commands become effects.

No provider is called here: a consumer's transaction must not wait for the world.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from chassis.claims import ClaimStore, event_bytes
from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from chassis.effects.desk import EffectDesk
from chassis.kafka.records import Message
from chassis.sealing import Keyring
from chassis.telemetry.metrics import counter
from contracts.errors import Invalid
from contracts.events.gateway import DeliveryAttributes
from contracts.events.sync import PaymentStatus
from contracts.ids import entity_key
from contracts.topics import SYNC_CHANGES
from providers import registry
from providers.sdk import PaymentSnapshot
from sync_worker import payments
from sync_worker.effects.commands import decode_command
from sync_worker.endpoints.key_watch import KeyUses
from sync_worker.metrics import PAYMENTS
from sync_worker.models import Payment
from sync_worker.repository import payments as payments_table


class Handlers:
    """The two handlers with what they need."""

    def __init__(self, keyring: Keyring, desk: EffectDesk, clock: Clock, claims: ClaimStore) -> None:
        self._keyring = keyring
        self._desk = desk
        self._clock = clock
        self._claims = claims
        self._uses = KeyUses()

    async def deliveries(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Merge what deliveries say about payments, an event per accepted snapshot; note which keys are used."""
        deliveries = [(message, DeliveryAttributes.of(message.envelope)) for message in messages]
        await self._uses.note(uow, (attributes for _, attributes in deliveries))
        seen = [(message, one) for message, attributes in deliveries for one in await self._read(message, attributes)]
        if not seen:
            return
        known = await payments_table.lock(uow.connection, [one.payment_id for _, one in seen])
        touched: dict[UUID, Payment] = {}
        for message, one in seen:
            before = known.get(one.payment_id)
            after = payments.merge(before, one, self._clock.now())
            counter(PAYMENTS).labels(one.provider, "stale" if after is None else "merged").inc()
            if after is None:
                continue
            known[after.id] = touched[after.id] = after
            event = payments.changed_event(after, PaymentStatus(before.status) if before else None, message.envelope.id)
            uow.emit(
                SYNC_CHANGES,
                entity_key(after.tenant, payments.KIND, str(after.id)),
                event,
                tenant=after.tenant,
                trace=message.trace,
                message_id=f"{after.id}:{after.version}",
            )
        if touched:
            await payments_table.upsert(uow.connection, list(touched.values()))

    async def commands(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Reserve an effect per command, or answer from the one that is there; execution starts after the commit."""
        commands = [(decode_command(message.envelope), message.trace or "") for message in messages]
        await self._desk.take(uow, commands)

    async def _read(self, message: Message, attributes: DeliveryAttributes) -> list[payments.Seen]:
        if not attributes.entity.startswith(f"{payments.KIND}:"):
            return []
        provider = registry.get(attributes.provider)
        data = await event_bytes(self._claims, attributes, message.envelope.data)
        snapshots = provider.normalise(attributes.eventtype, data)
        try:
            connection = UUID(attributes.connection)
        except ValueError as error:
            raise Invalid("bad_delivery", "connection is no UUID", field="connection") from error
        return [
            payments.Seen(
                tenant=attributes.tenant,
                provider=attributes.provider,
                connection=connection,
                snapshot=snapshot,
                contact=self._seal_contact(attributes, snapshot),
            )
            for snapshot in snapshots
        ]

    def _seal_contact(self, attributes: DeliveryAttributes, snapshot: PaymentSnapshot) -> bytes | None:
        if not snapshot.contact:
            return None
        place = payments.contact_place(attributes.tenant, attributes.provider, snapshot.external_id)
        return self._keyring.seal(json.dumps(dict(snapshot.contact)), place)
