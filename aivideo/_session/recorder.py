"""Writes what happens to jobs into the ledger; remembers what could not be written.

The ledger is the truth, with one exception: what has happened and cannot be written (a full disk)
is kept in memory and written later, and until then nothing more is bought. If the process dies
before, its claim lapses: the job is then unknown, and not forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path

from aivideo._redaction import scrub
from aivideo._session.gate import Gate
from aivideo._session.live import LiveJob, LiveJobs
from aivideo._session.supervisor import CancellableTask, Supervisor
from aivideo.errors import AIVideoError, ContradictionError, LedgerError
from aivideo.events import FileSaved
from aivideo.ledger import Ledger, budget, events
from aivideo.ledger.events import AttemptEvent
from aivideo.ledger.protocol import LimitsWaiting
from aivideo.ledger.records import JobRecord, Reason
from aivideo.ledger.totals import holding
from aivideo.ledger.transitions import TRANSITIONS
from aivideo.models import CompletedTask, FailedTask, Task

log = logging.getLogger("aivideo.session")

CLOSING_PATIENCE = 10.0
"""Seconds, in all, for which a ledger that stays locked is waited for once nothing more is sent."""

REWRITE_INTERVAL = 5.0
"""Seconds between two attempts to write what could not be written."""


class Recorder:
    """Records events and counts the session's own credits; see the module.

    Args:
        ledger: where jobs are recorded.
        live: the live jobs, whose credits are counted.
        gate: closed while the ledger cannot be written.
        supervisor: runs the attempts to write again.
        max_credits: the session's own ceiling over what its POSTs were charged, have reserved, or
            may have cost; None: there is none.
    """

    def __init__(
        self,
        ledger: Ledger,
        live: LiveJobs,
        gate: Gate,
        supervisor: Supervisor,
        *,
        max_credits: Decimal | None,
    ) -> None:
        self.ledger = ledger
        self._live = live
        self._gate = gate
        self._supervisor = supervisor
        self._max_credits = max_credits
        self._unwritten: deque[tuple[str, AttemptEvent | events.Withdrawn, int]] = deque()
        self._writing = asyncio.Lock()
        self._rewriting: CancellableTask | None = None
        self._closed = False

    # --- a POST -------------------------------------------------------------------------------

    async def claim(
        self, live: LiveJob, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        """Win the right to POST a job once, its credits reserved; see :meth:`Ledger.claim`.

        Args:
            live: the job. The session's own ceiling is checked here, its batch's by the ledger.
            lease: seconds until the claim counts as abandoned.
            retry_faulted: whether a job answered by 500 or 503 is claimed too.

        Returns:
            The job, ``submitting``; None: it was not planned any more.

        Raises:
            BudgetExceededError: its credits would pass a ceiling, or are not known under one, or
                those of an earlier POST are not known; nothing was sent.
            LedgerError: the claim could not be written; nothing was sent.
        """
        record = live.record
        if self._max_credits is not None:
            spent = self._live.spent
            budget.admit(
                record.request.model,
                record.credits,
                held=spent.held,
                ceiling=self._max_credits,
                unpriced=spent.unpriced,
                unpriced_jobs=self._live.unpriced_jobs,
            )
        # Reserved before the first await: two callers cannot pass the ceiling together.
        self._live.reserve(live)
        claimed: JobRecord | None = None
        try:
            with _failures_as_ledger_errors():
                if retry_faulted:
                    claimed = await self.ledger.claim(record.id, lease=lease, retry_faulted=True)
                else:
                    claimed = await self.ledger.claim(record.id, lease=lease)
        except LedgerError as error:
            self._ledger_failed(error)
            raise
        finally:
            if claimed is None:
                self._live.release(live)
        if claimed is not None:
            live.attempt = claimed.latest
            self._live.apply(live, claimed)
        return claimed

    async def record(self, live: LiveJob, event: AttemptEvent, number: int) -> JobRecord | None:
        """Record what happened to an attempt.

        Returns:
            What the job is now; None: it could not be written yet, and is kept in memory.
        """
        own = number == live.attempt
        if own:
            self._live.hold(live, holding(TRANSITIONS[type(event)].to))
        try:
            await self._write_backlog()  # in the order in which it happened
            record = await self._write(live.id, event, number)
        except LedgerError as error:
            log.log(
                logging.DEBUG if self._unwritten else logging.ERROR,  # once, not for each POST
                "%s; what happened is kept in memory until it can be written, and nothing more is "
                "bought until then",
                error,
            )
            self._unwritten.append((live.id, event, number))
            self._ledger_failed(error)
            return None
        if own and record is not None:
            # Somebody else may have known more: a callback, or a person.
            self._live.hold(live, holding(record.attempt(number).status))
        return record

    async def find(self, job_id: str) -> JobRecord | None:
        """Find a job.

        Raises:
            LedgerError: however the ledger fails.
        """
        with _failures_as_ledger_errors():
            return await self.ledger.find(job_id)

    async def withdraw(self, job_id: str) -> JobRecord:
        """Withdraw a planned job, so that nobody sends it.

        Raises:
            ContradictionError: it is not planned any more.
            LedgerError: it could not be written.
        """
        await self._write_backlog()
        with _failures_as_ledger_errors():
            return await self.ledger.record(job_id, events.Withdrawn())

    def withdraw_later(self, job_id: str) -> None:
        """Withdraw a job as soon as the ledger can be written: it was said to be unsent."""
        log.warning("job %s was not sent; it is withdrawn when the ledger can be written", job_id)
        self._unwritten.append((job_id, events.Withdrawn(), 0))
        self._start_rewriting()

    # --- what follows -------------------------------------------------------------------------

    async def record_end(self, live: LiveJob, task: Task) -> JobRecord | None:
        """Record how a task of a job has ended.

        Returns:
            What the job is now; None: nothing was recorded, or it could not be written yet.
        """
        number = live.record.attempt_of(task.id)
        if number is None:  # an attempt that was settled elsewhere, since this record was read
            record = await self.ledger.find(live.record.id)
            number = None if record is None else record.attempt_of(task.id)
        return None if number is None else await self.record(live, end_of(task), number)

    async def record_file(self, job_id: str, task: CompletedTask, saved: Path) -> JobRecord | None:
        """Record where a result was saved. A ledger that cannot be written loses no file.

        Returns:
            What the job is now; None: the ledger does not know it, or could not be written.
        """
        try:
            await self._write_backlog()
            with _failures_as_ledger_errors():
                record = await self.ledger.find(job_id)
            if record is None:
                return None  # a task that was made elsewhere
            number = record.attempt_of(task.id)
            if number is not None:
                await self.ledger.record(job_id, end_of(task), attempt=number)
            size = saved.stat().st_size
            after = await self.ledger.record(job_id, events.Saved(str(saved), size))
        except (LedgerError, OSError) as error:
            log.error("%s is saved, but this could not be recorded: %s", saved, error)  # noqa: TRY400
            return None
        self._live.emit(FileSaved(job_id=job_id, task_id=task.id, path=saved, size=size))
        return after

    def limit_waiting(self, *, limited: bool) -> None:
        """Limit how long the ledger waits for other processes, or not, if it supports that.

        Args:
            limited: to ``CLOSING_PATIENCE`` in all, from now on; False: as usual again.
        """
        if isinstance(self.ledger, LimitsWaiting):
            self.ledger.limit_waiting(CLOSING_PATIENCE if limited else None)

    async def aclose(self) -> None:
        """Try once more to write what could not be written; log what the ledger lacks."""
        self._closed = True
        if self._rewriting is not None:
            self._rewriting.cancel()
            await self._rewriting.ended.wait()
        with suppress(LedgerError):
            await self._write_backlog()
        path = getattr(self.ledger, "path", None)
        option = "" if path is None else f" --ledger {shlex.quote(str(path))}"
        for job_id, event, number in self._unwritten:
            if isinstance(event, events.Taken):
                log.error(
                    "the ledger does not know that job %s became task %s; record it with: aivideo "
                    "jobs settle %s --task-id %s%s",
                    *(job_id, event.task_id, job_id, event.task_id, option),
                )
            else:
                log.error("never recorded: attempt %d of job %s: %r", number, job_id, event)

    # --- writing ------------------------------------------------------------------------------

    def _ledger_failed(self, error: LedgerError) -> None:
        self._gate.close(error)
        self._start_rewriting()

    def _start_rewriting(self) -> None:
        if self._rewriting is None and not self._closed:
            self._rewriting = self._supervisor.start_cancellable(self._rewrite)

    async def _rewrite(self) -> None:
        """Write what could not be written, until it is; then creates may go on."""
        began, behind = time.monotonic(), bool(self._unwritten)
        while True:
            await asyncio.sleep(REWRITE_INTERVAL)
            behind = behind or bool(self._unwritten)
            try:
                await self._write_backlog()
                break
            except LedgerError as error:
                log.debug("the ledger still cannot be written: %s", error)
        self._rewriting = None
        if behind:
            log.warning("the ledger is complete again after %.0f s", time.monotonic() - began)
        self._gate.ledger_recovered()

    async def _write_backlog(self) -> None:
        """Write what is kept in memory, the oldest first.

        Raises:
            LedgerError: it cannot be written yet.
        """
        if not self._unwritten:
            return
        async with self._writing:
            while self._unwritten:
                await self._write(*self._unwritten[0])
                self._unwritten.popleft()

    async def _write(
        self, job_id: str, event: AttemptEvent | events.Withdrawn, number: int
    ) -> JobRecord | None:
        """Write one event.

        Raises:
            LedgerError: however the ledger fails: what has happened must be kept all the same.
        """
        with _failures_as_ledger_errors():
            return await self._write_or_find(job_id, event, number)

    async def _write_or_find(
        self, job_id: str, event: AttemptEvent | events.Withdrawn, number: int
    ) -> JobRecord | None:
        """Write one event; where the ledger contradicts it, return what the ledger knows."""
        try:
            return await self.ledger.record(job_id, event, attempt=number or None)
        except ContradictionError as error:
            if isinstance(event, events.Withdrawn):
                return None  # somebody has sent it, or withdrawn it
            log.error("an event was rejected by the ledger as inconsistent, and dropped: %s", error)  # noqa: TRY400
            if not isinstance(event, events.Taken):
                return await self.ledger.find(job_id)
            # It was bought, and answered with another job's task: its outcome is unknown.
            doubt = events.Doubted(Reason(message=str(error)))
            return await self.ledger.record(job_id, doubt, attempt=number)


@contextmanager
def _failures_as_ledger_errors() -> Generator[None]:
    """Raise whatever a ledger, the user's own perhaps, fails with as a LedgerError."""
    try:
        yield
    except AIVideoError:
        raise
    except Exception as error:
        raise LedgerError(f"the ledger failed with {type(error).__name__}: {error}") from error


def end_of(task: Task) -> events.Completed | events.Failed:
    """Return the end of a task as the event that a ledger records; it holds no URL."""
    created = task.created_at.timestamp()
    if isinstance(task, FailedTask):
        reason = Reason(message=scrub(task.error.message), code=task.error.code)
        return events.Failed(reason, created)
    ended = task.completed_at.timestamp() if isinstance(task, CompletedTask) else None
    return events.Completed(created, ended)
