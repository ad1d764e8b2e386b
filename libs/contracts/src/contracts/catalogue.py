"""All message models by CloudEvents type: the source of the JSON Schema goldens and the reference pages."""

from __future__ import annotations

from typing import Final

from contracts.events.base import Event
from contracts.events.gateway import (
    AdmissionChanged,
    DeliveryRejected,
    DeliveryRepeated,
    EndpointCodeOffered,
    SourceFellSilent,
)
from contracts.events.health import ApiVersionsChanged, QuotaPolicy, RouteChanged
from contracts.events.orchestrator import RefundPayment, RunOperation, SagaAdvanced, SendMessage
from contracts.events.platform import AuditRecorded
from contracts.events.sync import CallsObserved, CommandAnswered, EndpointConfigured, PaymentChanged, QuotaUsage
from contracts.events.verification import AttestationChanged

# `delivery.accepted.v1` is absent: its value is the provider's own body, its contract is DeliveryAttributes.
CATALOGUE: Final[dict[str, type[Event]]] = {
    model.TYPE: model
    for model in (
        DeliveryRejected,
        DeliveryRepeated,
        AdmissionChanged,
        EndpointCodeOffered,
        SourceFellSilent,
        EndpointConfigured,
        PaymentChanged,
        CallsObserved,
        CommandAnswered,
        RouteChanged,
        QuotaPolicy,
        ApiVersionsChanged,
        QuotaUsage,
        RefundPayment,
        SendMessage,
        RunOperation,
        SagaAdvanced,
        AttestationChanged,
        AuditRecorded,
    )
}
