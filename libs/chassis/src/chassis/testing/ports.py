"""Free loopback ports for servers that tests and `make up` start; never a promise that the port stays free."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from typing import Final

LOOPBACK: Final = "127.0.0.1"
# Below Linux' ephemeral range (32768 and up): an outgoing connection cannot take the port before the server binds it.
_FIRST_PORT: Final = 20_000
_LAST_PORT: Final = 32_700
_MAX_TRIES: Final = 200


def is_free(port: int) -> bool:
    """Say whether a server could bind this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set it too: a port whose old connections are in TIME_WAIT counts as free, a listening one does not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(avoid: Collection[int] = ()) -> int:
    """Return a loopback port that nobody listens on and that is not in `avoid`; OSError when none is found."""
    choose = random.SystemRandom()
    for _ in range(_MAX_TRIES):
        port = choose.randint(_FIRST_PORT, _LAST_PORT)
        if port not in avoid and is_free(port):
            return port
    raise OSError(f"no free loopback port between {_FIRST_PORT} and {_LAST_PORT} after {_MAX_TRIES} tries")


def accepts(port: int, timeout_s: float = 0.5) -> bool:
    """Say whether something on loopback accepts a TCP connection on this port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s):
            return True
    except OSError:
        return False
