from __future__ import annotations

from decimal import Decimal

import pytest

from aivideo.errors import BudgetExceededError
from aivideo.ledger import budget


def admit(needed: str, *, held: str, ceiling: str | None) -> None:
    budget.admit(
        "sora-2",
        Decimal(needed),
        held=Decimal(held),
        ceiling=None if ceiling is None else Decimal(ceiling),
    )


@pytest.mark.parametrize(
    ("needed", "held", "ceiling"),
    [
        ("200", "0", None),
        ("200", "1000000000", None),
        ("200", "0", "200"),
        ("200", "300", "500"),
        ("200", "0", "1000000000"),
        ("30.5", "30.5", "61"),
        ("0.1", "0.2", "0.3"),  # exact: as floats, their sum would be more
        ("70", "30", "100"),
    ],
)
def test_what_fits_is_admitted(needed: str, held: str, ceiling: str | None) -> None:
    admit(needed, held=held, ceiling=ceiling)


@pytest.mark.parametrize(
    ("needed", "held", "ceiling"),
    [
        ("200", "0", "199"),
        ("200", "1", "200"),
        ("200", "301", "500"),
        ("200", "0", "0"),
        ("200", "600", "500"),
        ("70", "31", "100"),
        ("30.5", "30.5", "60.999999"),
    ],
)
def test_what_would_pass_the_ceiling_is_refused_with_the_amounts(
    needed: str, held: str, ceiling: str
) -> None:
    with pytest.raises(BudgetExceededError, match="nothing was sent") as caught:
        admit(needed, held=held, ceiling=ceiling)
    amounts = (caught.value.needed, caught.value.held, caught.value.ceiling)
    assert amounts == (Decimal(needed), Decimal(held), Decimal(ceiling))
    assert f"{needed} credits more would pass max_credits={ceiling}: {held} are" in str(
        caught.value
    )


def test_without_a_ceiling_no_price_is_needed() -> None:
    budget.admit("nobody-knows-1", None, held=Decimal(10**9), ceiling=None)


def test_under_a_ceiling_an_unknown_price_is_refused_with_the_cure() -> None:
    with pytest.raises(BudgetExceededError, match=r"credits=N") as caught:
        budget.admit("nobody-knows-1", None, held=Decimal(0), ceiling=Decimal(10**9))
    assert caught.value.needed is None
