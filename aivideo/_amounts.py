"""Amounts of credits: exact decimals, never floats.

Prices such as 30.5 credits a second or 2.4 credits a picture exist, and a balance may be 9847.5
(``MODELS.md`` of the provider's pages). So an amount is a :class:`~decimal.Decimal` of at most
six decimal places, without exponent or trailing zeros: 200 prints as ``200``, 30.50 as ``30.5``.
Ledgers store whole millionths of a credit.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation
from typing import overload

DOLLARS_PER_CREDIT = Decimal("0.005")
"""1 credit = $0.005: the provider's page prices 25 credits/s as $0.125/s."""

MILLIONTHS = 1_000_000
"""Millionths of a credit in a credit: the unit of ledgers."""

LARGEST = Decimal(1_000_000_000_000)
"""Larger amounts are refused: a ledger's sums must fit into 64 bits."""

_EXACT = Context(prec=60)
"""Not the caller's context: with a low precision that one would round amounts."""

_SMALLEST = Decimal(1).scaleb(-6)
_ONE = Decimal(1)
_NOTHING = Decimal(0)


def exact(value: object) -> Decimal:
    """Return an amount as a normalized Decimal.

    Args:
        value: an int, a str such as ``"30.5"``, or a Decimal. A float is refused: 0.1 is not
            exactly a tenth.

    Raises:
        ValueError: it is none of those, is not finite, or has more than six decimal places; the
            message says which, in the form "must be …".
    """
    if type(value) is Decimal and value.same_quantum(_ONE) and value.copy_abs() <= LARGEST:
        return value or _NOTHING  # checked often: it has been made exact before
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        hint = ", not float: write it as a str" if isinstance(value, float) else ""
        raise ValueError(f"must be an int, a str or a Decimal{hint}")  # noqa: TRY004
    try:
        amount = Decimal(value)
    except (InvalidOperation, ValueError):
        raise ValueError("must be a decimal number") from None
    if not amount.is_finite():
        raise ValueError("must be a finite number")
    if amount.copy_abs() > LARGEST:
        raise ValueError(f"must be at most {LARGEST:,}")
    if amount != amount.quantize(_SMALLEST, context=_EXACT):
        raise ValueError("must have at most six decimal places")
    return plain(amount)


def plain(amount: Decimal) -> Decimal:
    """Return an amount without trailing zeros and without an exponent.

    >>> plain(Decimal("61.0")), plain(Decimal("1E+3"))
    (Decimal('61'), Decimal('1000'))
    """
    if amount.same_quantum(_ONE):
        return amount or _NOTHING  # whole, without an exponent: nearly every amount is
    if amount == amount.to_integral_value():
        whole = amount.quantize(_ONE, context=_EXACT)
        return whole or whole.copy_abs()  # not -0
    return amount.normalize(_EXACT)


def to_millionths(amount: Decimal) -> int:
    """Return an amount as whole millionths of a credit."""
    return int(amount.scaleb(6, context=_EXACT))


def of_millionths(millionths: int) -> Decimal:
    """Return the amount that is so many millionths of a credit."""
    whole, rest = divmod(millionths, MILLIONTHS)
    return plain(Decimal(millionths).scaleb(-6, context=_EXACT)) if rest else Decimal(whole)


def as_json(amount: Decimal) -> int | float:
    """Return an amount for JSON: an integer where it is whole, else a number."""
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def times(amount: Decimal, count: int) -> Decimal:
    """Return ``count`` times an amount, exactly."""
    return plain(_EXACT.multiply(amount, count))


def dollars(amount: Decimal | int) -> Decimal:
    """Return an amount of credits in US dollars, exactly.

    >>> dollars(Decimal(100))
    Decimal('0.500')
    """
    return _EXACT.multiply(DOLLARS_PER_CREDIT, amount)


@overload
def whole(amount: Decimal) -> int: ...
@overload
def whole(amount: Decimal | None) -> int | None: ...
def whole(amount: Decimal | None) -> int | None:
    """Return an amount rounded up, for ledgers whose columns are whole credits; None stays None."""
    return None if amount is None else int(amount.to_integral_value(ROUND_CEILING))
