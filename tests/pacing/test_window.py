from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo._pacing.window import Window


@given(st.floats(1.5, 500), st.lists(st.floats(0.001, 0.2), min_size=3, max_size=12))
def test_the_bounds_always_contain_the_true_length_and_converge(
    length: float, late: list[float]
) -> None:
    """It ends at 0, 1, 2 … lengths, and is seen closed shortly before and open shortly after."""
    window = Window(-late[0] * length, late[0] * length)
    for n, share in enumerate(late[1:], 1):
        window.add_end(n * length - share * length, n * length + share * length)
        assert window.shortest <= length * (1 + 1e-9)
        assert window.longest >= length * (1 - 1e-9)
    assert window.is_bounded
    assert window.best_length is not None
    assert window.best_length == pytest.approx(length, rel=0.5)


@pytest.mark.parametrize("length", [1.0, 10.0, 60.0, 30.0, 5.0, 7.0])
def test_a_round_length_is_found_from_two_ends(length: float) -> None:
    window = Window(0.95 * length, 1.05 * length)
    window.add_end(1.95 * length, 2.04 * length)
    assert window.length == length
    assert window.next_end() == pytest.approx((2.95 * length, 3.04 * length))


def test_a_wrong_round_length_is_excluded_by_a_later_end() -> None:
    window = Window(0.0, 0.5, shortest=9.0, longest=10.9)
    assert window.length == 10.0
    window.add_end(10.8, 11.1)  # still closed after ten seconds
    assert window.length != 10.0
    assert window.shortest == pytest.approx(10.3)


def test_without_an_upper_bound_no_end_is_predicted() -> None:
    window = Window.from_first_end(0.0, 4.0, 4.4)
    assert not window.is_bounded
    assert window.best_length is None
    assert window.next_end() is None


def test_one_end_is_enough_to_find_a_minute() -> None:
    window = Window.from_first_end(0.0, 55.0, 63.0)
    assert window.length == 60.0


def test_contradictory_ends_keep_the_bounds_ordered() -> None:
    window = Window(0.0, 1.0)
    for closed_at, open_at in [(9.0, 10.0), (11.0, 12.0), (60.0, 70.0), (71.0, 72.0)]:
        window.add_end(closed_at, open_at)
        assert window.shortest < window.longest
