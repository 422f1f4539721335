"""Where jobs are written down before and after each step that matters.

:class:`Ledger` is a Protocol; :class:`~aivideo.ledger.memory.MemoryLedger` is its first form: it
never pays twice while the process lives, and forgets everything with it. A ledger on disk keeps
the same promises across a crash, as a sibling here.
"""

from __future__ import annotations

from typing import Protocol

from aivideo.models import TaskId
from aivideo.sansio.journal import CreditTotals, Event, JobRecord


class Ledger(Protocol):
    """What a session asks of its ledger. Each call has been made durable when it returns."""

    async def plan(self, job: JobRecord) -> JobRecord:
        """Write down a job that is to be submitted.

        Returns:
            ``job``; or, where a job of the same ``batch`` and ``key`` is written down already,
            that one.

        Raises:
            InvalidRequestError: that key was used for another request.
        """
        ...

    async def claim(self, job_id: str, *, ceiling: int | None) -> JobRecord | None:
        """Move a job from ``planned`` to ``submitting``, if it is ``planned``: compare and set.

        Whoever gets the record back may POST it, once; its credits are reserved. Nobody else does.

        Args:
            job_id: the job.
            ceiling: credits that charged, reserved and unknown jobs may not pass, or None.

        Returns:
            The job, now ``submitting``; or None if it was not ``planned`` any more.

        Raises:
            BudgetExceededError: its credits would pass the ceiling, or are not known under one.
        """
        ...

    async def record(self, job_id: str, event: Event) -> JobRecord:
        """Write down what happened to a job, and return what it is now.

        Raises:
            LedgerError: no such job, or the event cannot follow what is known.
        """
        ...

    async def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        ...

    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by the task that it became."""
        ...

    def totals(self) -> CreditTotals:
        """Add up the credits of all jobs since the ledger was opened."""
        ...

    async def aclose(self) -> None:
        """Finish writing, and close."""
        ...
