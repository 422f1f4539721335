"""Checks of claim() and lapse()."""

from __future__ import annotations

import asyncio

from aivideo.errors import LedgerError
from aivideo.ledger.events import (
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Released,
    Retried,
    Taken,
    Withdrawn,
)
from aivideo.ledger.records import JobStatus
from aivideo.ledger.totals import CreditTotals
from aivideo.testing.ledgers.bench import (
    LEASE,
    PAY_TWICE,
    WHY,
    Bench,
    Check,
    names_of,
    of_batch,
    refused,
)


async def _a_claim_is_an_attempt_with_owner_lease_and_amount(bench: Bench) -> None:
    job = await bench.one.plan(bench.priced("30.5", batch=bench.batch()))
    claimed = await bench.one.claim(job.id, lease=LEASE)
    assert claimed is not None, "claim() of a planned job wins it"
    promise = "a claim is a new attempt"
    assert (claimed.status, claimed.waiting) == (JobStatus.SUBMITTING, False), promise
    assert [each.number for each in claimed.attempts] == [1], promise
    (attempt,) = claimed.attempts
    assert attempt.owner, f"{promise}: it must name its owner"
    assert attempt.sent_at == bench.clock(), f"{promise}: sent_at is the time of the claim"
    assert attempt.lease_until == bench.clock() + LEASE, f"{promise}: lease_until is lease later"
    assert attempt.credits == job.credits, f"{promise}: it reserves the job's price"
    assert await bench.two.find(job.id) == claimed, f"{promise}, for every handle"
    for handle in bench.handles:
        promise = "claim() of a job that is not planned returns None"
        assert await handle.claim(job.id, lease=LEASE) is None, promise
    await refused(
        bench.one.claim("no-such-job", lease=LEASE),
        LedgerError,
        "claim() of a missing job is an error",
    )
    other = await bench.planned(bench.batch(), 1)
    theirs = await bench.two.claim(other[0].id, lease=LEASE)
    assert theirs is not None, "claim() of a planned job wins it"
    assert theirs.attempts[0].owner != attempt.owner, "each handle has its own owner name"


async def _a_claim_is_won_once(bench: Bench) -> None:
    jobs = await bench.planned(bench.batch(), 40)
    won = await asyncio.gather(
        *(
            handle.claim(job.id, lease=LEASE)
            for job in jobs
            for handle in (*bench.handles, *bench.handles)
        )
    )
    winners = [record.id for record in won if record is not None]
    promise = "claim() is a compare-and-set: of many callers at once one gets the job"
    assert sorted(winners) == sorted(job.id for job in jobs), (
        f"{promise}: {len(jobs)} jobs were won {len(winners)} times"
    )


async def _only_planned_jobs_can_be_claimed(bench: Bench) -> None:
    batch = bench.batch()
    cases: tuple[tuple[tuple[Event, ...], bool], ...] = (
        ((Released(),), True),
        ((Refused(WHY),), False),
        ((Doubted(WHY),), False),
        ((Faulted(WHY),), False),
        ((Taken(f"t-{batch}-1"),), False),
        ((Taken(f"t-{batch}-2"), Completed()), False),
        ((Taken(f"t-{batch}-3"), Failed(WHY)), False),
        ((Taken(f"t-{batch}-4"), Failed(WHY), Retried()), True),
        ((Doubted(WHY), PAY_TWICE), True),
        ((Released(), Withdrawn()), False),
        ((Doubted(WHY), PAY_TWICE, Withdrawn()), False),
    )
    for events, again in cases:
        job = await bench.after(*events)
        claimed = await bench.two.claim(job.id, lease=LEASE)
        names = names_of(events)
        if again:
            assert claimed is not None, f"after {names} a job can be claimed again"
            assert claimed.latest == 2, f"after {names} a claim is a second attempt"
        else:
            assert claimed is None, f"after {names} nobody may claim it: it may be paid twice"


async def _an_expired_claim_becomes_unknown_and_never_planned(bench: Bench) -> None:
    batch = bench.batch()
    short, long, running = await bench.planned(batch, 3)
    await bench.one.claim(short.id, lease=10.0)
    await bench.one.claim(long.id, lease=1000.0)
    await bench.one.claim(running.id, lease=10.0)
    await bench.one.record(running.id, Taken(f"t-{batch}"))
    for handle in bench.handles:
        promise = "lapse() leaves live claims alone"
        assert not of_batch(batch, await handle.lapse()), promise
        await bench.expect(short, JobStatus.SUBMITTING, promise)
    bench.clock.seconds += 11.0
    promise = "lapse() is for claims of others: an owner may still record its answer"
    assert not of_batch(batch, await bench.one.lapse()), promise
    await bench.expect(short, JobStatus.SUBMITTING, promise)
    promise = "lapse() finds a claim whose lease has expired, and returns its job"
    lapsed = of_batch(batch, await bench.two.lapse())
    assert [job.id for job in lapsed] == [short.id], f"{promise}: {lapsed!r}"
    promise = "a lapsed claim becomes unknown, never planned"
    assert lapsed[0] == await bench.expect(short, JobStatus.UNKNOWN, promise), promise
    for handle in bench.handles:
        assert await handle.claim(short.id, lease=LEASE) is None, f"{promise}: it was claimed again"
    await bench.expect(long, JobStatus.SUBMITTING, "lapse() leaves live claims alone")
    await bench.expect(running, JobStatus.RUNNING, "lapse() leaves jobs that were taken alone")
    assert not of_batch(batch, await bench.two.lapse()), "a lapsed claim does not lapse again"
    kept = await bench.one.totals(batch=batch)
    promise = "the credits of a lapsed claim are unknown, not free"
    assert kept == CreditTotals(charged=100, reserved=100, unknown=100), f"{promise}: {kept!r}"


async def _the_owners_answer_is_recorded_after_a_lapse(bench: Bench) -> None:
    batch = bench.batch()
    table: tuple[tuple[Event, JobStatus], ...] = (
        (Taken(f"t-{batch}"), JobStatus.RUNNING),
        (Refused(WHY), JobStatus.REFUSED),
        (Released(), JobStatus.PLANNED),
        (Faulted(WHY), JobStatus.FAULTED),
        (Doubted(WHY), JobStatus.UNKNOWN),
    )
    for number, (event, status) in enumerate(table):
        job = await bench.after(batch=f"{batch}-{number}")
        bench.clock.seconds += LEASE + 1
        await bench.two.lapse()
        await bench.expect(job, JobStatus.UNKNOWN, "an expired claim lapses")
        promise = f"its owner's {type(event).__name__} is recorded, however late"
        await bench.one.record(job.id, event, attempt=1)
        await bench.expect(job, status, promise)


CHECKS: tuple[Check, ...] = (
    _a_claim_is_an_attempt_with_owner_lease_and_amount,
    _a_claim_is_won_once,
    _only_planned_jobs_can_be_claimed,
    _an_expired_claim_becomes_unknown_and_never_planned,
    _the_owners_answer_is_recorded_after_a_lapse,
)
