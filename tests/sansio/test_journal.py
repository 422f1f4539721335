from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo.errors import LedgerError
from aivideo.models import Sora2
from aivideo.sansio.journal import (
    Claimed,
    Completed,
    CreditTotals,
    Doubted,
    Event,
    Failed,
    Faulted,
    Holding,
    JobRecord,
    JobStatus,
    Refused,
    Released,
    Saved,
    Taken,
    apply,
    holding,
)

JOB = JobRecord(
    id="j",
    request=Sora2("boat", duration=4, aspect_ratio="16:9"),
    fingerprint="f",
    credits=100,
)
EVENTS: list[Any] = [
    Claimed(1),
    Claimed(2),
    Taken("t1"),
    Taken("t2"),
    Released(),
    Refused("no"),
    Faulted("500"),
    Doubted("reset"),
    Completed(),
    Failed("failed"),
    Saved("a.mp4"),
]


def replay(*events: Event) -> JobRecord:
    job = JOB
    for event in events:
        job = apply(job, event)
    return job


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], JobStatus.PLANNED),
        ([Claimed(1)], JobStatus.SUBMITTING),
        ([Claimed(1), Released()], JobStatus.PLANNED),
        ([Claimed(1), Released(), Claimed(2), Taken("t")], JobStatus.RUNNING),
        ([Claimed(1), Refused("no")], JobStatus.REFUSED),
        ([Claimed(1), Doubted("?")], JobStatus.UNKNOWN),
        ([Claimed(1), Doubted("?"), Taken("t")], JobStatus.RUNNING),
        ([Claimed(1), Faulted("500"), Taken("t")], JobStatus.RUNNING),
        ([Claimed(1), Taken("t"), Taken("t")], JobStatus.RUNNING),
        ([Claimed(1), Taken("t"), Completed(), Saved("p")], JobStatus.SAVED),
        ([Claimed(1), Taken("t"), Failed("e"), Failed("e")], JobStatus.FAILED),
    ],
)
def test_the_life_of_a_job(events: list[Event], status: JobStatus) -> None:
    assert replay(*events).status is status


@pytest.mark.parametrize(
    "events",
    [
        [Claimed(2)],
        [Claimed(1), Claimed(2)],
        [Claimed(1), Doubted("?"), Claimed(2)],
        [Claimed(1), Doubted("?"), Released()],
        [Claimed(1), Faulted("500"), Released()],
        [Claimed(1), Refused("no"), Claimed(2)],
        [Claimed(1), Taken("t1"), Taken("t2")],
        [Claimed(1), Taken("t"), Released()],
        [Claimed(1), Taken("t"), Doubted("?")],
        [Taken("t")],
        [Completed()],
        [Claimed(1), Taken("t"), Failed("e"), Completed()],
        [Claimed(1), Taken("t"), Saved("p")],
    ],
)
def test_what_cannot_follow_is_refused_instead_of_moving_money(events: list[Event]) -> None:
    replay(*events[:-1])
    with pytest.raises(LedgerError, match="cannot follow"):
        replay(*events)


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_no_history_leads_from_doubt_back_to_a_second_post(events: list[Event]) -> None:
    """Whatever is told in whatever order: at most one attempt that may have been taken."""
    job, open_attempts, totals = JOB, 0, CreditTotals()
    for event in events:
        try:
            after = apply(job, event)
        except LedgerError:
            continue
        if isinstance(event, Claimed):
            assert job.status is JobStatus.PLANNED
            assert job.task_id is None
            open_attempts += 1
        if isinstance(event, Released):
            assert job.status is JobStatus.SUBMITTING
            open_attempts -= 1
        if after.status is not job.status:
            totals = totals.moved(100, holding(job.status), holding(after.status))
        if job.task_id is not None:
            assert after.task_id == job.task_id
        job = after
    assert open_attempts <= 1
    kept = holding(job.status)
    assert totals.held == (0 if kept in (Holding.NONE, Holding.REFUNDED) else 100)
    assert totals.refunded == (100 if kept is Holding.REFUNDED else 0)


def test_every_status_says_what_becomes_of_its_credits() -> None:
    assert {holding(status) for status in JobStatus} == {*Holding}
    assert holding(JobStatus.UNKNOWN) is Holding.UNKNOWN
    assert holding(JobStatus.FAULTED) is Holding.UNKNOWN


def test_totals_count_what_may_have_been_spent() -> None:
    totals = CreditTotals(charged=300, reserved=100, unknown=200, refunded=500)
    assert totals.held == 600
