from __future__ import annotations

import random
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aivideo._pacing import phases
from aivideo._pacing.learned import LearnedPace
from aivideo._pacing.phases import (
    TRANSITIONS,
    Bursting,
    Cruising,
    GrowingPhase,
    Hold,
    Identifying,
    Paused,
    Phase,
    RampingUp,
    Resuming,
    Waiting,
)
from aivideo._pacing.protocol import SentRequest
from aivideo.simulator import FixedWindow, SlidingWindow, TokenBucket
from tests.pacing.servers import Limit, drive

Transition = tuple[type[Phase], type[Phase]]

LISTED = {(phase, following) for phase, all_ in TRANSITIONS.items() for following in all_}


class Recorder(LearnedPace):
    """A learned pace that records the phase after every event."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[type[Phase]] = [self.phase]

    @property
    def transitions(self) -> set[Transition]:
        return set(pairwise(self.distinct_phases))

    @property
    def distinct_phases(self) -> list[type[Phase]]:
        return [phase for phase, _ in groupby(self.phases)]

    def sent(self, now: float) -> SentRequest:
        request = super().sent(now)
        self.phases.append(self.phase)
        return request

    def accepted(self, request: SentRequest, now: float) -> None:
        super().accepted(request, now)
        self.phases.append(self.phase)

    def rejected(
        self, request: SentRequest, now: float, retry_after: float | None, draw: float
    ) -> None:
        super().rejected(request, now, retry_after, draw)
        self.phases.append(self.phase)

    def lost(self, request: SentRequest, now: float) -> None:
        super().lost(request, now)
        self.phases.append(self.phase)

    def unsent(self, request: SentRequest) -> None:
        super().unsent(request)
        self.phases.append(self.phase)


def random_limit(draw: random.Random) -> Limit:
    if draw.random() < 0.4:
        return TokenBucket(10 ** draw.uniform(-1, 2.3), draw.choice([1, 5, 10, 50]))
    quota, seconds = draw.choice([1, 3, 7, 20, 50, 100]), draw.choice([1, 3, 10, 17, 60])
    if draw.random() < 0.5:
        return FixedWindow(quota, seconds)
    return SlidingWindow(quota, seconds)


def random_run(draw: random.Random, events: int = 400) -> Recorder:
    """Send to a server with a random limit, which sometimes loses or rejects at random too."""
    pace, server = Recorder(), random_limit(draw).start()
    now, round_trip, noise = draw.uniform(0, 100), 10 ** draw.uniform(-2.5, 0), draw.random() < 0.4
    in_flight: list[tuple[float, SentRequest, bool]] = []
    for _ in range(events):
        ready_at = pace.ready_at(now) if len(in_flight) < 64 else float("inf")
        answer_at = min((each[0] for each in in_flight), default=float("inf"))
        now = max(now, min(ready_at, answer_at))
        if now == float("inf"):
            break
        if answer_at > ready_at:
            request, arrives_at = pace.sent(now), now + round_trip / 2
            if draw.random() < 0.01:
                pace.unsent(request)
                continue
            is_rejected = server.take(arrives_at) > 0 or (noise and draw.random() < 0.1)
            in_flight.append((now + round_trip * draw.uniform(0.6, 1.5), request, is_rejected))
            continue
        answer = min(in_flight, key=lambda each: each[0])
        in_flight.remove(answer)
        _, request, is_rejected = answer
        if draw.random() < 0.01:
            pace.lost(request, now)
        elif is_rejected:
            pace.rejected(request, now, draw.choice([None, None, 1.0, 2.0, 5.0]), draw.random())
        else:
            pace.accepted(request, now)
        if draw.random() < 0.02:
            pace.idle()
    return pace


def concrete_phases() -> set[type[Phase]]:
    found = {each for each in vars(phases).values() if isinstance(each, type)}
    return {each for each in found if issubclass(each, Phase)} - {Phase, GrowingPhase, Hold}


def test_every_phase_has_a_row_in_the_table() -> None:
    assert set(TRANSITIONS) == concrete_phases()
    assert {following for _, following in LISTED} == concrete_phases() - {RampingUp}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_no_run_makes_a_transition_outside_the_table(seed: int) -> None:
    assert random_run(random.Random(seed)).transitions <= LISTED


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["send", "send", "accepted", "rejected", "rejected", "lost", "unsent"]),
            st.sampled_from([0.0, 0.001, 0.05, 0.2, 1.0, 10.0, 60.0]),
            st.integers(0, 63),
            st.sampled_from([None, 0.0, 1.0, 2.0, 5.0]),
        ),
        max_size=150,
    )
)
def test_no_order_of_events_makes_a_transition_outside_the_table(
    events: list[tuple[str, float, int, float | None]],
) -> None:
    pace, now, in_flight = Recorder(), 0.0, list[SentRequest]()
    for event, wait, index, retry_after in events:
        now += wait
        if event == "send":
            ready_at = pace.ready_at(now)
            if ready_at < float("inf"):
                now = max(now, ready_at)
                in_flight.append(pace.sent(now))
        elif in_flight:
            request = in_flight.pop(index % len(in_flight))
            if event == "accepted":
                pace.accepted(request, now)
            elif event == "rejected":
                pace.rejected(request, now, retry_after, 0.5)
            elif event == "lost":
                pace.lost(request, now)
            else:
                pace.unsent(request)
    assert pace.transitions <= LISTED


def test_a_new_transition_outside_the_table_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself works: a ramp that bursts at once is not in the table."""
    monkeypatch.setattr(RampingUp, "sent", lambda phase, now: Bursting(phase.evidence))
    assert (RampingUp, Bursting) in random_run(random.Random(1), 10).transitions - LISTED


def test_every_transition_of_the_table_occurs() -> None:
    seen = exhausted_opening().transitions  # the only one that random runs hardly ever make
    for seed in range(60):
        seen |= random_run(random.Random(seed), 600).transitions
    assert seen == LISTED


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (TokenBucket(50, 10), [RampingUp, Identifying, Cruising]),
        (FixedWindow(20, 10), [RampingUp, Identifying, Bursting, Waiting, Bursting]),
    ],
)
def test_a_bucket_is_cruised_and_a_window_used_in_bursts(
    limit: Limit, expected: list[type[Phase]]
) -> None:
    run = drive(limit, make=Recorder, seconds=60, start=1000.0)
    assert run.paces[0].distinct_phases[: len(expected)] == expected


def answer(pace: LearnedPace, now: float, *, accept: bool) -> float:
    """Send one request as soon as possible and answer it 0.05 s later; return that time."""
    now = max(now, pace.ready_at(now))
    request, now = pace.sent(now), now + 0.05
    if accept:
        pace.accepted(request, now)
    else:
        pace.rejected(request, now, None, 0.0)
    return now


def bursting() -> tuple[Recorder, float]:
    """Return a pace at the first end of a window of 10 s with a quota of 20, and the time."""
    pace, now = Recorder(), 0.0
    for _ in range(20):
        now = answer(pace, now, accept=True)
    now = answer(pace, now, accept=False)
    while pace.phase is Identifying:
        now = answer(pace, now, accept=max(now, pace.ready_at(now)) >= 10.0)
    assert pace.phase is Bursting
    return pace, now


def test_the_quota_is_used_and_then_the_window_waited_for() -> None:
    pace, now = bursting()
    for _ in range(19):
        assert pace.phase is Bursting
        now = answer(pace, now, accept=True)
    assert pace.phase is Waiting
    assert pace.ready_at(now) > 19.0


def test_an_opening_rejected_too_early_is_resumed() -> None:
    pace, now = bursting()
    now = answer(pace, now, accept=False)
    answer(pace, now, accept=True)
    assert pace.distinct_phases[-3:] == [Bursting, Resuming, Bursting]


def exhausted_opening() -> Recorder:
    """Return a pace whose second opening was rejected after each attempt to resume it."""
    pace, now = bursting()
    for _ in range(phases.MAX_RESUME_ATTEMPTS):
        now = answer(pace, now, accept=False)
        now = answer(pace, now, accept=True)
    answer(pace, now, accept=False)
    return pace


def test_an_opening_is_resumed_four_times_at_most() -> None:
    """Few were accepted although the first opening accepted 20: it was a bucket that was full."""
    pace = exhausted_opening()
    assert pace.distinct_phases[-10:] == [*[Bursting, Resuming] * 4, Bursting, Cruising]


def test_a_second_early_rejection_pauses_a_cruise_until_a_probe_is_accepted() -> None:
    run = drive(TokenBucket(20, 5), make=Recorder, seconds=60, seed=3)
    pace, now = run.paces[0], 70.0
    while not pace.is_on_hold:
        now = answer(pace, now, accept=False)
    probe = pace.sent(pace.ready_at(now))
    assert probe.probe
    pace.accepted(probe, probe.sent_at + 0.05)
    assert pace.distinct_phases[-3:] == [Cruising, Paused, Cruising]
