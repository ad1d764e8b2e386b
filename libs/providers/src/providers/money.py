"""Amounts of money as Patchbay writes them: integers in the minor unit of a currency of ISO 4217. Pure.

Must never let an amount pass through a float: what a vendor writes as `410.10` is read from its own digits.
"""

from __future__ import annotations

import json
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, Literal

from providers.sdk import HttpResponse

Unit = Literal["minor", "major"]

# The largest integer that a JSON number holds exactly in every reader.
MAX_AMOUNT: Final = 2**53
_CURRENCY_CHARS: Final = 3
# ISO 4217 currencies whose minor unit is not a hundredth.
_EXPONENTS: Final = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND"), 0),
    **dict.fromkeys(("VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
_DEFAULT_EXPONENT: Final = 2


def exponent(currency: str) -> int:
    """Return how many decimal places the minor unit of a currency stands for."""
    return _EXPONENTS.get(currency, _DEFAULT_EXPONENT)


def currency_of(value: Any) -> str | None:
    """Return what a vendor writes as a currency as a code of ISO 4217, or None when it is none."""
    if isinstance(value, str) and len(value) == _CURRENCY_CHARS and value.isascii() and value.isalpha():
        return value.upper()
    return None


def minor_units(value: Any, currency: str, unit: Unit) -> int | None:
    """Return an amount in minor units, or None for what is none.

    `value` is a number or its digits as a text, in major units (`12.50`) or in minor ones (`1250`); a fraction of the
    minor unit is rounded, half to even. A float is refused: it has lost its digits already.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    places = exponent(currency) if unit == "major" else 0
    try:
        found = Decimal(value)
        if not found.is_finite() or abs(found) > MAX_AMOUNT:
            return None
        amount = int(found.scaleb(places).to_integral_value(ROUND_HALF_EVEN))
    except ArithmeticError:
        return None
    return amount if abs(amount) <= MAX_AMOUNT else None


def exact(response: HttpResponse) -> Any:
    """Return an answer's JSON with decimals as they were written, or as it was read where its bytes are not there."""
    try:
        return json.loads(response.body, parse_float=Decimal)
    except (ValueError, ArithmeticError):
        return response.json
