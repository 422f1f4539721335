from __future__ import annotations

import heapq
import math
import random
from itertools import pairwise

import pytest

from aivideo._pacing.create_limit import CreateLimit, CreateLimitKind


def reject(limit: CreateLimit, at: float, running: int) -> bool:
    """Send a create that is rejected; return whether it came from the limit on creates."""
    return limit.rejected(limit.sent(at, running), at, at + 0.1, running, None, 0.5)


def limit_on_creates(running: int = 5) -> CreateLimit:
    """Return a limit after enough polls were accepted between rejected creates."""
    limit = CreateLimit()
    for n in range(3):
        assert not reject(limit, n, running)
        limit.poll_accepted(n + 0.5)
    assert reject(limit, 3.0, running)
    return limit


def test_polls_accepted_between_rejected_creates_show_a_limit_on_creates() -> None:
    limit = limit_on_creates()
    assert limit.kind is CreateLimitKind.UNSURE
    assert limit.cap == 5


def test_an_exception_to_the_pattern_prevents_the_conclusion() -> None:
    limit = CreateLimit()
    for n in range(10):
        reject(limit, 3 * n, 5)
        limit.poll_accepted(3 * n + 1)
        if n % 2:
            limit.poll_rejected()
        else:
            limit.accepted(limit.sent(3 * n + 2, 5), 3 * n + 2, 6)
    assert limit.kind is CreateLimitKind.NONE


def test_polls_sent_before_the_rejection_are_no_evidence() -> None:
    limit = CreateLimit()
    for n in range(10):
        reject(limit, 10.0 + n, 5)
        limit.poll_accepted(1.0)
    assert limit.kind is CreateLimitKind.NONE


def test_under_a_cap_a_job_that_ends_admits_a_create() -> None:
    limit, now = limit_on_creates(), 4.0
    for _ in range(2):
        assert limit.ready_at(now, 5) > now
        limit.job_ended(now)
        assert limit.ready_at(now, 4) == now
        create = limit.sent(now, 4)
        assert limit.ready_at(now, 5) == math.inf  # one at a time while the kind is unsure
        limit.accepted(create, now + 0.1, 5)
        now += 1.0
    assert limit.kind is CreateLimitKind.CAP
    assert limit.cap == 5


def test_under_a_rate_time_admits_a_create() -> None:
    limit, running = limit_on_creates(), 5
    for _ in range(2):
        now = limit.ready_at(4.0, running)
        assert now < 100
        limit.accepted(limit.sent(now, running), now + 0.1, running + 1)
        running += 1
    assert limit.kind is CreateLimitKind.RATE
    assert limit.pace is not None


def test_a_create_above_a_known_cap_is_tried_now_and_then() -> None:
    limit = CreateLimit(kind=CreateLimitKind.CAP, cap=5)
    limit._try_at, limit._try_after = 30.0, 30.0
    waits, now = [], 0.0
    for _ in range(8):
        at = limit.ready_at(now, 5)
        waits.append(at - now)
        now = at
        assert reject(limit, now, 5)
    assert waits[0] == pytest.approx(30.0)
    assert all(later >= earlier - 1 for earlier, later in pairwise(waits))
    assert max(waits) <= 610
    assert limit.kind is CreateLimitKind.CAP


def test_a_raised_cap_is_found() -> None:
    limit = CreateLimit(kind=CreateLimitKind.CAP, cap=5)
    limit._try_at, limit._try_after = 30.0, 30.0
    now = limit.ready_at(0.0, 5)
    limit.accepted(limit.sent(now, 5), now, 6)
    assert limit.cap == 6
    assert limit.ready_at(now, 6) <= now + 5.0  # it may have been raised by more than one


def test_a_rejection_far_below_the_cap_comes_from_another_limit() -> None:
    limit = CreateLimit(kind=CreateLimitKind.CAP, cap=20)
    create = limit.sent(0.0, 3)
    assert not limit.rejected(create, 0.0, 0.1, 3, None, 0.5)
    assert limit.cap == 20


def simulate(cap: int | None, every: float | None, jobs: int, seconds: float) -> tuple[float, str]:
    """Send creates to a server with a cap or a rate that accepts all polls.

    Returns:
        The makespan in seconds, and the kind of limit that was found.
    """
    draw, limit = random.Random(1), CreateLimit()
    now, running, accepted, next_free = 0.0, 0, 0, 0.0
    ends: list[float] = []
    while accepted < jobs and now < 1e6:
        while ends and ends[0] <= now:
            heapq.heappop(ends)
            running -= 1
            limit.job_ended(now)
        at = limit.ready_at(now, running)
        if at > now:
            now = min(at, ends[0] if ends else math.inf)
            continue
        create = limit.sent(now, running)
        is_accepted = running < cap if cap is not None else now >= next_free
        if is_accepted:
            running += 1
            accepted += 1
            next_free = now + (every or 0.0)
            heapq.heappush(ends, now + seconds * draw.uniform(0.8, 1.2))
            limit.accepted(create, now, running)
        else:
            limit.rejected(create, now, now, running, None, 0.5)
            limit.poll_accepted(now + 0.01)
        now += 0.05
    return now, limit.kind.value


def test_a_cap_and_a_rate_are_distinguished_and_used() -> None:
    took, kind = simulate(cap=10, every=None, jobs=100, seconds=60.0)
    assert kind == "cap"
    assert took <= 1.15 * 9 * 60
    took, kind = simulate(cap=None, every=1.0, jobs=200, seconds=3600.0)
    assert kind == "rate"
    assert took <= 1.6 * 200
