"""Amounts of credits are exact in any decimal context of the caller."""

from __future__ import annotations

from decimal import Context, Decimal, localcontext
from typing import Any

import pytest

from aivideo._amounts import (
    as_json,
    dollars,
    exact,
    of_millionths,
    plain,
    times,
    to_millionths,
    whole,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (200, "200"),
        ("30.50", "30.5"),
        (" 7 ", "7"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0"), "0"),
        ("0.000001", "0.000001"),
        ("999999999999.123456", "999999999999.123456"),
    ],
)
def test_an_amount_prints_without_exponent_or_trailing_zeros(value: Any, shown: str) -> None:
    for context in (Context(), Context(prec=3)):
        with localcontext(context):
            assert str(exact(value)) == shown
            assert str(of_millionths(to_millionths(exact(value)))) == shown


@pytest.mark.parametrize(
    "value",
    [1.5, True, None, b"1", "", "a", "NaN", "sNaN", "Infinity", "0.0000001", "1e13", 10**400],
)
def test_a_value_that_is_not_an_exact_amount_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        exact(value)


def test_products_are_exact_in_any_context() -> None:
    with localcontext(Context(prec=2)):
        assert str(times(Decimal("30.5"), 11)) == "335.5"
        assert str(dollars(Decimal("335.5"))) == "1.6775"


def test_conversions() -> None:
    assert plain(Decimal("61.0")) == 61
    assert as_json(Decimal(200)) == 200
    assert isinstance(as_json(Decimal(200)), int)
    assert as_json(Decimal("30.5")) == 30.5
    assert str(dollars(Decimal(200))) == "1.000"
    assert (whole(Decimal("30.1")), whole(Decimal(30)), whole(None)) == (31, 30, None)
