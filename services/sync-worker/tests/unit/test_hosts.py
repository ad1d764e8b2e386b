"""Hosts that a tenant may name: public addresses only, and the one that was checked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chassis.testing.clock import ManualClock
from contracts.errors import Invalid, Transient
from sync_worker.outbound.hosts import PIN_S, HostPins, is_public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:  # noqa: FBT001
    assert is_public(address) is public


@pytest.mark.asyncio
async def test_a_name_is_resolved_once_a_minute_and_every_address_must_be_public(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[list[str] | OSError] = [["93.184.216.34"], ["93.184.216.34", "10.0.0.1"], OSError("no such name")]
    asked: list[str] = []

    async def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        found = answers.pop(0)
        if isinstance(found, OSError):
            raise found
        return [(0, 0, 0, "", (address, 443)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve, raising=False)
    clock = ManualClock()
    pins = HostPins(clock)
    assert [await pins.address("dav.example.com") for _ in range(3)] == ["93.184.216.34"] * 3
    assert len(asked) == 1, "a name that changes between check and connection changes nothing"
    clock.advance(PIN_S + 1)
    with pytest.raises(Invalid) as refused:
        await pins.address("dav.example.com")
    assert refused.value.code == "host_not_public"
    with pytest.raises(Transient) as away:
        await pins.address("dav.example.com")
    assert away.value.code == "host_unresolved"
