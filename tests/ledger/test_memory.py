"""The memory ledger: what it drops, what it keeps, and two handles of the same jobs."""

from __future__ import annotations

import pytest

from aivideo import CreditTotals, JobStatus, LedgerError, MemoryLedger
from aivideo.ledger.events import Completed, Doubted, Failed, Released, Retried, Taken, Withdrawn
from aivideo.ledger.records import JobRecord, Reason
from tests.ledger.jobs import job

pytestmark = pytest.mark.anyio

WHY = Reason(message="reset")


async def taken(ledger: MemoryLedger, task_id: str, *, key: str | None = None) -> JobRecord:
    planned = await ledger.plan(job(key=key))
    assert await ledger.claim(planned.id, lease=60)
    return await ledger.record(planned.id, Taken(task_id))


async def test_ended_jobs_without_a_key_are_dropped_oldest_first_and_stay_in_the_totals() -> None:
    ledger = MemoryLedger(keep_ended=2)
    done = []
    for number in range(4):
        record = await taken(ledger, f"t{number}")
        done.append(await ledger.record(record.id, Completed()))
    assert [await ledger.find(each.id) is not None for each in done] == [False, False, True, True]
    assert await ledger.find_task("t0") is None
    assert await ledger.totals() == CreditTotals(charged=400)


async def test_jobs_with_a_key_and_jobs_in_doubt_are_never_dropped() -> None:
    ledger = MemoryLedger(keep_ended=0)
    named = await taken(ledger, "named", key="boat")
    await ledger.record(named.id, Failed(WHY))
    unknown = await ledger.plan(job())
    assert await ledger.claim(unknown.id, lease=60)
    await ledger.record(unknown.id, Doubted(WHY))
    withdrawn = await ledger.plan(job())
    await ledger.record(withdrawn.id, Withdrawn())
    assert await ledger.find_key(None, "boat") is not None
    assert await ledger.find(unknown.id) is not None
    assert await ledger.find(withdrawn.id) is None


async def test_a_job_sent_again_after_its_end_is_not_dropped() -> None:
    ledger = MemoryLedger(keep_ended=1)
    first = await taken(ledger, "t")
    await ledger.record(first.id, Failed(WHY))
    revived = await ledger.record(first.id, Retried())
    assert revived.status is JobStatus.PLANNED
    for number in range(3):
        record = await taken(ledger, f"t{number}")
        await ledger.record(record.id, Completed())
    assert await ledger.find(first.id) == revived


async def test_two_handles_share_jobs_and_claim_under_their_own_names() -> None:
    ledger = MemoryLedger(owner="one", now=lambda: 1000.0)
    other = ledger.sharing("other")
    planned = await ledger.plan(job())
    claimed = await other.claim(planned.id, lease=60)
    assert claimed is not None
    assert claimed.attempt(1).owner == "other"
    assert claimed.attempt(1).lease_until == 1060
    assert await ledger.claim(planned.id, lease=60) is None
    await ledger.record(planned.id, Released())
    assert (await other.counts()) == {JobStatus.PLANNED: 1}


async def test_a_job_that_is_not_there_is_a_ledger_error() -> None:
    ledger = MemoryLedger()
    with pytest.raises(LedgerError, match="no job nobody"):
        await ledger.claim("nobody", lease=1)
    with pytest.raises(LedgerError, match="no job nobody"):
        await ledger.record("nobody", Completed())
    assert repr(ledger) == "<MemoryLedger of 0 jobs>"
