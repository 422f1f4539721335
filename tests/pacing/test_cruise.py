from __future__ import annotations

import pytest

from aivideo._pacing.cruise import CUT, HIGHEST_RATE, LIMIT_ROSE_RATIO, LOWEST_RATE, Cruise
from aivideo._pacing.protocol import SentRequest


def started(rate: float, *, base: float | None = None, climb: float = 10.0) -> Cruise:
    """Return a cruise in the long term, with its first request numbered 1."""
    cruise = Cruise(young=False)
    cruise.start(0.0, 1, peak=rate, base=rate if base is None else base, climb=climb)
    return cruise


def test_the_pace_is_back_at_its_peak_after_the_climb_and_above_it_later() -> None:
    cruise, now = started(10.0, base=5.0), 0.0
    assert cruise.rate == 5.0
    while now < 10.0:
        cruise.grow(now, 0.1, 1)
        now += 0.1
    assert cruise.rate == pytest.approx(10.0, rel=0.01)
    while now < 16.0:
        cruise.grow(now, 0.1, 1)
        now += 0.1
    assert 10.2 < cruise.rate < 10.0 * LIMIT_ROSE_RATIO


def test_only_accepted_requests_of_the_cycle_are_counted() -> None:
    cruise = started(10.0)
    cruise.add_not_accepted()  # one was not sent after all
    cruise.add_not_accepted()  # and this one is rejected
    rejected = SentRequest(sent_at=5.0, rate=10.0, serial=33)
    assert cruise.count(rejected) == 30
    assert cruise.cycle(rejected) == (30, 0.0)


def test_a_cycle_without_acceptances_is_combined_with_the_one_before() -> None:
    cruise = started(10.0)
    cruise.measured(30, 3.0, 11.0)
    cruise.begin_cycle(3.0, 31)
    cruise.add_not_accepted()
    assert cruise.cycle(SentRequest(sent_at=3.2, rate=10.0, serial=33)) == (31, 0.0)


def test_a_precise_measurement_restarts_slightly_below_the_measured_rate() -> None:
    cruise = started(100.0)
    cruise.measured(200, 4.0, 80.0)
    assert cruise.rate == pytest.approx(1.02 * 50 * (1 - CUT))


def test_the_rate_stays_within_its_bounds() -> None:
    assert started(1e9).rate == HIGHEST_RATE
    assert started(1e-9).rate == LOWEST_RATE


def test_a_new_client_of_a_slow_limit_grows_faster_than_one_with_a_large_share() -> None:
    """Relative to their rates; so the shares of a slow limit become even over time."""

    def grown(rate: float) -> float:
        cruise = Cruise(young=False)
        cruise.start(0.0, 0, peak=rate, base=rate, climb=1e9)  # the climb is limited to its maximum
        now = 0.0
        for _ in range(int(90 * rate)):
            now += 1 / rate
            cruise.grow(now, 0.1, 1)
        return cruise.rate / rate

    assert grown(0.2) > 1.005 * grown(0.9)
