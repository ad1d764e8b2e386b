"""The claim-check store on a real directory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from chassis.claims import ClaimStore
from contracts.errors import Invalid, Transient

pytestmark = pytest.mark.asyncio

BODY = b"x" * 2_000_000


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


async def test_a_body_comes_back_under_its_hash_and_storing_it_twice_is_harmless(tmp_path: Path) -> None:
    store = ClaimStore(tmp_path)
    name = await store.put(BODY)
    assert name == hashlib.sha256(BODY).hexdigest()
    assert await store.put(BODY) == name
    assert await store.get(name) == BODY
    assert len(_files(tmp_path)) == 1


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64])
async def test_a_name_without_a_body_is_invalid(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match="claim"):
        await ClaimStore(tmp_path).get(name)


async def test_a_damaged_body_is_not_handed_out(tmp_path: Path) -> None:
    store = ClaimStore(tmp_path)
    name = await store.put(BODY)
    (tmp_path / name[:2] / name).write_bytes(b"other")
    with pytest.raises(Invalid, match="damaged"):
        await store.get(name)


async def test_a_store_that_cannot_be_written_is_a_passing_fault(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(Transient, match="claim_store_unavailable"):
        await ClaimStore(blocked).put(BODY)


async def test_the_sweep_takes_what_is_old_and_a_repeat_makes_a_body_young(tmp_path: Path) -> None:
    store = ClaimStore(tmp_path)
    old, repeated = await store.put(b"old"), await store.put(b"repeated")
    for name in (old, repeated):
        os.utime(tmp_path / name[:2] / name, (1_000_000, 1_000_000))
    await store.put(b"repeated")
    assert await store.sweep(3600) == 1
    assert await store.get(repeated) == b"repeated"
    with pytest.raises(Invalid):
        await store.get(old)
