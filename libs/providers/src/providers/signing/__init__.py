"""The signing schemes that a manifest can name, both ends of each: what receives verifies, what simulates signs.

Must never parse a body beyond what its scheme signs, nor raise anything but `Refused` for what a stranger sent.
"""

from __future__ import annotations

from providers.signing.build import build_verifier
from providers.signing.url_form import with_body_hash

__all__ = ["build_verifier", "with_body_hash"]
