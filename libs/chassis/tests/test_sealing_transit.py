"""Data keys wrapped by a transit engine: bound to their owner, versioned, kept for a while, and never said."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chassis.http.server import HttpServer
from chassis.sealing import Keyring, SealError
from chassis.sealing.envelopes import IN_USE_S, KEPT_S, KmsSealer, LocalSealer
from chassis.sealing.transit import TransitKeys
from chassis.testing.clock import ManualClock
from chassis.testing.ports import free_port
from contracts.errors import Transient

pytestmark = pytest.mark.asyncio

TOKEN = "fake-kms-token"
PLAIN = "canary-0c77"


@dataclass
class Engine:
    """A transit engine that really encrypts."""

    keys: dict[int, AESGCM] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    away: bool = False

    def __post_init__(self) -> None:
        self.rotate()

    def rotate(self) -> None:
        self.keys[len(self.keys) + 1] = AESGCM(AESGCM.generate_key(bit_length=256))

    async def act(self, request: Request) -> Response:
        act = request.path_params["act"]
        self.calls.append(act)
        if self.away:
            return JSONResponse({"errors": ["sealed"]}, 503)
        if request.headers.get("x-vault-token") != TOKEN or request.path_params["key"] != "patchbay":
            return JSONResponse({"errors": ["permission denied"]}, 403)
        if act == "keys":
            return JSONResponse({"data": {"latest_version": max(self.keys)}})
        body: dict[str, Any] = await request.json()
        bound = base64.b64decode(body["associated_data"])
        if act == "encrypt":
            nonce, version = os.urandom(12), max(self.keys)
            sealed = nonce + self.keys[version].encrypt(nonce, base64.b64decode(body["plaintext"]), bound)
            return JSONResponse({"data": {"ciphertext": f"vault:v{version}:{base64.b64encode(sealed).decode()}"}})
        _, version_name, text = body["ciphertext"].split(":")
        sealed = base64.b64decode(text)
        try:
            plain = self.keys[int(version_name[1:])].decrypt(sealed[:12], sealed[12:], bound)
        except (InvalidTag, KeyError):
            return JSONResponse({"errors": ["cipher: message authentication failed"]}, 400)
        return JSONResponse({"data": {"plaintext": base64.b64encode(plain).decode()}})


@dataclass
class Kit:
    """An engine, a way to it, and a clock for what is kept."""

    engine: Engine
    keys: TransitKeys
    token_file: Path
    clock: ManualClock
    keyring: Keyring

    def sealer(self) -> KmsSealer:
        return KmsSealer(self.keyring, self.keys, self.clock)


@pytest_asyncio.fixture
async def kms(tmp_path: Path) -> AsyncIterator[Kit]:
    engine, port, token_file = Engine(), free_port(), tmp_path / "token"
    app = Starlette(routes=[Route("/v1/transit/{act}/{key}", engine.act, methods=["GET", "POST"])])
    server = HttpServer(app, "127.0.0.1", port)
    await server.start()
    token_file.write_text(f"{TOKEN}\n")
    keys = TransitKeys(f"http://127.0.0.1:{port}", "patchbay", token_file)
    clock = ManualClock(datetime(2026, 3, 1, tzinfo=UTC))
    yield Kit(engine, keys, token_file, clock, Keyring({1: b"\x01" * 32}, 1))
    await keys.close()
    await server.stop()


async def test_a_value_opens_elsewhere_and_only_at_its_own_place(kms: Kit) -> None:
    one, other = kms.sealer(), kms.sealer()
    await one.prepare("t1", ())
    sealed = one.seal(PLAIN, "place", "t1")
    assert PLAIN.encode() not in sealed
    with pytest.raises(SealError):
        other.open(sealed, "place", "t1")
    await other.prepare("t1", [sealed])
    assert other.open(sealed, "place", "t1") == PLAIN
    with pytest.raises(SealError):
        other.open(sealed, "elsewhere", "t1")
    with pytest.raises(SealError):
        await other.prepare("t2", [sealed])
    with pytest.raises(SealError):
        other.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), "place", "t1")
    for cut in (b"\x01", sealed[:20]):
        with pytest.raises(SealError):
            other.open(cut, "place", "t1")


async def test_what_the_keyring_sealed_still_opens_and_moves_over(kms: Kit) -> None:
    old = kms.keyring.seal(PLAIN, "place")
    sealer = kms.sealer()
    assert sealer.open(old, "place", "t1") == PLAIN
    moved = await sealer.rewrap(old, "place", "t1")
    assert sealer.open(moved, "place", "t1") == PLAIN
    assert int.from_bytes(old[:4], "big") < int.from_bytes(moved[:4], "big") == await sealer.newest()
    with pytest.raises(SealError):
        kms.keyring.open(moved, "place")


async def test_a_call_does_not_need_the_service(kms: Kit) -> None:
    sealer = kms.sealer()
    await sealer.prepare("t1", ())
    values = [sealer.seal(f"{PLAIN}-{number}", "place", "t1") for number in range(100)]
    assert kms.engine.calls == ["encrypt"], "one data key for a hundred values"
    kms.engine.away = True
    kms.clock.advance(KEPT_S - 1)
    await sealer.prepare("t1", values)
    assert [sealer.open(one, "place", "t1") for one in values] == [f"{PLAIN}-{number}" for number in range(100)]
    kms.clock.advance(2)
    with pytest.raises(Transient):
        await sealer.prepare("t1", values)
    with pytest.raises(SealError):
        sealer.open(values[0], "place", "t1")
    kms.engine.away = False
    await sealer.prepare("t1", values)
    assert sealer.open(values[0], "place", "t1") == f"{PLAIN}-0"


async def test_a_data_key_seals_for_an_hour_at_most(kms: Kit) -> None:
    sealer = kms.sealer()
    await sealer.prepare("t1", ())
    first = sealer.seal(PLAIN, "place", "t1")
    kms.clock.advance(IN_USE_S + 1)
    with pytest.raises(SealError):
        sealer.seal(PLAIN, "place", "t1")
    await sealer.prepare("t1", ())
    assert sealer.seal(PLAIN, "place", "t1")[:150] != first[:150]


async def test_rewrapping_changes_the_data_keys_wrapping_only(kms: Kit) -> None:
    sealer = kms.sealer()
    await sealer.prepare("t1", ())
    sealed = sealer.seal(PLAIN, "place", "t1")
    kms.engine.rotate()
    again = await sealer.rewrap(sealed, "place", "t1")
    assert (sealed[1:4], again[1:4]) == (b"\0\0\1", b"\0\0\2")
    assert sealed[-30:] == again[-30:]
    del kms.engine.keys[1]
    fresh = kms.sealer()
    await fresh.prepare("t1", [again])
    assert fresh.open(again, "place", "t1") == PLAIN
    with pytest.raises(SealError):
        await fresh.rewrap(sealed, "place", "t1")


async def test_a_refused_token_is_temporary_and_nothing_is_said(kms: Kit, capfd: pytest.CaptureFixture[str]) -> None:
    kms.token_file.write_text("fake-other-token")
    sealer = kms.sealer()
    with pytest.raises(Transient) as error:
        await sealer.prepare("t1", ())
    kms.token_file.unlink()
    with pytest.raises(Transient) as missing:
        await sealer.prepare("t1", ())
    kms.token_file.write_text(TOKEN)
    await sealer.prepare("t1", ())
    said = capfd.readouterr()
    for text in (str(error.value), repr(error.value), str(missing.value), said.out, said.err):
        assert "token" not in text.replace("kms-token", "")
        assert "denied" not in text


async def test_the_keyring_rewraps_without_opening() -> None:
    old = Keyring({1: b"\x01" * 32}, 1)
    both = LocalSealer(Keyring({1: b"\x01" * 32, 2: b"\x02" * 32}, 2))
    sealed = old.seal(PLAIN, "place")
    again = await both.rewrap(sealed, "place", "t1")
    assert (sealed[:4], again[:4]) == (b"\0\0\0\1", b"\0\0\0\2")
    assert sealed[-20:] == again[-20:]
    assert Keyring({2: b"\x02" * 32}, 2).open(again, "place") == PLAIN
    with pytest.raises(SealError):
        await both.rewrap(sealed, "elsewhere", "t1")


async def test_a_version_that_would_look_like_another_form_is_refused() -> None:
    with pytest.raises(SealError):
        Keyring({2**24: b"\x01" * 32}, 2**24)


async def test_a_value_sealed_before_forms_had_a_name_still_opens() -> None:
    """The bytes of the first release: version, nonce, wrapped data key, nonce, ciphertext."""
    key, data_key, bound = AESGCM(b"\x01" * 32), b"\x05" * 32, b"credential|t1|x|k|1"
    wrapped = b"\0\0\0\1" + b"\x07" * 12 + key.encrypt(b"\x07" * 12, data_key, bound)
    sealed = wrapped + b"\x09" * 12 + AESGCM(data_key).encrypt(b"\x09" * 12, PLAIN.encode(), bound)
    assert Keyring({1: b"\x01" * 32}, 1).open(sealed, bound.decode()) == PLAIN
