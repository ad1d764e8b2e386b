"""Credentials come under the newest key in the background, beside refreshes, without opening more than a data key."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from prometheus_client import REGISTRY

from chassis.clock import SystemClock
from chassis.sealing import Keyring
from chassis.sealing.envelopes import KmsSealer, LocalSealer
from contracts.errors import Transient
from sync_worker.connections import rewrap
from sync_worker.connections.rewrap import Rewrapper
from sync_worker.connections.vault import Vault
from sync_worker.models import Credential
from sync_worker.repository import credentials

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

BOTH = Keyring({1: b"\x01" * 32, 2: b"\x02" * 32}, 2)


@dataclass
class Kms:
    """The port of a key management service, which counts its calls and may be away."""

    keys: list[AESGCM] = field(default_factory=lambda: [AESGCM(b"\x03" * 32)])
    calls: int = 0
    away: bool = False

    async def wrap(self, data_key: bytes, associated: bytes) -> tuple[int, bytes]:
        self._called()
        nonce, version = os.urandom(12), len(self.keys)
        return version, bytes([version]) + nonce + self.keys[-1].encrypt(nonce, data_key, associated)

    async def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        self._called()
        return self.keys[wrapped[0] - 1].decrypt(wrapped[1:13], wrapped[13:], associated)

    async def newest(self) -> int:
        self._called()
        return len(self.keys)

    def _called(self) -> None:
        self.calls += 1
        if self.away:
            raise Transient("kms_unavailable", "away")


def rewrapper(oauth: Any, keyring: Keyring = BOTH) -> Rewrapper:
    return Rewrapper(oauth.database, Vault(keyring), SystemClock())


async def stored(oauth: Any) -> list[Credential]:
    async with oauth.database.connection() as connection:
        rows = await connection.fetch("SELECT * FROM credentials WHERE sealed <> '' ORDER BY connection, kind")
    return [Credential(**dict(row)) for row in rows]


async def static(oauth: Any, number: int) -> None:
    secrets = {"webhook": "fake-signing-key", "access_token": f"fake-token-{number}"}
    await oauth.create(method="access_token", account_ref=f"m{number}", secrets=secrets)


async def test_every_row_comes_under_the_newest_key_and_opens_without_the_old_one(
    oauth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrap, "BATCH", 3)
    for number in range(4):
        await static(oauth, number)
    before = await stored(oauth)
    assert {one.key_version for one in before} == {1}
    assert await rewrapper(oauth).rewrap_all() == 8
    after = await stored(oauth)
    assert {one.key_version for one in after} == {2}
    alone = Vault(Keyring({2: b"\x02" * 32}, 2))
    assert [alone.open(one) for one in after] == [oauth.parts.vault.open(one) for one in before]
    assert REGISTRY.get_sample_value("credential_old_key_rows") == 0
    assert await rewrapper(oauth).rewrap_all() == 0
    old_process = Rewrapper(oauth.database, oauth.parts.vault, SystemClock())
    assert await old_process.rewrap_all() == 0, "a worker that knows only the old key takes nothing back"


async def test_what_cannot_be_opened_stays_and_is_counted(oauth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrap, "BATCH", 1)
    for number in range(2):
        await static(oauth, number)
    first = (await stored(oauth))[0]
    async with oauth.database.connection() as connection:
        await connection.execute(
            "UPDATE credentials SET tenant = 'moved' WHERE connection = $1 AND kind = $2",
            *(first.connection, first.kind),
        )
    assert await rewrapper(oauth).rewrap_all() == 3
    assert REGISTRY.get_sample_value("credential_old_key_rows") == 1


async def test_a_refresh_at_the_same_time_is_never_undone(oauth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker that has the new key beside the old one and does not seal with it yet, as in the midst of a roll-out.
    monkeypatch.setattr(oauth.parts.vault, "sealer", LocalSealer(Keyring({1: b"\x01" * 32, 2: b"\x02" * 32}, 1)))
    connection = await oauth.connect()
    opened, go_on = asyncio.Event(), asyncio.Event()
    vault = Vault(BOTH)
    plain_rewrap = vault.rewrap

    async def slow(one: Credential) -> bytes:
        sealed = await plain_rewrap(one)
        if one.kind == credentials.OAUTH:
            opened.set()
            await go_on.wait()
        return sealed

    monkeypatch.setattr(vault, "rewrap", slow)
    task = asyncio.create_task(Rewrapper(oauth.database, vault, SystemClock()).rewrap_all())
    await opened.wait()
    await oauth.end_tokens(connection)
    account = await oauth.parts.tokens.account(connection)
    go_on.set()
    await task
    (tokens,) = [one for one in await stored(oauth) if one.kind == credentials.OAUTH]
    assert (tokens.version, tokens.key_version) == (2, 1), "the refreshed one stays as its refresher stored it"
    assert Vault(BOTH).open_tokens(tokens).access_token == account.secrets["access_token"]
    assert await rewrapper(oauth).rewrap_all() == 1
    (tokens,) = [one for one in await stored(oauth) if one.kind == credentials.OAUTH]
    assert Vault(BOTH).open_tokens(tokens).access_token == account.secrets["access_token"]


async def test_the_first_token_to_end_is_told_by_provider(oauth: Any) -> None:
    first, second = await oauth.connect(), await oauth.connect("endless")
    async with oauth.database.connection() as connection:
        query = "UPDATE credentials SET expires_at = $2 WHERE connection = $1 AND kind = 'oauth' RETURNING expires_at"
        at = await connection.fetchval("SELECT clock_timestamp() + interval '7 minutes'")
        assert await connection.fetchval(query, first, at) == at
    await rewrapper(oauth).tell_expiry()
    name = "credential_expiry_timestamp_seconds"
    assert REGISTRY.get_sample_value(name, {"provider": "acme"}) == pytest.approx(at.timestamp())
    assert (await oauth.api.delete(f"/v1/connections/{UUID(str(second))}")).status_code == 204
    await rewrapper(oauth).tell_expiry()
    assert REGISTRY.get_sample_value(name, {"provider": "endless"}) is None


async def test_a_worker_with_a_kms_does_all_that_one_with_a_keyring_does(
    oauth: Any, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    await static(oauth, 1)
    kms, other = Kms(), oauth.another()
    monkeypatch.setattr(oauth.parts.vault, "sealer", KmsSealer(keyring, kms, SystemClock()))
    assert other.vault is oauth.parts.vault
    connection = await oauth.connect()
    assert kms.calls == 1, "one data key for the tenant's secrets, tokens and endpoints"
    await oauth.end_tokens(connection)
    account = await oauth.parts.tokens.account(connection)
    assert oauth.sandbox.oauth.accepts("acme", account.secrets["access_token"])
    put = {"secrets": {"client_id": "canary-other-app"}}
    assert (await oauth.api.put(f"/v1/connections/{connection}/credentials", json=put)).status_code == 200
    assert {one.key_version for one in await stored(oauth)} == {1, 2**24 + 1}
    mover = Rewrapper(oauth.database, oauth.parts.vault, SystemClock())
    assert await mover.rewrap_all() == 2, "those that the keyring sealed"
    kms.keys.append(AESGCM(b"\x04" * 32))
    moved = len(await stored(oauth))
    assert await mover.rewrap_all() == moved
    assert {one.key_version for one in await stored(oauth)} == {2**24 + 2}
    # A worker that has just begun, while the service is away, parks its calls and goes on once it is back.
    monkeypatch.setattr(oauth.parts.vault, "sealer", KmsSealer(keyring, kms, SystemClock()))
    oauth.parts.tokens.forget(connection)
    kms.away = True
    with pytest.raises(Transient):
        await oauth.parts.tokens.account(connection)
    kms.away = False
    assert (await oauth.parts.tokens.account(connection)).secrets["client_id"] == "canary-other-app"
    assert (await oauth.api.delete(f"/v1/connections/{connection}")).status_code == 204
