from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo.simulator import FixedWindow, JobsCap, SlidingWindow, TokenBucket, parse_rate_limit

# Multiples of 1/16 are exact in binary, so the expected values are exact too.
gaps = st.lists(st.integers(0, 64).map(lambda n: n / 16), min_size=1, max_size=120)


def times(gaps: list[float]) -> list[float]:
    now, result = 0.0, []
    for gap in gaps:
        now += gap
        result.append(now)
    return result


@given(gaps, st.integers(1, 6), st.integers(1, 5))
def test_sliding_window_never_exceeds_its_limit(
    gaps: list[float], limit: int, seconds: int
) -> None:
    limiter = SlidingWindow(limit, seconds).start()
    accepted: list[float] = []
    for now in times(gaps):
        in_window = [at for at in accepted if now - at < seconds]
        wait = limiter.take(now)
        assert (wait == 0) == (len(in_window) < limit)
        if wait:
            assert wait == pytest.approx(in_window[0] + seconds - now)
        else:
            accepted.append(now)


@given(gaps, st.integers(1, 6), st.integers(1, 5), st.integers(0, 5))
def test_fixed_window_accepts_exactly_its_limit(
    gaps: list[float], limit: int, seconds: int, phase: int
) -> None:
    limiter = FixedWindow(limit, seconds, phase).start()
    accepted: list[int] = []
    for now in times(gaps):
        window = math.floor((now - phase) / seconds)
        wait = limiter.take(now)
        assert (wait == 0) == (accepted.count(window) < limit)
        if wait:
            assert math.floor((now + wait - phase) / seconds) == window + 1
        else:
            accepted.append(window)


@given(gaps, st.sampled_from([0.25, 0.5, 1.0, 4.0]), st.integers(1, 5))
def test_token_bucket_never_exceeds_burst_plus_rate_times_time(
    gaps: list[float], rate: float, burst: int
) -> None:
    limiter = TokenBucket(rate, burst).start()
    tokens, before = float(burst), 0.0
    for now in times(gaps):
        tokens = min(burst, tokens + (now - before) * rate)
        before = now
        wait = limiter.take(now)
        assert (wait == 0) == (tokens >= 1)
        if wait:
            assert wait == pytest.approx((1 - tokens) / rate)
        else:
            tokens -= 1


@pytest.mark.parametrize("limit", [TokenBucket(3, 2), FixedWindow(4, 2), SlidingWindow(4, 2)])
def test_request_is_accepted_after_the_stated_wait(
    limit: TokenBucket | FixedWindow | SlidingWindow,
) -> None:
    limiter = limit.start()
    now = 0.3
    for _ in range(200):
        wait = limiter.take(now)
        if wait:
            now += wait
            assert limiter.take(now) == 0


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("token:50/s:10", TokenBucket(50, 10)),
        ("token:50/s", TokenBucket(50, 1)),
        ("token:600/60s:20", TokenBucket(10, 20)),
        ("token:0.5/s:2", TokenBucket(0.5, 2)),
        ("fixed:20/10s", FixedWindow(20, 10)),
        ("sliding:100/60s", SlidingWindow(100, 60)),
        ("sliding:5/s", SlidingWindow(5, 1)),
        ("jobs:20", JobsCap(20)),
    ],
)
def test_parse_rate_limit(text: str, limit: object) -> None:
    assert parse_rate_limit(text) == limit


@pytest.mark.parametrize(
    "text",
    [
        "",
        "50",
        "token",
        "token:0/s:1",
        "token:5/0s",
        "token:5/s:0",
        "fixed:1.5/2s",
        "fixed:0/2s",
        "fixed:5/0s",
        "bucket:5/s",
        "jobs:0",
        "jobs:-1",
        "jobs:2/s",
        "token:5/m",
        " jobs:2",
    ],
)
def test_parse_rate_limit_lists_the_formats_on_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"token:RATE/s.*fixed:.*sliding:.*jobs:"):
        parse_rate_limit(text)
