from __future__ import annotations

from decimal import Decimal
from itertools import product
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aivideo.ledger.audit import (
    ASSUMPTION,
    SETTLING_TIME,
    Doubt,
    Finding,
    Reading,
    conclude,
)
from aivideo.ledger.totals import CreditTotals, Holding
from aivideo.models import Credits

BEGAN = 1_000_000.0
SENT = BEGAN + 60
LATER = SENT + SETTLING_TIME
"""The earliest time at which something may be concluded about a POST of ``SENT``."""


def reading(
    consumed: int | Decimal, *, at: float = LATER, unpriced: int = 0, **amounts: int | Decimal
) -> Reading:
    account = Credits(balance=0, total_purchased=10**6, total_consumed=consumed)
    columns = {Holding(name): Decimal(amount) for name, amount in amounts.items()}
    return Reading(at, account, CreditTotals().plus(columns, unpriced))


def doubts(*prices: int | Decimal | None, sent_at: float = SENT) -> list[Doubt]:
    return [Doubt(sent_at, None if price is None else Decimal(price)) for price in prices]


START = reading(5_000, at=BEGAN, charged=300, refunded=200)


def audit(
    grown: int,
    *,
    bought: int = 0,
    failed: int = 0,
    prices: list[int] | None = None,
    unseen: int = 0,
    at: float = LATER,
) -> Finding:
    """Audit from ``START``: ``bought`` credits since, ``failed`` of them refunded."""
    doubtful = sum(prices or [])
    charged, refunded = 300 + bought - failed, 200 + failed
    now = reading(5_000 + grown, at=at, charged=charged, refunded=refunded, unknown=doubtful)
    return conclude(START, now, doubts=doubts(*(prices or [])), refunds_unseen=Decimal(unseen))


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
    since = reading(half, at=BEGAN, charged=half)
    three = doubts(half, half, half)
    finding = conclude(since, reading(4 * half, charged=half, unknown=3 * half), doubts=three)
    assert (finding.conclusion, str(finding.grown), str(finding.unknown)) == (
        "all charged",
        "91.5",
        "91.5",
    )
    now = reading(3 * half, charged=half, unknown=3 * half)
    finding = conclude(since, now, doubts=three)
    assert (finding.conclusion, str(finding.hypotheses[0].rest)) == ("some charged", "61")
    assert finding.lines[0].startswith("2 of the 3 POSTs of unknown outcome are charged")


def test_without_a_refund_there_is_one_reading_of_the_counter() -> None:
    assert len(audit(500, bought=500, prices=[100]).hypotheses) == 1


# --- what is taken for granted ------------------------------------------------------------------


@pytest.mark.parametrize("charged", ["none", "some", "all"])
def test_a_conclusion_about_posts_in_doubt_names_its_assumption(charged: str) -> None:
    grown = {"none": 0, "some": 100, "all": 300}[charged]
    for prices in ([100, 200], [100, 100, 100]):
        finding = audit(grown, prices=prices)
        assert finding.conclusion == f"{charged} charged"
        assert finding.assumption == ASSUMPTION
        assert "nobody else spends on, or is refunded on, this account" in " ".join(finding.lines)


@pytest.mark.parametrize(
    ("grown", "arguments"),
    [(0, {}), (-100, {}), (900, {"prices": [100]}), (0, {"prices": [100], "at": LATER - 1})],
)
def test_where_nothing_is_concluded_nothing_is_assumed(
    grown: int, arguments: dict[str, object]
) -> None:
    assert audit(grown, **arguments).assumption is None  # type: ignore[arg-type]


@pytest.mark.parametrize("others_refund", [0, 50, 100])
def test_somebody_else_s_refund_hides_a_charge_so_no_finding_says_that_anything_is_safe(
    others_refund: int,
) -> None:
    """A task of another program fails: the counter falls by as much as our POST has raised it."""
    finding = audit(100 - others_refund, prices=[100])
    if others_refund:
        assert finding.conclusion == "none charged"
        assert finding.assumption is not None
    words = " ".join(finding.lines)
    assert "safe" not in words
    assert "--" not in words, "what to settle is a person's decision"
    assert ASSUMPTION in words


# --- time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grown", [0, 100, 500, -100])
@pytest.mark.parametrize("age", [0.0, 3.0, SETTLING_TIME - 0.001])
def test_nothing_is_concluded_from_a_reading_soon_after_the_last_post_in_doubt(
    grown: int, age: float
) -> None:
    """A create was taken 25 s after it was sent, when we had stopped waiting after 3 s."""
    old, last = doubts(100), doubts(100, sent_at=SENT + 5)
    now = reading(5_000 + grown, at=SENT + 5 + age, charged=300, refunded=200, unknown=200)
    finding = conclude(START, now, doubts=[*last, *old])
    assert finding.conclusion == "too early"
    assert finding.ask_again_at == SENT + 5 + SETTLING_TIME
    assert "too early" in finding.lines[0]
    assert "15 minutes" in finding.lines[-1]


def test_a_reading_that_is_15_minutes_younger_than_the_last_post_says_something() -> None:
    assert SETTLING_TIME == 15 * 60
    finding = audit(0, prices=[100], at=SENT + 15 * 60)
    assert (finding.conclusion, finding.ask_again_at) == ("none charged", None)


def test_a_post_that_was_sent_after_the_later_reading_is_not_judged_by_it() -> None:
    finding = conclude(
        START, reading(5_000, charged=300, refunded=200), doubts=doubts(100, sent_at=LATER + 10)
    )
    assert finding.conclusion == "too early"


# --- what the readings may have missed ----------------------------------------------------------


def test_what_was_in_doubt_at_the_earlier_reading_may_have_been_counted_before_it() -> None:
    """Else a POST that was counted early hides one that was taken since, and is paid twice."""
    since = reading(100, at=BEGAN, unknown=100)  # taken and counted; a callback tells of it later
    now = reading(200, charged=100, unknown=100)  # and meanwhile another was taken
    finding = conclude(since, now, doubts=doubts(100))
    assert finding.conclusion == "blurred"
    quiet = conclude(reading(100, at=BEGAN), now, doubts=doubts(100))
    assert quiet.conclusion == "none charged"


def test_what_was_in_doubt_at_the_earlier_reading_may_have_been_taken_after_it() -> None:
    """Else its credits are taken for those of a POST that was sent since."""
    since = reading(0, at=BEGAN, unknown=100)
    now = reading(100, unknown=400)  # only the first was taken
    young, old = (
        conclude(since, now, doubts=[*doubts(100, sent_at=sent_at), *doubts(100, 100, 100)])
        for sent_at in (BEGAN - 10, BEGAN - SETTLING_TIME)
    )
    assert young.conclusion == "blurred"
    assert old.conclusion == "some charged", "it had been counted by then, if it was taken"


def test_what_is_on_its_way_at_the_later_reading_may_be_counted_already() -> None:
    now = reading(5_100, charged=300, refunded=200, reserved=100, unknown=100)
    assert conclude(START, now, doubts=doubts(100)).conclusion == "blurred"
    quiet = reading(5_000, charged=300, refunded=200, reserved=100, unknown=100)
    assert conclude(START, quiet, doubts=doubts(100)).conclusion == "none charged"


def test_what_was_settled_after_the_later_reading_was_in_doubt_then() -> None:
    """Two were in doubt. One was settled with its task since: the 100 may be its credits."""
    now = reading(5_100, charged=300, refunded=200, unknown=200)
    assert conclude(START, now, doubts=doubts(100)).conclusion == "blurred"
    assert conclude(START, now, doubts=doubts(100, 100)).conclusion == "some charged"


def test_a_task_that_runs_may_have_failed_and_its_refund_hides_a_charge() -> None:
    """The ledger has not polled it since it failed."""
    assert audit(500, bought=500, prices=[100]).conclusion == "none charged"
    assert audit(500, bought=500, prices=[100], unseen=100).conclusion == "blurred"
    assert audit(500, bought=500, prices=[300], unseen=100).conclusion == "none charged"
    assert audit(500, bought=500, unseen=100).conclusion == "clean", "nothing is in doubt"


def test_a_refund_may_have_been_counted_before_the_earlier_reading() -> None:
    """Two tasks failed, one of them before the earlier reading; both were recorded since.

    The counter fell by 100, as by the other one. That is no charge of the POST in doubt.
    """
    since = reading(5_000, at=BEGAN, charged=200)
    now = reading(4_900, refunded=200, unknown=100)
    assert conclude(since, now, doubts=doubts(100)).conclusion in ("blurred", "open")


@pytest.mark.parametrize(
    "finding",
    [
        conclude(START, reading(5_000, charged=300, refunded=200), doubts=doubts(None)),
        conclude(START, reading(5_100, charged=300, unknown=100), doubts=doubts(100, None)),
        conclude(START, reading(5_000, charged=300, unknown=100), doubts=doubts(100), unpriced=1),
        conclude(START, reading(5_000, charged=300, unknown=100, unpriced=1), doubts=doubts(100)),
    ],
    ids=["in doubt", "one of two", "charged in between", "another number at the later reading"],
)
def test_nothing_is_concluded_where_a_price_is_not_known(finding: Finding) -> None:
    """It counted as 0 credits once: all charged, or none charged, whatever the counter said."""
    assert finding.conclusion == "unpriced"
    assert "dashboard" in " ".join(finding.lines)


# --- the whole, against the truth ---------------------------------------------------------------


class Known(NamedTuple):
    """A POST whose task is in the ledger at the later reading.

    Times are numbers of readings: 0 before the earlier one, 1 between the two, 2 later or never.
    """

    price: int
    counted: int
    recorded: int
    failed: int
    failure_recorded: int


class Lost(NamedTuple):
    """A POST in doubt: when it was sent, and when the service counted it, if ever."""

    price: int
    sent: int
    counted: int


READINGS = (0, 1, 2)
KNOWN = [
    Known(price, *times)
    for price, times in product((100, 200, 300), product(READINGS, repeat=4))
    if times[0] <= times[1] <= times[3] and times[0] <= times[2] <= times[3]
]
LOST = [
    Lost(price, sent, counted)
    for price, sent, counted in product((100, 200, 300), (0, 1), READINGS)
    if sent <= counted
]


@given(
    known=st.lists(st.sampled_from(KNOWN), max_size=4),
    lost=st.lists(st.sampled_from(LOST), min_size=1, max_size=4),
    lowers=st.booleans(),
    others=st.sampled_from([0, 0, 0, 50, 100, 1000]),
)
@example(known=[Known(100, 0, 0, 1, 2)], lost=[Lost(100, 1, 1)], lowers=True, others=0)
@example(
    known=[Known(100, 0, 0, 0, 1), Known(100, 0, 0, 1, 1)],
    lost=[Lost(100, 1, 2)],
    lowers=True,
    others=0,
)
@example(
    known=[Known(100, 0, 1, 2, 2), Known(100, 0, 0, 1, 1)],
    lost=[Lost(100, 1, 1)],
    lowers=True,
    others=0,
)
@example(known=[], lost=[Lost(100, 0, 1), *[Lost(100, 1, 2)] * 3], lowers=False, others=0)
def test_what_is_concluded_is_true(
    known: list[Known], lost: list[Lost], lowers: bool, others: int
) -> None:
    """Whatever was bought, failed or lost, and whenever it was counted and recorded.

    ``others`` spend, which the assumption excludes; so only "none charged" must hold then.
    """

    def seen(at: int, time: float) -> Reading:
        """The reading ``at`` (0 or 1)."""
        consumed = sum(each.price for each in known if each.counted <= at)
        consumed += sum(each.price for each in lost if each.counted <= at)
        if lowers:
            consumed -= sum(each.price for each in known if each.failed <= at)
        sums = dict.fromkeys(("charged", "unknown", "refunded"), 0)
        for each in known:
            if each.failure_recorded <= at:
                sums["refunded"] += each.price
            elif each.recorded <= at:
                sums["charged"] += each.price
            elif each.counted <= at:
                sums["unknown"] += each.price
        sums["unknown"] += sum(each.price for each in lost if each.sent <= at)
        return reading(consumed + others * at, at=time, **sums)

    # Those that have not failed are completed, and known to be.
    running = [each.price for each in known if each.failed <= 1 < each.failure_recorded]
    finding = conclude(
        seen(0, BEGAN),
        seen(1, LATER),
        doubts=[Doubt(SENT if each.sent else BEGAN - 10, Decimal(each.price)) for each in lost],
        refunds_unseen=Decimal(sum(running)),
    )
    judged = [each.counted == 1 for each in lost if each.sent == 1]
    if finding.conclusion == "none charged":
        assert not any(judged)
    if others == 0:
        if finding.conclusion == "all charged":
            assert all(judged)
        if finding.conclusion == "some charged":
            assert any(judged)
            assert not all(judged)


@pytest.mark.parametrize(("taken", "others"), [*product([0, 100], [0, 100, 300])])
def test_what_somebody_else_spends_only_adds(taken: int, others: int) -> None:
    said = audit(500 + taken + others, bought=500, prices=[100]).conclusion
    assert (said == "none charged") == (taken + others == 0)
