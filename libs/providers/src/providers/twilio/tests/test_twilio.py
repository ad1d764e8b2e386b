"""Twilio's callbacks with configured field names, and its messages."""

from __future__ import annotations

import pytest

from contracts.errors import Invalid
from contracts.operations.people import MessageSend
from providers import registry
from providers.fixtures import EXAMPLE_URL, api_cases
from providers.sdk import Account, InboundRequest

PROVIDER = registry.get("twilio")
FORM = {"content-type": ["application/x-www-form-urlencoded"]}


def test_every_status_of_a_message_is_a_fact_of_its_own() -> None:
    ids = set()
    for status in (b"sent", b"delivered"):
        request = InboundRequest("POST", EXAMPLE_URL, FORM, b"MessageSid=SM1&MessageStatus=" + status)
        (item,) = PROVIDER.split(request)
        ids.add(item.event_id)
        assert item.entity == ("message", "SM1")
    assert ids == {"SM1:sent", "SM1:delivered"}


def test_field_names_are_configuration() -> None:
    request = InboundRequest("POST", EXAMPLE_URL, FORM, b"SmsSid=SM1&SmsStatus=sent")
    (unknown,) = PROVIDER.split(request)
    assert (unknown.event_type, len(unknown.event_id)) == ("unknown", 64)
    (known,) = PROVIDER.split(request, {"message_id_field": "SmsSid", "message_status_field": "SmsStatus"})
    assert (known.event_type, known.event_id) == ("message.sent", "SM1:sent")


def test_json_callbacks_extend_the_registered_url() -> None:
    assert PROVIDER.request_url("https://h.example/x", "bodySHA256=ff") == "https://h.example/x?bodySHA256=ff"
    assert PROVIDER.request_url("https://h.example/x", "other=ff") == "https://h.example/x"


def test_a_message_needs_a_sender() -> None:
    arguments = MessageSend(effect_key="k" * 64, recipient="+15555550100", text="hello PB-1", reference="PB-1")
    with pytest.raises(Invalid) as error:
        PROVIDER.operations("message.send").build(
            arguments, Account("AC1", {"auth_token": "t"}, PROVIDER.default_options)
        )
    assert error.value.code == "missing_option"


def test_declines_never_quote_the_recipient() -> None:
    case = next(case for case in api_cases(PROVIDER.folder) if case.name == "message.send")
    for response, _ in case.responses:
        if response.status == 400 and response.json:
            declined = PROVIDER.operations("message.send").parse(case.arguments, response)
            assert "+15555550100" not in repr(declined)
