from __future__ import annotations

import math
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aivideo._pacing.cruise import HIGHEST, Cruise
from aivideo._pacing.learned import START, LearnedPace, _Phase
from aivideo._pacing.ticket import Ticket
from aivideo.simulator import FixedWindow, SlidingWindow, TokenBucket
from tests.pacing.servers import Both, Limit, drive, ideal, phase, rate_of

SEEDS = range(201, 211)


def short(
    limit: Limit, requests: int, round_trip: float = 0.15, *, header: bool = False
) -> tuple[float, float]:
    """Mean makespan ÷ ideal, and 429s per accepted, over seeds that nothing was tuned on."""
    ratios, refusals = [], []
    for seed in SEEDS:
        start = phase(limit, seed)
        run = drive(
            limit, requests=requests, seed=seed, start=start, round_trip=round_trip, header=header
        )
        assert run.makespan is not None
        ratios.append(run.makespan / ideal(limit, requests, start, round_trip))
        refusals.append(run.refusals)
    return mean(ratios), mean(refusals)


@pytest.mark.parametrize(
    ("limit", "requests", "header", "makespan", "refusals"),
    [
        # The numbers to beat, with the room that ten seeds need.
        (TokenBucket(50, 10), 500, False, 1.06, 0.06),
        (TokenBucket(50, 10), 500, True, 1.10, 0.06),
        (FixedWindow(20, 10), 100, False, 1.08, 0.50),
        (FixedWindow(20, 10), 100, True, 1.08, 0.30),
        (SlidingWindow(100, 60), 300, False, 1.12, 0.30),
        (SlidingWindow(100, 60), 300, True, 1.06, 0.20),
        # What nothing was tuned on.
        (TokenBucket(200, 50), 2000, False, 1.13, 0.05),
        (TokenBucket(5, 1), 100, False, 1.50, 0.12),
        (FixedWindow(13, 17), 65, False, 1.12, 0.45),
        (SlidingWindow(40, 7), 200, False, 1.15, 0.20),
        (Both(TokenBucket(10, 10), FixedWindow(300, 60)), 700, False, 1.24, 0.08),
        (Both(FixedWindow(5, 1), FixedWindow(100, 60)), 250, False, 1.35, 0.20),
        (TokenBucket(0.5, 3), 30, True, 1.06, 0.40),
        (FixedWindow(7, 3), 70, False, 1.12, 0.30),
        (FixedWindow(10, 60), 40, False, 1.06, 0.85),
        (FixedWindow(600, 60), 1800, False, 1.10, 0.06),
        (FixedWindow(600, 60), 1800, True, 1.16, 0.06),
        (SlidingWindow(10, 60), 40, False, 1.08, 0.90),
    ],
)
def test_a_short_batch_is_nearly_as_quick_as_if_the_limit_were_known(
    limit: Limit, requests: int, header: bool, makespan: float, refusals: float
) -> None:
    took, refused = short(limit, requests, header=header)
    assert took <= makespan
    assert refused <= refusals


@pytest.mark.parametrize("round_trip", [0.001, 0.05, 0.8])
@pytest.mark.parametrize(
    ("limit", "requests"), [(TokenBucket(50, 10), 500), (SlidingWindow(100, 60), 300)]
)
def test_round_trips_of_a_millisecond_and_of_a_second_do(
    limit: Limit, requests: int, round_trip: float
) -> None:
    took, _ = short(limit, requests, round_trip)
    assert took <= 1.28


@pytest.mark.parametrize(("rate", "burst"), [(5, 1), (3, 1), (50, 1), (10, 2)])
def test_a_bucket_without_burst_is_no_riddle_where_round_trips_are_steady(
    rate: float, burst: int
) -> None:
    took, _ = short(TokenBucket(rate, burst), int(20 * rate), 0.002)
    assert took <= 1.18


def test_a_first_opening_that_spans_two_windows_is_found_out() -> None:
    """Its count is up to twice the quota; it must not look like others using the key."""
    for early in (0.4, 0.5, 0.6, 0.7):  # the first window ends so soon, in the midst of the ramp
        for limit, requests, most in (
            (FixedWindow(20, 10), 100, 1.45),
            (FixedWindow(60, 30), 240, 1.55),
        ):
            start = 100 * limit.seconds - early
            run = drive(limit, requests=requests, seed=3, start=start)
            assert run.makespan is not None
            assert run.makespan <= most * ideal(limit, requests, start, 0.15)


@pytest.mark.parametrize(
    "limit",
    [TokenBucket(50, 10), TokenBucket(2, 10), FixedWindow(20, 10), SlidingWindow(100, 60)],
)
@pytest.mark.parametrize("header", [False, True])
def test_in_the_long_run_it_stays_at_the_limit_and_is_hardly_ever_refused(
    limit: Limit, header: bool
) -> None:
    shares, refusals = [], []
    for seed in (301, 302, 303, 304):
        run = drive(limit, seconds=600, seed=seed, start=phase(limit, seed), header=header)
        second_half = [at for at in run.accepted[0] if at > 300]
        refused = [at for at in run.rejected[0] if at > 300]
        shares.append(len(run.accepted[0]) / 600 / rate_of(limit))
        refusals.append(len(refused) / len(second_half))
    assert mean(shares) >= 0.94
    assert mean(refusals) <= 0.0165


def test_four_on_one_key_share_it_evenly_and_use_it_whole() -> None:
    limit = TokenBucket(50, 10)
    run = drive(limit, seconds=600, clients=4, seed=7, start=10.0)
    each = [sum(at > 300 for at in accepted) for accepted in run.accepted]
    assert sum(each) / 300 / 50 >= 0.95
    assert sum(each) ** 2 / (4 * sum(count**2 for count in each)) >= 0.93


def test_who_comes_to_a_window_in_use_gets_a_share_of_it() -> None:
    """At first it is shut out by the other's bursts: that it got next to nothing is no reading."""
    evenness = []
    for seed in (11, 12, 13, 14):
        limit = SlidingWindow(100, 60)
        run = drive(
            limit, seconds=1800, clients=2, seed=seed, start=phase(limit, seed), header=True
        )
        each = [sum(at > 900 for at in accepted) for accepted in run.accepted]
        evenness.append(sum(each) ** 2 / (2 * sum(count**2 for count in each)))
    assert mean(evenness) >= 0.9


def test_a_limit_that_falls_and_rises_is_followed() -> None:
    down = drive(TokenBucket(50, 10), seconds=600, seed=5, later=(300.0, TokenBucket(10, 10)))
    after = sum(at > 330 for at in down.accepted[0]) / 270
    assert 0.93 * 10 <= after <= 10.2
    up = drive(TokenBucket(10, 10), seconds=600, seed=5, later=(300.0, TokenBucket(50, 10)))
    assert sum(at > 450 for at in up.accepted[0]) / 150 >= 0.93 * 50


def test_it_begins_with_a_ramp_and_not_with_a_burst() -> None:
    run = drive(TokenBucket(1000, 1000), requests=64, seed=1)
    first = [at for at in run.sent[0] if at < 0.2]
    assert len(first) <= 1 + START * 0.2 * 1.5
    assert not run.rejected[0]


# --- one at a time, by hand ----------------------------------------------------------------------


def feed(pace: LearnedPace, now: float, count: int, trip: float = 0.1) -> float:
    """Send ``count`` one after the other as the pace allows, each let through."""
    for _ in range(count):
        now = max(now, pace.ready_at(now))
        ticket = pace.sent(now)
        pace.accepted(ticket, now + trip)
    return now


def test_what_was_sent_before_a_cut_never_raises_the_pace() -> None:
    pace, now = cruising()
    old = [pace.sent(now + n / 1000) for n in range(10)]
    pace.rejected(old[0], now + 0.1, None, 0.5)
    before = pace.rate
    for n, ticket in enumerate(old[1:]):  # one after the other: time that is in use, for hours
        pace.accepted(ticket, now + 5.0 + n)
        assert pace.rate == before
    now += 10.0
    fresh = pace.sent(now + 5.0)
    pace.accepted(fresh, now + 5.1)
    pace.accepted(pace.sent(now + 5.2), now + 5.3)
    assert pace.rate > before


def test_what_was_sent_before_the_first_refusal_does_not_go_on_with_the_ramp() -> None:
    pace = LearnedPace()
    now = feed(pace, 0.0, 6)
    old = [pace.sent(now + n / 1000) for n in range(10)]
    pace.rejected(old[0], now + 0.1, None, 0.5)
    before = pace.rate
    for ticket in old[1:]:
        pace.accepted(ticket, now + 0.1)
        assert pace.rate <= before or not pace.is_shut


def test_many_refusals_of_one_round_trip_are_one_loss() -> None:
    def after(refused: int) -> float:
        pace = LearnedPace()
        now = feed(pace, 0.0, 30)
        tickets = [pace.sent(now + n / 1000) for n in range(10)]
        pace.rejected(tickets[0], now + 0.1, None, 0.0)
        for n, ticket in enumerate(tickets[1:], 1):
            if n < refused:
                pace.rejected(ticket, now + 0.1, None, 0.0)
            else:
                pace.lost(ticket, now + 0.1)
        now = pace.ready_at(now + 0.1)
        pace.accepted(pace.sent(now), now + 0.1)
        return pace.rate

    assert after(2) == after(9)


def cruising() -> tuple[LearnedPace, float]:
    """A pace that has met its limit, and climbs."""
    run = drive(TokenBucket(20, 5), seconds=60, seed=3)
    return run.paces[0], 60.0


@pytest.mark.parametrize("jump", [3600.0, 10**7])
def test_a_clock_that_jumps_ahead_makes_neither_a_burst_nor_a_higher_pace(jump: float) -> None:
    pace, now = cruising()
    before = pace.rate
    now += jump
    sent = []
    for _ in range(5):
        now = max(now, pace.ready_at(now))
        sent.append(now)
        pace.accepted(pace.sent(now), now)
    assert pace.rate <= before * 1.1
    gaps = [later - earlier for earlier, later in pairwise(sent[1:])]
    assert min(gaps) >= 0.9 / pace.rate


def test_a_clock_that_is_set_back_holds_nobody_for_long() -> None:
    pace, now = cruising()
    pace.accepted(pace.sent(now), now + 0.1)
    assert pace.ready_at(now - 10_000.0) <= now - 10_000.0 + 1 / pace.rate
    before = pace.rate
    now -= 10_000.0
    for _ in range(20):
        now = max(now, pace.ready_at(now))
        pace.accepted(pace.sent(now), now)
    assert before * 0.99 <= pace.rate <= before * 1.1


def test_it_grows_by_the_time_in_which_it_was_what_held_sending_back() -> None:
    def after(idle: bool) -> float:
        pace, now = cruising()
        now = feed(pace, now, 1)
        pace.idle()
        before = pace.rate
        for _ in range(100):
            now = max(now, pace.ready_at(now))
            pace.accepted(pace.sent(now), now + 0.1)
            if idle:
                pace.idle()
        return pace.rate / before

    assert after(idle=True) == 1.0
    assert after(idle=False) > 1.005


def test_nobody_is_asked_to_come_back_a_million_times_a_second() -> None:
    pace = LearnedPace()
    pace._phase, pace._cruise, pace._next = _Phase.CRUISE, Cruise(HIGHEST), 10.0
    assert pace.ready_at(9.0) >= 9.001


def test_it_does_not_grow_while_nothing_waits() -> None:
    pace, now = cruising()
    now = max(now, pace.ready_at(now))
    pace.accepted(pace.sent(now), now + 0.1)
    before = pace.rate
    for _ in range(50):  # one request a minute: most of the time nobody wants to send
        now += 60.0
        pace.accepted(pace.sent(max(now, pace.ready_at(now))), now + 0.1)
        pace.idle()
    assert pace.rate <= before * 1.05


@pytest.mark.parametrize(
    ("asked", "held"), [(2.0, 2.0), (60.0, 60.0), (3600.0, 3600.0), (1e12, 3600.0)]
)
def test_a_retry_after_is_honoured_up_to_an_hour(asked: float, held: float) -> None:
    pace = LearnedPace()
    now = feed(pace, 0.0, 5)
    ticket = pace.sent(now)
    pace.rejected(ticket, now + 0.1, asked, 0.0)
    ready = pace.ready_at(now + 0.1)
    assert ready - (now + 0.1) == pytest.approx(held)
    pace.sent(ready)
    assert pace.ready_at(ready + 10_000) == math.inf  # one probe, and no other


@pytest.mark.parametrize("asked", [None, 0.0, -5.0, math.nan])
def test_an_absent_or_absurd_retry_after_is_a_short_hold(asked: float | None) -> None:
    pace = LearnedPace()
    now = feed(pace, 0.0, 5)
    ticket = pace.sent(now)
    pace.rejected(ticket, now + 0.1, asked, 0.5)
    assert now < pace.ready_at(now + 0.1) <= now + 2.0


def test_a_lost_probe_is_sent_again() -> None:
    pace = LearnedPace()
    now = feed(pace, 0.0, 5)
    pace.rejected(pace.sent(now), now + 0.1, 5.0, 0.0)
    now = pace.ready_at(now + 0.1)
    pace.lost(pace.sent(now), now + 60.0)
    assert pace.ready_at(now + 60.0) < now + 62.0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["accepted", "rejected", "lost", "idle"]),
            st.floats(0, 30),
            st.floats(0, 5) | st.none() | st.sampled_from([math.inf, 1e18]),
        ),
        max_size=60,
    )
)
def test_whatever_it_hears_it_stays_a_pace(
    story: list[tuple[str, float, float | None]],
) -> None:
    """No order of events drives it out of its bounds, makes it forget to probe, or raises."""
    pace, now, out = LearnedPace(), 0.0, list[Ticket]()
    for what, wait, fact in story:
        ready = pace.ready_at(now)
        if ready < math.inf and len(out) < 5:
            now = max(now, ready)
            out.append(pace.sent(now))
        now += wait
        if what == "idle":
            pace.idle()
        elif out:
            ticket = out.pop(0)
            if what == "accepted":
                pace.accepted(ticket, now)
            elif what == "lost":
                pace.lost(ticket, now)
            else:
                pace.rejected(ticket, now, fact, 0.5)
        assert 1 / 600 <= pace.rate <= 1e6
    for ticket in out:
        pace.accepted(ticket, now)
    assert pace.ready_at(now) <= now + 3700.0


def test_a_newcomer_climbs_a_slow_limit_faster_than_who_has_most_of_it() -> None:
    """Relative to what they have; this is what makes shares of a slow limit even in time."""

    def grown(rate: float) -> float:
        cruise = Cruise(young=False)
        cruise.start(0.0, 0, peak=rate, base=rate, climb=1e9)  # the longest it climbs for
        now = 0.0
        for _ in range(int(90 * rate)):
            now += 1 / rate
            cruise.grow(now, 0.1, 1)
        return cruise.rate / rate

    assert grown(0.2) > 1.005 * grown(0.9)
