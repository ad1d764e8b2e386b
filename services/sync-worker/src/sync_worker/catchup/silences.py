"""What the gateway says about silent sources, made into runs of catch-up. Must never call a provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from chassis.kafka.records import Message
from contracts.codec import decode
from contracts.events.gateway import SourceFellSilent
from sync_worker.repository import cursors, endpoints


class Silences:
    """The handler. `wake` tells this process's engine that something is due; others find it at their next tick."""

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake

    async def handle(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Make the feeds of every silent source due now; a source without a feed is left to its subscription."""
        now, hastened = self._clock.now(), 0
        for message in messages:
            silent = decode(SourceFellSilent, message.envelope.data)
            connection = await endpoints.connection_of(uow.connection, silent.endpoint)
            if connection is not None:
                hastened += await cursors.hasten(uow.connection, connection, now)
        if hastened:
            uow.after_commit(self._wake)
