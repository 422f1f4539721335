"""Checks of cancelled calls and of aclose()."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from aivideo.ledger import Ledger
from aivideo.ledger.events import Taken
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals
from aivideo.testing.ledgers.bench import LEASE, Bench, Check, every_job, of_batch, opened


async def _a_cancelled_call_is_atomic(bench: Bench) -> None:
    promise = "a cancelled call has happened completely or not at all"
    for turns in range(4):
        batch = bench.batch()
        (job,) = await bench.planned(batch, 1)
        call = asyncio.create_task(_claim(bench.one, job))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        # The calls of one handle are carried out in order: this one comes after the claim.
        await bench.one.lapse()
        found = await bench.two.find(job.id)
        assert found is not None, promise
        reserved = 100 * len(found.attempts)
        assert (found.status is JobStatus.SUBMITTING) == (reserved == 100), f"{promise}: {found!r}"
        kept = await bench.two.totals(batch=batch)
        assert kept == CreditTotals(reserved=reserved), f"{promise}: credits are {kept!r}"


async def _claim(ledger: Ledger, job: JobRecord) -> None:
    await ledger.claim(job.id, lease=LEASE)


async def _nothing_is_lost_when_all_handles_close(bench: Bench) -> None:
    batch = bench.batch()
    running = await bench.after(Taken(f"t-{batch}"), batch=batch)
    left = await bench.after(batch=batch)
    await bench.two.set_ceiling(batch, Decimal("200.5"))
    before = {job.id: job for job in await every_job(bench.one)}
    spent, readings = await bench.one.totals(), await bench.one.readings()
    for handle in bench.handles:
        await handle.aclose()
        await handle.aclose()  # may be called twice
    if not bench.durable:
        return
    bench.third = await opened(bench.open_ledger, bench.clock)
    promise = "nothing is lost when all handles close"
    found = {job.id: job for job in await every_job(bench.third)}
    assert found == before, promise
    assert list(found) == list(before), f"{promise}, nor their order"
    assert await bench.third.totals() == spent, f"{promise}: credits"
    assert await bench.third.ceiling(batch) == Decimal("200.5"), f"{promise}: ceilings"
    assert list(await bench.third.readings()) == list(readings), f"{promise}: readings"
    assert await bench.third.find_task(f"t-{batch}") == running, promise
    bench.clock.seconds += LEASE + 1
    promise = "a claim that its closed owner did not end lapses"
    lapsed = of_batch(batch, await bench.third.lapse())
    assert [(job.id, job.status) for job in lapsed] == [(left.id, JobStatus.UNKNOWN)], promise


CHECKS: tuple[Check, ...] = (_a_cancelled_call_is_atomic, _nothing_is_lost_when_all_handles_close)
