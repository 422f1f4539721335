from __future__ import annotations

from typing import Any

import pytest

from aivideo._pacing.stated import StatedPace
from aivideo.errors import ConfigurationError
from aivideo.settings import RateLimit
from aivideo.simulator import FixedWindow, SlidingWindow, TokenBucket
from tests.pacing.servers import Limit, drive, ideal, phase


@pytest.mark.parametrize("round_trip", [0.0005, 0.05, 0.15])
@pytest.mark.parametrize(
    ("limit", "stated", "requests"),
    [
        (TokenBucket(50, 10), RateLimit.bucket(50, burst=10), 500),
        (TokenBucket(2, 10), RateLimit.bucket(2, burst=10), 100),
        (FixedWindow(20, 10), RateLimit.window(20, seconds=10), 100),
        (SlidingWindow(20, 10), RateLimit.window(20, seconds=10), 100),
        (SlidingWindow(100, 60), RateLimit.window(100, seconds=60), 300),
    ],
)
def test_a_stated_limit_is_fully_used_without_rejections(
    limit: Limit, stated: RateLimit, requests: int, round_trip: float
) -> None:
    for seed in (401, 402, 403):
        # The phase of a fixed window is not stated, so a full use must start with the window.
        start = 1000.0 * 10 if isinstance(limit, FixedWindow) else phase(limit, seed)
        run = drive(
            limit,
            requests=requests,
            make=lambda: StatedPace(stated),
            seed=seed,
            start=start,
            round_trip=round_trip,
        )
        assert run.rejected == [[]]
        assert run.makespan is not None
        assert run.makespan <= 1.02 * ideal(limit, requests, start, round_trip)


def test_a_fixed_window_of_any_phase_rejects_nothing() -> None:
    for seed in range(20):
        limit = FixedWindow(20, 10)
        run = drive(
            limit,
            requests=100,
            make=lambda: StatedPace(RateLimit.window(20, seconds=10)),
            seed=seed,
            start=phase(limit, seed),
        )
        assert run.rejected == [[]]


def test_requests_per_minute_fit_a_bucket_and_a_window() -> None:
    for limit in (TokenBucket(10, 10), SlidingWindow(600, 60), TokenBucket(10, 1)):
        run = drive(
            limit,
            requests=900,
            make=lambda: StatedPace(per_minute=600),
            round_trip=0.001,
        )
        assert run.rejected == [[]]
        assert run.makespan is not None
        assert run.makespan <= 1.02 * 90


@pytest.mark.parametrize(
    ("make", "most"),
    [
        (lambda: StatedPace(RateLimit.bucket(10, burst=10)), 1.02),
        (lambda: StatedPace(RateLimit.bucket(50, burst=10)), 1.10),
        (lambda: StatedPace(per_minute=600), 1.05),
    ],
)
def test_answers_out_of_order_do_not_slow_the_pace(make: Any, most: float) -> None:
    """Round trips of 0.4 to 1.6 s, many in flight: arrivals are counted in order of time."""
    for seed in (1, 2, 3):
        limit = TokenBucket(make().rate, 10)
        run = drive(limit, requests=600, make=make, seed=seed, round_trip=0.8)
        assert run.makespan is not None
        assert run.makespan <= most * ideal(limit, 600, 0.0, 0.8)
        assert run.rejections <= 0.005


def test_requests_per_minute_at_a_bucket_without_burst_are_rejected_at_most_once() -> None:
    """The rejection shows that there is no burst; from then on jitter is allowed for."""
    for seed in (1, 2, 3, 4):
        run = drive(
            TokenBucket(1, 1), requests=120, make=lambda: StatedPace(per_minute=60), seed=seed
        )
        assert len(run.rejected[0]) <= 1
        assert run.makespan is not None
        assert run.makespan <= 1.15 * 119


def test_an_unsteady_connection_slows_a_bucket_without_burst_by_its_jitter_only() -> None:
    limit = TokenBucket(5, 1)
    run = drive(limit, requests=100, make=lambda: StatedPace(RateLimit.bucket(5)), seed=3)
    assert run.makespan is not None
    assert run.makespan <= 1.6 * ideal(limit, 100, 0.0, 0.15)
    assert run.rejections <= 0.02


def test_an_unexpected_rejection_holds_all_requests_as_long_as_it_asks() -> None:
    pace = StatedPace(RateLimit.bucket(10, burst=5))
    pace.rejected(pace.sent(0.0), 0.1, 7.0, 0.0)
    assert pace.ready_at(0.1) == pytest.approx(7.1)
    pace.accepted(pace.sent(7.1), 7.2)
    assert pace.held_until is None


def test_a_request_without_an_answer_counts_until_it_was_lost() -> None:
    pace = StatedPace(RateLimit.window(2, seconds=10))
    for _ in range(2):
        pace.lost(pace.sent(0.0), 5.0)
    assert pace.ready_at(5.0) == pytest.approx(15.0)


def test_a_request_that_hangs_counts_once_in_the_window() -> None:
    pace = StatedPace(RateLimit.window(2, seconds=10))
    pace.accepted(pace.sent(0.0), 0.1)
    pace.sent(5.0)  # never answered
    pace.accepted(pace.sent(11.0), 11.1)
    assert pace.ready_at(11.1) == pytest.approx(15.05)
    pace.accepted(pace.sent(15.1), 15.2)
    assert pace.ready_at(15.2) == pytest.approx(21.05), "the request that hangs no longer counts"


@pytest.mark.parametrize(
    "make",
    [
        lambda: RateLimit.bucket(0),
        lambda: RateLimit.bucket(-1),
        lambda: RateLimit.bucket(5, burst=0),
        lambda: RateLimit.bucket(True),
        lambda: RateLimit.window(0, seconds=10),
        lambda: RateLimit.window(5, seconds=0),
        lambda: RateLimit.window(5, seconds=float("inf")),
        lambda: RateLimit.window(5, seconds=float("nan")),
    ],
)
def test_an_impossible_limit_raises(make: Any) -> None:
    with pytest.raises(ConfigurationError, match="RateLimit"):
        make()
