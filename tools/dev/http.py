"""Ask a service whether it is ready; plain standard library, loopback only, never through a proxy."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Final

_TIMEOUT_S: Final = 3.0
_REASON_CHARS: Final = 500
# A proxy named in the environment must not see, or answer, requests to our own loopback ports.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Readiness:
    """The answer of GET /ready: ready or not, the service's reasons (or why there was no answer), and whose it is."""

    ready: bool
    reason: str
    pid: int = 0


def readiness(url: str) -> Readiness:
    """Ask GET /ready at a service's base URL; never raises for a service that is down."""
    try:
        with _opener.open(f"{url}/ready", timeout=_TIMEOUT_S) as answer:
            pid = json.load(answer).get("pid", 0)
            return Readiness(ready=answer.status == 200, reason=f"{answer.status}", pid=pid)  # noqa: PLR2004 -- HTTP OK
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(_REASON_CHARS).decode(errors="replace")
        return Readiness(ready=False, reason=f"{error.code} {body}")
    except (OSError, ValueError) as error:
        return Readiness(ready=False, reason=f"no answer ({error})")
