"""Both siblings keep every promise; ledgers that break one are caught, each at its promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

import pytest
from attrs import evolve

from aivideo.errors import LedgerError
from aivideo.ledger import Ledger, budget, events, transitions
from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.totals import CreditTotals, Holding
from aivideo.models import TaskId
from aivideo.testing import check_ledger

pytestmark = pytest.mark.anyio


class Memory:
    """Opens handles that share one memory."""

    def __init__(self, kind: type[MemoryLedger] = MemoryLedger) -> None:
        self._kind = kind
        self._handles: list[MemoryLedger] = []

    def __call__(self, *, now: Callable[[], float]) -> Ledger:
        owner = f"handle-{len(self._handles)}"
        handle = self._kind(now=now, owner=owner)
        if self._handles:
            handle.__dict__.update(self._handles[0].__dict__ | {"_owner": owner})
        self._handles.append(handle)
        return handle


async def test_the_ledger_in_memory_keeps_every_promise() -> None:
    await check_ledger(Memory())


async def test_the_ledger_in_a_file_keeps_every_promise(tmp_path: Path) -> None:
    await check_ledger(lambda *, now: SqliteLedger(tmp_path / "jobs.db", now=now))


class ClaimsWithoutCompareAndSet(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, ceiling: int | None = None
    ) -> JobRecord | None:
        job = self._job(job_id)
        if job.status is not JobStatus.PLANNED:
            return None
        held = self._totals.get(job.batch, CreditTotals()).held
        budget.admit(job.request.model, job.credits, held=held, ceiling=ceiling)
        await asyncio.sleep(0)  # as a SELECT and an UPDATE without a transaction have it
        now = self._now()
        claimed = events.Claimed(owner=self._owner, lease_until=now + lease, at=now)
        return self._write(job, transitions.apply(job, claimed))


class ClaimsWhateverThereIs(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, ceiling: int | None = None
    ) -> JobRecord | None:
        job = self._job(job_id)
        if job.status is JobStatus.UNKNOWN:
            self._jobs[job_id] = evolve(job, status=JobStatus.PLANNED)
        return await super().claim(job_id, lease=lease, ceiling=ceiling)


class CountsWhatIsChargedAlone(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, ceiling: int | None = None
    ) -> JobRecord | None:
        job = self._job(job_id)
        totals = self._totals.get(job.batch, CreditTotals())
        if ceiling is not None:
            ceiling += totals.unknown
        return await super().claim(job_id, lease=lease, ceiling=ceiling)


class CountsAllBatchesTogether(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, ceiling: int | None = None
    ) -> JobRecord | None:
        job = self._job(job_id)
        if job.status is JobStatus.PLANNED:
            budget.admit(
                job.request.model, job.credits, held=(await self.totals()).held, ceiling=ceiling
            )
        return await super().claim(job_id, lease=lease, ceiling=ceiling)


class LapsesToPlanned(MemoryLedger):
    async def lapse(self) -> Sequence[JobRecord]:
        lapsed = await super().lapse()
        return [await self.record(job.id, events.Released()) for job in lapsed]


class LapsesLiveClaims(MemoryLedger):
    async def lapse(self) -> Sequence[JobRecord]:
        real, self._now = self._now, lambda: 1e12
        try:
            return await super().lapse()
        finally:
            self._now = real


class LapsesItsOwnClaims(MemoryLedger):
    async def lapse(self) -> Sequence[JobRecord]:
        real, self._owner = self._owner, "nobody"
        try:
            return await super().lapse()
        finally:
            self._owner = real


class DropsLateVerdicts(MemoryLedger):
    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        job = self._job(job_id)
        if job.latest and job.attempts[-1].lease_until < self._now():
            return job
        return await super().record(job_id, event, attempt=attempt)


class BelievesWhateverItIsTold(MemoryLedger):
    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        job = self._job(job_id)
        if job.status is JobStatus.RUNNING and isinstance(event, events.Released):
            return self._write(job, evolve(job, status=JobStatus.PLANNED, waiting=True))
        return await super().record(job_id, event, attempt=attempt)


class GivesATaskToTwoJobs(MemoryLedger):
    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        job = self._job(job_id)
        return self._write(job, transitions.apply(job, event, attempt))


class KeepsTheLastAttemptAlone(MemoryLedger):
    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        return super()._write(before, evolve(after, attempts=after.attempts[-1:]))


class ForgetsOlderTasks(MemoryLedger):
    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        job = await super().find_task(task_id)
        return job if job is not None and job.attempts[-1].task_id == task_id else None


class HasOneKeyForAllBatches(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        if job.key is not None:
            for (_, key), job_id in self._by_key.items():
                if key == job.key:
                    return self._jobs[job_id]
        return await super().plan(job, replace=replace)


class TakesAKeyForWhateverComes(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        known = None if job.key is None else await self.find_key(job.batch, job.key)
        return known or await super().plan(job, replace=replace)


class ReplacesWhatWasTaken(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        known = None if job.key is None else await self.find_key(job.batch, job.key)
        if known is not None and replace and known.status is JobStatus.UNKNOWN:
            self._jobs[known.id] = job = evolve(job, id=known.id)
            return job
        return await super().plan(job, replace=replace)


class KeepsThePriceItKnewFirst(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        known = None if job.key is None else await self.find_key(job.batch, job.key)
        if known is not None and known.fingerprint == job.fingerprint:
            return known
        return await super().plan(job, replace=replace)


class LosesTheCallbackURL(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        return await super().plan(evolve(job, callback_url=None), replace=replace)


class ReadsOnePage(MemoryLedger):
    async def jobs(
        self, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
    ) -> AsyncIterator[JobRecord]:
        read = 0
        async for job in super().jobs(batch=batch, statuses=statuses):
            read += 1
            if read <= 500:
                yield job


class ReadsPagesByOffset(MemoryLedger):
    """What was claimed meanwhile makes the others move up, and the next page skips some."""

    async def jobs(
        self, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
    ) -> AsyncIterator[JobRecord]:
        offset = 0
        while True:
            all_of_them = [job async for job in super().jobs(batch=batch, statuses=statuses)]
            page = all_of_them[offset : offset + 500]
            if not page:
                return
            for job in page:
                yield job
            offset += 500


class CountsAllForABatch(MemoryLedger):
    async def counts(self, *, batch: str | None = None) -> Mapping[JobStatus, int]:
        return await super().counts()


class NeverRefunds(MemoryLedger):
    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        written = super()._write(before, after)
        if after is not before and after.status is JobStatus.FAILED:
            totals = self._totals[after.batch]
            self._totals[after.batch] = totals.moved(100, Holding.REFUNDED, Holding.CHARGED)
        return written


class ReadsTheNewestFirst(MemoryLedger):
    async def readings(self) -> Sequence[Reading]:
        return [*reversed(await super().readings())]


class ForgetsWhenItCloses(MemoryLedger):
    async def aclose(self) -> None:
        self._jobs.clear()


class ClosesOnce(MemoryLedger):
    _closed = False

    async def aclose(self) -> None:
        if self._closed:
            raise LedgerError("closed already")
        self._closed = True


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (ClaimsWithoutCompareAndSet, "were won 160 times"),
        (ClaimsWhateverThereIs, "nobody may claim it"),
        (CountsWhatIsChargedAlone, "a doubt frees no ceiling"),
        (CountsAllBatchesTogether, "a ceiling"),
        (LapsesToPlanned, "never to planned"),
        (LapsesLiveClaims, "leaves live claims alone"),
        (LapsesItsOwnClaims, "is for claims of others"),
        (DropsLateVerdicts, "lands, however late"),
        (BelievesWhateverItIsTold, "of a running job is refused"),
        (GivesATaskToTwoJobs, "a task belongs to one job"),
        (KeepsTheLastAttemptAlone, "has no attempt 1"),
        (ForgetsOlderTasks, "the task of each of its attempts"),
        (HasOneKeyForAllBatches, "a key names a job within its batch alone"),
        (TakesAKeyForWhateverComes, "another request under a known key is refused"),
        (ReplacesWhatWasTaken, "after Doubted is refused"),
        (KeepsThePriceItKnewFirst, "with another price is the price"),
        (LosesTheCallbackURL, "as it is"),
        (ReadsOnePage, "of 1100 came 500"),
        (ReadsPagesByOffset, "may be walked while they change"),
        (CountsAllForABatch, "counts a batch"),
        (NeverRefunds, "a refund frees a ceiling"),
        (ReadsTheNewestFirst, "the oldest first"),
        (ForgetsWhenItCloses, "nothing is lost when all handles close"),
        (ClosesOnce, "closed already"),
    ],
)
async def test_a_ledger_that_breaks_a_promise_is_told_which(
    kind: type[MemoryLedger], promise: str
) -> None:
    with pytest.raises(AssertionError, match=promise):
        await check_ledger(Memory(kind))
