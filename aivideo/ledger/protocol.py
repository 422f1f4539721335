"""The Protocol that every ledger implements; what it promises is in :mod:`aivideo.ledger`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Protocol, runtime_checkable

from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits, TaskId


class Ledger(Protocol):
    """What a session asks of its ledger. Times are Unix seconds; amounts are exact credits.

    Every method may raise :class:`~aivideo.LedgerError`: the ledger cannot be read or written, or
    is damaged. Then nothing was written, as far as can be told.
    """

    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        """Record a job that is to be submitted.

        Args:
            job: the job, ``planned``.
            replace: if a job of the same ``batch`` and ``key`` has another request, and none of
                its POSTs can have been taken, replace its request by this one.

        Returns:
            ``job``; or, if a job of the same ``batch`` and ``key`` exists, that one (at the price
            of ``job``, if no credits are counted at another price yet). A withdrawn job of that key
            is planned again, for any request. If a job of the same ``id`` exists, its current
            record: a caller that does not know whether an earlier call succeeded may repeat it.

        Raises:
            InvalidRequestError: the key was used for another request.
            LedgerError: the id belongs to another job.
        """
        ...

    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        """Move a job from ``planned`` to ``submitting``: compare and set.

        The one caller that gets the record back may POST it, once: the record's last attempt is
        that POST. The job's price is reserved with the attempt. The stored ceiling of the job's
        batch is checked in the same transaction.

        Args:
            job_id: the job.
            lease: seconds after which the claim counts as abandoned.
            retry_faulted: claim a ``faulted`` job too: its user allowed to send a create again
                that was answered by 500 or 503. Only passed where it is true.

        Returns:
            The job, now ``submitting``; or None if it is not ``planned``.

        Raises:
            BudgetExceededError: its price would pass the batch's ceiling, or is not known under
                one; or there is a ceiling, and an earlier attempt of the batch, without a known
                price, is charged, reserved or unknown (``CreditTotals.unpriced``).
        """
        ...

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        """Record what happened to a job, and return the job after it.

        Args:
            job_id: the job.
            event: what happened.
            attempt: the number of the POST it happened to; None: the latest.

        Raises:
            ContradictionError: the event contradicts the record, or its task belongs to another
                job; see :mod:`aivideo.ledger.transitions`.
            LedgerError: there is no such job, or no such attempt.
        """
        ...

    async def lapse(self) -> Sequence[JobRecord]:
        """Record ``unknown`` for other owners' abandoned claims; return those jobs."""
        ...

    async def set_ceiling(self, batch: str, credits: Decimal | None) -> None:  # noqa: A002
        """Store the ceiling of a batch, in place of an earlier one.

        Args:
            batch: the batch's name; it need not have jobs yet.
            credits: the most that its charged, reserved and unknown credits may become; None
                removes the ceiling.
        """
        ...

    async def ceiling(self, batch: str) -> Decimal | None:
        """Return the stored ceiling of a batch in credits, or None."""
        ...

    async def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        ...

    async def find_key(self, batch: str | None, key: str) -> JobRecord | None:
        """Find a job by its batch (None: without one) and key."""
        ...

    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by the task of any of its attempts."""
        ...

    def jobs(
        self, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
    ) -> AsyncIterator[JobRecord]:
        """Yield jobs in the order they were recorded, read a page at a time.

        Args:
            batch: only jobs of this batch; None: all.
            statuses: only jobs with one of these statuses; empty: all.
        """
        ...

    async def counts(self, *, batch: str | None = None) -> Mapping[JobStatus, int]:
        """Count the jobs of a batch, or all, by status. Reads an entry for each job."""
        ...

    async def totals(self, *, batch: str | None = None) -> CreditTotals:
        """Sum the credits of a batch's attempts, or of all. Reads stored sums only."""
        ...

    async def note_credits(self, account: Credits) -> Reading:
        """Store the account's counters together with the ledger's own totals at this moment."""
        ...

    async def readings(self) -> Sequence[Reading]:
        """List the stored readings, the oldest first."""
        ...

    async def aclose(self) -> None:
        """Finish writing, and close. May be called more than once."""
        ...


@runtime_checkable
class LimitsWaiting(Protocol):
    """What a ledger may implement besides :class:`Ledger`: closing does not wait long for it."""

    def limit_waiting(self, seconds: float | None) -> None:
        """Limit how long this ledger waits for others, a locked file for example.

        A call that would wait longer raises :class:`~aivideo.LedgerError`.

        Args:
            seconds: for all calls together from now on, until one succeeds; None: as usual again.
        """
        ...
