from __future__ import annotations

from aivideo.ledger.records import AttemptStatus
from aivideo.ledger.totals import CreditTotals, Holding, holding


def test_every_status_of_an_attempt_says_what_becomes_of_its_credits() -> None:
    assert {holding(status) for status in AttemptStatus} == {*Holding}
    assert holding(AttemptStatus.UNKNOWN) is Holding.UNKNOWN
    assert holding(AttemptStatus.FAULTED) is Holding.UNKNOWN


def test_totals_count_what_may_have_been_spent() -> None:
    totals = CreditTotals(charged=300, reserved=100, unknown=200, refunded=500)
    assert totals.held == 600
    assert totals.moved(100, Holding.RESERVED, Holding.CHARGED).charged == 400
    assert totals.moved(100, Holding.RESERVED, Holding.NONE).held == 500
