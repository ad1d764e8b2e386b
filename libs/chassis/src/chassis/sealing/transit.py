"""Data keys wrapped by the transit engine of Vault or OpenBao, over HTTPS.

The key there has to be of a kind that takes associated data (`aes256-gcm96`). Must never log or raise a token, a data
key or an answer.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from chassis.sealing.keyring import SealError
from contracts.errors import Transient

DEADLINE_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
_VERSION: Final = re.compile(r"[a-z]+:v([0-9]{1,7}):")


class TransitKeys:
    """One key of the engine at `url`, with the token in `token_file`, which is read for each call: agents renew it.

    `ca_file` holds the authority of a private certificate; without it the machine's are trusted.
    """

    def __init__(self, url: str, key: str, token_file: Path, *, ca_file: Path | None = None) -> None:
        self._url = f"{url.rstrip('/')}/v1/transit"
        self._key = quote(key, safe="")
        self._token_file = token_file
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        timeout = httpx.Timeout(DEADLINE_S, connect=CONNECT_TIMEOUT_S)
        self._client = httpx.AsyncClient(verify=context, timeout=timeout, trust_env=False, follow_redirects=False)

    async def wrap(self, data_key: bytes, associated: bytes) -> tuple[int, bytes]:
        """Return the version of the key that was used and the wrapped data key; raises `Transient`."""
        data = await self._call("POST", "encrypt", {"plaintext": _encoded(data_key), **_bound(associated)})
        text = data.get("ciphertext")
        version = _VERSION.match(text) if isinstance(text, str) else None
        if version is None:
            raise Transient("kms_unavailable", "the key management service's answer has no ciphertext")
        return int(version.group(1)), str(text).encode()

    async def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """Return a data key; raises `SealError` when it is refused for good, else `Transient`."""
        data = await self._call("POST", "decrypt", {"ciphertext": wrapped.decode(), **_bound(associated)})
        try:
            return base64.b64decode(data["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise Transient("kms_unavailable", "the key management service's answer has no plaintext") from None

    async def newest(self) -> int:
        """Return the newest version of the key; raises `Transient`."""
        version = (await self._call("GET", "keys", None)).get("latest_version")
        if not isinstance(version, int):
            raise Transient("kms_unavailable", "the key management service does not tell its newest key")
        return version

    async def close(self) -> None:
        """Close the pool. Idempotent."""
        await self._client.aclose()

    async def _call(self, method: str, act: str, body: dict[str, str] | None) -> dict[str, Any]:
        try:
            headers = {"X-Vault-Token": self._token_file.read_text().strip()}
            answer = await self._client.request(method, f"{self._url}/{act}/{self._key}", json=body, headers=headers)
            document = answer.json() if answer.is_success else {}
        except (OSError, httpx.HTTPError, ValueError) as error:
            raise Transient("kms_unavailable", f"no answer: {type(error).__name__}") from None
        if answer.status_code == HTTPStatus.BAD_REQUEST and act == "decrypt":
            raise SealError("the key management service refuses to unwrap a data key")
        data = document.get("data") if isinstance(document, dict) else None
        if not isinstance(data, dict):
            raise Transient("kms_unavailable", f"the key management service answered {answer.status_code}")
        return data


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bound(associated: bytes) -> dict[str, str]:
    return {"associated_data": _encoded(associated)}
