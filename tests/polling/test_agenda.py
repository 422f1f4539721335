"""The agenda: direct calls, simulated schedules, and properties checked by Hypothesis."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import log
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aivideo._polling.agenda import (
    MAX_INTERVAL,
    MIN_END_PROBABILITY,
    MIN_INTERVAL,
    POLL_WORTH,
    Agenda,
    max_interval,
)
from aivideo._polling.hazard import Hazard
from aivideo._polling.kind import Entry

KIND = ("sora-2", 4)


def entry(agenda: Agenda, now: float = 0.0, name: str = "a", **settings: bool) -> Entry:
    made = Entry(name)
    agenda.add(made, KIND, now, **settings)
    return made


def poll_until_ended(
    agenda: Agenda, created: float, length: float, **signals: object
) -> tuple[float, int, list[float]]:
    """Poll a single task until its end; return the delay, the number of polls, the intervals."""
    watched = entry(agenda, created, callback=bool(signals.pop("callback", False)))
    intervals, before = [], created
    while True:
        now = watched.due
        intervals.append(now - before)
        before = now
        assert agenda.take(now) is watched
        if now >= created + length:
            agenda.end(watched, now, length)
            return now - created - length, len(intervals), intervals
        reported = {name: say(now - created) for name, say in signals.items()}  # type: ignore[operator]
        agenda.still_running(watched, now, **reported)


def trained(lengths: list[float], **signals: object) -> Agenda:
    agenda = Agenda()
    for n, length in enumerate(lengths):
        poll_until_ended(agenda, 10_000.0 * n, length, **signals)
    return agenda


def test_intervals_stay_within_their_bounds_whatever_is_learned() -> None:
    source = random.Random(1)
    agenda = Agenda()
    for n in range(60):
        length = source.choice([1.0, 30.0, 3600.0, 11_000.0]) * source.uniform(0.9, 1.1)
        _, _, intervals = poll_until_ended(agenda, 20_000.0 * n, length)
        age = 0.0
        for interval in intervals:
            assert MIN_INTERVAL - 1e-6 <= interval <= max_interval(age) + 1e-6
            age += interval


@pytest.mark.parametrize("length", [700.0, 5000.0, 20_000.0])
def test_intervals_reach_the_upper_bound_at_ages_where_no_task_ends(
    length: float,
) -> None:
    agenda = trained([length * (1 + n % 7 / 1000) for n in range(100)])
    _, _, intervals = poll_until_ended(agenda, 1e9, length)
    age, shares = 0.0, []
    for interval in intervals[:-1]:
        assert interval <= max_interval(age) + 1e-3
        shares.append(interval / max_interval(age))
        age += interval
    assert max(shares) > 0.999


def test_tasks_that_end_at_once_are_polled_every_second_and_not_more_often() -> None:
    agenda = trained([0.05] * 100)
    _, _, intervals = poll_until_ended(agenda, 1e9, 4.5)
    assert intervals[:3] == pytest.approx([MIN_INTERVAL] * 3)


def test_the_maximum_interval_grows_with_the_age() -> None:
    assert [max_interval(age) for age in (0, 240, 400, 2000)] == [60, 60, 100, MAX_INTERVAL]


def test_ends_of_tasks_with_a_narrow_duration_are_seen_early() -> None:
    source = random.Random(2)
    agenda = trained([source.gauss(120, 5) for _ in range(60)])
    delays, polls = zip(
        *(poll_until_ended(agenda, 1e6 + 1e4 * n, source.gauss(120, 5))[:2] for n in range(60)),
        strict=True,
    )
    mean_delay, mean_polls = sum(delays) / 60, sum(polls) / 60
    assert mean_delay * mean_polls < 0.46 * 120 / 2, "a fixed interval has E[T] / 2"


def against_fixed(
    length: Callable[[random.Random], float], count: int, at_once: int, seeds: int
) -> float:
    """Simulate jobs; return their mean delay ÷ that of a fixed interval with as many polls.

    Args:
        length: draws the seconds that a job takes.
        count: jobs per seed.
        at_once: jobs running at a time.
        seeds: independent simulations.
    """
    delays: list[float] = []
    lengths: list[float] = []
    polls = 0
    for seed in range(seeds):
        source, agenda = random.Random(seed), Agenda()
        left = {str(n): length(source) for n in range(count)}
        lengths += left.values()
        running: dict[str, float] = {}

        def start(now: float, agenda: Agenda = agenda, left: Any = left, to: Any = running) -> None:
            if left:
                name, to_last = left.popitem()
                to[name] = now + to_last
                agenda.add(Entry(name), KIND, now)

        for _ in range(at_once):
            start(0.0)
        while (now := agenda.next_due(0.0)) is not None:
            watched = agenda.take(now)
            assert watched is not None
            polls += 1
            ends = running[watched.task_id]
            if now < ends:
                agenda.still_running(watched, now)
            else:
                agenda.end(watched, now, ends - watched.created_at)
                delays.append(now - ends)
                start(now)
    return fmean(delays) / (fmean(lengths) / 2 / (polls / len(delays)))


@pytest.mark.parametrize(
    ("length", "limit"),
    [
        pytest.param(lambda r: 150 * r.lognormvariate(0, 0.5), 0.80, id="lognormal"),
        pytest.param(lambda r: 400 * r.lognormvariate(0, 0.5), 0.82, id="longer"),
        pytest.param(lambda r: 70 * r.lognormvariate(0, 0.2), 0.46, id="narrow"),
        pytest.param(lambda r: r.uniform(60, 180), 0.62, id="uniform"),
        pytest.param(
            lambda r: r.choice([90, 90, 90, 1800]) * r.lognormvariate(0, 0.25), 0.46, id="two peaks"
        ),
        pytest.param(
            lambda r: r.choice([60, 300, 1500]) * r.lognormvariate(0, 0.15), 0.56, id="three peaks"
        ),
        pytest.param(lambda r: r.weibullvariate(180, 3), 0.75, id="Weibull"),
        pytest.param(lambda r: 60 * r.paretovariate(1.5), 0.70, id="Pareto"),
        pytest.param(lambda r: r.expovariate(1 / 150), 1.09, id="exponential"),
    ],
)
def test_delay_is_below_that_of_a_fixed_interval_with_as_many_polls(
    length: Callable[[random.Random], float], limit: float
) -> None:
    # An exponential distribution has nothing to learn: its excess is the cost of learning.
    assert against_fixed(length, 2000, 100, 1) <= limit


@pytest.mark.parametrize("median", [60.0, 150.0, 300.0])
@pytest.mark.parametrize("sigma", [0.2, 0.5])
def test_the_first_ten_tasks_of_a_kind_have_at_most_1_15_times_the_delay_of_a_fixed_interval(
    median: float, sigma: float
) -> None:
    assert against_fixed(lambda r: median * r.lognormvariate(0, sigma), 10, 10, 50) <= 1.15


def test_a_few_ends_at_one_age_raise_the_hazard_of_neighbouring_ages() -> None:
    agenda = trained([600.0] * 5)
    hazard, prior = agenda.kind(KIND).by_age, Hazard()
    assert hazard.rate(600.0) > 2 * prior.rate(600.0)
    assert hazard.rate(750.0) > 1.2 * prior.rate(750.0)
    assert hazard.rate(5000.0) == prior.rate(5000.0)


def test_a_poll_that_finds_a_task_running_lowers_the_hazard() -> None:
    agenda = trained([60.0] * 40)
    hazard = agenda.kind(KIND).by_age
    before = hazard.rate(60.0)
    for n in range(20):  # slower now: none has ended, and all are running at 200 s
        slow = entry(agenda, 1e6, str(n))
        agenda.still_running(slow, 1e6 + 200.0)
    assert hazard.rate(60.0) < before / 1.4


def processing_from_a_random_age(source: random.Random, length: float) -> dict[str, object]:
    begins = source.uniform(0, length)
    return {"processing": lambda age: age >= begins}


def processing_in_random_polls(source: random.Random, _length: float) -> dict[str, object]:
    return {"processing": lambda _: source.random() < 0.3}


def random_progress(source: random.Random, _length: float) -> dict[str, object]:
    return {"progress": lambda _: source.uniform(1, 99)}


def progress_that_stops_at_99(_source: random.Random, _length: float) -> dict[str, object]:
    return {"progress": lambda age: min(99.0, age), "processing": lambda _: True}


def constant_progress_of_99(_source: random.Random, _length: float) -> dict[str, object]:
    return {"progress": lambda _: 99.0}


def progress_that_falls(_source: random.Random, length: float) -> dict[str, object]:
    return {"progress": lambda age: 99 - 98 * min(1.0, age / length)}


@pytest.mark.parametrize(
    "signal",
    [
        processing_from_a_random_age,
        processing_in_random_polls,
        random_progress,
        progress_that_stops_at_99,
        constant_progress_of_99,
        progress_that_falls,
    ],
)
@pytest.mark.parametrize("sigma", [0.05, 0.5])
@pytest.mark.parametrize("truthful_before", [0, 150])
def test_misleading_signals_cost_at_most_a_tenth(
    signal: Callable[[random.Random, float], dict[str, object]], sigma: float, truthful_before: int
) -> None:
    """Even after 150 truthful tasks: the trust they built up decays."""
    source = random.Random(3)
    lengths = [source.lognormvariate(5.5, sigma) for _ in range(600)]
    misled, plain = Agenda(), Agenda()
    cost = plain_cost = 0.0
    for n, length in enumerate(lengths):
        reported = signal(source, length)
        if n < truthful_before:
            reported = {"progress": lambda age, of=length: 100 * age / of}
        delay, polls, _ = poll_until_ended(misled, 1e5 * n, length, **reported)
        plain_delay, plain_polls, _ = poll_until_ended(plain, 1e5 * n, length)
        if n >= 200:
            cost += delay + POLL_WORTH * polls
            plain_cost += plain_delay + POLL_WORTH * plain_polls
    assert cost < 1.1 * plain_cost


@pytest.mark.parametrize("whole", [100, 1])
def test_accurate_progress_is_used_and_saves_polls(whole: float) -> None:
    source = random.Random(4)
    lengths = [source.lognormvariate(5.0, 0.8) for _ in range(200)]
    agenda = Agenda()
    plain = trained(lengths)
    cost = plain_cost = 0.0
    for n, length in enumerate(lengths * 2):
        reported = poll_until_ended(
            agenda, 1e5 * n, length, progress=lambda age, of=length: whole * age / of
        )
        without = poll_until_ended(plain, 1e8 + 1e5 * n, length)
        if n >= 200:
            cost += reported[0] + 0.3 * reported[1]
            plain_cost += without[0] + 0.3 * without[1]
    assert cost < 0.85 * plain_cost


def test_a_failed_task_counts_as_survival_until_its_end() -> None:
    agenda = trained([60.0] * 40)
    hazard = agenda.kind(KIND).by_age
    before = hazard.rate(60.0)
    for n in range(20):
        agenda.end(entry(agenda, 1e6, str(n)), 1e6 + 200.0)
    assert hazard.rate(60.0) < before / 1.4
    assert hazard.rate(200.0) < 2 * Hazard().rate(200.0), "a failure is no result either"


def test_an_answer_resets_the_backoff() -> None:
    agenda = Agenda()
    watched = entry(agenda)
    intervals = []
    for answered in (False, False, False, True, False):
        if answered:
            agenda.still_running(watched, 100.0)
        else:
            agenda.poll_failed(watched, 100.0)
            intervals.append(watched.due - 100.0)
    assert intervals == [2.0, 4.0, 8.0, 2.0]


def test_a_fixed_interval_polls_in_order_of_due_times() -> None:
    agenda = Agenda(10.0)
    entries = [entry(agenda, float(n), str(n)) for n in range(20)]
    assert [agenda.take(100.0) for _ in range(20)] == entries


def test_the_time_since_processing_is_used_if_it_predicts_better() -> None:
    source = random.Random(5)
    agenda, plain = Agenda(), Agenda()
    cost = plain_cost = 0.0
    for n in range(300):
        queued = source.uniform(10, 600)
        length = queued + source.gauss(60, 3)
        reported = poll_until_ended(
            agenda, 1e5 * n, length, processing=lambda age, q=queued: age >= q
        )
        without = poll_until_ended(plain, 1e5 * n, length)
        if n >= 150:
            cost += reported[0] + POLL_WORTH * reported[1]
            plain_cost += without[0] + POLL_WORTH * without[1]
    assert cost < 0.9 * plain_cost


def polls_with_callbacks(agenda: Agenda, lost: float, count: int) -> int:
    """Run jobs whose callback arrives at once unless it is lost; return the number of polls."""
    source, polls = random.Random(6), 0
    for n in range(count):
        created, length = 1e5 * n, source.lognormvariate(5.0, 0.5)
        watched, is_lost = entry(agenda, created, str(n), callback=True), source.random() < lost
        while True:
            taken_at = watched.due
            if not is_lost and taken_at > created + length:
                agenda.end(watched, created + length + 0.1, length, by_callback=True)
                break
            assert agenda.take(taken_at) is watched
            polls += 1
            if taken_at > created + length:
                agenda.end(watched, taken_at, length)
                break
            agenda.still_running(watched, taken_at)
    return polls


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_lost_callbacks_is_learned(lost: float) -> None:
    agenda = Agenda()
    polls_with_callbacks(agenda, lost, 500)
    assert agenda.kind(KIND).lost_callback_share == pytest.approx(lost, abs=0.1)


def test_more_lost_callbacks_mean_more_polls() -> None:
    polls = [polls_with_callbacks(Agenda(), lost, 400) for lost in (0.0, 0.1, 0.5, 1.0)]
    plain = Agenda()
    without = sum(poll_until_ended(plain, 1e5 * n, 150.0)[1] for n in range(400))
    assert polls == sorted(polls)
    assert polls[0] < polls[3] / 3
    assert polls[0] < without / 3


def test_a_late_callback_counts_as_lost() -> None:
    agenda = Agenda()
    before = agenda.kind(KIND).lost_callback_share
    late = entry(agenda, 0.0, callback=True)
    agenda.end(late, 300.0, 100.0, by_callback=True)
    assert agenda.kind(KIND).lost_callback_share > before


def test_a_callback_that_arrives_after_a_poll_saw_the_end_is_not_lost() -> None:
    agenda = Agenda()
    before = agenda.kind(KIND).lost_callback_share
    agenda.end(entry(agenda, 0.0, "quick", callback=True), 101.0, 100.0)
    assert agenda.kind(KIND).lost_callback_share > before
    agenda.callback_received("quick", 102.0)
    assert agenda.kind(KIND).lost_callback_share < before
    agenda.callback_received("quick", 103.0)  # a duplicate is counted once
    heard = agenda.kind(KIND).received_callbacks
    agenda.end(entry(agenda, 200.0, "slow", callback=True), 301.0, 100.0)
    agenda.callback_received("slow", 480.0)  # the service's second attempt
    assert agenda.kind(KIND).received_callbacks < heard


def test_the_number_of_awaited_callbacks_is_bounded() -> None:
    agenda = Agenda()
    for n in range(1000):
        agenda.end(entry(agenda, 10.0 * n, str(n), callback=True), 10.0 * n + 5.0, 5.0)
    assert len(agenda._awaited_callbacks) < 10


@pytest.mark.parametrize("age", [None, 900.0])
def test_a_task_created_before_it_was_added_is_polled_at_once(age: float | None) -> None:
    for agenda in (trained([100.0] * 50), Agenda(60.0)):
        again = Entry("again")
        agenda.add(again, KIND, 1e7, age=age)
        assert again.due == 1e7
        agenda.still_running(again, 1e7)
        assert MIN_INTERVAL <= again.due - 1e7 <= max_interval(age or 0.0)


def test_the_first_poll_of_a_resumed_task_comes_before_that_of_a_new_one() -> None:
    agenda = trained([100.0] * 50)
    new, again = entry(agenda, 1e7, "new"), Entry("again")
    agenda.add(again, KIND, 1e7, age=None)
    assert agenda.take(new.due) is again


@pytest.mark.parametrize("age", [None, 900.0])
def test_nothing_is_learned_from_resumed_tasks(age: float | None) -> None:
    """Tasks of its kind that ended sooner are missing from the sample."""
    agenda, reference = trained([100.0] * 50), trained([100.0] * 50)
    for n in range(50):
        again = Entry(str(n))
        agenda.add(again, KIND, 1e7, age=age, callback=True)
        agenda.still_running(again, 1e7, processing=True, progress=50.0)
        agenda.end(again, 1e7 + 5.0, 1500.0)
    kind, other = agenda.kind(KIND), reference.kind(KIND)
    assert kind.by_age._rates == other.by_age._rates
    assert kind.lost_callback_share == other.lost_callback_share


@pytest.mark.parametrize("reported", [0.0, -5000.0, 1e9])
def test_durations_reported_by_the_service_are_bounded_by_what_polls_saw(reported: float) -> None:
    agenda = Agenda()
    for n in range(60):
        watched, created = entry(agenda, 1e4 * n), 1e4 * n
        while watched.due < created + 150.0:
            agenda.still_running(watched, watched.due)
        agenda.end(watched, watched.due, reported)
    delay, polls, _ = poll_until_ended(agenda, 1e7, 150.0)
    assert delay < 10.0
    assert polls < 20


def test_a_fixed_interval_overrides_everything_learned() -> None:
    agenda = Agenda(7.0)
    _, _, intervals = poll_until_ended(agenda, 0.0, 50.0, progress=lambda _: 99.0)
    assert intervals == [7.0] * 8
    failing = entry(agenda, 100.0)
    agenda.poll_failed(failing, 100.0)
    assert failing.due == 107.0


def test_under_contention_a_poll_is_postponed_until_an_end_is_likely() -> None:
    agenda = trained([100.0 + n for n in range(-20, 21)])
    watched = entry(agenda, 1e6)
    due = watched.due
    assert agenda.next_due(due, contended=False) == due
    later = agenda.next_due(due, contended=True)
    assert later is not None
    assert later > due
    hazard = agenda.kind(KIND).by_age
    assert hazard.integral(0.0, later - 1e6) == pytest.approx(-log(1 - MIN_END_PROBABILITY))
    assert agenda.next_due(due + 1, contended=False) == due + 1, "no create waits: poll now"
    assert agenda.take(due + 1) is watched


def test_the_most_valuable_overdue_task_is_polled_first() -> None:
    agenda = trained([100.0] * 50)
    recent, old = entry(agenda, 1e6 + 80, "recent"), entry(agenda, 1e6, "old")
    now = 1e6 + 105
    recent.due = old.due = now  # both are overdue
    assert agenda.take(1e7 - 1) in (recent, old)
    agenda = trained([100.0] * 50)
    entries = [entry(agenda, 1e6 + created, str(created)) for created in (70.0, 0.0, 80.0)]
    first = agenda.take(1e6 + 104.0)
    assert first is entries[1]


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_every_task_is_taken_once_at_a_time_and_none_is_forgotten(data: st.DataObject) -> None:
    agenda, now = Agenda(), 0.0
    alive: dict[str, Entry] = {}
    for step in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.floats(0, 100))
        match data.draw(st.sampled_from(["add", "take", "end", "peek"])):
            case "add":
                alive[str(step)] = entry(agenda, now, str(step))
            case "peek":
                agenda.next_due(now, contended=data.draw(st.booleans()))
            case "end" if alive:
                agenda.drop(alive.pop(data.draw(st.sampled_from(sorted(alive)))))
            case "take":
                taken = agenda.take(now)
                if taken is not None:
                    assert alive[taken.task_id] is taken
                    report = data.draw(st.sampled_from([agenda.still_running, agenda.poll_failed]))
                    report(taken, now)
            case _:
                pass
    assert len(agenda) == len(alive)
    seen = set()
    while (due := agenda.next_due(now)) is not None:
        now = max(now, due)
        taken = agenda.take(now)
        if taken is not None:
            seen.add(taken.task_id)
            agenda.drop(taken)
    assert seen == set(alive)
