"""What can be asked of providers, in canonical terms: an operation's name, capability and arguments.

A provider's folder says how it carries an operation out; sagas and people ask for it without knowing who does.
"""

from __future__ import annotations

from contracts.operations.base import Arguments, as_document
from contracts.operations.catalogue import OPERATIONS, arguments_of

__all__ = ["OPERATIONS", "Arguments", "arguments_of", "as_document"]
