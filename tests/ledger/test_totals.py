from __future__ import annotations

from decimal import Decimal

import pytest
from attrs import evolve

from aivideo.ledger.events import Claimed, Failed, Released, Taken
from aivideo.ledger.records import Attempt, AttemptStatus
from aivideo.ledger.totals import (
    CreditTotals,
    Holding,
    credits_moved,
    holding,
    holds_unpriced,
    unpriced_moved,
)
from aivideo.ledger.transitions import apply
from tests.ledger.histories import CLAIM, JOB, LOST, WHY, replay


def test_every_status_of_an_attempt_says_what_becomes_of_its_credits() -> None:
    assert {holding(status) for status in AttemptStatus} == {*Holding}
    assert holding(AttemptStatus.UNKNOWN) is Holding.UNKNOWN
    assert holding(AttemptStatus.FAULTED) is Holding.UNKNOWN


def test_totals_count_what_may_have_been_spent() -> None:
    totals = CreditTotals(charged=300, reserved=100, unknown=200, refunded=500)
    assert totals.held == 600
    assert totals.moved(Decimal(100), Holding.RESERVED, Holding.CHARGED).charged == 400
    assert totals.moved(Decimal(100), Holding.RESERVED, Holding.NONE).held == 500


def test_totals_are_exact_and_print_without_trailing_zeros() -> None:
    totals = CreditTotals()
    for _ in range(3):
        totals = totals.plus({Holding.CHARGED: Decimal("0.1"), Holding.UNKNOWN: Decimal("30.5")})
    assert (str(totals.charged), str(totals.unknown), str(totals.held)) == ("0.3", "91.5", "91.8")
    totals = totals.plus({Holding.UNKNOWN: Decimal("-30.5")})
    assert str(totals.unknown) == "61"
    assert str(totals.moved(Decimal(61), Holding.UNKNOWN, Holding.NONE).unknown) == "0"


@pytest.mark.parametrize("value", ["30.5", 100, Decimal("1E+2")])
def test_totals_accept_what_an_amount_may_be(value: object) -> None:
    assert CreditTotals(charged=value).held == Decimal(str(value))


def test_a_float_is_no_amount() -> None:
    with pytest.raises(ValueError, match="not float"):
        CreditTotals(charged=0.5)


def test_what_is_freed_is_what_was_reserved_whatever_the_price_is_by_then() -> None:
    claimed = replay(CLAIM)
    assert credits_moved(JOB, claimed) == {Holding.RESERVED: 100}
    dearer = evolve(claimed, credits="400.5")
    released = apply(dearer, Released())
    assert credits_moved(dearer, released) == {Holding.RESERVED: -100, Holding.NONE: 100}
    again = apply(released, Claimed())
    assert credits_moved(released, again) == {Holding.RESERVED: Decimal("400.5")}
    late = apply(again, Taken("t"), 1)
    assert credits_moved(again, late) == {Holding.NONE: -100, Holding.CHARGED: 100}
    assert credits_moved(late, apply(late, Failed(WHY), 1)) == {
        Holding.CHARGED: -100,
        Holding.REFUNDED: 100,
    }


def test_an_unknown_price_moves_no_credits_and_is_counted() -> None:
    job = evolve(JOB, credits=None)
    lost = replay(*LOST, job=job)
    assert credits_moved(None, lost) == {}
    assert unpriced_moved(None, lost) == 1
    assert CreditTotals().plus({}, unpriced_moved(None, lost)) == CreditTotals(unpriced=1)


@pytest.mark.parametrize("status", AttemptStatus)
def test_an_attempt_of_unknown_price_counts_while_its_credits_would(status: AttemptStatus) -> None:
    attempt = Attempt(number=1, status=status)
    job = evolve(JOB, attempts=(attempt, evolve(attempt, number=2, credits=100)))
    held = holding(status) in (Holding.CHARGED, Holding.RESERVED, Holding.UNKNOWN)
    assert holds_unpriced(job) == held, "the one with a price does not count"
    two = evolve(job, attempts=(attempt, evolve(attempt, number=2)))
    assert (holds_unpriced(two), unpriced_moved(job, two)) == (2 * held, held)


def test_a_refund_and_a_release_of_an_unknown_price_are_subtracted() -> None:
    job = evolve(JOB, credits=None)
    paid = replay(CLAIM, Taken("t"), job=job)
    assert unpriced_moved(paid, apply(paid, Failed(WHY))) == -1
    lost = replay(*LOST, job=job)
    assert unpriced_moved(lost, apply(lost, Released())) == -1
    assert unpriced_moved(lost, lost) == 0
    totals = CreditTotals(charged=100, unpriced=2)
    assert totals.plus({}, -1) == CreditTotals(charged=100, unpriced=1)
    assert totals.held == 100
