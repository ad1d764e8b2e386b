"""Where a call may go: a vendor's own hosts as they are, hosts that users name only at public addresses, pinned.

Must never let a tenant's setting lead a request into our own network (SSRF), nor a name change between the check and
the connection.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from chassis.clock import Clock
from contracts.errors import Invalid, Transient

# As long as a pinned address is used before the name is resolved again.
PIN_S: Final = 60.0
RESOLVE_TIMEOUT_S: Final = 2.0


class HostPins:
    """Resolved public addresses by host name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pins: dict[str, tuple[str, float]] = {}

    async def address(self, host: str) -> str:
        """Return a public address of a host.

        Raises `Invalid` (`host_not_public`) when any of its addresses is not, `Transient` (`host_unresolved`) when it
        has none now.
        """
        known = self._pins.get(host)
        if known is not None and known[1] > self._clock.monotonic():
            return known[0]
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
        except (TimeoutError, OSError):
            raise Transient("host_unresolved", "the host has no address now", retry_after_s=5) from None
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or any(not is_public(address) for address in addresses):
            raise Invalid("host_not_public", "the host does not stand at public addresses only", field="options")
        self._pins[host] = (addresses[0], self._clock.monotonic() + PIN_S)
        return addresses[0]

    async def pinned(self, url: str) -> tuple[str, dict[str, str]]:
        """Return a URL with a public address of its host in place of the name, and what TLS and HTTP call the host.

        The second has `sni_hostname`, which TLS also checks the certificate by, and `host` for the header. Raises what
        `address` raises.
        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        address = await self.address(host)
        shown = f"[{address}]" if ":" in address else address
        port = f":{parts.port}" if parts.port else ""
        return urlunsplit(parts._replace(netloc=f"{shown}{port}")), {"sni_hostname": host, "host": f"{host}{port}"}


def is_public(address: str) -> bool:
    """Tell whether an address is one of the public Internet, also behind an IPv4-mapped or NAT64 notation."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return found.is_global and not found.is_multicast
