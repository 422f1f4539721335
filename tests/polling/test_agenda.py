"""When to look: by calls, and by Hypothesis."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import log
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aivideo._polling.agenda import LATEST, ODDS, SOONEST, WORTH, Agenda, Entry, latest
from aivideo._polling.hazard import Hazard

KIND = ("sora-2", 4)


def entry(agenda: Agenda, now: float = 0.0, name: str = "a", **settings: bool) -> Entry:
    made = Entry(name)
    agenda.add(made, KIND, now, **settings)
    return made


def watch_one(
    agenda: Agenda, born: float, length: float, **said: object
) -> tuple[float, int, list[float]]:
    """Follow one task alone to its end: delay, looks, pauses."""
    watched = entry(agenda, born, callback=bool(said.pop("callback", False)))
    pauses, before = [], born
    while True:
        now = watched.due
        pauses.append(now - before)
        before = now
        assert agenda.take(now) is watched
        if now >= born + length:
            agenda.end(watched, now, length)
            return now - born - length, len(pauses), pauses
        told = {name: say(now - born) for name, say in said.items()}  # type: ignore[operator]
        agenda.looked(watched, now, **told)


def taught(lengths: list[float], **said: object) -> Agenda:
    agenda = Agenda()
    for n, length in enumerate(lengths):
        watch_one(agenda, 10_000.0 * n, length, **said)
    return agenda


def test_the_pauses_stay_within_their_bounds_whatever_is_learned() -> None:
    source = random.Random(1)
    agenda = Agenda()
    for n in range(60):
        length = source.choice([1.0, 30.0, 3600.0, 11_000.0]) * source.uniform(0.9, 1.1)
        _, _, pauses = watch_one(agenda, 20_000.0 * n, length)
        age = 0.0
        for pause in pauses:
            assert SOONEST - 1e-6 <= pause <= latest(age) + 1e-6
            age += pause


@pytest.mark.parametrize("length", [700.0, 5000.0, 20_000.0])
def test_even_where_nothing_ever_ends_the_pauses_reach_their_bound_and_no_more(
    length: float,
) -> None:
    agenda = taught([length * (1 + n % 7 / 1000) for n in range(100)])
    _, _, pauses = watch_one(agenda, 1e9, length)
    age, most = 0.0, []
    for pause in pauses[:-1]:
        assert pause <= latest(age) + 1e-3
        most.append(pause / latest(age))
        age += pause
    assert max(most) > 0.999


def test_what_ends_in_a_moment_is_looked_at_every_second_and_no_oftener() -> None:
    agenda = taught([0.05] * 100)
    _, _, pauses = watch_one(agenda, 1e9, 4.5)
    assert pauses[:3] == pytest.approx([SOONEST] * 3)


def test_a_long_tasks_pauses_have_the_stated_bound() -> None:
    assert [latest(age) for age in (0, 240, 400, 2000)] == [60, 60, 100, LATEST]


def test_what_always_takes_as_long_is_soon_looked_at_when_it_ends() -> None:
    source = random.Random(2)
    agenda = taught([source.gauss(120, 5) for _ in range(60)])
    delays, looks = zip(
        *(watch_one(agenda, 1e6 + 1e4 * n, source.gauss(120, 5))[:2] for n in range(60)),
        strict=True,
    )
    mean_delay, mean_looks = sum(delays) / 60, sum(looks) / 60
    assert mean_delay * mean_looks < 0.46 * 120 / 2, "a fixed interval has E[T] / 2"


def against_fixed(
    length: Callable[[random.Random], float], count: int, at_once: int, seeds: int
) -> float:
    """Watch so many jobs, so many at a time: mean delay ÷ a fixed interval's at as many looks."""
    delays: list[float] = []
    lengths: list[float] = []
    looks = 0
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
            looks += 1
            ends = running[watched.task_id]
            if now < ends:
                agenda.looked(watched, now)
            else:
                agenda.end(watched, now, ends - watched.born)
                delays.append(now - ends)
                start(now)
    return fmean(delays) / (fmean(lengths) / 2 / (looks / len(delays)))


@pytest.mark.parametrize(
    ("length", "most"),
    [
        pytest.param(lambda r: 150 * r.lognormvariate(0, 0.5), 0.80, id="lognormal"),
        pytest.param(lambda r: 400 * r.lognormvariate(0, 0.5), 0.82, id="longer"),
        pytest.param(lambda r: 70 * r.lognormvariate(0, 0.2), 0.46, id="narrow"),
        pytest.param(lambda r: r.uniform(60, 180), 0.62, id="uniform"),
        pytest.param(
            lambda r: r.choice([90, 90, 90, 1800]) * r.lognormvariate(0, 0.25), 0.46, id="two humps"
        ),
        pytest.param(
            lambda r: r.choice([60, 300, 1500]) * r.lognormvariate(0, 0.15), 0.56, id="three humps"
        ),
        pytest.param(lambda r: r.weibullvariate(180, 3), 0.75, id="Weibull"),
        pytest.param(lambda r: 60 * r.paretovariate(1.5), 0.70, id="Pareto"),
        pytest.param(lambda r: r.expovariate(1 / 150), 1.09, id="exponential"),
    ],
)
def test_ends_are_seen_sooner_than_at_a_fixed_interval(
    length: Callable[[random.Random], float], most: float
) -> None:
    # Of an exponential nothing can be learned; what is lost on it is the price of learning.
    assert against_fixed(length, 2000, 100, 1) <= most


@pytest.mark.parametrize("median", [60.0, 150.0, 300.0])
@pytest.mark.parametrize("sigma", [0.2, 0.5])
def test_the_first_ten_of_a_kind_are_not_seen_much_later_than_at_a_fixed_interval(
    median: float, sigma: float
) -> None:
    assert against_fixed(lambda r: median * r.lognormvariate(0, sigma), 10, 10, 50) <= 1.15


def test_what_a_few_ends_tell_of_one_age_holds_for_those_around_it() -> None:
    agenda = taught([600.0] * 5)
    hazard, prior = agenda.kind(KIND).by_age, Hazard()
    assert hazard.rate(600.0) > 2 * prior.rate(600.0)
    assert hazard.rate(750.0) > 1.2 * prior.rate(750.0)
    assert hazard.rate(5000.0) == prior.rate(5000.0)


def test_a_look_that_finds_it_running_teaches_too() -> None:
    agenda = taught([60.0] * 40)
    hazard = agenda.kind(KIND).by_age
    before = hazard.rate(60.0)
    for n in range(20):  # slower now: none has ended, all were seen alive at 200 s
        slow = entry(agenda, 1e6, str(n))
        agenda.looked(slow, 1e6 + 200.0)
    assert hazard.rate(60.0) < before / 1.4


def told_at_random(source: random.Random, length: float) -> dict[str, object]:
    begins = source.uniform(0, length)
    return {"processing": lambda age: age >= begins}


def told_at_random_moments(source: random.Random, _length: float) -> dict[str, object]:
    return {"processing": lambda _: source.random() < 0.3}


def drawn_at_random(source: random.Random, _length: float) -> dict[str, object]:
    return {"progress": lambda _: source.uniform(1, 99)}


def stuck(_source: random.Random, _length: float) -> dict[str, object]:
    return {"progress": lambda age: min(99.0, age), "processing": lambda _: True}


def near_the_end_at_once(_source: random.Random, _length: float) -> dict[str, object]:
    return {"progress": lambda _: 99.0}


def backwards(_source: random.Random, length: float) -> dict[str, object]:
    return {"progress": lambda age: 99 - 98 * min(1.0, age / length)}


@pytest.mark.parametrize(
    "lie",
    [
        told_at_random,
        told_at_random_moments,
        drawn_at_random,
        stuck,
        near_the_end_at_once,
        backwards,
    ],
)
@pytest.mark.parametrize("sigma", [0.05, 0.5])
@pytest.mark.parametrize("true_before", [0, 150])
def test_a_service_that_lies_makes_it_no_worse(
    lie: Callable[[random.Random, float], dict[str, object]], sigma: float, true_before: int
) -> None:
    """Not even one that told the truth before: what it is believed is soon forgotten."""
    source = random.Random(3)
    lengths = [source.lognormvariate(5.5, sigma) for _ in range(600)]
    lied_to, plain = Agenda(), Agenda()
    cost = plain_cost = 0.0
    for n, length in enumerate(lengths):
        told = lie(source, length)
        if n < true_before:
            told = {"progress": lambda age, of=length: 100 * age / of}
        delay, looks, _ = watch_one(lied_to, 1e5 * n, length, **told)
        plain_delay, plain_looks, _ = watch_one(plain, 1e5 * n, length)
        if n >= 200:
            cost += delay + WORTH * looks
            plain_cost += plain_delay + WORTH * plain_looks
    assert cost < 1.1 * plain_cost


@pytest.mark.parametrize("whole", [100, 1])
def test_progress_that_tells_the_truth_is_believed_and_saves_looks(whole: float) -> None:
    source = random.Random(4)
    lengths = [source.lognormvariate(5.0, 0.8) for _ in range(200)]
    agenda = Agenda()
    plain = taught(lengths)
    cost = plain_cost = 0.0
    for n, length in enumerate(lengths * 2):
        told = watch_one(agenda, 1e5 * n, length, progress=lambda age, of=length: whole * age / of)
        without = watch_one(plain, 1e8 + 1e5 * n, length)
        if n >= 200:
            cost += told[0] + 0.3 * told[1]
            plain_cost += without[0] + 0.3 * without[1]
    assert cost < 0.85 * plain_cost


def test_a_task_that_failed_had_not_ended_well_until_then() -> None:
    agenda = taught([60.0] * 40)
    hazard = agenda.kind(KIND).by_age
    before = hazard.rate(60.0)
    for n in range(20):
        agenda.end(entry(agenda, 1e6, str(n)), 1e6 + 200.0)
    assert hazard.rate(60.0) < before / 1.4
    assert hazard.rate(200.0) < 2 * Hazard().rate(200.0), "it is no result either"


def test_an_answer_makes_the_next_failure_the_first() -> None:
    agenda = Agenda()
    watched = entry(agenda)
    pauses = []
    for answered in (False, False, False, True, False):
        if answered:
            agenda.looked(watched, 100.0)
        else:
            agenda.failed(watched, 100.0)
            pauses.append(watched.due - 100.0)
    assert pauses == [2.0, 4.0, 8.0, 2.0]


def test_at_the_users_interval_it_is_first_come_first_served() -> None:
    agenda = Agenda(10.0)
    entries = [entry(agenda, float(n), str(n)) for n in range(20)]
    assert [agenda.take(100.0) for _ in range(20)] == entries


def test_processing_restarts_the_clock_when_that_foretells_better() -> None:
    source = random.Random(5)
    agenda, plain = Agenda(), Agenda()
    cost = plain_cost = 0.0
    for n in range(300):
        queued = source.uniform(10, 600)
        length = queued + source.gauss(60, 3)
        told = watch_one(agenda, 1e5 * n, length, processing=lambda age, q=queued: age >= q)
        without = watch_one(plain, 1e5 * n, length)
        if n >= 150:
            cost += told[0] + WORTH * told[1]
            plain_cost += without[0] + WORTH * without[1]
    assert cost < 0.9 * plain_cost


def called_or_looked_at(agenda: Agenda, lost: float, count: int) -> int:
    """Follow jobs of which a callback tells at once, unless it is lost; how many looks each."""
    source, looks = random.Random(6), 0
    for n in range(count):
        born, length = 1e5 * n, source.lognormvariate(5.0, 0.5)
        watched, is_lost = entry(agenda, born, str(n), callback=True), source.random() < lost
        while True:
            taken_at = watched.due
            if not is_lost and taken_at > born + length:
                agenda.end(watched, born + length + 0.1, length, by_callback=True)
                break
            assert agenda.take(taken_at) is watched
            looks += 1
            if taken_at > born + length:
                agenda.end(watched, taken_at, length)
                break
            agenda.looked(watched, taken_at)
    return looks


@pytest.mark.parametrize("lost", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_callbacks_that_are_lost_is_learned(lost: float) -> None:
    agenda = Agenda()
    called_or_looked_at(agenda, lost, 500)
    assert agenda.kind(KIND).lost_share == pytest.approx(lost, abs=0.1)


def test_the_more_callbacks_are_lost_the_oftener_it_is_looked() -> None:
    looks = [called_or_looked_at(Agenda(), lost, 400) for lost in (0.0, 0.1, 0.5, 1.0)]
    plain = Agenda()
    without = sum(watch_one(plain, 1e5 * n, 150.0)[1] for n in range(400))
    assert looks == sorted(looks)
    assert looks[0] < looks[3] / 3
    assert looks[0] < without / 3


def test_a_callback_that_comes_late_was_of_no_use() -> None:
    agenda = Agenda()
    before = agenda.kind(KIND).lost_share
    late = entry(agenda, 0.0, callback=True)
    agenda.end(late, 300.0, 100.0, by_callback=True)
    assert agenda.kind(KIND).lost_share > before


def test_a_callback_that_a_look_forestalled_was_not_lost() -> None:
    agenda = Agenda()
    before = agenda.kind(KIND).lost_share
    agenda.end(entry(agenda, 0.0, "quick", callback=True), 101.0, 100.0)
    assert agenda.kind(KIND).lost_share > before
    agenda.called("quick", 102.0)
    assert agenda.kind(KIND).lost_share < before
    agenda.called("quick", 103.0)  # doubled: counted once
    heard = agenda.kind(KIND).heard
    agenda.end(entry(agenda, 200.0, "slow", callback=True), 301.0, 100.0)
    agenda.called("slow", 480.0)  # the service's second try
    assert agenda.kind(KIND).heard < heard


def test_what_is_kept_of_callbacks_to_come_is_bounded() -> None:
    agenda = Agenda()
    for n in range(1000):
        agenda.end(entry(agenda, 10.0 * n, str(n), callback=True), 10.0 * n + 5.0, 5.0)
    assert len(agenda._missed) < 10


def test_where_every_callback_came_the_share_is_small_and_never_nought() -> None:
    kind = Agenda().kind(KIND)
    kind.heard, kind.lost = 200.0, 0.0  # it is divided by
    assert 0 < kind.lost_share < 0.01


@pytest.mark.parametrize("age", [None, 900.0])
def test_what_was_made_before_it_is_watched_is_looked_at_at_once(age: float | None) -> None:
    for agenda in (taught([100.0] * 50), Agenda(60.0)):
        again = Entry("again")
        agenda.add(again, KIND, 1e7, age=age)
        assert again.due == 1e7
        agenda.looked(again, 1e7)
        assert SOONEST <= again.due - 1e7 <= latest(age or 0.0)


def test_of_what_was_taken_up_again_the_first_look_comes_before_that_at_a_new_one() -> None:
    agenda = taught([100.0] * 50)
    new, again = entry(agenda, 1e7, "new"), Entry("again")
    agenda.add(again, KIND, 1e7, age=None)
    assert agenda.take(new.due) is again


@pytest.mark.parametrize("age", [None, 900.0])
def test_what_was_taken_up_again_teaches_nothing(age: float | None) -> None:
    """Those of its kind that ended sooner are not there to be counted with it."""
    agenda, untaught = taught([100.0] * 50), taught([100.0] * 50)
    for n in range(50):
        again = Entry(str(n))
        agenda.add(again, KIND, 1e7, age=age, callback=True)
        agenda.looked(again, 1e7, processing=True, progress=50.0)
        agenda.end(again, 1e7 + 5.0, 1500.0)
    kind, other = agenda.kind(KIND), untaught.kind(KIND)
    assert kind.by_age._rates == other.by_age._rates
    assert kind.lost_share == other.lost_share


@pytest.mark.parametrize("said", [0.0, -5000.0, 1e9])
def test_a_service_whose_clock_lies_about_lengths_teaches_what_was_seen(said: float) -> None:
    agenda = Agenda()
    for n in range(60):
        watched, born = entry(agenda, 1e4 * n), 1e4 * n
        while watched.due < born + 150.0:
            agenda.looked(watched, watched.due)
        agenda.end(watched, watched.due, said)
    delay, looks, _ = watch_one(agenda, 1e7, 150.0)
    assert delay < 10.0
    assert looks < 20


def test_the_users_interval_overrides_everything() -> None:
    agenda = Agenda(7.0)
    _, _, pauses = watch_one(agenda, 0.0, 50.0, progress=lambda _: 99.0)
    assert pauses == [7.0] * 8
    failing = entry(agenda, 100.0)
    agenda.failed(failing, 100.0)
    assert failing.due == 107.0


def test_while_creates_wait_a_look_must_have_fair_odds() -> None:
    agenda = taught([100.0 + n for n in range(-20, 21)])
    watched = entry(agenda, 1e6)
    due = watched.due
    assert agenda.next_due(due, contended=False) == due
    later = agenda.next_due(due, contended=True)
    assert later is not None
    assert later > due
    hazard = agenda.kind(KIND).by_age
    assert hazard.integral(0.0, later - 1e6) == pytest.approx(-log(1 - ODDS))
    assert agenda.next_due(due + 1, contended=False) == due + 1, "nobody waits: look"
    assert agenda.take(due + 1) is watched


def test_of_the_late_ones_the_most_valuable_goes_first() -> None:
    agenda = taught([100.0] * 50)
    young, ripe = entry(agenda, 1e6 + 80, "young"), entry(agenda, 1e6, "ripe")
    now = 1e6 + 105
    young.due = ripe.due = now  # both are late
    assert agenda.take(1e7 - 1) in (young, ripe)
    agenda = taught([100.0] * 50)
    entries = [entry(agenda, 1e6 + born, str(born)) for born in (70.0, 0.0, 80.0)]
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
                    getattr(agenda, data.draw(st.sampled_from(["looked", "failed"])))(taken, now)
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
