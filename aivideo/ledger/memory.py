"""A ledger in memory: as careful as one on disk, and gone with the process."""

from __future__ import annotations

from collections import deque

from aivideo.errors import BudgetExceededError, InvalidRequestError, LedgerError
from aivideo.models import TaskId
from aivideo.sansio import journal
from aivideo.sansio.journal import CreditTotals, Event, JobRecord, JobStatus

_OVER = (JobStatus.COMPLETED, JobStatus.SAVED, JobStatus.FAILED, JobStatus.REFUSED)


class MemoryLedger:
    """Keeps the jobs of one process (about 1 kB each with its request).

    No method awaits anything, so on one event loop each is atomic: that is its compare-and-set.
    Jobs that are over and have no key are forgotten, oldest first, beyond ``keep_ended`` of them:
    their credits stay in the totals, and nobody can ask for them by name.
    """

    def __init__(self, *, keep_ended: int = 10_000) -> None:
        self._keep_ended = keep_ended
        self._ended: deque[str] = deque()
        self._jobs: dict[str, JobRecord] = {}
        self._by_key: dict[tuple[str | None, str], str] = {}
        self._by_task: dict[TaskId, str] = {}
        self._totals = CreditTotals()

    def __repr__(self) -> str:
        return f"<MemoryLedger of {len(self._jobs)} jobs>"

    async def plan(self, job: JobRecord) -> JobRecord:
        """Write down a job; see :class:`~aivideo.ledger.Ledger`."""
        if job.key is not None:
            known = self._by_key.setdefault((job.batch, job.key), job.id)
            if known != job.id:
                earlier = self._jobs[known]
                if earlier.fingerprint != job.fingerprint:
                    raise InvalidRequestError.because(
                        "key", job.key, "was used for another request", "use a key per request"
                    )
                return earlier
        self._jobs[job.id] = job
        return job

    async def claim(self, job_id: str, *, ceiling: int | None) -> JobRecord | None:
        """Win the right to POST a job once; see :class:`~aivideo.ledger.Ledger`."""
        job = self._job(job_id)
        if job.status is not JobStatus.PLANNED:
            return None
        if ceiling is not None:
            held = self._totals.held
            if job.credits is None:
                raise BudgetExceededError(
                    f"max_credits={ceiling}, and the price of a {job.request.model} request is "
                    "not known; state it: Generation(..., credits=N)",
                    needed=None,
                    held=held,
                    ceiling=ceiling,
                )
            if held + job.credits > ceiling:
                raise BudgetExceededError(
                    f"{job.credits} credits more would pass max_credits={ceiling}: {held} are "
                    "charged, reserved or unknown; nothing was sent",
                    needed=job.credits,
                    held=held,
                    ceiling=ceiling,
                )
        return await self.record(job_id, journal.Claimed(job.attempt + 1))

    async def record(self, job_id: str, event: Event) -> JobRecord:
        """Write down what happened; see :class:`~aivideo.ledger.Ledger`."""
        before = self._job(job_id)
        after = journal.apply(before, event)
        self._jobs[job_id] = after
        if after.task_id is not None:
            self._by_task[after.task_id] = job_id
        if after.status is not before.status:
            self._totals = self._totals.moved(
                after.credits or 0,
                journal.holding(before.status),
                journal.holding(after.status),
            )
            if after.key is None and after.status in _OVER and before.status not in _OVER:
                self._ended.append(job_id)
                self._forget_oldest()
        return after

    async def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        return self._jobs.get(job_id)

    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by its task."""
        job_id = self._by_task.get(task_id)
        return None if job_id is None else self._jobs[job_id]

    def totals(self) -> CreditTotals:
        """Add up the credits of all jobs."""
        return self._totals

    async def aclose(self) -> None:
        """Nothing to close."""

    def _forget_oldest(self) -> None:
        while len(self._ended) > self._keep_ended:
            job = self._jobs.pop(self._ended.popleft())
            if job.task_id is not None:
                self._by_task.pop(job.task_id, None)

    def _job(self, job_id: str) -> JobRecord:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise LedgerError(f"the ledger has no job {job_id}") from None
