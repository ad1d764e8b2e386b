"""The plain delivery and the table's model say the same."""

from __future__ import annotations

from dataclasses import fields

from contracts.events.gateway import DeliveryAttributes
from webhook_gateway.dedup import FINGERPRINT_CHARS
from webhook_gateway.models import Delivery as Table
from webhook_gateway.replay import attributes_of
from webhook_gateway.repository.deliveries import EVERYTHING
from webhook_gateway.stored import Delivery


def test_a_stored_delivery_has_every_column_and_no_other() -> None:
    columns = set(Table.model_fields)
    assert {one.name for one in fields(Delivery)} == columns
    # The document is for the search only: it can be made of the body again.
    assert {name.strip().strip('"') for name in EVERYTHING.split(",")} == columns - {"document"}


def test_every_attribute_of_the_gateway_survives_storage() -> None:
    stored = {name: object() for name in Table.model_fields} | {"headers": [("a", "b")], "verified_at": 1}
    stored["event_sha256"] = "f" * FINGERPRINT_CHARS
    made = attributes_of(stored, origin="replay", replay="job")
    defaults = {one.name for one in fields(DeliveryAttributes) if getattr(made, one.name) == one.default}
    # What is written again is in a lane, so it is not held back.
    assert defaults == {"quarantine"}


def test_a_whole_hash_of_an_older_delivery_is_no_fingerprint() -> None:
    stored = {name: object() for name in Table.model_fields} | {"headers": [], "event_sha256": "f" * 64}
    assert attributes_of(stored, origin="replay", replay="job").fingerprint == ""
