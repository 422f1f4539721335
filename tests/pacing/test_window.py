from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo._pacing.window import Window


@given(st.floats(1.5, 500), st.lists(st.floats(0.001, 0.2), min_size=3, max_size=12))
def test_the_true_length_is_never_ruled_out_and_gets_known(
    length: float, late: list[float]
) -> None:
    """Ends at 0, 1, 2 … lengths; each is seen shut a little before and open a little after."""
    window = Window(-late[0] * length, late[0] * length)
    for n, share in enumerate(late[1:], 1):
        window.ended(n * length - share * length, n * length + share * length)
        assert window.shortest <= length * (1 + 1e-9)
        assert window.longest >= length * (1 - 1e-9)
    assert window.is_bounded
    assert window.guess is not None
    assert window.guess == pytest.approx(length, rel=0.5)


@pytest.mark.parametrize("length", [1.0, 10.0, 60.0, 30.0, 5.0, 7.0])
def test_a_round_length_is_guessed_from_two_ends(length: float) -> None:
    window = Window(0.95 * length, 1.05 * length)
    window.ended(1.95 * length, 2.04 * length)
    assert window.length == length
    assert window.next_end() == pytest.approx((2.95 * length, 3.04 * length))


def test_a_guess_that_is_wrong_is_ruled_out() -> None:
    window = Window(0.0, 0.5, shortest=9.0, longest=10.9)
    assert window.length == 10.0
    window.ended(10.8, 11.1)  # still shut after ten seconds
    assert window.length != 10.0
    assert window.shortest == pytest.approx(10.3)


def test_before_it_has_an_upper_bound_nothing_is_foretold() -> None:
    window = Window.first(began=0.0, shut=4.0, open_=4.4)
    assert not window.is_bounded
    assert window.guess is None
    assert window.next_end() is None


def test_the_first_end_may_already_tell_a_minute() -> None:
    window = Window.first(began=0.0, shut=55.0, open_=63.0)
    assert window.length == 60.0


def test_what_is_no_window_at_all_is_not_believed_for_ever() -> None:
    window = Window(0.0, 1.0)
    for shut, open_ in [(9.0, 10.0), (11.0, 12.0), (60.0, 70.0), (71.0, 72.0)]:
        window.ended(shut, open_)
        assert window.shortest < window.longest
