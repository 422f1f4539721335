from __future__ import annotations

import pickle
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


def test_while_an_earlier_price_is_unknown_nothing_is_admitted_under_a_ceiling() -> None:
    with pytest.raises(BudgetExceededError, match="nothing was sent") as caught:
        budget.admit(
            "sora-2",
            Decimal(100),
            held=Decimal(0),
            ceiling=Decimal(10**9),
            unpriced=4,
            unpriced_jobs=["a", "b", "c", "d"],
        )
    error = caught.value
    assert (error.needed, error.held, error.unpriced) == (Decimal(100), Decimal(0), 4)
    assert error.unpriced_jobs == ("a", "b", "c"), "a few of them"
    text = str(error)
    assert "4 POSTs of unknown price may have been charged any amount (jobs a, b, c, …)" in text
    for cure in ("settle", 'max_credits="none"', "credits=N"):
        assert cure in text
    budget.admit("sora-2", Decimal(100), held=Decimal(0), ceiling=None, unpriced=4)


def test_one_job_of_unknown_price_is_named_in_the_singular() -> None:
    with pytest.raises(BudgetExceededError, match=r"1 POST of unknown price may .* \(job a\)"):
        budget.admit(
            "sora-2",
            Decimal(1),
            held=Decimal(0),
            ceiling=Decimal(9),
            unpriced=1,
            unpriced_jobs=["a"],
        )
    with pytest.raises(BudgetExceededError, match="any amount: nothing more"):
        budget.admit("sora-2", Decimal(1), held=Decimal(0), ceiling=Decimal(9), unpriced=1)


def test_an_error_about_unknown_prices_can_be_pickled() -> None:
    with pytest.raises(BudgetExceededError) as caught:
        budget.admit(
            "m", Decimal(1), held=Decimal(0), ceiling=Decimal(9), unpriced=1, unpriced_jobs=["a"]
        )
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.unpriced, copy.unpriced_jobs, str(copy)) == (1, ("a",), str(caught.value))
