"""A ledger in memory: as careful as one on disk, and gone with the process."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

from aivideo.errors import ContradictionError, LedgerError
from aivideo.ledger import budget, events, records, totals, transitions
from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.rules import planned_again, same_job
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits, TaskId

_OVER = (JobStatus.COMPLETED, JobStatus.SAVED, JobStatus.FAILED, JobStatus.REFUSED)
_NOTHING = CreditTotals()


class MemoryLedger:
    """Keeps the jobs of one process (about 1 kB each with its request).

    No method awaits anything, so on one event loop each is atomic: that is its compare-and-set.
    Jobs that are over and have no key are forgotten, oldest first, beyond ``keep_ended`` of them:
    their credits stay in the totals, and nobody can ask for them by name.

    Args:
        keep_ended: jobs that are over to be kept.
        owner: the name under which its claims are made; give it to share ``jobs`` in a test.
        now: Unix seconds.
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
        self._readings: list[Reading] = []

    def __repr__(self) -> str:
        return f"<MemoryLedger of {len(self._jobs)} jobs>"

    def sharing(self, owner: str) -> MemoryLedger:
        """Make a second handle of the same jobs, as another process would have: for tests."""
        other = MemoryLedger(keep_ended=self._keep_ended, owner=owner, now=self._now)
        other.__dict__.update(self.__dict__ | {"_owner": owner})
        return other

    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        """Write down a job; see :class:`~aivideo.ledger.Ledger`."""
        key = job.key
        if (same := self._jobs.get(job.id)) is not None:
            return same_job(same, job)
        if key is not None:
            known = self._by_key.get((job.batch, key))
            if known is not None:
                job = planned_again(self._jobs[known], job, replace=replace)
            self._by_key[job.batch, key] = job.id
        self._jobs[job.id] = job
        return job

    async def claim(
        self, job_id: str, *, lease: float, ceiling: int | None = None
    ) -> JobRecord | None:
        """Win the right to POST a job once; see :class:`~aivideo.ledger.Ledger`."""
        job = self._job(job_id)
        if job.status is not JobStatus.PLANNED:
            return None
        held = self._totals.get(job.batch, _NOTHING).held
        budget.admit(job.request.model, job.credits, held=held, ceiling=ceiling)
        now = self._now()
        claimed = events.Claimed(owner=self._owner, lease_until=now + lease, at=now)
        return self._write(job, transitions.apply(job, claimed))

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        """Write down what happened; see :class:`~aivideo.ledger.Ledger`."""
        job = self._job(job_id)
        if isinstance(event, events.Taken):
            other = self._by_task.get(event.task_id, job_id)
            if other != job_id:
                raise ContradictionError(f"task {event.task_id} is that of job {other} already")
        return self._write(job, transitions.apply(job, event, attempt))

    async def lapse(self) -> Sequence[JobRecord]:
        """Write ``unknown`` for lapsed claims; see :class:`~aivideo.ledger.Ledger`."""
        now = self._now()
        lapsed = []
        for job in list(self._jobs.values()):
            for attempt in job.attempts:
                abandoned = attempt.owner != self._owner and attempt.lease_until < now
                if attempt.status is records.AttemptStatus.SUBMITTING and abandoned:
                    after = transitions.apply(job, events.ABANDONED, attempt.number)
                    lapsed.append(self._write(job, after))
        return lapsed

    async def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        return self._jobs.get(job_id)

    async def find_key(self, batch: str | None, key: str) -> JobRecord | None:
        """Find a job by its user's name for it."""
        job_id = self._by_key.get((batch, key))
        return None if job_id is None else self._jobs[job_id]

    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by its task."""
        job_id = self._by_task.get(task_id)
        return None if job_id is None else self._jobs[job_id]

    async def jobs(
        self, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
    ) -> AsyncIterator[JobRecord]:
        """Yield jobs; see :class:`~aivideo.ledger.Ledger`."""
        for job in list(self._jobs.values()):
            if batch in (None, job.batch) and (not statuses or job.status in statuses):
                yield job

    async def counts(self, *, batch: str | None = None) -> Mapping[JobStatus, int]:
        """Count jobs by status."""
        return Counter(job.status for job in self._jobs.values() if batch in (None, job.batch))

    async def totals(self, *, batch: str | None = None) -> CreditTotals:
        """Add up the credits."""
        if batch is not None:
            return self._totals.get(batch, _NOTHING)
        each = self._totals.values()
        return CreditTotals(
            charged=sum(one.charged for one in each),
            reserved=sum(one.reserved for one in each),
            unknown=sum(one.unknown for one in each),
            refunded=sum(one.refunded for one in each),
        )

    async def note_credits(self, account: Credits) -> Reading:
        """Keep a reading of the account's counters."""
        reading = Reading(self._now(), account, await self.totals())
        self._readings.append(reading)
        return reading

    async def readings(self) -> Sequence[Reading]:
        """List the readings."""
        return tuple(self._readings)

    async def aclose(self) -> None:
        """Nothing to close."""

    def _write(self, before: JobRecord, after: JobRecord) -> JobRecord:
        if after is before:
            return after
        self._jobs[after.id] = after
        for attempt in after.attempts:
            if attempt.task_id is not None:
                self._by_task[attempt.task_id] = after.id
        change = totals.credits_moved(before, after)
        if change:
            self._totals[after.batch] = self._totals.get(after.batch, _NOTHING).plus(change)
        if after.key is None and after.status in _OVER and before.status not in _OVER:
            self._ended.append(after.id)
            self._forget_oldest()
        return after

    def _forget_oldest(self) -> None:
        while len(self._ended) > self._keep_ended:
            job = self._jobs.get(self._ended.popleft())
            if job is None or job.status not in _OVER or job.doubts:
                continue  # sent again, or taken after all: it is not over
            del self._jobs[job.id]
            for attempt in job.attempts:
                if attempt.task_id is not None:
                    self._by_task.pop(attempt.task_id, None)

    def _job(self, job_id: str) -> JobRecord:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise LedgerError(f"the ledger has no job {job_id}") from None
