"""The signing schemes that a manifest can name, both ends of each: what receives verifies, what simulates signs.

Must never parse a body beyond what its scheme signs, nor raise anything but `Refused` or `KeyNeeded` for what a
stranger sent.
"""

from __future__ import annotations

from providers.signing.build import build_verifier
from providers.signing.draft import Scheme
from providers.signing.message import Reads
from providers.signing.traits import Traits, traits_of
from providers.signing.url_form import with_body_hash

__all__ = ["Reads", "Scheme", "Traits", "build_verifier", "traits_of", "with_body_hash"]
