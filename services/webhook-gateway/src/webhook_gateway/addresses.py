"""Who is calling: the peer, or what a proxy that we trust says about it.

Must never believe `X-Forwarded-For` from anybody else: it is a header like every other.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def networks(ranges: Sequence[str]) -> tuple[Network, ...]:
    """Return CIDR ranges as networks; raises `ValueError` for anything else."""
    return tuple(ip_network(text) for text in ranges)


def within(address: Address | None, ranges: Sequence[Network]) -> bool:
    """Tell whether an address lies in one of the ranges; an unknown address lies in none."""
    return address is not None and any(address in network for network in ranges)


def caller(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> Address | None:
    """Return the address of the caller, or None when it cannot be told.

    `peer` is `address:port` of the connection. When it is a trusted proxy, the right-most address of `forwarded` (the
    values of `X-Forwarded-For`) that is not itself one counts: what stands left of it, anybody may have written.
    """
    address = _address(peer.rpartition(":")[0].strip("[]"))
    if not trusted or not within(address, trusted):
        return address
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    for hop in reversed(hops):
        address = _address(hop)
        if address is None or not within(address, trusted):
            return address
    return address


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A dual-stack socket shows IPv4 callers as ::ffff:192.0.2.1.
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
