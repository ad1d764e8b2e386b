"""TLS contexts that present a connection's client certificate.

Must never write a key to a disk: Python's `ssl` reads certificates from files only, so it gets one that is memory.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections import OrderedDict
from typing import Final

from contracts.errors import Invalid
from providers.sdk import ClientCertificate

# Connections with a certificate of their own whose contexts are kept; another one is made anew when it calls.
MOST_CONTEXTS: Final = 256


def fingerprint(certificate: ClientCertificate) -> str:
    """Return a digest of certificate and key: other ones are never served by the connections of these."""
    return hashlib.sha256(f"{certificate.certificate}\0{certificate.key}".encode()).hexdigest()


class TlsContexts:
    """One context for all without a certificate, and one for each certificate that was used lately."""

    def __init__(self) -> None:
        self.plain = ssl.create_default_context()
        self._own: OrderedDict[str, ssl.SSLContext] = OrderedDict()

    def of(self, certificate: ClientCertificate | None) -> ssl.SSLContext:
        """Return the context for calls with this certificate; raises `Invalid` (`bad_secret`) for an unusable one."""
        if certificate is None:
            return self.plain
        name = fingerprint(certificate)
        if name not in self._own:
            self._own[name] = _context(certificate)
            if len(self._own) > MOST_CONTEXTS:
                self._own.popitem(last=False)
        self._own.move_to_end(name)
        return self._own[name]


def _context(certificate: ClientCertificate) -> ssl.SSLContext:
    context = ssl.create_default_context()
    memory = os.memfd_create("client certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(memory), "w") as file:
            file.write(f"{certificate.key.strip()}\n{certificate.certificate.strip()}\n")
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(f"/proc/self/fd/{memory}", password="")
    except (ssl.SSLError, ValueError, OSError):
        raise Invalid(
            "bad_secret",
            "the client certificate and its key cannot be read, or do not belong together",
            field="secrets",
        ) from None
    finally:
        os.close(memory)
    return context
