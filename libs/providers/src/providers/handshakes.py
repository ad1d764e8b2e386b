"""Requests that are no deliveries (challenges, pings, confirmations) and their answers, compiled from a manifest.

Must never reflect anything but a short, checked challenge as plain text or JSON, nor let an unverified request change a
secret.
"""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from contracts.errors import Invalid
from providers.manifest import Handshake, Webhook
from providers.sdk import HandshakeReply, InboundRequest, Refused, Secret, Verifier
from providers.sources import Reader, Reading, reader

# A body beyond this is a delivery: the handshakes of all vendors fit into a few hundred bytes.
MAX_BODY: Final = 16 * 1024
_MAX_CONFIRM_URL: Final = 2048


class Handshakes:
    """The handshakes of one `[webhook]` table, compiled for one set of options."""

    def __init__(self, webhook: Webhook, options: Mapping[str, str]) -> None:
        self._webhook = webhook
        self._by_method: dict[str, list[_Compiled]] = {}
        for table in webhook.handshakes:
            compiled = _Compiled(table, options)
            for method in table.methods:
                self._by_method.setdefault(method, []).append(compiled)

    def answer(
        self, request: InboundRequest, secrets: Sequence[Secret], now: datetime, verifier: Verifier
    ) -> HandshakeReply | None:
        """Return the answer to a handshake, None for a delivery.

        Raises `Refused` for a handshake that fails its check, and what `Verifier.verify` raises.
        """
        candidates = self._by_method.get(request.method)
        if candidates is None or len(request.body) > MAX_BODY:
            return None
        reading = Reading(request, self._webhook.formats, self._webhook.form_json)
        for one in candidates:
            if one.may_match(request) and one.matches(reading):
                if one.table.verified:
                    verifier.verify(request, secrets, now)
                return one.reply(reading, secrets)
        return None


class _Compiled:
    def __init__(self, table: Handshake, options: Mapping[str, str]) -> None:
        self.table = table
        self._options = options
        self._match = [(reader(place, options), wanted) for place, wanted in table.match.items()]
        # Words that a body must hold before it is worth parsing: most deliveries hold none of them.
        self._needles = [
            _needle(place, wanted) for place, wanted in table.match.items() if wanted and place.startswith("body:")
        ]
        self._challenge = reader(table.challenge, options) if table.challenge else None
        self._token = reader(table.token.place, options) if table.token else None
        self._confirm = reader(table.confirm.place, options) if table.confirm else None

    def may_match(self, request: InboundRequest) -> bool:
        """Tell cheaply whether the request can be this handshake."""
        return all(needle in request.body for needle in self._needles)

    def matches(self, reading: Reading) -> bool:
        """Tell whether the request is this handshake."""
        try:
            found = [(read(reading), wanted) for read, wanted in self._match]
        except Invalid:
            return False
        return all((text or "") == wanted or (wanted == "*" and text is not None) for text, wanted in found)

    def reply(self, reading: Reading, secrets: Sequence[Secret]) -> HandshakeReply:
        """Return the answer; raises `Refused` (`handshake_refused`, `no_secret`)."""
        table = self.table
        self._check_token(reading)
        challenge = _read(self._challenge, reading)
        if self._challenge is not None and (challenge is None or re.fullmatch(table.pattern, challenge) is None):
            raise Refused("handshake_refused")
        confirm = _read(self._confirm, reading)
        if table.confirm is not None and not _pinned(table.confirm.url, confirm):
            raise Refused("handshake_refused")
        fill = self._filler(challenge or "", secrets)
        headers = [(name.lower(), fill(text)) for name, text in table.headers.items()]
        body = fill(table.text).encode("utf-8", "surrogatepass")
        if body:
            headers += [("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff")]
        elif table.json_body:
            values = {name: fill(text) if isinstance(text, str) else text for name, text in table.json_body.items()}
            body = json.dumps(values, separators=(",", ":")).encode()
            headers.append(("content-type", "application/json"))
        learned = challenge if table.learn else None
        return HandshakeReply(table.name, table.status, tuple(headers), body, table.verified, confirm, learned)

    def _check_token(self, reading: Reading) -> None:
        if self.table.token is None:
            return
        wanted = self._options[self.table.token.option].encode("utf-8", "surrogatepass")
        found = (_read(self._token, reading) or "").encode("utf-8", "surrogatepass")
        if not wanted or not hmac.compare_digest(found, wanted):
            raise Refused("handshake_refused")

    def _filler(self, challenge: str, secrets: Sequence[Secret]) -> Callable[[str], str]:
        digest = ""
        if self.table.hmac is not None:
            if not secrets or not secrets[0].value:
                raise Refused("no_secret")
            key = secrets[0].value.encode("utf-8", "surrogatepass")
            data = hmac.digest(key, challenge.encode(), self.table.hmac.algorithm)
            digest = data.hex() if self.table.hmac.encoding == "hex" else base64.b64encode(data).decode()

        def value(match: re.Match[str]) -> str:
            if match[1] == "challenge":
                return challenge
            return digest if match[1] == "hmac" else self._options[match[2]]

        return lambda text: re.sub(r"\{(challenge|hmac|option:(\w+))\}", value, text)


def _needle(place: str, wanted: str) -> bytes:
    """Return bytes that a body with this value at this place must hold, as every sender writes them."""
    return (place.rpartition("/")[2] if wanted == "*" else wanted).encode()


def _read(read: Reader | None, reading: Reading) -> str | None:
    try:
        return None if read is None else read(reading)
    except Invalid:
        return None


def _pinned(pattern: str, url: str | None) -> bool:
    return url is not None and len(url) <= _MAX_CONFIRM_URL and re.fullmatch(pattern, url) is not None
