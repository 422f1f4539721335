from __future__ import annotations

import heapq
import math
import random
from itertools import pairwise

import pytest

from aivideo._pacing.create_limit import CreateLimit, CreateLimitKind
from aivideo._pacing.turns import Turns


def refuse(limit: CreateLimit, at: float, running: int) -> bool:
    return limit.refused(limit.sent(at, running), at, at + 0.1, running, None, 0.5)


def proved(running: int = 5) -> CreateLimit:
    """A limit that polls have proved to be creates' own."""
    limit = CreateLimit()
    for n in range(3):
        assert not refuse(limit, n, running)
        limit.poll_passed(n + 0.5)
    assert refuse(limit, 3.0, running)
    return limit


def test_polls_that_pass_between_refused_creates_prove_a_limit_of_creates_own() -> None:
    limit = proved()
    assert limit.kind is CreateLimitKind.UNSURE
    assert limit.cap == 5


def test_one_exception_is_no_proof() -> None:
    limit = CreateLimit()
    for n in range(10):
        refuse(limit, 3 * n, 5)
        limit.poll_passed(3 * n + 1)
        if n % 2:
            limit.poll_refused()
        else:
            limit.accepted(limit.sent(3 * n + 2, 5), 3 * n + 2, 6)
    assert limit.kind is CreateLimitKind.NONE


def test_polls_that_were_sent_before_the_refusal_prove_nothing() -> None:
    limit = CreateLimit()
    for n in range(10):
        refuse(limit, 10.0 + n, 5)
        limit.poll_passed(1.0)
    assert limit.kind is CreateLimitKind.NONE


def test_a_cap_frees_with_completions() -> None:
    limit, now = proved(), 4.0
    for _ in range(2):
        assert limit.ready_at(now, 5) > now
        limit.job_ended(now)
        assert limit.ready_at(now, 4) == now
        create = limit.sent(now, 4)
        assert limit.ready_at(now, 5) == math.inf  # one at a time while it is unsure
        limit.accepted(create, now + 0.1, 5)
        now += 1.0
    assert limit.kind is CreateLimitKind.CAP
    assert limit.cap == 5


def test_a_rate_frees_with_time() -> None:
    limit, running = proved(), 5
    for _ in range(2):
        now = limit.ready_at(4.0, running)
        assert now < 100
        limit.accepted(limit.sent(now, running), now + 0.1, running + 1)
        running += 1
    assert limit.kind is CreateLimitKind.RATE
    assert limit.pace is not None


def test_above_a_known_cap_one_is_tried_now_and_then() -> None:
    limit = CreateLimit(kind=CreateLimitKind.CAP, cap=5)
    limit._try_at, limit._try_after = 30.0, 30.0
    waits, now = [], 0.0
    for _ in range(8):
        at = limit.ready_at(now, 5)
        waits.append(at - now)
        now = at
        assert refuse(limit, now, 5)
    assert waits[0] == pytest.approx(30.0)
    assert all(later >= earlier - 1 for earlier, later in pairwise(waits))
    assert max(waits) <= 610
    assert limit.kind is CreateLimitKind.CAP


def test_a_cap_that_was_raised_is_found() -> None:
    limit = CreateLimit(kind=CreateLimitKind.CAP, cap=5)
    limit._try_at, limit._try_after = 30.0, 30.0
    now = limit.ready_at(0.0, 5)
    limit.accepted(limit.sent(now, 5), now, 6)
    assert limit.cap == 6
    assert limit.ready_at(now, 6) <= now + 5.0  # and perhaps by more than one


def test_a_refusal_far_below_the_cap_is_about_something_else() -> None:
    limit = CreateLimit(kind=CreateLimitKind.CAP, cap=20)
    create = limit.sent(0.0, 3)
    assert not limit.refused(create, 0.0, 0.1, 3, None, 0.5)
    assert limit.cap == 20


def simulate(cap: int | None, every: float | None, jobs: int, seconds: float) -> tuple[float, str]:
    """Creates against a cap or a rate, polls always passing; returns the makespan and the kind."""
    draw, limit = random.Random(1), CreateLimit()
    now, running, taken, next_free = 0.0, 0, 0, 0.0
    ends: list[float] = []
    while taken < jobs and now < 1e6:
        while ends and ends[0] <= now:
            heapq.heappop(ends)
            running -= 1
            limit.job_ended(now)
        at = limit.ready_at(now, running)
        if at > now:
            now = min(at, ends[0] if ends else math.inf)
            continue
        create = limit.sent(now, running)
        passes = running < cap if cap is not None else now >= next_free
        if passes:
            running += 1
            taken += 1
            next_free = now + (every or 0.0)
            heapq.heappush(ends, now + seconds * draw.uniform(0.8, 1.2))
            limit.accepted(create, now, running)
        else:
            limit.refused(create, now, now, running, None, 0.5)
            limit.poll_passed(now + 0.01)
        now += 0.05
    return now, limit.kind.value


def test_a_cap_and_a_rate_are_told_apart_and_used() -> None:
    took, kind = simulate(cap=10, every=None, jobs=100, seconds=60.0)
    assert kind == "cap"
    assert took <= 1.15 * 9 * 60
    took, kind = simulate(cap=None, every=1.0, jobs=200, seconds=3600.0)
    assert kind == "rate"
    assert took <= 1.6 * 200


def test_three_creates_go_to_a_poll_and_neither_starves() -> None:
    turns, order = Turns(), ""
    for _ in range(12):
        create = turns.next_is_create(True, True, probe=False)
        assert create is not None
        turns.went(create, probe=False)
        order += "c" if create else "p"
    assert order == "cccpcccpcccp"
    assert turns.next_is_create(False, True, probe=False) is False
    assert turns.next_is_create(True, False, probe=False) is True
    assert turns.next_is_create(False, False, probe=False) is None


def test_a_create_refused_again_as_a_probe_takes_turns_with_a_poll() -> None:
    turns = Turns()
    turns.refused(True)
    kinds = []
    for _ in range(4):
        create = turns.next_is_create(True, True, probe=True)
        assert create is not None
        turns.went(create, probe=True)
        turns.refused(create) if create else None
        kinds.append(create)
    assert kinds == [True, False, True, False]
