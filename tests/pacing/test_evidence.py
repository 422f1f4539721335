from __future__ import annotations

import pytest

from aivideo._pacing.evidence import (
    MIN_BURST_SECONDS,
    MIN_BURSTS,
    START_RATE,
    Evidence,
    RateEstimate,
    Traffic,
    WindowEvidence,
)
from aivideo._pacing.protocol import SentRequest
from aivideo._pacing.window import Window


def rejected_evidence(*, began_at: float = 0.0, accepted: int = 20) -> Evidence:
    """Return evidence of an opening that ended with a rejection one second after its start."""
    evidence = Evidence()
    evidence.begin(began_at)
    evidence.opening.accepted = accepted
    evidence.closure.began_at = evidence.closure.closed_until = began_at + 1.0
    evidence.closure.rejections = 1
    return evidence


def test_the_first_round_trip_counts_fully_and_later_ones_by_an_eighth() -> None:
    traffic = Traffic(in_flight=2)
    traffic.answered(SentRequest(0.0, 20.0, 1), 0.4)
    assert traffic.round_trip == pytest.approx(0.4)
    traffic.answered(SentRequest(1.0, 20.0, 2), 1.0 + 1.2)
    assert traffic.round_trip == pytest.approx(0.5)
    assert traffic.in_flight == 0


def test_acceptances_older_than_a_window_are_forgotten() -> None:
    known = WindowEvidence()
    known.accepted_at.extend([1.0, 2.0, 3.0])
    known.forget_until(2.0)
    assert list(known.accepted_at) == [3.0]


def test_without_a_known_window_each_probe_waits_a_fifth_longer_since_the_opening() -> None:
    evidence = rejected_evidence()
    waits = []
    for now in (10.0, 20.0, 40.0):
        evidence.schedule_probe(now)
        waits.append(evidence.closure.probe_at)
    assert waits == pytest.approx([12.0, 24.0, 48.0])


def test_where_many_are_accepted_probes_are_more_frequent() -> None:
    evidence = rejected_evidence(accepted=400)
    evidence.schedule_probe(10.0)
    assert evidence.closure.probe_at == pytest.approx(11.0)


def test_a_known_window_is_probed_in_the_middle_of_where_it_may_end() -> None:
    evidence = rejected_evidence(began_at=10.0)
    evidence.known.window = Window(9.0, 11.0, shortest=9.5, longest=11.0)
    evidence.schedule_probe(12.0)
    assert evidence.closure.probe_at == pytest.approx((19.0 + 21.0) / 2)


def test_a_window_that_should_have_ended_is_probed_after_growing_fractions_of_its_length() -> None:
    evidence = rejected_evidence(began_at=10.0)
    evidence.known.window = Window(10.0, 10.1, shortest=9.5, longest=11.0)
    evidence.closure.closed_until = 30.0
    waits = []
    for _ in range(3):
        evidence.schedule_probe(30.0)
        waits.append(evidence.closure.probe_at - 30.0)
    assert waits == pytest.approx([0.33, 0.66, 1.32])


def test_bursts_end_only_after_enough_openings_and_seconds() -> None:
    evidence = Evidence()
    evidence.begin(100.0)
    for openings, seconds, expected in (
        (MIN_BURSTS, MIN_BURST_SECONDS - 1, False),
        (MIN_BURSTS, MIN_BURST_SECONDS, True),
        (MIN_BURSTS - 1, MIN_BURST_SECONDS, False),
    ):
        evidence.known.openings = openings
        assert evidence.has_burst_long_enough(100.0 + seconds) is expected


def test_an_opening_is_short_below_four_fifths_of_the_quota() -> None:
    evidence = Evidence()
    for quota, accepted, expected in ((None, 0, False), (20, 15, True), (20, 16, False)):
        evidence.known.quota, evidence.opening.accepted = quota, accepted
        assert evidence.is_short_opening is expected


def test_a_cruise_starts_at_its_base_and_spaces_the_next_request_by_it() -> None:
    evidence = Evidence(next_at=1000.0)
    evidence.start_cruise(RateEstimate(peak=10.0, base=5.0, climb=20.0), now=50.0)
    assert evidence.cruise.rate == 5.0
    assert evidence.next_at == pytest.approx(50.2)
    assert evidence.decided_at == 50.0


def test_a_resumed_opening_waits_no_less_than_its_first_requests_were_apart() -> None:
    evidence = Evidence(traffic=Traffic(round_trip=0.001))
    assert evidence.resume_delay == 1 / START_RATE
    evidence.traffic.round_trip = 0.8
    assert evidence.resume_delay == 0.8
