from __future__ import annotations

from collections.abc import Callable

import pytest

from aivideo._pacing.learned import LearnedPace
from aivideo._pacing.protocol import LONGEST_HOLD, Pacing
from aivideo._pacing.stated import StatedPace
from aivideo.settings import RateLimit

PACES: list[Callable[[], Pacing]] = [
    LearnedPace,
    lambda: StatedPace(RateLimit.bucket(20)),
    lambda: StatedPace(RateLimit.window(1, seconds=0.05)),
    lambda: StatedPace(per_minute=1200),
]


@pytest.mark.parametrize("make", PACES)
def test_requests_are_numbered_from_one_and_carry_their_pace(make: Callable[[], Pacing]) -> None:
    pace = make()
    first = pace.sent(5.0)
    pace.accepted(first, 5.1)
    second = pace.sent(pace.ready_at(5.1))
    assert (first.serial, second.serial) == (1, 2)
    assert first.sent_at == 5.0
    assert first.rate == pytest.approx(20.0)
    assert not first.probe


@pytest.mark.parametrize("make", PACES)
def test_an_unsent_request_leaves_its_place_to_the_next(make: Callable[[], Pacing]) -> None:
    pace = make()
    assert pace.ready_at(5.0) == 5.0
    request = pace.sent(5.0)
    assert pace.ready_at(5.0) > 5.0
    pace.unsent(request)
    assert pace.ready_at(5.0) == 5.0


@pytest.mark.parametrize("make", PACES)
@pytest.mark.parametrize(("retry_after", "seconds"), [(2.0, 2.0), (60.0, 60.0), (1e9, 3600.0)])
def test_a_long_retry_after_holds_all_requests(
    make: Callable[[], Pacing], retry_after: float, seconds: float
) -> None:
    pace = make()
    pace.rejected(pace.sent(0.0), 0.1, retry_after, 0.0)
    assert pace.held_until == pytest.approx(0.1 + seconds)
    assert pace.ready_at(0.1) == pytest.approx(0.1 + seconds)
    assert seconds <= LONGEST_HOLD
