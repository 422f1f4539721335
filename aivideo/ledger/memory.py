"""A ledger in memory: it keeps every promise while the process lives, and is lost with it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from decimal import Decimal
from itertools import islice

from aivideo import _amounts
from aivideo.errors import LedgerError
from aivideo.ledger import budget, rules
from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event, Taken
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals, credits_moved, holds_unpriced, unpriced_moved
from aivideo.models import Credits, TaskId

_NO_CREDITS = CreditTotals()


class MemoryLedger:
    """Keeps the jobs of one process (about 1 kB each with its request).

    No method awaits anything, so on one event loop each is atomic. Jobs that have ended and have no
    key are dropped, oldest first, when there are more than ``keep_ended`` of them: their credits
    stay in the totals, and nobody can ask for them by name.

    Args:
        keep_ended: the number of ended jobs to keep.
        owner: the name under which its claims are made.
        now: returns Unix seconds.
    """

    def __init__(
        self,
        *,
        keep_ended: int = 10_000,
        owner: str = "memory",
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keep_ended = keep_ended
        self._owner = owner
        self._now = now
        self._ended: deque[str] = deque()
        self._jobs: dict[str, JobRecord] = {}
        self._by_key: dict[tuple[str | None, str], str] = {}
        self._by_task: dict[TaskId, str] = {}
        self._totals: dict[str | None, CreditTotals] = {}
        self._ceilings: dict[str | None, Decimal] = {}
        self._readings: list[Reading] = []

    def __repr__(self) -> str:
        return f"<MemoryLedger of {len(self._jobs)} jobs>"

    def sharing(self, owner: str) -> MemoryLedger:
        """Return a second handle of the same jobs, as another process would have: for tests."""
        other = MemoryLedger(keep_ended=self._keep_ended, owner=owner, now=self._now)
        other.__dict__.update(self.__dict__ | {"_owner": owner})
        return other

    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        """Record a job; see :class:`~aivideo.ledger.Ledger`."""
        same_key = None if job.key is None else await self.find_key(job.batch, job.key)
        planned = rules.plan(
            job, same_id=self._jobs.get(job.id), same_key=same_key, replace=replace
        )
        if planned.key is not None:
            self._by_key[planned.batch, planned.key] = planned.id
        self._jobs[planned.id] = planned
        return planned

    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        """Win the right to POST a job once; see :class:`~aivideo.ledger.Ledger`."""
        job = self._job(job_id)
        totals = self._totals.get(job.batch, _NO_CREDITS)
        ceiling = self._ceilings.get(job.batch)
        claimed = rules.claim(
            job,
            owner=self._owner,
            lease=lease,
            now=self._now(),
            totals=totals,
            ceiling=ceiling,
            unpriced_jobs=()
            if ceiling is None or not totals.unpriced
            else self._unpriced_jobs(job.batch),
            retry_faulted=retry_faulted,
        )
        return None if claimed is None else self._write(job, claimed)

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        """Record what happened; see :class:`~aivideo.ledger.Ledger`."""
        job = self._job(job_id)
        holder = self._by_task.get(event.task_id) if isinstance(event, Taken) else None
        return self._write(job, rules.record(job, event, attempt, holder_of_task=holder))

    async def lapse(self) -> Sequence[JobRecord]:
        """Record ``unknown`` for abandoned claims; see :class:`~aivideo.ledger.Ledger`."""
        now = self._now()
        lapsed = []
        for job in list(self._jobs.values()):
            after = rules.lapse(job, owner=self._owner, now=now)
            if after is not job:
                lapsed.append(self._write(job, after))
        return lapsed

    async def set_ceiling(self, batch: str, credits: Decimal | None) -> None:  # noqa: A002
        """Store or remove a batch's ceiling; see :class:`~aivideo.ledger.Ledger`."""
        if credits is None:
            self._ceilings.pop(batch, None)
        else:
            self._ceilings[batch] = _amounts.exact(credits)

    async def ceiling(self, batch: str) -> Decimal | None:
        """Return a batch's ceiling in credits, or None."""
        return self._ceilings.get(batch)

    async def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        return self._jobs.get(job_id)

    async def find_key(self, batch: str | None, key: str) -> JobRecord | None:
        """Find a job by its batch and key."""
        job_id = self._by_key.get((batch, key))
        return None if job_id is None else self._jobs[job_id]

    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by the task of any of its attempts."""
        job_id = self._by_task.get(task_id)
        return None if job_id is None else self._jobs[job_id]

    async def jobs(
        self, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
    ) -> AsyncIterator[JobRecord]:
        """Yield jobs in the order they were recorded; see :class:`~aivideo.ledger.Ledger`."""
        for job in list(self._jobs.values()):
            if batch in (None, job.batch) and (not statuses or job.status in statuses):
                yield job

    async def counts(self, *, batch: str | None = None) -> Mapping[JobStatus, int]:
        """Count jobs by status."""
        return Counter(job.status for job in self._jobs.values() if batch in (None, job.batch))

    async def totals(self, *, batch: str | None = None) -> CreditTotals:
        """Sum the credits of a batch, or of all."""
        if batch is not None:
            return self._totals.get(batch, _NO_CREDITS)
        each = self._totals.values()
        return CreditTotals(
            charged=sum(one.charged for one in each),
            reserved=sum(one.reserved for one in each),
            unknown=sum(one.unknown for one in each),
            refunded=sum(one.refunded for one in each),
            unpriced=sum(one.unpriced for one in each),
        )

    async def note_credits(self, account: Credits) -> Reading:
        """Store a reading of the account's counters."""
        reading = Reading(self._now(), account, await self.totals())
        self._readings.append(reading)
        return reading

    async def readings(self) -> Sequence[Reading]:
        """List the readings, the oldest first."""
        return tuple(self._readings)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""

    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        if after is before:
            return after
        self._jobs[after.id] = after
        for attempt in after.attempts:
            if attempt.task_id is not None:
                self._by_task[attempt.task_id] = after.id
        change, unpriced = credits_moved(before, after), unpriced_moved(before, after)
        if change or unpriced:
            totals = self._totals.get(after.batch, _NO_CREDITS)
            self._totals[after.batch] = totals.plus(change, unpriced)
        if after.key is None and _has_ended(after) and not _has_ended(before):
            self._ended.append(after.id)
            self._drop_oldest()
        return after

    def _unpriced_jobs(self, batch: str | None) -> list[str]:
        """Name a few jobs that count in ``unpriced``; ended ones may have been dropped."""
        jobs = (job for job in self._jobs.values() if job.batch == batch)
        return [job.id for job in islice(filter(holds_unpriced, jobs), budget.NAMED)]

    def _drop_oldest(self) -> None:
        while len(self._ended) > self._keep_ended:
            job = self._jobs.get(self._ended.popleft())
            if job is None or not _has_ended(job) or job.doubts:
                continue  # sent again, or taken after all: it has not ended
            del self._jobs[job.id]
            for attempt in job.attempts:
                if attempt.task_id is not None:
                    self._by_task.pop(attempt.task_id, None)

    def _job(self, job_id: str) -> JobRecord:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise LedgerError(f"the ledger has no job {job_id}") from None


def _has_ended(job: JobRecord) -> bool:
    return job.status.is_final or job.status is JobStatus.COMPLETED
