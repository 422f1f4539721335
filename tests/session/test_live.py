"""The live jobs of a session: handles, indexes, counters and credits follow their records."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from attrs import evolve

from aivideo import (
    CreditTotals,
    JobChanged,
    JobStatus,
    Session,
    SessionEvent,
    Sora2,
    SubmitUnknownError,
    Succeeded,
)
from aivideo._session.job import Job
from aivideo._session.live import IfUnsent, LiveJob, LiveJobs, Submission
from aivideo.ledger import events
from aivideo.ledger.records import JobRecord, Reason
from aivideo.ledger.totals import Holding
from aivideo.ledger.transitions import apply
from aivideo.models import fingerprint
from aivideo.simulator import Scenario, Service
from aivideo.testing import DirectTransport

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")
WHY = Reason(message="reset")


def planned(job_id: str = "a") -> JobRecord:
    return JobRecord(id=job_id, request=BOAT, fingerprint=fingerprint(BOAT), credits=Decimal(100))


def unpriced(job_id: str) -> JobRecord:
    return evolve(planned(job_id), credits=None)


def taken(record: JobRecord, task_id: str = "t") -> JobRecord:
    return apply(apply(record, events.Claimed()), events.Taken(task_id))


def added(jobs: LiveJobs, record: JobRecord) -> LiveJob:
    live = jobs.add(record, Job(record.id, record.request, owner=None))
    jobs.apply(live, record)
    return live


def test_applying_a_record_updates_handle_index_and_counters_and_names_new_tasks() -> None:
    jobs = LiveJobs()
    live = added(jobs, planned())
    running = taken(live.record)
    assert jobs.apply(live, running) == ["t"]
    assert jobs.apply(live, running) == [], "it is known to run"
    assert (live.job.status, live.job.task_id) == (JobStatus.RUNNING, "t")
    assert jobs.of_task("t") is live
    assert +jobs.counts == {JobStatus.RUNNING: 1}


def test_a_task_ends_once() -> None:
    jobs = LiveJobs()
    live = added(jobs, taken(planned()))
    assert jobs.task_ended("t") == (live, True)
    assert jobs.task_ended("t") is None
    assert jobs.of_task("t") is None


def test_a_task_that_was_lost_no_longer_counts_as_running_when_it_ends() -> None:
    jobs = LiveJobs()
    live = added(jobs, taken(planned()))
    assert jobs.task_lost("t")
    assert not jobs.task_lost("t"), "its place is free already"
    assert jobs.task_ended("t") == (live, False)


def test_a_job_that_failed_is_no_longer_live_but_one_in_doubt_is() -> None:
    jobs = LiveJobs()
    refused = added(jobs, apply(apply(planned("a"), events.Claimed()), events.Refused(WHY)))
    unknown = added(jobs, apply(apply(planned("b"), events.Claimed()), events.Doubted(WHY)))
    error = SubmitUnknownError("reset", job=unknown.job)
    jobs.fail(refused, error)
    jobs.fail(unknown, error)
    assert jobs.get("a") is None
    assert jobs.get("b") is unknown
    assert jobs.unfinished() == [], "neither is waited for"


def test_what_is_freed_is_what_was_reserved() -> None:
    jobs = LiveJobs()
    live = added(jobs, planned())
    jobs.reserve(live)
    assert jobs.spent == CreditTotals(reserved=Decimal(100))
    live.record = evolve(live.record, credits=Decimal(400))  # a price that changed meanwhile
    jobs.hold(live, Holding.CHARGED)
    assert jobs.spent == CreditTotals(charged=Decimal(100))
    jobs.hold(live, Holding.REFUNDED)
    assert jobs.spent == CreditTotals(refunded=Decimal(100))
    assert jobs.spent.held == 0


def test_posts_of_unknown_price_are_counted_until_they_are_free() -> None:
    jobs = LiveJobs()
    first, second = added(jobs, unpriced("a")), added(jobs, unpriced("b"))
    jobs.reserve(first)
    jobs.reserve(second)
    assert jobs.spent == CreditTotals(unpriced=2)
    for after, left in (
        (Holding.UNKNOWN, ["a", "b"]),
        (Holding.CHARGED, ["a", "b"]),
        (Holding.CHARGED, ["a", "b"]),
        (Holding.REFUNDED, ["b"]),
        (Holding.CHARGED, ["b", "a"]),
    ):
        jobs.hold(first, after)
        assert (jobs.spent, jobs.unpriced_jobs) == (CreditTotals(unpriced=len(left)), left)
    jobs.reserve(second)  # it is sent again, and its first POST still counts
    assert jobs.spent.unpriced == 3
    jobs.release(second)
    assert (jobs.spent.unpriced, jobs.unpriced_jobs) == (2, ["b", "a"])


def test_a_reservation_that_is_released_leaves_nothing() -> None:
    jobs = LiveJobs()
    live = added(jobs, planned())
    jobs.reserve(live)
    reserved = live.may_be_bought
    jobs.release(live)
    assert (reserved, live.may_be_bought) == (True, False)
    assert jobs.spent == CreditTotals()


def test_instrumentation_is_told_of_each_change_and_may_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[SessionEvent] = []

    def tell(event: SessionEvent) -> None:
        told.append(event)
        raise RuntimeError("an error of the user's code")

    jobs = LiveJobs(tell)
    live = added(jobs, planned())
    jobs.apply(live, taken(live.record))
    (change,) = told
    assert isinstance(change, JobChanged)
    assert (change.before, change.after) == (JobStatus.PLANNED, JobStatus.RUNNING)
    assert change.task_id == "t"
    assert "the instrumentation failed" in caplog.text
    assert live.job.status is JobStatus.RUNNING


@pytest.mark.parametrize(
    "raised",
    [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()],
    ids=lambda raised: type(raised).__name__,
)
@pytest.mark.anyio
async def test_instrumentation_that_exits_is_logged_and_loses_no_post(
    raised: BaseException, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def tell(_: SessionEvent) -> None:
        raise raised

    sold = Service(Scenario(task_seconds=60.0, media="stub", latency=5.0))
    async with Session("sk-test", transport=DirectTransport(sold), instrumentation=tell) as session:
        outcomes = [each async for each in session.generate_many([BOAT] * 3, save_to=tmp_path)]
    assert [type(outcome) for outcome in outcomes] == [Succeeded] * 3
    assert sold.truth.creates_seen == 3
    assert "the instrumentation failed on JobChanged" in caplog.text
    assert "the instrumentation failed on FileSaved" in caplog.text


@pytest.mark.anyio
async def test_waiters_of_a_submission_are_released_by_its_end_and_cancelled_one_by_one() -> None:
    submission = Submission(IfUnsent.KEEP, enqueued=True)
    cancelled = asyncio.create_task(submission.ended())
    other = asyncio.create_task(submission.ended())
    await asyncio.sleep(1)
    cancelled.cancel()
    await asyncio.sleep(1)
    assert not other.done()
    submission.end()
    await other


@pytest.mark.anyio
async def test_a_submission_is_interrupted_only_before_its_post_and_before_its_end() -> None:
    for state in ("not begun", "queued", "posting", "ending"):
        submission = Submission(IfUnsent.KEEP, enqueued=True)
        task = asyncio.create_task(asyncio.sleep(3600))
        submission.start(task)
        submission.begun = state != "not begun"
        submission.posting, submission.ending = state == "posting", state == "ending"
        submission.interrupt()
        await asyncio.sleep(0)
        assert task.cancelled() is (state == "queued")
        assert submission.interrupted is (state != "ending"), "no other POST follows"
        task.cancel()


@pytest.mark.anyio
async def test_a_verdict_is_waited_for_only_while_a_post_is_under_way() -> None:
    submission = Submission(IfUnsent.KEEP, enqueued=True)
    await submission.verdict_known()
    submission.begin_post()
    waiting = asyncio.create_task(submission.verdict_known())
    await asyncio.sleep(1)
    assert not waiting.done()
    submission.end_post()
    await waiting
