"""Checks of find…(), jobs(), counts(), totals() and readings()."""

from __future__ import annotations

import asyncio
import itertools
from decimal import Decimal

from aivideo.ledger.events import (
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Released,
    Taken,
    Withdrawn,
)
from aivideo.ledger.records import JobStatus
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits
from aivideo.testing.ledgers.bench import (
    LEASE,
    PAY_TWICE,
    WHY,
    Bench,
    Check,
    every_job,
    of_batch,
)

MANY = 1_100
"""Jobs in the check of paging: more than two pages of any sensible size."""


async def _jobs_are_found(bench: Bench) -> None:
    batch = bench.batch()
    inside = await bench.one.plan(bench.job(batch=batch, key=batch))
    outside = await bench.one.plan(bench.job(batch=None, key=batch))
    for handle in bench.handles:
        assert await handle.find_key(batch, batch) == inside, "find_key() finds by batch and key"
        assert await handle.find_key(None, batch) == outside, "find_key() finds jobs without batch"
        assert await handle.find("no-such-job") is None, "find() of a missing job is None"
        assert await handle.find_key(batch, "no-such-key") is None, "a missing key is None"
        assert await handle.find_task("no-such-task") is None, "a missing task is None"


async def _jobs_come_in_order_page_by_page(bench: Bench) -> None:
    batch = bench.batch()
    written = [{job.id for job in await bench.planned(batch, 100)} for _ in range(MANY // 100)]
    promise = "jobs() yields each job once, in the order they were recorded"
    for ledger in bench.handles:
        for only in (batch, None):
            ids = [job.id for job in await every_job(ledger, batch=only) if job.batch == batch]
            assert len(ids) == MANY, f"{promise}: of {MANY} came {len(ids)}"
            for at, chunk in enumerate(written):
                assert {*ids[at * 100 : at * 100 + 100]} == chunk, promise
    ids = [job.id for job in await every_job(bench.one, batch=batch)]
    claimed = ids[::97]
    for job_id in claimed:
        await bench.one.claim(job_id, lease=LEASE)
    for ledger in bench.handles:
        for only in (batch, None):
            here = f"jobs(batch={only and '…'}, statuses=…)"
            found = await every_job(ledger, batch=only, statuses={JobStatus.SUBMITTING})
            got = [job.id for job in found if job.batch == batch]
            assert got == claimed, f"{here} yields the jobs of one status, in order"
            both = {JobStatus.SUBMITTING, JobStatus.PLANNED}
            found = await every_job(ledger, batch=only, statuses=both)
            got = [job.id for job in found if job.batch == batch]
            assert got == ids, f"{here} yields the jobs of several statuses, in order"
            saved = await every_job(ledger, batch=only, statuses=[JobStatus.SAVED])
            assert not of_batch(batch, saved), f"{here} yields no others"
    assert not await every_job(bench.one, batch=bench.batch()), "a batch without jobs yields none"
    promise = "jobs() may be read while they change"
    seen: list[str] = []
    async for job in bench.two.jobs(batch=batch, statuses=[JobStatus.PLANNED]):
        seen.append(job.id)
        if len(seen) % 50 == 0:
            await bench.one.claim(job.id, lease=LEASE)
    assert seen == [job_id for job_id in ids if job_id not in claimed], promise


async def _jobs_are_counted(bench: Bench) -> None:
    batch = bench.batch()
    before, spent = dict(await bench.one.counts()), await bench.one.totals()
    *_, third = await bench.planned(batch, 3)
    await bench.one.record(third.id, Withdrawn())
    await bench.after(batch=batch)
    await bench.after(Taken(f"t1-{batch}"), batch=batch)
    await bench.after(Taken(f"t2-{batch}"), Failed(WHY), batch=batch)
    await bench.after(Doubted(WHY), batch=batch)
    expected = {
        JobStatus.PLANNED: 2,
        JobStatus.SUBMITTING: 1,
        JobStatus.RUNNING: 1,
        JobStatus.FAILED: 1,
        JobStatus.UNKNOWN: 1,
        JobStatus.WITHDRAWN: 1,
    }
    credits_of = CreditTotals(charged=100, reserved=100, unknown=100, refunded=100)
    for handle in bench.handles:
        got = {
            status: count for status, count in (await handle.counts(batch=batch)).items() if count
        }
        assert got == expected, f"counts(batch=…) counts a batch: {got!r}"
        whole = await handle.counts()
        grown = {status: whole[status] - before.get(status, 0) for status in expected}
        assert grown == expected, f"counts() counts all: they grew by {grown!r}"
        totals = await handle.totals(batch=batch)
        assert totals == credits_of, f"totals(batch=…) sums a batch: {totals!r}"
        every = await handle.totals()
        for column in ("charged", "reserved", "unknown", "refunded"):
            more = getattr(every, column) - getattr(spent, column)
            assert more == 100, f"totals() sums all batches: {column} grew by {more}"
    empty = bench.batch()
    assert await bench.one.totals(batch=empty) == CreditTotals(), "an empty batch cost nothing"
    assert not any((await bench.one.counts(batch=empty)).values()), "an empty batch counts nothing"


async def _readings_of_the_account_are_kept(bench: Bench) -> None:
    earlier = await bench.two.readings()
    promise = "note_credits() keeps the account's counters, and the ledger's totals with them"
    noted = []
    for number, handle in enumerate((bench.one, bench.two)):
        bench.clock.seconds += 60.0
        await bench.after()
        account = Credits(
            balance=Decimal("9847.5") + number,
            total_purchased=Decimal(2**39),
            total_consumed=Decimal(number),
        )
        reading = await handle.note_credits(account)
        assert (reading.at, reading.account) == (bench.clock(), account), f"{promise}: {reading!r}"
        assert reading.ledger == await bench.one.totals(), f"{promise}: {reading!r}"
        noted.append(reading)
    for handle in bench.handles:
        kept = await handle.readings()
        assert list(kept) == [*earlier, *noted], "readings() lists all, the oldest first"


async def _attempts_of_unknown_price_are_counted_exactly(bench: Bench) -> None:
    batch = bench.batch()
    promise = "`unpriced` counts attempts of unknown price that are charged, reserved or unknown"
    other = (await bench.one.totals()).unpriced
    jobs = [await bench.one.plan(bench.unpriced(batch, n)) for n in range(len(bench.handles) * 4)]
    priced = await bench.planned(batch, 4)
    handles = itertools.cycle(bench.handles)
    await asyncio.gather(
        *(
            handle.claim(job.id, lease=LEASE)
            for job, handle in zip((*jobs, *priced), handles, strict=False)
        )
    )
    totals = await bench.one.totals(batch=batch)
    assert totals == CreditTotals(reserved=400, unpriced=len(jobs)), f"{promise}: {totals!r}"
    left = len(jobs)
    table: tuple[list[Event], ...] = (
        [Refused(WHY)],
        [Released()],
        [Taken("{}"), Failed(WHY)],
        [Taken("{}"), Completed()],
        [Faulted(WHY)],
        [Doubted(WHY), Released()],
        [Doubted(WHY), PAY_TWICE],
    )
    for number, (job, events) in enumerate(zip(jobs, table, strict=False)):
        for event in events:
            if isinstance(event, Taken):
                event = Taken(f"t-{batch}-{number}")  # noqa: PLW2901  a task has one job
            await bench.two.record(job.id, event)
        left -= type(events[-1]) in (Refused, Released, Failed)
        for handle in bench.handles:
            totals = await handle.totals(batch=batch)
            assert totals.unpriced == left, f"{promise}: after {events!r} {totals!r}"
    totals = await bench.one.totals()
    assert totals.unpriced == other + left, f"{promise}, over all batches: {totals!r}"
    assert await bench.two.claim(jobs[6].id, lease=LEASE) is not None
    totals = await bench.one.totals(batch=batch)
    assert totals.unpriced == left + 1, f"{promise}: each attempt by itself, not {totals!r}"


CHECKS: tuple[Check, ...] = (
    _jobs_are_found,
    _jobs_come_in_order_page_by_page,
    _jobs_are_counted,
    _readings_of_the_account_are_kept,
    _attempts_of_unknown_price_are_counted_exactly,
)
