"""One run of a batch: skip lines that are done, poll tasks that run, submit the rest."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from aivideo._amounts import exact
from aivideo.delivery import download
from aivideo.errors import (
    AIVideoError,
    AuthenticationError,
    DownloadError,
    LedgerError,
    PermissionDeniedError,
    SessionClosedError,
    SpendLimitError,
)
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.manifest import results as reports
from aivideo.manifest.matching import Match, Plan
from aivideo.manifest.preparing import BatchSettings
from aivideo.manifest.reading import Line
from aivideo.manifest.results import BatchReport, Result, result_of
from aivideo.models import Failed, Outcome, Request, TaskId

if TYPE_CHECKING:
    from aivideo._session.job import Job
    from aivideo._session.session import Session

log: logging.Logger = logging.getLogger("aivideo.manifest")

SPEND_LIMIT_PAUSE = 60.0
"""Seconds between attempts to submit while waiting for a spend cap to reset."""

_DISK_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG)
)
"""Errors of one file that the next file would meet as well."""


class Batch:
    """One run of a batch. ``results`` grows as lines end.

    Args:
        session: submits, polls and downloads.
        plan: the lines, matched with their jobs, of :func:`~aivideo.manifest.prepare`.
        folder: where the files are saved.
        settings: what the run may do.
        on_result: called with the result of each line that ends.
    """

    def __init__(
        self,
        session: Session,
        plan: Plan,
        folder: Path,
        settings: BatchSettings,
        *,
        on_result: Callable[[Result], None] | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.results: dict[str, Result] = {}
        self._session = session
        self._settings = settings
        self._on_result = on_result
        self._matches = {each.line.id: each for each in (*plan.matches, *plan.orphans)}
        self._sending: list[Match] = []
        self._jobs: dict[str, Job] = {}
        self._stop = asyncio.Event()
        self._trouble: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Submit nothing more; requests in flight finish. Call it from the event loop's thread."""
        if not self._stop.is_set():
            self._stop.set()
            self._session.stop_submits("the batch was stopped")
            self._write_unfinished()  # at once: a second Ctrl-C may follow

    async def run(self) -> BatchReport:
        """Run until every line has ended, or until :meth:`stop` has taken effect.

        Raises:
            AuthenticationError: the key was rejected; nothing was sent.
            PermissionDeniedError: this machine's IP address was rejected; nothing was sent.
        """
        await self._read_balance()
        download.remove_leftovers(self.folder)
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._session.drain()
                # Jobs that have ended by now are reported in the next iterations of the loop.
                await asyncio.wait((work,), timeout=0.2)
            unfinished = self._write_unfinished()
            if work.done():
                await work
                await self._read_balance()
        finally:
            for task in (work, stopped):
                task.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)
        return BatchReport(
            results=tuple(self._result_of(each) for each in self._matches.values()),
            credits=await self._session.ledger.totals(batch=self._settings.name),
            this_run=self._session.statistics().credits,
            stopped=self._stop.is_set(),
            unfinished=unfinished,
            trouble=self._trouble,
        )

    async def _read_balance(self) -> None:
        """Store a reading of the account's counter in the ledger, for `aivideo jobs audit`."""
        try:
            await self._session.credits()
        except (AuthenticationError, PermissionDeniedError):
            raise
        except AIVideoError as error:
            log.info("could not read the balance: %s", error)

    async def _work(self) -> None:
        parts = []
        for each in self._matches.values():
            if each.stated_task is not None:
                parts.append(self._save_stated_task(each.line, each.stated_task))
            elif each.record is None and each.line.unknown:
                self._note(Result(line=each.line, status="unknown"))
        parts += [self._save_orphan(each) for each in self.plan.orphans if each.record]
        tasks = [asyncio.create_task(part) for part in (*parts, self._generate())]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _generate(self) -> None:
        settings = self._settings
        left = [
            each
            for each in self.plan.matches
            if each.stated_task is None and (each.record is not None or not each.line.unknown)
        ]
        await self._set_ceiling()
        while left:
            self._sending = left
            again: list[Match] = []
            outcomes = self._session.generate_many(
                [each.line.request for each in left],
                save_to=self._path_of_sending,
                batch=settings.name,
                key=lambda index, _: self._sending[index].line.id,
                retry_failed=settings.retry_failed,
                # prepare() has recorded them. A run that started later may have changed one, and a
                # person may have withdrawn one: it stays so.
                known_only=True,
                pay_again=settings.pay_again,
                on_job=self._note_job,
            )
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    each = left[outcome.index]
                    if self._waits_for_spend_limit(outcome):
                        again.append(each)
                    elif isinstance(outcome, Failed) and isinstance(outcome.error, LedgerError):
                        self._abort(str(outcome.error))  # not recorded, so not sent
                    else:
                        self._note(result_of(each.line, outcome, earlier=self._ended_earlier(each)))
            left = again
            if left:
                await asyncio.sleep(SPEND_LIMIT_PAUSE)
                if self.stopped:
                    return  # stop() has closed the gate for good
                self._session.resume_submits()

    async def _set_ceiling(self) -> None:
        """Store the batch's ceiling with its jobs: each claim is checked against it."""
        ceiling = self._settings.max_credits
        if ceiling is not None:
            credits_ = None if ceiling == "none" else exact(ceiling)
            await self._session.ledger.set_ceiling(self._settings.name, credits_)

    def _ended_earlier(self, each: Match) -> bool:
        """Whether a line had failed or was unknown before this run, and is not sent by it."""
        record = each.record
        if record is None:
            return False
        settings = self._settings
        if record.status.is_in_doubt:
            return not (settings.retry_failed and settings.pay_again)
        return record.status.is_retryable and not settings.retry_failed

    def _waits_for_spend_limit(self, outcome: Outcome) -> bool:
        return (
            self._settings.wait_for_spend_limit
            and not self._stop.is_set()
            and isinstance(outcome, Failed)
            and isinstance(outcome.error, SpendLimitError)
        )

    async def _save_stated_task(self, line: Line, task_id: TaskId) -> None:
        """Save the result of a task that a line states and the ledger does not know."""
        path = self._path(line)
        if path.exists():  # files appear complete: an earlier run has saved it
            self._note(Result(line=line, status="saved", task_id=task_id, path=path, earlier=True))
        else:
            await self._save(line, self._session.job(task_id))

    async def _save_orphan(self, each: Match) -> None:
        """Save a job that no line asks for any more: it was paid for."""
        assert each.record is not None
        if each.record.task_id is None:
            self._note(Result(line=each.line, status="unknown", earlier=True))
        else:
            await self._save(each.line, self._session.take_up(each.record))

    async def _save(self, line: Line, job: Job) -> None:
        try:
            path = await job.save(self._path(line))
        except AIVideoError as error:
            if not isinstance(error, SessionClosedError):
                self._note(Result(line=line, status="failed", task_id=job.task_id, error=error))
        else:
            self._note(Result(line=line, status="saved", task_id=job.task_id, path=path))

    def _note_job(self, job: Job) -> None:
        assert job.index is not None
        self._jobs[self._sending[job.index].line.id] = job

    def _path_of_sending(self, index: int, _: Request) -> Path:
        return self._path(self._sending[index].line)

    def _path(self, line: Line) -> Path:
        return self.folder / line.file_name

    def _note(self, result: Result) -> None:
        if result.status == "unsent":
            return  # not an end: the end of the run reports where the line is then
        self.results[result.line.id] = result
        if not result.earlier:
            try:
                reports.append(self.folder, result)
            except OSError as error:
                self._abort(f"{self.folder / reports.REPORT}: {error.strerror}")
        if self._on_result is not None:
            self._on_result(result)
        number = result.error.errno if isinstance(result.error, DownloadError) else None
        if number is not None and number in _DISK_ERRORS:
            self._abort(f"{self.folder}: {os.strerror(number)}")

    def _abort(self, why: str) -> None:
        """Stop: nothing is bought that cannot be recorded or saved. The next run continues."""
        if self._trouble is None:
            self._trouble = why
        self.stop()

    def _result_of(self, each: Match) -> Result:
        """Return the result of a line, whether it has ended or not."""
        line, record = each.line, each.record
        known = self.results.get(line.id)
        if known is not None:
            return known
        if each.stated_task is not None:
            return Result(line=line, status="running", task_id=each.stated_task)
        # The job handle knows its task even if no outcome was reported yet.
        job = self._jobs.get(line.id)
        task_id, status = _task_and_status(job, record)
        if task_id is not None:
            return Result(line=line, status="running", task_id=task_id)
        return Result(line=line, status="unknown" if _may_be_taken(status) else "unsent")

    def _write_unfinished(self) -> Path | None:
        results = [self._result_of(each) for each in self._matches.values()]
        try:
            return reports.write_unfinished(self.folder, results)
        except OSError as error:
            # The ledger holds all of it as well.
            self._abort(f"{self.folder / reports.UNFINISHED}: {error.strerror}")
            return None


def _task_and_status(
    job: Job | None, record: JobRecord | None
) -> tuple[TaskId | None, JobStatus | None]:
    if job is not None:
        return job.task_id, job.status
    return (None, None) if record is None else (record.task_id, record.status)


def _may_be_taken(status: JobStatus | None) -> bool:
    return status is not None and (status is JobStatus.SUBMITTING or status.is_in_doubt)
