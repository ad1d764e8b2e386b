"""Age check providers behind one port."""

from verification.checks.mock import MockCheck
from verification.checks.port import AgeCheck, CheckOutcome, CheckResult, Identity

__all__ = ["AgeCheck", "CheckOutcome", "CheckResult", "Identity", "MockCheck"]
