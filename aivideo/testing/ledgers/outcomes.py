"""Checks of record(): events, contradictions, withdrawal, tasks and attempts."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from aivideo.errors import BudgetExceededError, ContradictionError, LedgerError
from aivideo.ledger import transitions
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
    Withdrawn,
)
from aivideo.ledger.records import JobStatus
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Generation
from aivideo.testing.ledgers.bench import LEASE, PAY_TWICE, WHY, Bench, Check, refused


async def _every_outcome_is_recorded(bench: Bench) -> None:
    table: tuple[tuple[Event, JobStatus, CreditTotals], ...] = (
        (Taken("{}"), JobStatus.RUNNING, CreditTotals(charged=100)),
        (Released(), JobStatus.PLANNED, CreditTotals()),
        (Refused(WHY), JobStatus.REFUSED, CreditTotals()),
        (Faulted(WHY), JobStatus.FAULTED, CreditTotals(unknown=100)),
        (Doubted(WHY), JobStatus.UNKNOWN, CreditTotals(unknown=100)),
    )
    for event, status, totals in table:
        name = type(event).__name__
        for handle in bench.handles:
            batch = bench.batch()
            if isinstance(event, Taken):
                event = Taken(f"t-{batch}")  # noqa: PLW2901  a task is one attempt's
            job = await bench.after(batch=batch)
            promise = f"record({name}) is kept, whichever handle records it"
            returned = await handle.record(job.id, event, attempt=1)
            found = await bench.expect(job, status, promise)
            assert found == returned, f"{promise}: it returns what the job is now"
            expected = transitions.apply(job, event)
            assert found == expected, f"{promise}: {expected!r} was read as {found!r}"
            kept = await bench.two.totals(batch=batch)
            assert kept == totals, f"{promise}: its credits count as {kept!r}"
    job = await bench.after(Taken(f"t-{bench.batch()}"))
    promise = "the end of a task is kept with its times, and a file with its path and size"
    await bench.one.record(job.id, Completed(1_700_000_000.0, 1_700_000_100.5))
    saved = await bench.two.record(job.id, Saved("a folder/ü.mp4", 2**40))
    found = await bench.expect(job, JobStatus.SAVED, promise)
    assert found == saved, promise
    assert (found.path, found.size) == ("a folder/ü.mp4", 2**40), promise
    ended = found.attempts[0]
    assert (ended.created_at, ended.completed_at) == (1_700_000_000.0, 1_700_000_100.5), promise


async def _a_contradiction_is_refused_and_changes_nothing(bench: Bench) -> None:
    batch = bench.batch()
    running = await bench.after(Taken(f"t-{batch}"), batch=batch)
    spent = await bench.one.totals(batch=batch)
    promise = "an event that was recorded already changes nothing"
    assert await bench.two.record(running.id, Taken(f"t-{batch}")) == running, promise
    assert await bench.one.totals(batch=batch) == spent, f"{promise}, and moves no credits"
    contradictions: list[Event] = [
        Taken(f"t2-{batch}"),
        Released(),
        Refused(WHY),
        Retried(),
        Saved("too-soon.mp4"),
        Claimed(),
        Withdrawn(),
    ]
    for event in contradictions:
        promise = f"record({type(event).__name__}) of a running job is refused"
        for handle in bench.handles:
            await refused(handle.record(running.id, event), ContradictionError, promise)
        assert await bench.two.find(running.id) == running, f"{promise}, and changes nothing"
    assert await bench.one.totals(batch=batch) == spent, "a refused event moves no credits"
    nobody = bench.one.record("no-such-job", Released())
    await refused(nobody, LedgerError, "record() for a missing job is an error")
    no_attempt = bench.one.record(running.id, Released(), attempt=7)
    await refused(no_attempt, LedgerError, "record() for a missing attempt is an error")
    # One refusal among many calls at once must not affect the others.
    others = [await bench.after() for _ in range(4)]
    calls = [bench.one.record(job.id, Released()) for job in others]
    calls.insert(2, bench.one.record(running.id, Released()))
    ends = await asyncio.gather(*calls, return_exceptions=True)
    promise = "only the contradicting event is refused, not those recorded at the same time"
    assert [isinstance(end, LedgerError) for end in ends] == [False, False, True, False, False], (
        f"{promise}: {ends!r}"
    )


async def _only_planned_jobs_can_be_withdrawn(bench: Bench) -> None:
    batch = bench.batch()
    promise = "record(Withdrawn) of a planned job is final, and costs nothing"
    (job,) = await bench.planned(batch, 1)
    withdrawn = await bench.two.record(job.id, Withdrawn())
    assert withdrawn == await bench.expect(job, JobStatus.WITHDRAWN, promise), promise
    assert await bench.one.totals(batch=batch) == CreditTotals(), promise
    for handle in bench.handles:
        assert await handle.claim(job.id, lease=LEASE) is None, f"{promise}: it was claimed"
    for event in (Withdrawn(), Retried(), PAY_TWICE):
        promise = f"record({type(event).__name__}) of a withdrawn job is refused"
        await refused(bench.one.record(job.id, event), ContradictionError, promise)
    promise = "a claim and a withdrawal at once: one of them wins"
    for job in await bench.planned(batch, 10):
        claimed, taken_back = await asyncio.gather(
            bench.one.claim(job.id, lease=LEASE),
            bench.two.record(job.id, Withdrawn()),
            return_exceptions=True,
        )
        lost = isinstance(taken_back, ContradictionError)
        assert lost != (claimed is None), f"{promise}: {claimed!r} and {taken_back!r}"
        await bench.expect(job, JobStatus.SUBMITTING if lost else JobStatus.WITHDRAWN, promise)


async def _a_withdrawn_retry_has_the_status_it_had_before(bench: Bench) -> None:
    promise = "withdrawing a retry leaves what is known of the job's earlier POSTs"
    batch = bench.batch()
    failed = await bench.after(Taken(f"t-{batch}"), Failed(WHY), Retried(), Withdrawn())
    await bench.expect(failed, JobStatus.FAILED, promise)
    doubtful = await bench.after(Doubted(WHY), PAY_TWICE, Withdrawn(), batch=batch)
    await bench.expect(doubtful, JobStatus.UNKNOWN, promise)
    assert await bench.two.totals(batch=batch) == CreditTotals(unknown=100), promise
    promise = "a late success is recorded, also after a withdrawal"
    released = await bench.after(Released(), Withdrawn(), batch=batch)
    await bench.expect(released, JobStatus.WITHDRAWN, promise)
    await bench.two.record(released.id, Taken(f"t2-{batch}"), attempt=1)
    await bench.expect(released, JobStatus.RUNNING, promise)
    assert await bench.one.totals(batch=batch) == CreditTotals(charged=100, unknown=100), promise


async def _a_task_belongs_to_one_attempt(bench: Bench) -> None:
    batch = bench.batch()
    job = await bench.after(Taken(f"t-{batch}"), batch=batch)
    other = await bench.after(batch=batch)
    promise = "a task belongs to one job"
    for handle in bench.handles:
        taken = handle.record(other.id, Taken(f"t-{batch}"))
        await refused(taken, ContradictionError, promise)
    assert await bench.one.find_task(f"t-{batch}") == job, promise
    await bench.expect(other, JobStatus.SUBMITTING, f"{promise}, and the other job is unchanged")
    promise = "a task belongs to one attempt of its job"
    batch = bench.batch()
    job = await bench.after(Doubted(WHY), PAY_TWICE, batch=batch)
    await bench.one.claim(job.id, lease=LEASE)
    job = await bench.one.record(job.id, Taken(f"t-{batch}"))
    twice = bench.two.record(job.id, Taken(f"t-{batch}"), attempt=1)
    await refused(twice, ContradictionError, promise)
    assert await bench.one.find(job.id) == job, f"{promise}, and a refusal changes nothing"


async def _each_attempt_is_kept(bench: Bench) -> None:
    batch = bench.batch()
    failed = (Taken(f"t1-{batch}"), Failed(WHY, 5.0), Retried())
    job = await bench.after(*failed, batch=batch)
    again = await bench.two.claim(job.id, lease=LEASE)
    promise = "a retry is a new attempt, beside the old one"
    assert again is not None, promise
    await bench.two.record(job.id, Taken(f"t2-{batch}"))
    found = await bench.expect(job, JobStatus.RUNNING, promise)
    tasks = [(each.number, each.task_id) for each in found.attempts]
    assert tasks == [(1, f"t1-{batch}"), (2, f"t2-{batch}")], f"{promise}: {tasks!r}"
    assert (found.attempts[0].reason, found.attempts[0].created_at) == (WHY, 5.0), promise
    kept = await bench.one.totals(batch=batch)
    assert kept == CreditTotals(charged=100, refunded=100), f"{promise}: credits are {kept!r}"
    for number in (1, 2):
        known = await bench.two.find_task(f"t{number}-{batch}")
        assert known == found, "a job is found by the task of each of its attempts"
    promise = "a late success of an older attempt is kept, and counted too"
    batch = bench.batch()
    job = await bench.after(Doubted(WHY), PAY_TWICE, batch=batch)
    await bench.one.claim(job.id, lease=LEASE)
    await bench.one.record(job.id, Taken(f"t2-{batch}"), attempt=2)
    both = await bench.two.record(job.id, Taken(f"t1-{batch}"), attempt=1)
    assert [each.task_id for each in both.attempts] == [f"t1-{batch}", f"t2-{batch}"], promise
    kept = await bench.one.totals(batch=batch)
    assert kept == CreditTotals(charged=200), f"{promise}: credits are {kept!r}"
    assert await bench.one.find_task(f"t1-{batch}") == both, promise


async def _a_job_that_was_taken_is_paid_again_only_by_who_has_seen_it(bench: Bench) -> None:
    histories: tuple[tuple[Event, ...], ...] = ((), (Completed(),), (Completed(), Saved("x.mp4")))
    for events in histories:
        batch = bench.batch()
        await bench.one.set_ceiling(batch, Decimal(200))
        job = await bench.after(Taken(f"t1-{batch}"), *events, batch=batch)
        promise = f"a job that is {job.status} is sent again only by who pays again and has seen it"
        seen = Retried.of(job, pay_again=True)
        changed = Retried(pay_again=True, seen=(job.status, job.latest + 1))
        for event in (Retried(), PAY_TWICE, Retried.of(job, pay_again=False), changed):
            await refused(bench.two.record(job.id, event), ContradictionError, promise)
        assert await bench.one.find(job.id) == job, f"{promise}, and a refusal changes nothing"
        await bench.two.record(job.id, seen)
        found = await bench.expect(job, JobStatus.PLANNED, promise)
        assert found == transitions.apply(job, seen), f"{promise}: it was read as {found!r}"
        claimed = await bench.one.claim(job.id, lease=LEASE)
        assert claimed is not None, f"{promise}: then it can be claimed"
        promise = f"{promise}; then its new attempt decides its status, and both are counted"
        found = await bench.expect(job, JobStatus.SUBMITTING, promise)
        assert found == claimed, f"{promise}: {claimed!r} was read as {found!r}"
        await bench.two.record(job.id, Released())
        await bench.expect(job, JobStatus.PLANNED, promise)
        await bench.one.claim(job.id, lease=LEASE)
        await bench.two.record(job.id, Taken(f"t2-{batch}"))
        found = await bench.expect(job, JobStatus.RUNNING, promise)
        assert found.task_id == f"t2-{batch}", promise
        for handle in bench.handles:
            assert await handle.find_task(f"t1-{batch}") == found, promise
        assert await bench.one.totals(batch=batch) == CreditTotals(charged=200), promise
        await bench.one.record(job.id, Completed())
        found = await bench.expect(job, JobStatus.COMPLETED, promise)
        assert found.path is None, f"{promise}: the earlier file is not that of the new task"
        await bench.two.record(job.id, Retried.of(found, pay_again=True))
        over = bench.one.claim(job.id, lease=LEASE)
        await refused(over, BudgetExceededError, "to pay again counts towards the ceiling")


async def _an_earlier_task_may_complete_after_the_job_was_paid_again(bench: Bench) -> None:
    promise = "a task that completes while its job waits to be paid again ends the waiting"
    batch = bench.batch()
    job = await bench.after(Taken(f"t1-{batch}"), batch=batch)
    await bench.two.record(job.id, Retried.of(job, pay_again=True))
    await bench.one.record(job.id, Completed(1.0, 2.0), attempt=1)
    await bench.expect(job, JobStatus.COMPLETED, promise)
    assert await bench.two.claim(job.id, lease=LEASE) is None, promise
    promise = "an earlier task that completes late is the job's result"
    batch = bench.batch()
    job = await bench.after(Taken(f"t1-{batch}"), batch=batch)
    await bench.two.record(job.id, Retried.of(job, pay_again=True))
    await bench.two.claim(job.id, lease=LEASE)
    await bench.two.record(job.id, Taken(f"t2-{batch}"))
    late = await bench.one.record(job.id, Completed(1.0, 2.0), attempt=1)
    found = await bench.expect(job, JobStatus.COMPLETED, promise)
    assert found == late, f"{promise}: {late!r} was read as {found!r}"
    assert found.task_id == f"t1-{batch}", promise


async def _each_attempt_counts_with_its_reserved_amount(bench: Bench) -> None:
    promise = "each attempt counts with the amount that was reserved when it was claimed"
    batch = bench.batch()
    requests = [
        Generation("nobody-knows-1", {"prompt": "boat"}, credits=price) for price in (70, 90)
    ]
    job = await bench.one.plan(bench.job(batch=batch, key="k", request=requests[0]))
    await bench.one.claim(job.id, lease=LEASE)
    await bench.one.record(job.id, Released())
    await bench.one.plan(bench.job(batch=batch, key="k", request=requests[1]))
    claimed = await bench.one.claim(job.id, lease=LEASE)
    assert claimed is not None, promise
    assert [attempt.credits for attempt in claimed.attempts] == [70, 90], promise
    assert await bench.two.totals(batch=batch) == CreditTotals(reserved=90), promise
    await bench.two.record(job.id, Taken(f"t-{batch}"), attempt=1)
    assert await bench.one.totals(batch=batch) == CreditTotals(charged=70, reserved=90), promise
    await bench.one.record(job.id, Released(), attempt=2)
    assert await bench.two.totals(batch=batch) == CreditTotals(charged=70), promise
    await bench.one.record(job.id, Failed(WHY), attempt=1)
    assert await bench.two.totals(batch=batch) == CreditTotals(refunded=70), promise


async def _only_a_permitted_claim_repeats_a_faulted_create(bench: Bench) -> None:
    promise = "a faulted job is claimed only with retry_faulted=True"
    job = await bench.one.plan(bench.priced("30.5", batch=bench.batch()))
    assert await bench.one.claim(job.id, lease=LEASE), "claim() of a planned job wins it"
    await bench.one.record(job.id, Faulted(WHY))
    assert await bench.one.claim(job.id, lease=LEASE) is None, promise
    claimed = await bench.one.claim(job.id, lease=LEASE, retry_faulted=True)
    assert claimed is not None, promise
    assert claimed.status is JobStatus.SUBMITTING, promise
    assert [each.number for each in claimed.attempts] == [1, 2], f"{promise}, as a new attempt"
    assert await bench.two.claim(job.id, lease=LEASE, retry_faulted=True) is None, promise
    released = await bench.one.record(job.id, Released(again=False))
    promise = "after Released(again=False) the job is faulted, and does not wait to be sent"
    assert (released.status, released.waiting) == (JobStatus.FAULTED, False), promise
    unknown = await bench.one.plan(bench.priced("30.5", batch=bench.batch()))
    assert await bench.one.claim(unknown.id, lease=LEASE), "claim() of a planned job wins it"
    await bench.one.record(unknown.id, Doubted(WHY))
    promise = "an unknown job is never claimed"
    assert await bench.one.claim(unknown.id, lease=LEASE, retry_faulted=True) is None, promise


CHECKS: tuple[Check, ...] = (
    _every_outcome_is_recorded,
    _a_contradiction_is_refused_and_changes_nothing,
    _only_planned_jobs_can_be_withdrawn,
    _a_withdrawn_retry_has_the_status_it_had_before,
    _a_task_belongs_to_one_attempt,
    _each_attempt_is_kept,
    _a_job_that_was_taken_is_paid_again_only_by_who_has_seen_it,
    _an_earlier_task_may_complete_after_the_job_was_paid_again,
    _each_attempt_counts_with_its_reserved_amount,
    _only_a_permitted_claim_repeats_a_faulted_create,
)
