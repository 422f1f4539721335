"""Desk: what it lists, changes and refuses, without a command line."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from aivideo import models
from aivideo.desk import Desk, DeskError, Refusal
from aivideo.errors import (
    APIConnectionError,
    ConfigurationError,
    LedgerError,
    TaskNotFoundError,
)
from aivideo.ledger.audit import SETTLING_TIME
from aivideo.ledger.events import (
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Retried,
    Saved,
    Taken,
    Withdrawn,
)
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.totals import CreditTotals
from aivideo.models import CompletedTask, Credits, ProcessingTask, Sora2, Task

pytestmark = pytest.mark.anyio

CLAIM = "claim"
NO_ANSWER = Doubted(Reason(message="no answer within 60 s"))
ERROR_500 = Faulted(Reason(message="Internal server error", status=500, code="internal_error"))
REFUSAL = Refused(Reason(message="a rule was broken", status=400, code="invalid_request"))
TASK_FAILED = Failed(Reason(message="Video generation failed", code="upstream_error"))
SAVED = (Completed(1.0, 2.0), Saved("clips/x.mp4", 10))


@define
class Jobs:
    """A ledger in memory, with jobs added by the test."""

    clock: float = 1_700_000_000.0
    ledger: MemoryLedger = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.ledger = MemoryLedger(now=lambda: self.clock)

    async def add(self, prompt: str, *events: Event | str, batch: str = "night") -> JobRecord:
        """Record a job of 100 credits, and what happened to it."""
        self.clock += 10
        request = Sora2(prompt, duration=4, aspect_ratio="16:9")
        job = JobRecord(
            id=f"job-{prompt}".replace(" ", "-"),
            request=request,
            fingerprint=models.fingerprint(request),
            credits=request.credits,
            batch=batch,
            key=prompt,
            planned_at=self.clock,
        )
        job = await self.ledger.plan(job)
        for event in events:
            if isinstance(event, str):
                claimed = await self.ledger.claim(job.id, lease=90)
                assert claimed is not None
                job = claimed
            else:
                job = await self.ledger.record(job.id, event)
        return job

    async def status(self, job: JobRecord) -> JobStatus:
        found = await self.ledger.find(job.id)
        assert found is not None
        return found.status

    async def reading(self, consumed: int) -> None:
        self.clock += 10
        await self.ledger.note_credits(account(consumed))


@define
class FakeClient:
    """Returns the tasks and the counter given by the test."""

    tasks: dict[str, Task] = field(factory=dict)
    consumed: int | None = None

    async def retrieve(self, task_id: str) -> Task:
        if task_id not in self.tasks:
            raise TaskNotFoundError("no such task", status=404, code="task_not_found")
        return self.tasks[task_id]

    async def credits(self) -> Credits:
        if self.consumed is None:
            raise APIConnectionError("no connection", written=False)
        return account(self.consumed)


def when(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, UTC)


def account(consumed: int) -> Credits:
    return Credits(balance=0, total_purchased=0, total_consumed=consumed)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def desk(jobs: Jobs) -> Desk:
    return Desk(jobs.ledger)


async def refused(operation: object, reason: Refusal) -> DeskError:
    with pytest.raises(DeskError) as caught:
        await operation  # type: ignore[misc]
    assert caught.value.refusal is reason
    assert "--" not in str(caught.value), "the library's messages name arguments, not options"
    return caught.value


# --- list and show --------------------------------------------------------------------------------


async def test_list_puts_jobs_that_need_a_decision_first(jobs: Jobs, desk: Desk) -> None:
    await jobs.add("saved", CLAIM, Taken("t1"), *SAVED)
    await jobs.add("planned")
    await jobs.add("failed", CLAIM, Taken("t2"), TASK_FAILED)
    await jobs.add("running", CLAIM, Taken("t3"))
    await jobs.add("unknown", CLAIM, NO_ANSWER)
    await jobs.add("faulted", CLAIM, ERROR_500)
    listed = await desk.list()
    assert [job.key for job in listed.records] == [
        *("unknown", "faulted", "running", "failed", "planned", "saved")
    ]
    assert listed.left == 0
    assert listed.counts[JobStatus.PLANNED] == 1
    assert listed.totals == CreditTotals(charged=200, unknown=200, refunded=100)


async def test_list_filters_and_says_how_many_it_left_out(jobs: Jobs, desk: Desk) -> None:
    for number in range(5):
        await jobs.add(f"planned {number}")
    await jobs.add("elsewhere", batch="day")
    await jobs.add("unknown", CLAIM, NO_ANSWER)
    listed = await desk.list(limit=3)
    assert [job.key for job in listed.records] == ["unknown", "planned 0", "planned 1"]
    assert listed.left == 4
    assert sum(listed.counts.values()) == 7, "the sums are of all jobs"
    assert (await desk.list(limit=0)).left == 7
    planned = await desk.list([JobStatus.PLANNED], batch="day")
    assert [job.key for job in planned.records] == ["elsewhere"]
    assert sum(planned.counts.values()) == 1
    assert [job.key async for job in desk.jobs([JobStatus.UNKNOWN])] == ["unknown"]


async def test_show_finds_a_job_by_its_id_or_by_a_task(jobs: Jobs, desk: Desk) -> None:
    job = await jobs.add("a", CLAIM, NO_ANSWER, Retried(True), CLAIM, Taken("t1"))
    for name in (job.id, "t1"):
        shown = await desk.show(name)
        assert shown.id == job.id
        assert [attempt.number for attempt in shown.attempts] == [1, 2]
    error = await refused(desk.show("nobody"), Refusal.NO_SUCH_JOB)
    assert "no job 'nobody'" in str(error)


async def test_a_read_only_ledger_can_be_listed(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    await SqliteLedger(path).aclose()
    ledger = SqliteLedger(path, read_only=True)
    try:
        assert (await Desk(ledger).list()).records == ()
    finally:
        await ledger.aclose()


async def test_creates_of_dead_processes_are_listed_as_unknown(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    request = Sora2("a", duration=4, aspect_ratio="16:9")
    job = JobRecord(
        id="job-a", request=request, fingerprint=models.fingerprint(request), credits=100
    )
    await ledger.plan(job)
    await ledger.claim(job.id, lease=90)
    assert (await Desk(ledger).show(job.id)).status is JobStatus.SUBMITTING
    await ledger.aclose()
    ledger = SqliteLedger(tmp_path / "jobs.db")  # the owner of that claim has ended
    assert (await Desk(ledger).show(job.id)).status is JobStatus.UNKNOWN
    await ledger.aclose()


# --- settle ---------------------------------------------------------------------------------------


async def test_settling_as_not_taken_changes_all_jobs_or_none(jobs: Jobs, desk: Desk) -> None:
    first = await jobs.add("a", CLAIM, NO_ANSWER)
    second = await jobs.add("b", CLAIM, ERROR_500)
    saved = await jobs.add("c", CLAIM, Taken("t1"), *SAVED)
    names = [first.id, second.id, saved.id]
    await refused(desk.settle(names, not_taken=True), Refusal.NOTHING_TO_SETTLE)
    await refused(desk.settle([first.id, "x"], not_taken=True), Refusal.NO_SUCH_JOB)
    assert await jobs.status(first) is JobStatus.UNKNOWN
    settled = await desk.settle(iter(names[:2]), not_taken=True)
    assert [job.status for job in settled] == [JobStatus.PLANNED, JobStatus.PLANNED]
    assert (await jobs.ledger.totals()).held == 100


async def test_a_job_is_planned_only_when_none_of_its_creates_is_in_doubt_any_more() -> None:
    jobs = Jobs()
    desk = Desk(jobs.ledger)
    job = await jobs.add("a", CLAIM, ERROR_500, Retried(pay_again=True), CLAIM, NO_ANSWER)
    (after,) = await desk.settle([job.id], not_taken=True)
    assert (after.status, after.doubts) == (JobStatus.FAULTED, 1), "the first may be charged"
    (after,) = await desk.settle([job.id], not_taken=True)
    assert (after.status, after.doubts) == (JobStatus.PLANNED, 0)


async def test_a_job_that_is_being_submitted_cannot_be_settled(jobs: Jobs, desk: Desk) -> None:
    job = await jobs.add("a", CLAIM)
    error = await refused(desk.settle([job.id], not_taken=True), Refusal.NOTHING_TO_SETTLE)
    assert "another process is submitting it" in str(error)


async def test_a_task_is_checked_before_it_is_recorded(jobs: Jobs) -> None:
    job = await jobs.add("A boat", CLAIM, NO_ANSWER)
    owner = await jobs.add("Another boat", CLAIM, Taken("t1"))
    now = datetime.fromtimestamp(jobs.clock, UTC)
    finished: dict[str, Any] = {
        "model": "sora-2",
        "created_at": now,
        "completed_at": now,
        "urls": (),
    }
    client = FakeClient(
        {
            "wrong": CompletedTask(id="wrong", metadata={"prompt": "A kite"}, **finished),
            "right": ProcessingTask(id="right", model="sora-2", created_at=now),
        }
    )
    desk = Desk(jobs.ledger, client=client)
    for task_id, reason, words in (
        ("t1", Refusal.TASK_OF_ANOTHER_JOB, f"belongs to job {owner.id}"),
        ("nobody", Refusal.NO_SUCH_TASK, "no task nobody"),
        ("wrong", Refusal.TASK_DOES_NOT_MATCH, "prompt"),
    ):
        error = await refused(desk.settle([job.id], task_id=task_id), reason)
        assert words in str(error)
        assert await jobs.status(job) is JobStatus.UNKNOWN
    (settled,) = await desk.settle([job.id], task_id="right")
    assert (settled.status, settled.task_id) == (JobStatus.RUNNING, "right")


async def test_without_a_client_a_task_is_recorded_only_unchecked(jobs: Jobs, desk: Desk) -> None:
    job = await jobs.add("a", CLAIM, NO_ANSWER)
    with pytest.raises(ConfigurationError, match="client"):
        await desk.settle([job.id], task_id="t1")
    assert await jobs.status(job) is JobStatus.UNKNOWN
    await desk.settle([job.id], task_id="t1", check=False)
    assert await jobs.status(job) is JobStatus.RUNNING


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        (["a"], {}, "task_id=… or not_taken=True"),
        (["a"], {"task_id": "t", "not_taken": True}, "task_id=… or not_taken=True"),
        (["a", "b"], {"task_id": "t"}, "several only with not_taken"),
        ([], {"not_taken": True}, "names must hold one job"),
        ("abc", {"not_taken": True}, "not one str"),
    ],
)
async def test_settle_refuses_arguments_that_do_not_go_together(
    desk: Desk, names: list[str], arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await desk.settle(names, **arguments)  # type: ignore[arg-type]


async def test_what_an_outage_left_is_settled_at_once(jobs: Jobs, desk: Desk) -> None:
    before = await jobs.add("a", CLAIM, ERROR_500)
    start = when(jobs.clock + 1)
    faulted = await jobs.add("b", CLAIM, ERROR_500)
    twice = await jobs.add("c", CLAIM, ERROR_500, Retried(True), CLAIM, ERROR_500)
    unknown = await jobs.add("d", CLAIM, NO_ANSWER)
    elsewhere = await jobs.add("e", CLAIM, ERROR_500, batch="day")
    await jobs.add("f", CLAIM, Taken("t1"))
    end = when(jobs.clock)
    after = await jobs.add("g", CLAIM, ERROR_500)
    found = await desk.faulted(start, end, batch="night")
    assert [job.id for job in found.records] == [faulted.id, twice.id]
    assert (found.credits, found.unpriced, found.unknown) == (Decimal(300), 0, 1)
    assert await jobs.status(faulted) is JobStatus.FAULTED, "nothing is changed by looking"
    settled = await desk.settle_all(found)
    assert {job.id: job.status for job in settled} == dict.fromkeys(
        (faulted.id, twice.id), JobStatus.PLANNED
    )
    assert (await jobs.ledger.totals(batch="night")).unknown == 300, "before, unknown and after"
    assert await jobs.status(unknown) is JobStatus.UNKNOWN
    for job in (before, elsewhere, after):
        assert await jobs.status(job) is JobStatus.FAULTED
    assert len((await desk.faulted(when(0), when(2e9))).records) == 3, "of all batches"


async def test_an_interval_has_the_seconds_of_both_its_ends(jobs: Jobs, desk: Desk) -> None:
    job = await jobs.add("a", CLAIM, ERROR_500)
    sent = when(jobs.clock)
    local = datetime.fromtimestamp(jobs.clock)  # noqa: DTZ006  local time, as a person writes it
    for start, end in ((sent, sent), (local, local)):
        assert [each.id for each in (await desk.faulted(start, end)).records] == [job.id]
    assert (await desk.faulted(when(jobs.clock + 1), when(jobs.clock + 2))).records == ()
    assert (await desk.faulted(when(jobs.clock - 2), when(jobs.clock - 1))).records == ()


async def test_a_create_that_was_settled_meanwhile_is_left_alone(jobs: Jobs, desk: Desk) -> None:
    taken = await jobs.add("a", CLAIM, ERROR_500)
    again = await jobs.add("b", CLAIM, ERROR_500)
    found = await desk.faulted(when(0), when(2e9))
    await jobs.ledger.record(taken.id, Taken("t1"))
    for event in (Retried(True), CLAIM, ERROR_500):
        if isinstance(event, str):
            await jobs.ledger.claim(again.id, lease=90)
        else:
            await jobs.ledger.record(again.id, event)
    assert [job.id for job in await desk.settle_all(found)] == [again.id]
    assert await jobs.status(taken) is JobStatus.RUNNING
    assert await jobs.status(again) is JobStatus.FAULTED, "its later create is still in doubt"


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [("2026-01-31", None, "start='2026-01-31': must be a datetime"), (2.0, 1.0, "is before start")],
)
async def test_an_interval_that_is_none_is_refused(
    desk: Desk, start: Any, end: Any, words: str
) -> None:
    moments = [when(each) if isinstance(each, float) else each for each in (start, end)]
    with pytest.raises(ConfigurationError, match=words):
        await desk.faulted(*moments)


# --- retry ----------------------------------------------------------------------------------------


async def test_retry_marks_failed_and_refused_jobs_of_one_batch(jobs: Jobs, desk: Desk) -> None:
    failed = await jobs.add("a", CLAIM, Taken("t1"), TASK_FAILED)
    refused_job = await jobs.add("b", CLAIM, REFUSAL)
    elsewhere = await jobs.add("c", CLAIM, REFUSAL, batch="day")
    unknown = await jobs.add("d", CLAIM, NO_ANSWER)
    retry = await desk.retry(all_failed=True, batch="night")
    assert [job.id for job in retry.records] == [failed.id, refused_job.id]
    assert {job.status for job in retry.records} == {JobStatus.PLANNED}
    assert (retry.credits, retry.at_risk, retry.unpriced) == (Decimal(200), Decimal(0), 0)
    assert await jobs.status(elsewhere) is JobStatus.REFUSED
    assert await jobs.status(unknown) is JobStatus.UNKNOWN


async def test_a_job_that_may_be_charged_is_retried_only_with_pay_again(
    jobs: Jobs, desk: Desk
) -> None:
    failed = await jobs.add("a", CLAIM, Taken("t1"), TASK_FAILED)
    unknown = await jobs.add("b", CLAIM, NO_ANSWER)
    error = await refused(desk.retry([failed.id, unknown.id]), Refusal.MAY_PAY_AGAIN)
    assert "pay_again=True" in str(error)
    assert await jobs.status(failed) is JobStatus.FAILED, "no job is changed"
    retry = await desk.retry([failed.id, unknown.id], pay_again=True)
    assert (retry.credits, retry.at_risk) == (Decimal(200), Decimal(100))
    assert (await jobs.ledger.totals()).unknown == 100, "it still counts towards a ceiling"


async def test_all_failed_jobs_include_those_in_doubt_only_with_pay_again(
    jobs: Jobs, desk: Desk
) -> None:
    failed = await jobs.add("a", CLAIM, Taken("t1"), TASK_FAILED)
    unknown = await jobs.add("b", CLAIM, NO_ANSWER)
    faulted = await jobs.add("c", CLAIM, ERROR_500)
    await jobs.add("d", CLAIM, ERROR_500, batch="day")
    await jobs.add("e", CLAIM, Taken("t2"), *SAVED)
    before = [await jobs.status(job) for job in (failed, unknown, faulted)]
    found = await desk.preview_retry(all_failed=True, batch="night", pay_again=True)
    assert [job.id for job in found.records] == [failed.id, unknown.id, faulted.id]
    assert [found.credits, found.at_risk, found.paid_before] == [300, 200, 0]
    assert [await jobs.status(job) for job in (failed, unknown, faulted)] == before
    without = await desk.preview_retry(all_failed=True, batch="night")
    assert [job.id for job in without.records] == [failed.id]
    retry = await desk.retry(all_failed=True, batch="night", pay_again=True)
    assert {job.id: job.status for job in retry.records} == dict.fromkeys(
        (failed.id, unknown.id, faulted.id), JobStatus.PLANNED
    )
    assert await jobs.ledger.totals() == CreditTotals(charged=100, unknown=300, refunded=100)


@pytest.mark.parametrize(
    "events", [(Taken("t1"),), (Taken("t1"), Completed(1.0, 2.0)), (Taken("t1"), *SAVED)]
)
async def test_a_job_that_was_taken_is_bought_again_only_with_pay_again(
    jobs: Jobs, desk: Desk, events: tuple[Event, ...]
) -> None:
    job = await jobs.add("a", CLAIM, *events)
    error = await refused(desk.retry([job.id]), Refusal.PAID_ALREADY)
    assert "pay_again=True" in str(error)
    retry = await desk.retry([job.id], pay_again=True)
    assert [each.status for each in retry.records] == [JobStatus.PLANNED]
    assert [retry.credits, retry.at_risk, retry.paid_before] == [100, 0, 100]
    again = await desk.retry([job.id], pay_again=True)
    assert [each.status for each in again.records] == [JobStatus.PLANNED], "twice is no error"


@pytest.mark.parametrize("pay_again", [False, True])
async def test_a_job_that_is_being_sent_or_was_withdrawn_is_never_retried(
    jobs: Jobs, desk: Desk, pay_again: bool
) -> None:
    sent = await jobs.add("a", CLAIM)
    withdrawn = await jobs.add("b", Withdrawn())
    for job in (sent, withdrawn):
        await refused(desk.retry([job.id], pay_again=pay_again), Refusal.NOT_RETRYABLE)


async def test_a_job_that_has_changed_since_it_was_shown_is_not_marked(
    jobs: Jobs, desk: Desk
) -> None:
    unknown = await jobs.add("a", CLAIM, NO_ANSWER)
    other = await jobs.add("b", CLAIM, NO_ANSWER)
    found = await desk.preview_retry([unknown.id, other.id], pay_again=True)
    await jobs.ledger.record(unknown.id, Taken("t1"))  # a callback has settled it
    marked = await desk.mark(found, pay_again=True)
    assert [job.id for job in marked.records] == [other.id]
    assert await jobs.status(unknown) is JobStatus.RUNNING


@pytest.mark.parametrize(
    ("names", "arguments", "words"),
    [
        ([], {}, "names=… or all_failed=True"),
        (["a"], {"all_failed": True}, "names=… or all_failed=True"),
        (["a"], {"batch": "night"}, "batch=… needs all_failed=True"),
    ],
)
async def test_retry_refuses_arguments_that_do_not_go_together(
    desk: Desk, names: list[str], arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        await desk.retry(names, **arguments)  # type: ignore[arg-type]


# --- cancel ---------------------------------------------------------------------------------------


async def test_cancel_withdraws_planned_jobs_and_leaves_sent_ones_alone(
    jobs: Jobs, desk: Desk
) -> None:
    planned = await jobs.add("a")
    running = await jobs.add("b", CLAIM, Taken("t1"))
    again = await jobs.add("c", CLAIM, Taken("t2"), TASK_FAILED, Retried())
    done = await desk.cancel([planned.id, running.id, again.id])
    assert [job.id for job in done.withdrawn] == [planned.id, again.id]
    assert [job.id for job in done.too_late] == [running.id]
    assert await jobs.status(planned) is JobStatus.WITHDRAWN
    assert await jobs.status(again) is JobStatus.FAILED, "as before it was retried"
    assert await jobs.status(running) is JobStatus.RUNNING
    assert await jobs.ledger.claim(planned.id, lease=90) is None, "it cannot be sent"
    assert (await jobs.ledger.totals()).held == 100
    repeated = await desk.cancel([planned.id])
    assert [job.id for job in repeated.withdrawn] == [planned.id], "cancelling twice is no error"


async def test_cancel_of_a_batch_counts_sent_jobs_that_have_not_ended(
    jobs: Jobs, desk: Desk
) -> None:
    planned = await jobs.add("a")
    elsewhere = await jobs.add("b", batch="day")
    await jobs.add("c", CLAIM, Taken("t1"), *SAVED)
    await jobs.add("d", CLAIM, REFUSAL)
    running = await jobs.add("e", CLAIM, Taken("t2"))
    unknown = await jobs.add("f", CLAIM, NO_ANSWER)
    done = await desk.cancel(batch="night")
    assert [job.id for job in done.withdrawn] == [planned.id]
    assert {job.id for job in done.too_late} == {running.id, unknown.id}
    assert await jobs.status(elsewhere) is JobStatus.PLANNED


async def test_a_job_that_is_claimed_meanwhile_is_too_late_to_cancel(jobs: Jobs) -> None:
    class Racing(MemoryLedger):
        async def find(self, job_id: str) -> JobRecord | None:
            found = await super().find(job_id)
            await self.claim(job_id, lease=90)  # as if by another process
            return found

    jobs.ledger = Racing(now=lambda: jobs.clock)
    job = await jobs.add("a")
    done = await Desk(jobs.ledger).cancel([job.id])
    assert done.withdrawn == ()
    assert [each.status for each in done.too_late] == [JobStatus.SUBMITTING]


@pytest.mark.parametrize(("names", "batch"), [([], None), (["a"], "night")])
async def test_cancel_needs_either_names_or_a_batch(
    desk: Desk, names: list[str], batch: str | None
) -> None:
    with pytest.raises(ConfigurationError, match=r"names=… or batch=…"):
        await desk.cancel(names, batch=batch)


async def test_cancel_of_an_unknown_name_withdraws_nothing(jobs: Jobs, desk: Desk) -> None:
    planned = await jobs.add("a")
    await refused(desk.cancel([planned.id, "x"]), Refusal.NO_SUCH_JOB)
    assert await jobs.status(planned) is JobStatus.PLANNED


# --- audit ----------------------------------------------------------------------------------------


async def test_an_audit_reads_and_stores_the_counter_when_it_has_a_client(jobs: Jobs) -> None:
    await jobs.reading(1000)
    job = await jobs.add("a", CLAIM, NO_ANSWER)
    jobs.clock += SETTLING_TIME
    audit = await Desk(jobs.ledger, client=FakeClient(consumed=1000)).audit()
    assert audit.finding.conclusion == "none charged"
    assert [each.id for each in audit.in_doubt] == [job.id]
    assert audit.error is None
    assert len(await jobs.ledger.readings()) == 2


async def test_an_audit_compares_stored_readings_when_the_service_cannot_be_reached(
    jobs: Jobs,
) -> None:
    await jobs.reading(1000)
    await jobs.add("a", CLAIM, NO_ANSWER)
    jobs.clock += SETTLING_TIME
    await jobs.reading(1100)
    audit = await Desk(jobs.ledger, client=FakeClient()).audit()
    assert isinstance(audit.error, APIConnectionError)
    assert audit.finding.conclusion == "all charged"
    assert (await Desk(jobs.ledger).audit()).error is None


async def test_an_audit_finds_unknown_creates_of_jobs_that_are_running_now(jobs: Jobs) -> None:
    await jobs.reading(0)
    job = await jobs.add("a", CLAIM, NO_ANSWER, Retried(True), CLAIM, Taken("t1"), *SAVED)
    jobs.clock += SETTLING_TIME
    await jobs.reading(100)
    audit = await Desk(jobs.ledger).audit()
    assert [each.id for each in audit.in_doubt] == [job.id]
    assert audit.finding.conclusion == "none charged"


async def test_an_audit_needs_two_readings(jobs: Jobs, desk: Desk) -> None:
    await jobs.reading(0)
    error = await refused(desk.audit(), Refusal.TOO_FEW_READINGS)
    assert "1 is stored" in str(error)


async def test_a_reading_that_a_session_has_stored_is_not_stored_twice(jobs: Jobs) -> None:
    class Storing(FakeClient):
        async def credits(self) -> Credits:
            balance = await super().credits()
            await jobs.ledger.note_credits(balance)
            return balance

    await jobs.reading(0)
    await Desk(jobs.ledger, client=Storing(consumed=0)).audit()
    assert len(await jobs.ledger.readings()) == 2


# --- errors ---------------------------------------------------------------------------------------


async def test_a_refusal_can_be_pickled(desk: Desk) -> None:
    error = await refused(desk.show("x"), Refusal.NO_SUCH_JOB)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.refusal, again.cure) == (str(error), error.refusal, error.cure)


async def test_a_ledger_that_fails_while_it_is_written_raises_its_own_error() -> None:
    class Broken(MemoryLedger):
        async def lapse(self) -> list[JobRecord]:
            raise LedgerError("the disk is full")

        def jobs(self, **_: object) -> AsyncIterator[JobRecord]:
            raise LedgerError("the disk is full")

    for operation in (Desk(Broken()).settle(["x"], not_taken=True), Desk(Broken()).list()):
        with pytest.raises(LedgerError, match="disk is full"):
            await operation
