"""Codes that providers posted to endpoints being set up, for an operator to see and to make the endpoint's secret.

Must never use a code by itself: it came unverified, and anybody who knows the URL could have posted it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime

from chassis.sealing import Keyring, SealError
from chassis.telemetry.logs import logger
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.gateway import EndpointCodeOffered, endpoint_code_place

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Code:
    """The newest code of an endpoint; `repr` hides it."""

    tenant: str
    value: str = field(repr=False)
    received_at: datetime


class OfferedCodes:
    """The newest code per endpoint, fed by `gateway.codes.v1`."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._offered: dict[str, EndpointCodeOffered] = {}

    def apply(self, key: str, envelope: Envelope | None) -> None:
        """Take one record of the topic."""
        if envelope is None:
            self._offered.pop(key, None)
        else:
            self._offered[key] = decode(EndpointCodeOffered, envelope.data)

    def newest(self, endpoint_id: str) -> Code | None:
        """Return the code that came last, or None when none came or it cannot be opened."""
        offered = self._offered.get(endpoint_id)
        if offered is None:
            return None
        place = endpoint_code_place(offered.tenant, offered.endpoint)
        try:
            value = self._keyring.open(base64.b64decode(offered.sealed, validate=True), place)
        except (SealError, binascii.Error) as error:
            log.error("offered_code_not_opened", endpoint=endpoint_id, why=str(error))
            return None
        return Code(offered.tenant, value, offered.received_at)
