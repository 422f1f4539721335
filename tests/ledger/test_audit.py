from __future__ import annotations

from decimal import Decimal
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo.ledger.audit import Finding, Reading, conclude
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits

PRICE = Decimal(100)


def reading(consumed: int | Decimal, **ledger: int | Decimal) -> Reading:
    account = Credits(balance=0, total_purchased=10**6, total_consumed=consumed)
    return Reading(0.0, account, CreditTotals(**ledger))


START = reading(5_000, charged=300, refunded=200)


def audit(
    grown: int, *, bought: int = 0, failed: int = 0, prices: list[int] | None = None
) -> Finding:
    """Audit from ``START``: ``bought`` credits since, ``failed`` of them refunded."""
    doubtful = sum(prices or [])
    charged, refunded = 300 + bought - failed, 200 + failed
    now = reading(5_000 + grown, charged=charged, refunded=refunded, unknown=doubtful)
    return conclude(START, now, prices=[Decimal(price) for price in prices or []])


@pytest.mark.parametrize(
    ("finding", "conclusion"),
    [
        (audit(0), "clean"),
        (audit(500, bought=500), "clean"),
        (audit(600, bought=500), "too much"),
        (audit(400, bought=500), "too little"),
        (audit(-100), "too little"),
        (audit(0, prices=[100]), "none charged"),
        (audit(500, bought=500, prices=[100, 300]), "none charged"),
        (audit(599, bought=500, prices=[100, 300]), "none charged"),
        (audit(600, bought=500, prices=[100, 300]), "some charged"),
        (audit(899, bought=500, prices=[100, 300]), "some charged"),
        (audit(900, bought=500, prices=[100, 300]), "all charged"),
        (audit(901, bought=500, prices=[100, 300]), "too much"),
        (audit(400, bought=500, prices=[100]), "too little"),
        # Tasks failed meanwhile, and what was told holds whichever way refunds are counted.
        (audit(300, bought=500, failed=200), "clean"),  # only if refunds lower: else too little
        (audit(500, bought=500, failed=200, prices=[300]), "none charged"),
        (audit(100, bought=500, failed=200), "too little"),
        (audit(300, bought=500, failed=200, prices=[100]), "none charged"),
        (audit(1200, bought=500, failed=200, prices=[100]), "too much"),
        (audit(850, bought=500, failed=200, prices=[100, 300, 300]), "some charged"),
        # The two disagree: 200 more are an unknown POST, or a refund that does not lower.
        (audit(500, bought=500, failed=200), "open"),
        (audit(500, bought=500, failed=200, prices=[200]), "open"),
        (audit(600, bought=500, failed=100, prices=[100]), "open"),
    ],
)
def test_each_conclusion(finding: Finding, conclusion: str) -> None:
    assert finding.conclusion == conclusion
    assert finding.lines


def test_a_finding_shows_its_figures() -> None:
    finding = audit(650, bought=500, failed=200, prices=[100, 300])
    amounts = (finding.grown, finding.bought, finding.refunded, finding.unknown)
    assert [*map(str, amounts)] == ["650", "500", "200", "400"]
    both = [(each.refunds_lower, str(each.known), str(each.rest)) for each in finding.hypotheses]
    assert both == [(False, "500", "150"), (True, "300", "350")]


def test_amounts_are_exact_and_print_without_trailing_zeros() -> None:
    half = Decimal("30.5")
    since = reading(half, charged=half)
    finding = conclude(since, reading(4 * half, charged=half, unknown=3 * half), prices=[half] * 3)
    assert (finding.conclusion, str(finding.grown), str(finding.unknown)) == (
        "all charged",
        "91.5",
        "91.5",
    )
    now = reading(3 * half, charged=half, unknown=3 * half)
    finding = conclude(since, now, prices=[half] * 3)
    assert (finding.conclusion, str(finding.hypotheses[0].rest)) == ("some charged", "61")
    assert finding.lines[0].startswith("2 of the 3 POSTs of unknown outcome are charged")


def test_without_a_refund_there_is_one_reading_of_the_counter() -> None:
    assert len(audit(500, bought=500, prices=[100]).hypotheses) == 1


def test_what_was_in_doubt_at_the_earlier_reading_may_have_been_counted_before_it() -> None:
    """Else a POST that was counted early hides one that was taken since, and is paid twice."""
    since = reading(100, unknown=100)  # taken and counted; a callback tells of it later
    now = reading(200, charged=100, unknown=100)  # and meanwhile another was taken
    finding = conclude(since, now, prices=[PRICE])
    assert finding.conclusion == "blurred"
    assert conclude(reading(100), now, prices=[PRICE]).conclusion == "none charged"


def test_what_is_on_its_way_at_the_later_reading_may_be_counted_already() -> None:
    now = reading(5_100, charged=300, refunded=200, reserved=100, unknown=100)
    assert conclude(START, now, prices=[PRICE]).conclusion == "blurred"
    quiet = reading(5_000, charged=300, refunded=200, reserved=100, unknown=100)
    assert conclude(START, quiet, prices=[PRICE]).conclusion == "none charged"


@given(
    known=st.lists(st.tuples(st.sampled_from([100, 200, 300]), st.booleans(), st.booleans())),
    posts=st.lists(st.tuples(st.sampled_from([100, 200, 300]), st.booleans()), min_size=1),
    lowers=st.booleans(),
    others=st.sampled_from([0, 0, 50, 100, 1000]),
)
def test_none_charged_is_never_said_of_what_was_charged(
    known: list[tuple[int, bool, bool]],
    posts: list[tuple[int, bool]],
    lowers: bool,
    others: int,
) -> None:
    """Whatever was bought, failed, of unknown outcome or somebody else's, however refunds count.

    ``known``: a price, whether its POST was of unknown outcome at the earlier reading and counted
    before it, and whether its task failed since. ``posts``: of unknown outcome, and whether taken.
    """
    early = sum(price for price, before, _ in known if before)
    since = reading(early, unknown=early)
    counted = sum(price for price, before, _ in known if not before)
    failed = sum(price for price, _, fails in known if fails)
    taken = sum(price for price, was in posts if was)
    consumed = early + counted + taken + others - (failed if lowers else 0)
    prices = [price for price, _ in posts]
    now = reading(
        consumed,
        charged=early + counted - failed,
        refunded=failed,
        unknown=sum(prices),
    )
    said = conclude(since, now, prices=[Decimal(price) for price in prices]).conclusion
    if said == "none charged":
        assert taken == 0
    if said == "all charged" and others == 0:
        assert taken == sum(prices)


@pytest.mark.parametrize(("taken", "others"), [*product([0, 100], [0, 100, 300])])
def test_somebody_else_can_only_add(taken: int, others: int) -> None:
    said = audit(500 + taken + others, bought=500, prices=[100]).conclusion
    assert (said == "none charged") == (taken + others == 0)
