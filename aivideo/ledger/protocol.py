"""The Protocol that every ledger implements; what it promises is in :mod:`aivideo.ledger`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits, TaskId


class Ledger(Protocol):
    """What a session asks of its ledger; see the module. Times are Unix seconds.

    Every call may raise :class:`~aivideo.LedgerError`: the ledger cannot be read, written or
    trusted. What was to be written then was not, as far as anybody can tell.
    """

    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        """Write down a job that is to be submitted.

        Args:
            job: the job, ``planned``.
            replace: where a job of the same ``batch`` and ``key`` asks for something else and
                none of its POSTs can have been taken, let it ask for this from now on.

        Returns:
            ``job``; or, where a job of the same ``batch`` and ``key`` is written down already,
            that one (at the price that ``job`` states, if nothing is counted at another yet); or,
            where it is itself, what it is by now: whoever does not know whether an earlier call
            came through may say it again.

        Raises:
            InvalidRequestError: that key was used for another request.
            LedgerError: that id is another job's.
        """
        ...

    async def claim(
        self, job_id: str, *, lease: float, ceiling: int | None = None
    ) -> JobRecord | None:
        """Move a job from ``planned`` to ``submitting``, if it is ``planned``: compare and set.

        Whoever gets the record back may POST it, once: its last attempt is that POST. Its credits
        are reserved. Nobody else gets it.

        Args:
            job_id: the job.
            lease: seconds after which the claim counts as abandoned.
            ceiling: credits that charged, reserved and unknown attempts of the job's batch may
                not pass (with no batch: those of all jobs without one), or None.

        Returns:
            The job, now ``submitting``; or None if it was not ``planned`` any more.

        Raises:
            BudgetExceededError: its credits would pass the ceiling, or are not known under one.
        """
        ...

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        """Write down what happened to a job, and return what it is now.

        Args:
            job_id: the job.
            event: what happened.
            attempt: the number of the POST it happened to; None: the latest.

        Raises:
            ContradictionError: the event cannot follow what is known, or its task is another's;
                see :mod:`aivideo.ledger.transitions`.
            LedgerError: no such job, or no such attempt.
        """
        ...

    async def lapse(self) -> Sequence[JobRecord]:
        """Write ``unknown`` for each lapsed claim of somebody else's; return those jobs."""
        ...

    async def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        ...

    async def find_key(self, batch: str | None, key: str) -> JobRecord | None:
        """Find a job by the name its user gave it."""
        ...

    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by a task that one of its attempts became."""
        ...

    def jobs(
        self, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
    ) -> AsyncIterator[JobRecord]:
        """Yield jobs in the order they were written down, a page at a time.

        Args:
            batch: only those of this batch; None: all.
            statuses: only those that stand so; none: all.
        """
        ...

    async def counts(self, *, batch: str | None = None) -> Mapping[JobStatus, int]:
        """Count the jobs of a batch, or all, by where they stand. Reads them all."""
        ...

    async def totals(self, *, batch: str | None = None) -> CreditTotals:
        """Add up the credits of a batch's attempts, or of all. Reads only what was summed."""
        ...

    async def note_credits(self, account: Credits) -> Reading:
        """Keep what the service says of the account, beside what the ledger knows now."""
        ...

    async def readings(self) -> Sequence[Reading]:
        """List what was kept, the oldest first."""
        ...

    async def aclose(self) -> None:
        """Finish writing, and close. Safe to say twice."""
        ...
