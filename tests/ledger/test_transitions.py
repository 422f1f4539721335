from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo.errors import LedgerError
from aivideo.ledger.events import (
    Claimed,
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Released,
    Retried,
    Saved,
    Taken,
)
from aivideo.ledger.records import JobStatus
from aivideo.ledger.totals import CreditTotals, Holding, credits_moved, holding
from aivideo.ledger.transitions import apply
from tests.ledger.histories import AGAIN, CLAIM, FAILED, INSISTED, JOB, LOST, PAID, WHY, replay

S = JobStatus


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], S.PLANNED),
        ([CLAIM], S.SUBMITTING),
        ([CLAIM, Released()], S.PLANNED),
        ([CLAIM, Released(), Released()], S.PLANNED),
        ([CLAIM, Released(), *PAID], S.RUNNING),
        ([CLAIM, Refused(WHY)], S.REFUSED),
        (LOST, S.UNKNOWN),
        ([*LOST, Doubted(WHY)], S.UNKNOWN),
        ([*LOST, Taken("t")], S.RUNNING),
        ([*LOST, Refused(WHY)], S.REFUSED),  # its owner's own verdict, late
        ([*LOST, Faulted(WHY)], S.FAULTED),
        ([*LOST, Released()], S.PLANNED),  # the same, or a person's word
        ([CLAIM, Faulted(WHY)], S.FAULTED),
        ([CLAIM, Faulted(WHY), Doubted(WHY)], S.FAULTED),
        ([CLAIM, Faulted(WHY), Taken("t")], S.RUNNING),
        ([*PAID, Taken("t")], S.RUNNING),
        ([*PAID, Doubted(WHY)], S.RUNNING),  # a callback was faster than the POST's own end
        ([*PAID, Faulted(WHY)], S.RUNNING),
        ([CLAIM, Released(), Doubted(WHY)], S.PLANNED),
        ([CLAIM, Refused(WHY), Doubted(WHY)], S.REFUSED),
        ([*PAID, Completed(), Saved("p", 3)], S.SAVED),
        ([*PAID, Completed(), Saved("p"), Saved("q"), Completed()], S.SAVED),
        ([*FAILED, Failed(WHY)], S.FAILED),
        ([*FAILED, AGAIN], S.PLANNED),
        ([*FAILED, AGAIN, AGAIN], S.PLANNED),
        ([*PAID, Completed(), Faulted(WHY)], S.COMPLETED),
        ([*FAILED, Doubted(WHY)], S.FAILED),
        ([*LOST, Released(), Doubted(WHY)], S.PLANNED),  # a person was faster
        ([CLAIM, Refused(WHY), Refused(WHY)], S.REFUSED),
        ([*FAILED, AGAIN, CLAIM, Taken("t2")], S.RUNNING),
        ([CLAIM, Refused(WHY), AGAIN, CLAIM], S.SUBMITTING),
        ([*LOST, INSISTED], S.PLANNED),
        ([*LOST, INSISTED, CLAIM, Refused(WHY)], S.UNKNOWN),  # the first is still in doubt
        ([CLAIM, Faulted(WHY), INSISTED, CLAIM, Taken("t")], S.RUNNING),
    ],
)
def test_the_life_of_a_job(events: list[Event], status: JobStatus) -> None:
    assert replay(*events).status is status


@pytest.mark.parametrize(
    "events",
    [
        [CLAIM, CLAIM],
        [*LOST, CLAIM],
        [CLAIM, Faulted(WHY), CLAIM],
        [CLAIM, Refused(WHY), CLAIM],
        [*FAILED, CLAIM],
        [*LOST, AGAIN],
        [CLAIM, Faulted(WHY), AGAIN],
        [CLAIM, AGAIN],
        [CLAIM, INSISTED],
        [*PAID, INSISTED],
        [*PAID, Completed(), INSISTED],
        [*PAID, Taken("t2")],
        [*PAID, Released()],
        [*PAID, Refused(WHY)],
        [Taken("t")],
        [Completed()],
        [CLAIM, Completed()],
        [*FAILED, Completed()],
        [*PAID, Completed(), Failed(WHY)],
        [*PAID, Saved("p")],
        [*FAILED, Saved("p")],
    ],
)
def test_what_cannot_follow_is_refused_instead_of_moving_money(events: list[Event]) -> None:
    before = replay(*events[:-1])
    with pytest.raises(LedgerError):
        apply(before, events[-1])


def test_a_late_success_of_an_older_attempt_is_kept_and_counted_too() -> None:
    job = replay(*LOST, INSISTED, CLAIM, Taken("t2"))
    both = apply(job, Taken("t1"), 1)
    assert [attempt.task_id for attempt in both.attempts] == ["t1", "t2"]
    assert credits_moved(None, both) == {Holding.CHARGED: 200}
    assert (both.attempt_of("t1"), both.attempt_of("t2")) == (1, 2)


def test_a_task_is_that_of_one_attempt() -> None:
    job = replay(*LOST, INSISTED, *PAID)
    with pytest.raises(LedgerError):
        apply(job, Taken("t"), 1)


def test_a_late_success_takes_a_job_that_waits_again_out_of_the_queue() -> None:
    waiting = replay(*LOST, INSISTED)
    job = apply(waiting, Taken("t1"), 1)
    assert job.status is JobStatus.RUNNING
    with pytest.raises(LedgerError):
        apply(job, CLAIM)


def test_a_late_release_of_an_older_attempt_sends_nothing_again() -> None:
    job = replay(*LOST, INSISTED, CLAIM, Refused(WHY))
    assert apply(job, Released(), 1).status is JobStatus.REFUSED


def test_an_unknown_attempt_is_not_hidden_by_a_later_one() -> None:
    job = replay(*LOST, INSISTED, *PAID, Completed())
    assert job.status is JobStatus.COMPLETED
    assert job.doubts == 1
    assert credits_moved(None, job) == {Holding.UNKNOWN: 100, Holding.CHARGED: 100}


EVENTS: list[Any] = [
    CLAIM,
    Taken("t1"),
    Taken("t2"),
    Released(),
    Refused(WHY),
    Faulted(WHY),
    Doubted(WHY),
    Completed(),
    Failed(WHY),
    Saved("a.mp4"),
    Retried(),
]


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 3) | st.none()), max_size=14))
def test_no_history_leads_to_two_open_posts_unless_a_person_insists(
    told: list[tuple[Event, int | None]],
) -> None:
    """Whatever is told in whatever order: at most one attempt that may have been paid for."""
    job, totals = JOB, CreditTotals()
    for event, number in told:
        try:
            after = apply(job, event, number)
        except LedgerError:
            continue
        if isinstance(event, Claimed):
            held = [a for a in job.attempts if holding(a.status) in _PAID_OR_MAYBE]
            assert not held
        totals = totals.plus(credits_moved(job, after))
        if job.task_id is not None and job.status is not JobStatus.FAILED:
            assert after.task_id is not None
        assert len(after.attempts) >= len(job.attempts)
        assert (after.status is JobStatus.SAVED) <= (after.path is not None)
        job = after
    by_attempt = [holding(attempt.status) for attempt in job.attempts]
    assert totals.charged == 100 * by_attempt.count(Holding.CHARGED)
    assert totals.unknown == 100 * by_attempt.count(Holding.UNKNOWN)
    assert totals.reserved == 100 * by_attempt.count(Holding.RESERVED)
    assert totals.refunded == 100 * by_attempt.count(Holding.REFUNDED)


_PAID_OR_MAYBE = (Holding.CHARGED, Holding.UNKNOWN, Holding.RESERVED)
