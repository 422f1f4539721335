from __future__ import annotations

from decimal import Decimal

import pytest

from aivideo.errors import BudgetExceededError
from aivideo.ledger import budget


@pytest.mark.parametrize(
    ("held", "ceiling"), [(0, None), (10**9, None), (0, 200), (300, 500), (0, 10**9)]
)
def test_what_fits_is_admitted(held: int, ceiling: int | None) -> None:
    budget.admit("sora-2", 200, held=held, ceiling=ceiling)


@pytest.mark.parametrize(("held", "ceiling"), [(0, 199), (1, 200), (301, 500), (0, 0), (600, 500)])
def test_one_credit_too_many_is_refused_with_the_facts(held: int, ceiling: int) -> None:
    with pytest.raises(BudgetExceededError, match="nothing was sent") as caught:
        budget.admit("sora-2", 200, held=held, ceiling=ceiling)
    assert (caught.value.needed, caught.value.held, caught.value.ceiling) == (
        Decimal(200),
        Decimal(held),
        Decimal(ceiling),
    )


def test_without_a_ceiling_no_price_is_needed() -> None:
    budget.admit("nobody-knows-1", None, held=10**9, ceiling=None)


def test_under_a_ceiling_an_unknown_price_is_refused_with_the_cure() -> None:
    with pytest.raises(BudgetExceededError, match=r"credits=N") as caught:
        budget.admit("nobody-knows-1", None, held=0, ceiling=10**9)
    assert caught.value.needed is None


def test_a_stated_price_is_a_price() -> None:
    budget.admit("nobody-knows-1", 70, held=30, ceiling=100)
    with pytest.raises(BudgetExceededError):
        budget.admit("nobody-knows-1", 70, held=31, ceiling=100)
