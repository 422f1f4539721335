from __future__ import annotations

import pytest

from aivideo._pacing.cruise import CUT, PRECISE_COUNT
from aivideo._pacing.estimates import (
    after_long_closure,
    after_opening,
    at_window_end,
    is_bucket,
    of_brief_closure,
    of_late_acceptances,
)
from aivideo._pacing.evidence import Evidence, RateEstimate
from aivideo._pacing.protocol import SentRequest
from aivideo._pacing.window import Window


def probe(sent_at: float) -> SentRequest:
    return SentRequest(sent_at, 20.0, 100, probe=True)


def after_ramp(*, late: int, last_late_at: float) -> Evidence:
    """Return evidence of a ramp, rejected at 1.0 s while requests until 2.0 s were in flight."""
    evidence = Evidence()
    evidence.begin(0.0)
    evidence.opening.accepted = 20
    evidence.traffic.last_sent_at = 2.0
    closure = evidence.closure
    closure.began_at, closure.rejections, closure.rejected_rate = 1.0, 1, 50.0
    closure.late_acceptances, closure.last_late_acceptance = late, last_late_at
    return evidence


def bursting(*, openings: int, quota: int, accepted: int) -> Evidence:
    """Return evidence of an opening that began at 20 s, of a window of 10 s."""
    evidence = Evidence()
    evidence.begin(0.0)
    evidence.known.window = Window(19.9, 20.0, shortest=9.9, longest=10.1)
    evidence.known.openings, evidence.known.quota = openings, quota
    evidence.opening.began_at, evidence.opening.accepted = 20.0, accepted
    evidence.closure.began_at = evidence.closure.closed_until = 21.0
    evidence.closure.rejections = 1
    return evidence


@pytest.mark.parametrize(
    ("late", "last_late_at", "expected"),
    [
        (10, 1.9, True),  # accepted until the end
        (2, 1.9, False),  # too few
        (10, 1.3, False),  # they ended early: the places of a window are used
    ],
)
def test_requests_accepted_until_the_end_show_a_bucket(
    late: int, last_late_at: float, expected: bool
) -> None:
    assert is_bucket(after_ramp(late=late, last_late_at=last_late_at), 2.5) is expected


def test_a_hold_that_the_service_asked_for_shows_no_bucket() -> None:
    evidence = after_ramp(late=10, last_late_at=1.9)
    evidence.asked_until = 5.0
    assert not is_bucket(evidence, 2.5)


def test_the_rate_of_a_bucket_is_what_it_accepted_after_the_first_rejection() -> None:
    estimate = of_late_acceptances(after_ramp(late=19, last_late_at=1.9))
    rate = 19 / (1.0 - 0.05)  # half a round trip is not counted
    assert estimate.base <= rate <= estimate.peak
    assert estimate.peak == pytest.approx(rate, rel=0.06)


def test_after_a_brief_closure_the_estimate_lies_between_its_bound_and_the_rejected_pace() -> None:
    estimate = of_brief_closure(after_ramp(late=0, last_late_at=0.0), probe(1.2))
    assert estimate is not None
    assert 5.0 <= estimate.base <= estimate.peak == pytest.approx(0.7 * 50.0)


def test_a_long_closure_is_not_taken_for_a_bucket_s() -> None:
    assert of_brief_closure(after_ramp(late=0, last_late_at=0.0), probe(5.0)) is None


def test_less_than_half_of_the_first_count_shows_a_slow_bucket() -> None:
    evidence = bursting(openings=1, quota=20, accepted=5)
    estimate = after_opening(evidence, probe(25.0), 25.1)
    assert estimate is not None
    assert estimate.base <= 5 / 25 <= estimate.peak


def test_a_full_opening_sets_the_quota() -> None:
    evidence = bursting(openings=3, quota=20, accepted=18)
    assert after_opening(evidence, probe(25.0), 25.1) is None
    assert evidence.known.quota == 18


def test_the_second_short_opening_in_a_row_ends_bursts() -> None:
    evidence = bursting(openings=3, quota=20, accepted=10)
    assert after_opening(evidence, probe(25.0), 25.1) is None
    assert evidence.known.quota == 20
    estimate = after_opening(evidence, probe(35.0), 35.1)
    assert estimate is not None
    assert estimate.peak == pytest.approx(1.1 * 10 / 10)


def test_a_window_used_at_other_times_slides_and_is_used_evenly() -> None:
    evidence = bursting(openings=3, quota=20, accepted=10)
    evidence.known.accepted_at.extend([22.0] * 16)
    estimate = after_opening(evidence, probe(25.0), 25.1)
    assert estimate == RateEstimate(2.0, (1 - CUT) * 2.0, 60.0)


def test_a_window_that_ends_is_used_in_a_burst() -> None:
    evidence = bursting(openings=1, quota=20, accepted=20)
    assert at_window_end(evidence, probe(30.0), 30.1) is None
    assert evidence.known.openings == 2


def test_a_window_that_is_mostly_open_is_used_evenly() -> None:
    evidence = bursting(openings=1, quota=20, accepted=20)
    evidence.closure.began_at = evidence.closure.closed_until = 29.0
    estimate = at_window_end(evidence, probe(30.0), 30.1)
    assert estimate is not None
    assert estimate.base == pytest.approx(2.0)


def test_bursts_are_replaced_by_an_even_pace_in_the_long_term() -> None:
    evidence = bursting(openings=5, quota=20, accepted=20)
    assert at_window_end(evidence, probe(30.0), now=70.0) == RateEstimate(2.0, 1.9, 60.0)
    assert not evidence.cruise.young


def test_a_quota_that_others_used_up_still_gives_a_usable_rate() -> None:
    evidence = bursting(openings=0, quota=1, accepted=0)
    estimate = at_window_end(evidence, probe(30.0), 30.1)
    assert estimate is not None
    assert estimate.base == pytest.approx(4 / 10)


@pytest.mark.parametrize("count", [PRECISE_COUNT - 1, PRECISE_COUNT])
def test_a_longer_limit_is_measured_only_if_enough_was_accepted(count: int) -> None:
    evidence = bursting(openings=3, quota=20, accepted=20)
    evidence.traffic.accepted = count
    estimate = after_long_closure(evidence, probe(60.0))
    if count < PRECISE_COUNT:
        assert estimate is None
        return
    assert estimate is not None
    assert estimate.measurements == 2
    assert estimate.base <= count / 60 <= estimate.peak
    assert evidence.known.long_cycle == (count - 1, 60.0)
