"""The orchestrator's consumers: answers to commands, and the facts that start sagas."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db.database import UnitOfWork
from chassis.kafka.records import Message
from contracts.codec import decode
from contracts.events.sync import CommandAnswered, PaymentChanged
from orchestrator.catalogue import all_sagas
from orchestrator.engine import Answered
from orchestrator.runtime import Runtime


class Handlers:
    """The two handlers with what they need."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def results(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Feed answers to their runs."""
        for message in messages:
            answer = decode(CommandAnswered, message.envelope.data)
            await self._runtime.feed(uow, answer.saga_id, Answered(answer), message.trace)

    async def changes(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Start the sagas that a change of the business's records calls for; once per business key."""
        for message in messages:
            event = decode(PaymentChanged, message.envelope.data)
            for saga in all_sagas().values():
                request = saga.start_for(event)
                if request is not None:
                    await self._runtime.start(uow, request, started_by="orchestrator", trace=message.trace or "")
