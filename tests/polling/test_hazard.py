"""The learned hazard: direct calls, and properties checked by Hypothesis."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aivideo._polling.hazard import Hazard


@given(st.lists(st.tuples(st.floats(0.1, 1e5), st.floats(0, 1)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_rates_are_positive_and_waits_reach_the_requested_delay_and_probability(
    ends: list[tuple[float, float]],
) -> None:
    hazard = Hazard()
    for age, share in ends:
        hazard.ended(age * share, age)
        assert all(rate > 0 for rate in hazard._rates)
        wait = hazard.wait(age, 0.25, inf if age < 1e4 else 300.0)
        cumulative = hazard.integral(age, age + wait)
        if wait < 300.0:
            assert wait * cumulative / 2 == pytest.approx(0.25, rel=1e-3)
        until = hazard.until(age, 0.4, 1e9)
        assert hazard.integral(age, age + until) == pytest.approx(0.5108, rel=1e-3)


def test_without_observations_it_is_a_log_logistic() -> None:
    hazard = Hazard(median=150.0, shape=1.25)
    assert hazard.integral(0.0, 150.0) == pytest.approx(0.6931, rel=0.02), "half end by the median"
    for age in (20.0, 100.0, 700.0, 5000.0):
        odds = (age / 150.0) ** 1.25
        assert hazard.rate(age) == pytest.approx(1.25 * odds / (age * (1 + odds)), rel=0.15)


def test_a_thousand_ends_reproduce_the_hazard_they_were_drawn_from() -> None:
    hazard = Hazard()
    for n in range(1000):  # uniform from 100 to 200 s: the hazard is 1 / (200 - age)
        hazard.ended(0.0, 100.0 + (n * 0.618 % 1) * 100.0)
    assert hazard.rate(50.0) < 1e-4
    assert hazard.rate(130.0) == pytest.approx(1 / 70, rel=0.25)
    assert hazard.rate(175.0) == pytest.approx(1 / 25, rel=0.25), "the mean of its bin"
