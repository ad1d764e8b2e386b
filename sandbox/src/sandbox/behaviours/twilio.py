"""Twilio's messages as its API reference describes them (https://www.twilio.com/docs/messaging/api/message-resource).

It takes no idempotency key: the same request twice is two messages, as it is there. Must never store an auth token.
"""

from __future__ import annotations

import re
from collections import defaultdict
from email.utils import format_datetime
from typing import Any, Final

from sandbox.behaviours.base import Answer, Behaviour, Call, basic_user
from sandbox.world import World

SLUG: Final = "twilio"
_ACCOUNT: Final = re.compile(r"^/2010-04-01/Accounts/(?P<sid>[^/]+?)(?P<rest>\.json|/Messages\.json)$")
_NUMBER: Final = re.compile(r"^\+[1-9][0-9]{6,14}$")
# Twilio's own error numbers, https://www.twilio.com/docs/api/errors
_CODES: Final = {401: 20003, 404: 20404, 405: 20004, 429: 20429, 500: 20500, 503: 20503}
_DEFAULT_PAGE: Final = 50
_MAX_TEXT: Final = 1600
_SEGMENT: Final = 160


class Twilio:
    """Messages by account."""

    operations: frozenset[str] = frozenset({"message.send"})

    def __init__(self, world: World) -> None:
        self._world = world
        self._messages: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)

    def handle(self, call: Call) -> Answer:
        """Answer a call; the user of the basic credentials must be the account in the path."""
        found = _ACCOUNT.match(call.path)
        user = basic_user(call)
        if user is None or (found is not None and found["sid"] != user):
            return Answer(401, self.failure(401, "Authenticate"))
        if found is None:
            return Answer(404, self.failure(404, f"The requested resource {call.path} was not found"))
        if found["rest"] == ".json":
            return Answer(200, {"sid": user, "status": "active", "type": "Full", "friendly_name": "Sandbox"})
        if call.method == "POST":
            return self._send(user, call.form)
        if call.method == "GET":
            return self._list(user, call)
        return Answer(405, self.failure(405, "Method not allowed"))

    def failure(self, status: int, detail: str) -> Any:
        """Return Twilio's error object."""
        return _error(_CODES.get(status, 20001), detail, status)

    def _send(self, account: str, form: dict[str, str]) -> Answer:
        recipient, text = form.get("To", ""), form.get("Body", "")
        problem = _problem(form)
        if problem is not None:
            return Answer(400, _error(*problem, 400))
        number = len(self._messages[account]) + 1
        at = format_datetime(self._world.clock.now())
        message = {
            "account_sid": account,
            "api_version": "2010-04-01",
            "body": text,
            "date_created": at,
            "date_sent": None,
            "date_updated": at,
            "direction": "outbound-api",
            "error_code": None,
            "error_message": None,
            "from": form.get("From"),
            "messaging_service_sid": form.get("MessagingServiceSid"),
            "num_segments": str(-(-len(text) // _SEGMENT)),
            "sid": f"SM{number:032x}",
            "status": "queued",
            "to": recipient,
            "uri": f"/2010-04-01/Accounts/{account}/Messages/SM{number:032x}.json",
        }
        self._messages[account].append(message)
        self._world.apply(SLUG, "message.send", account=account, subject=recipient, ref=str(message["sid"]), text=text)
        return Answer(201, message)

    def _list(self, account: str, call: Call) -> Answer:
        wanted = call.query.get("To")
        found = [one for one in reversed(self._messages[account]) if wanted in (None, one["to"])]
        size = call.query.get("PageSize", str(_DEFAULT_PAGE))
        page = found[: int(size) if size.isdigit() else _DEFAULT_PAGE]
        return Answer(200, {"messages": page, "page": 0, "page_size": len(page), "next_page_uri": None})


def _problem(form: dict[str, str]) -> tuple[int, str] | None:
    recipient, text = form.get("To", ""), form.get("Body", "")
    if not recipient:
        return 21604, "A 'To' phone number is required."
    if not _NUMBER.match(recipient):
        return 21211, f"The 'To' number {recipient} is not a valid phone number."
    if not form.get("From") and not form.get("MessagingServiceSid"):
        return 21603, "A 'From' phone number is required."
    if not text:
        return 21602, "Message body is required."
    if len(text) > _MAX_TEXT:
        return 21617, "The concatenated message body exceeds the 1600 character limit."
    return None


def _error(code: int, message: str, status: int) -> dict[str, Any]:
    return {
        "code": code,
        "message": message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }


def build(world: World) -> Behaviour:
    """Return the behaviour."""
    return Twilio(world)
