"""The books: what a session writes down of its jobs, and what it counts of its own spending.

The ledger is the truth; the handles (:class:`~aivideo.Job`) and the counters here follow it. One
thing only goes the other way: what has happened and cannot be written (a full disk) is kept in
memory and tried again, and until it is written nothing more is bought. A process that dies before
leaves a claim that lapses: the job is then unknown, and not forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import assert_never

from aivideo._api import verdict, wire
from aivideo._session.job import Job
from aivideo.errors import (
    AIVideoError,
    APIStatusError,
    AuthenticationError,
    ContradictionError,
    LedgerError,
    PermissionDeniedError,
    SubmitUnknownError,
    scrub,
)
from aivideo.ledger import Ledger, budget, events, totals
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.ledger.totals import CreditTotals, Holding
from aivideo.ledger.transitions import TRANSITIONS
from aivideo.models import CompletedTask, Credits, FailedTask, Task

log = logging.getLogger("aivideo._session.session")

REWRITE_EVERY = 5.0
"""Seconds until what could not be written down is tried again."""


class Books:
    """Writes down, and counts; see the module.

    Args:
        ledger: where jobs are written down.
        max_credits: the ceiling over what this session was charged, has reserved or does not know.
        on_trouble: told of an error of the ledger: to buy nothing more.
        on_mended: told when all is written again, or may be tried again.

    Attributes:
        spent: credits of this session's own POSTs, by what became of them.
        counts: jobs taken on, by where they stand.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        max_credits: int | None,
        on_trouble: Callable[[LedgerError], None],
        on_mended: Callable[[], None],
    ) -> None:
        self.ledger = ledger
        self.spent = CreditTotals()
        self.counts: Counter[str] = Counter()
        self._max_credits = max_credits
        self._on_trouble = on_trouble
        self._on_mended = on_mended
        self._unwritten: deque[tuple[Job, events.AttemptEvent, int]] = deque()
        self._writing = asyncio.Lock()
        self._mending: asyncio.Task[None] | None = None
        self._closed = False

    def stand(self, job: Job, status: JobStatus) -> None:
        """Let a handle stand somewhere else, and count it there."""
        self.counts[job.status] -= 1
        self.counts[status] += 1
        job.status = status

    async def claim(self, job: Job, record: JobRecord, *, lease: float) -> JobRecord | None:
        """Win the right to POST a job once, its credits reserved; see :meth:`Ledger.claim`.

        Args:
            job: the job's handle; the session's ceiling is checked, the ledger checks its batch's.
            record: what the ledger knew of it.
            lease: seconds until the claim counts as abandoned.

        Returns:
            The job, ``submitting``; None: somebody else has it.
        """
        held = self.spent.held
        budget.admit(
            record.request.model,
            _amount(job.credits),
            held=held,
            ceiling=_amount(self._max_credits),
        )
        # Reserved before the first await: two callers cannot pass the ceiling together.
        job.holding = Holding.NONE
        self._hold(job, Holding.RESERVED)
        claimed: JobRecord | None = None
        try:
            claimed = await self.ledger.claim(job.id, lease=lease)
        except LedgerError as error:
            self._trouble(error)
            raise
        finally:
            if claimed is None:
                self._hold(job, Holding.NONE)
                job.holding = None
        if claimed is not None:
            job.attempt = claimed.latest
            self.stand(job, claimed.status)
        return claimed

    async def keep(self, job: Job, event: events.AttemptEvent, number: int) -> JobRecord | None:
        """Write down what happened to a POST.

        Returns:
            What the job is now; None: it could not be written, and is remembered.
        """
        if number == job.attempt:
            self._hold(job, totals.holding(TRANSITIONS[type(event)].to))
        try:
            await self._write_what_was_not()  # what happened first is written first
            record = await self._write(job, event, number)
        except LedgerError as error:
            log.log(
                logging.DEBUG if self._unwritten else logging.ERROR,  # once, not for each in flight
                "%s; what happened is kept in memory until it can be written, and nothing more is "
                "bought until then",
                error,
            )
            self._unwritten.append((job, event, number))
            self._trouble(error)
            return None
        if record is not None and number == job.attempt:
            # Somebody else may have known more: a callback, or a person.
            self._hold(job, totals.holding(record.attempt(number).status))
        return record

    async def keep_end(self, job: Job, task: Task) -> None:
        """Write down how a task of a job has ended."""
        number: int | None = job.attempt
        if task.id != job.task_id:  # of an older attempt, whose success came late
            record = await self.ledger.find(job.id)
            number = None if record is None else record.attempt_of(task.id)
        if number:
            await self.keep(job, end_of(task), number)

    async def keep_file(self, job: Job, task: CompletedTask, saved: Path) -> JobRecord | None:
        """Write down where a result lies. A ledger that cannot be written loses no file.

        Returns:
            What the job is now; None: the ledger does not know it, or could not be written.
        """
        try:
            await self._write_what_was_not()
            record = await self.ledger.find(job.id)
            if record is None:
                return None  # a task that was made elsewhere
            number = record.attempt_of(task.id)
            if number is not None:
                await self.ledger.record(job.id, end_of(task), attempt=number)
            at = events.Saved(str(saved), saved.stat().st_size)
            return await self.ledger.record(job.id, at)
        except (LedgerError, OSError) as error:
            log.error("%s is saved, which could not be written down: %s", saved, error)  # noqa: TRY400
            return None

    async def keep_balance(self, account: Credits) -> None:
        """Keep what the service said of the account, beside what the ledger knows now."""
        try:
            await self.ledger.note_credits(account)
        except LedgerError as error:
            log.info("the balance was not written down: %s", error)

    async def aclose(self) -> None:
        """Try once more to write what could not be; say what is lost to the ledger."""
        self._closed = True
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)
        with suppress(LedgerError):
            await self._write_what_was_not()
        for job, event, number in self._unwritten:
            if isinstance(event, events.Taken):
                log.error(
                    "the ledger does not know that job %s became task %s; tell it: aivideo jobs "
                    "settle %s --task-id %s",
                    *(job.id, event.task_id, job.id, event.task_id),
                )
            else:
                log.error("never written down: attempt %d of %r: %s", number, job, event)

    def _hold(self, job: Job, after: Holding) -> None:
        """Move the credits of this session's own POST of a job to another column."""
        if job.holding is not None:
            self.spent = self.spent.moved(Decimal(job.credits or 0), job.holding, after)
            job.holding = after

    def _trouble(self, error: LedgerError) -> None:
        self._on_trouble(error)
        if self._mending is None and not self._closed:
            self._mending = asyncio.create_task(self._mend())

    async def _mend(self) -> None:
        """Write what could not be written, until it is; then buying may go on."""
        began, owed = time.monotonic(), bool(self._unwritten)
        while True:
            await asyncio.sleep(REWRITE_EVERY)
            owed = owed or bool(self._unwritten)
            try:
                await self._write_what_was_not()
                break
            except LedgerError as error:
                log.debug("still not written: %s", error)
        self._mending = None
        if owed:
            log.warning("the ledger is whole again after %.0f s", time.monotonic() - began)
        self._on_mended()

    async def _write_what_was_not(self) -> None:
        """Write what is remembered, the oldest first.

        Raises:
            LedgerError: it cannot be written yet either.
        """
        if not self._unwritten:
            return
        async with self._writing:
            while self._unwritten:
                await self._write(*self._unwritten[0])
                self._unwritten.popleft()

    async def _write(self, job: Job, event: events.AttemptEvent, number: int) -> JobRecord | None:
        """Write down an event.

        Raises:
            LedgerError: whatever a ledger, somebody's own perhaps, breaks with: what has happened
                has happened all the same, and must be kept.
        """
        try:
            return await self._write_as_known(job, event, number)
        except LedgerError:
            raise
        except Exception as error:
            raise LedgerError(f"the ledger broke with {type(error).__name__}: {error}") from error

    async def _write_as_known(
        self, job: Job, event: events.AttemptEvent, number: int
    ) -> JobRecord | None:
        """Write down an event; where the ledger knows otherwise, it stays with what it knows."""
        try:
            return await self.ledger.record(job.id, event, attempt=number)
        except ContradictionError as error:
            log.error("what happened is not written down, and never will be: %s", error)  # noqa: TRY400
            if not isinstance(event, events.Taken):
                return await self.ledger.find(job.id)
            # Bought, and answered with another's task: what became of it, nobody knows.
            doubt = events.Doubted(Reason(message=str(error)))
            return await self.ledger.record(job.id, doubt, attempt=number)


def _amount(credits_: int | None) -> Decimal | None:
    return None if credits_ is None else Decimal(credits_)


def event_of(heard: verdict.Verdict) -> events.AttemptEvent:
    """Say what a verdict writes into the ledger."""
    match heard:
        case verdict.Accepted(task_id):
            return events.Taken(task_id)
        case verdict.Throttled() | verdict.Unsent() | verdict.Exhausted():
            return events.Released()
        case verdict.Refused(error):
            if isinstance(error, AuthenticationError | PermissionDeniedError):
                return events.Released()  # the key is at fault, not the job
            return events.Refused(_reason(error))
        case verdict.Faulted(error):
            return events.Faulted(_reason(error))
        case verdict.Unknown(error):
            return events.Doubted(_reason(error))
        case _:
            assert_never(heard)


def end_of(task: Task) -> events.Completed | events.Failed:
    """Say what the end of a task writes into the ledger; no URL among it."""
    created = task.created_at.timestamp()
    if isinstance(task, FailedTask):
        reason = Reason(message=scrub(task.error.message), code=task.error.code)
        return events.Failed(reason, created)
    ended = task.completed_at.timestamp() if isinstance(task, CompletedTask) else None
    return events.Completed(created, ended)


def why_untaken(job: Job, record: JobRecord) -> AIVideoError | None:
    """Say, as an error, why a job that a ledger knows has no task; None where it has one."""
    reason = record.reason or Reason(message="no reason was written down")
    match record.status:
        case JobStatus.UNKNOWN:
            return SubmitUnknownError(reason.message, job=job)
        case JobStatus.FAULTED | JobStatus.REFUSED:
            return wire.error_as(reason.status or 0, reason.code, reason.message)
        case _:
            return None


def _reason(error: AIVideoError) -> Reason:
    if isinstance(error, APIStatusError):
        return Reason(message=error.message, status=error.status, code=error.code)
    return Reason(message=str(error))
