"""Both ledgers pass check_ledger; ledgers that break one promise fail it, at that promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from attrs import evolve

from aivideo.errors import LedgerError
from aivideo.ledger import Ledger, budget, events, rules, transitions
from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.totals import CreditTotals, Holding, holds_unpriced
from aivideo.models import TaskId
from aivideo.testing import check_ledger

pytestmark = pytest.mark.anyio


class Memory:
    """Opens handles that share one store in memory."""

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


async def test_the_memory_ledger_keeps_every_promise() -> None:
    await check_ledger(Memory())


async def test_the_sqlite_ledger_keeps_every_promise(tmp_path: Path) -> None:
    await check_ledger(lambda *, now: SqliteLedger(tmp_path / "jobs.db", now=now))


class ClaimsWithoutCompareAndSet(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        job = self._job(job_id)
        claimed = rules.claim(
            job,
            owner=self._owner,
            lease=lease,
            now=self._now(),
            totals=await self.totals(batch=job.batch),
            ceiling=self._ceilings.get(job.batch),
        )
        await asyncio.sleep(0)  # like a SELECT and an UPDATE without a transaction
        return None if claimed is None else self._write(job, claimed)


class ClaimsUnknownJobs(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        job = self._job(job_id)
        if job.status is JobStatus.UNKNOWN:
            self._jobs[job_id] = evolve(job, status=JobStatus.PLANNED)
        return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)


class RepeatsFaultedJobs(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        return await super().claim(job_id, lease=lease, retry_faulted=True)


class NeverRepeatsFaultedJobs(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        return await super().claim(job_id, lease=lease)


class ClaimsWithdrawnJobs(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        job = self._job(job_id)
        if job.status is JobStatus.WITHDRAWN:
            self._jobs[job_id] = evolve(job, status=JobStatus.PLANNED)
        return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)


class CountsOnlyChargedCredits(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        batch = self._job(job_id).batch
        ceiling = self._ceilings.get(batch)
        if ceiling is None:
            return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)
        try:
            self._ceilings[batch] = ceiling + (await self.totals(batch=batch)).unknown
            return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)
        finally:
            self._ceilings[batch] = ceiling


class CountsAllBatchesTogether(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        job = self._job(job_id)
        if job.status is JobStatus.PLANNED:
            budget.admit(
                job.request.model,
                job.credits,
                held=(await self.totals()).held,
                ceiling=self._ceilings.get(job.batch),
            )
        return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)


class ForgetsCeilings(MemoryLedger):
    async def set_ceiling(self, batch: str, credits: Decimal | None) -> None:  # noqa: A002
        return None


class KeepsTheFirstCeiling(MemoryLedger):
    async def set_ceiling(self, batch: str, credits: Decimal | None) -> None:  # noqa: A002
        if batch not in self._ceilings:
            await super().set_ceiling(batch, credits)


class IgnoresCeilings(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        ceilings, self._ceilings = self._ceilings, {}
        try:
            return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)
        finally:
            self._ceilings = ceilings


class RoundsCeilings(MemoryLedger):
    async def set_ceiling(self, batch: str, credits: Decimal | None) -> None:  # noqa: A002
        await super().set_ceiling(batch, None if credits is None else Decimal(round(credits)))


class RoundsPrices(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        price = None if job.credits is None else Decimal(round(job.credits))
        return await super().plan(evolve(job, credits=price), replace=replace)


class CountsTheLatestPrice(MemoryLedger):
    """As before amounts were kept with attempts: all of a job's attempts at its present price."""

    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        attempts = tuple(evolve(each, credits=after.credits) for each in after.attempts)
        return super()._write(before, evolve(after, attempts=attempts))


class ForgetsWhoIsResumable(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        return await super().plan(evolve(job, resumable=False), replace=replace)


class WithdrawsSubmittingJobs(MemoryLedger):
    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        job = self._job(job_id)
        if isinstance(event, events.Withdrawn) and job.status is JobStatus.SUBMITTING:
            return self._write(job, evolve(job, status=JobStatus.WITHDRAWN))
        return await super().record(job_id, event, attempt=attempt)


class RefusesWithdrawnKeys(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        known = None if job.key is None else await self.find_key(job.batch, job.key)
        if known is not None and known.status is JobStatus.WITHDRAWN:
            return known
        return await super().plan(job, replace=replace)


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


class DropsLateAnswers(MemoryLedger):
    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        job = self._job(job_id)
        if job.latest and job.attempts[-1].lease_until < self._now():
            return job
        return await super().record(job_id, event, attempt=attempt)


class AcceptsContradictions(MemoryLedger):
    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        job = self._job(job_id)
        if job.status is JobStatus.RUNNING and isinstance(event, events.Released):
            return self._write(job, evolve(job, status=JobStatus.PLANNED, waiting=True))
        return await super().record(job_id, event, attempt=attempt)


class GivesATaskToTwoJobs(MemoryLedger):
    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        job = self._job(job_id)
        return self._write(job, transitions.apply(job, event, attempt))


class KeepsOnlyTheLastAttempt(MemoryLedger):
    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        return super()._write(before, evolve(after, attempts=after.attempts[-1:]))


class PaysAgainUnseen(MemoryLedger):
    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        if isinstance(event, events.Retried) and event.pay_again:
            event = events.Retried.of(self._job(job_id), pay_again=True)
        return await super().record(job_id, event, attempt=attempt)


class WritesOnlyTheNewAttemptOfAClaim(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        earlier = self._job(job_id).attempts
        claimed = await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)
        if claimed is not None:
            kept = evolve(claimed, attempts=(*earlier, claimed.attempts[-1]))
            self._jobs[job_id] = kept
        return claimed


class ForgetsOlderTasks(MemoryLedger):
    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        job = await super().find_task(task_id)
        return job if job is not None and job.attempts[-1].task_id == task_id else None


class SharesKeysBetweenBatches(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        if job.key is not None:
            for (_, key), job_id in self._by_key.items():
                if key == job.key:
                    return self._jobs[job_id]
        return await super().plan(job, replace=replace)


class AcceptsAnyRequestUnderAKey(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        known = None if job.key is None else await self.find_key(job.batch, job.key)
        return known or await super().plan(job, replace=replace)


class ReplacesUnknownJobs(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        known = None if job.key is None else await self.find_key(job.batch, job.key)
        if known is not None and replace and known.status is JobStatus.UNKNOWN:
            self._jobs[known.id] = job = evolve(job, id=known.id)
            return job
        return await super().plan(job, replace=replace)


class KeepsTheFirstPrice(MemoryLedger):
    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        known = None if job.key is None else await self.find_key(job.batch, job.key)
        if (
            known is not None
            and known.status is JobStatus.PLANNED
            and known.fingerprint == job.fingerprint
            and not job.resumable
        ):
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
    """A job claimed meanwhile moves the others up, so that the next page skips one."""

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
            self._totals[after.batch] = totals.moved(
                after.attempts[-1].credits or Decimal(0), Holding.REFUNDED, Holding.CHARGED
            )
        return written


class CountsNoUnknownPrices(MemoryLedger):
    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        written = super()._write(before, after)
        for batch, totals in self._totals.items():
            self._totals[batch] = evolve(totals, unpriced=0)
        return written


class CountsUnknownPricesForEver(MemoryLedger):
    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        most = self._totals.get(after.batch, CreditTotals()).unpriced
        written = super()._write(before, after)
        now = self._totals.get(after.batch, CreditTotals())
        self._totals[after.batch] = evolve(now, unpriced=max(most, now.unpriced))
        return written


class CountsJobsOfUnknownPriceOnce(MemoryLedger):
    """Not each attempt of a job."""

    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        written = super()._write(before, after)
        unpriced = sum(
            holds_unpriced(job) > 0 for job in self._jobs.values() if job.batch == after.batch
        )
        now = self._totals.get(after.batch, CreditTotals())
        self._totals[after.batch] = evolve(now, unpriced=unpriced)
        return written


class BuysAfterUnknownPrices(MemoryLedger):
    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        batch = self._job(job_id).batch
        totals = self._totals.get(batch, CreditTotals())
        self._totals[batch] = evolve(totals, unpriced=0)
        try:
            return await super().claim(job_id, lease=lease)
        finally:
            unpriced = self._totals[batch].unpriced + totals.unpriced
            self._totals[batch] = evolve(self._totals[batch], unpriced=unpriced)


class ForgetsUnknownPricesInReadings(MemoryLedger):
    async def readings(self) -> Sequence[Reading]:
        return [
            evolve(each, ledger=evolve(each.ledger, unpriced=0))
            for each in await super().readings()
        ]


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
        (ClaimsUnknownJobs, "after Doubted nobody may claim it"),
        (RepeatsFaultedJobs, "after Faulted nobody may claim it"),
        (NeverRepeatsFaultedJobs, "is claimed only with retry_faulted=True"),
        (ClaimsWithdrawnJobs, "after Released Withdrawn nobody may claim it"),
        (CountsOnlyChargedCredits, "a doubt frees no ceiling"),
        (CountsAllBatchesTogether, "a ceiling"),
        (ForgetsCeilings, "stores the latest value"),
        (KeepsTheFirstCeiling, "stores the latest value"),
        (IgnoresCeilings, "checks the stored ceiling"),
        (RoundsCeilings, "of 30.5 it kept 30"),
        (RoundsPrices, "records a job as it is"),
        (CountsTheLatestPrice, "the amount that was reserved when it was claimed"),
        (ForgetsWhoIsResumable, "records a job as it is"),
        (WithdrawsSubmittingJobs, "a claim and a withdrawal at once"),
        (RefusesWithdrawnKeys, "plans the job again, for any request"),
        (LapsesToPlanned, "never planned"),
        (LapsesLiveClaims, "leaves live claims alone"),
        (LapsesItsOwnClaims, "is for claims of others"),
        (DropsLateAnswers, "is recorded, however late"),
        (AcceptsContradictions, "of a running job is refused"),
        (GivesATaskToTwoJobs, "a task belongs to one job"),
        (KeepsOnlyTheLastAttempt, "has no attempt 1"),
        (PaysAgainUnseen, "is sent again only by who pays again and has seen it"),
        (WritesOnlyTheNewAttemptOfAClaim, "its new attempt decides its status"),
        (ForgetsOlderTasks, "the task of each of its attempts"),
        (SharesKeysBetweenBatches, "a key names a job within its batch only"),
        (AcceptsAnyRequestUnderAKey, "another request under a known key is refused"),
        (ReplacesUnknownJobs, "after Doubted is refused"),
        (KeepsTheFirstPrice, "with another price changes the price"),
        (LosesTheCallbackURL, "as it is"),
        (ReadsOnePage, "of 1100 came 500"),
        (ReadsPagesByOffset, "may be read while they change"),
        (CountsAllForABatch, "counts a batch"),
        (NeverRefunds, "a refund frees a ceiling"),
        (CountsNoUnknownPrices, "it counts in `unpriced`"),
        (CountsUnknownPricesForEver, "it counts in `unpriced`"),
        (CountsJobsOfUnknownPriceOnce, "each attempt by itself"),
        (BuysAfterUnknownPrices, "on its way closes every ceiling of its batch"),
        (ForgetsUnknownPricesInReadings, "readings.. lists all"),
        (ReadsTheNewestFirst, "the oldest first"),
        (ForgetsWhenItCloses, "nothing is lost when all handles close"),
        (ClosesOnce, "closed already"),
    ],
)
async def test_a_ledger_that_breaks_a_promise_fails_at_that_promise(
    kind: type[MemoryLedger], promise: str
) -> None:
    with pytest.raises(AssertionError, match=promise):
        await check_ledger(Memory(kind))
