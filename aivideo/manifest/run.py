"""One run over a manifest: what was done is skipped, what runs is watched, the rest is sent."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import aclosing
from pathlib import Path

from attrs import frozen

from aivideo._session.job import Job
from aivideo._session.session import Session
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
from aivideo.ledger import Ledger
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.manifest import results as reports
from aivideo.manifest.matching import Match, Plan, match
from aivideo.manifest.reading import Line, ManifestError
from aivideo.manifest.results import BatchReport, Result, result_of
from aivideo.models import Failed, Outcome, Request, TaskId

log = logging.getLogger("aivideo.manifest")

SPEND_LIMIT_PAUSE = 60.0
"""Seconds until submits are tried again, when the user chose to wait for a spend cap to reset."""

_IN_DOUBT = (JobStatus.SUBMITTING, JobStatus.UNKNOWN, JobStatus.FAULTED)
_ENDED = (JobStatus.FAILED, JobStatus.REFUSED)
_DISK = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG)
)
"""What a disk says that it will say of the next file too."""


@frozen(kw_only=True)
class Settings:
    """What a run may do.

    Attributes:
        name: the batch's name in the ledger: the same name and line is the same job.
        max_credits: ceiling over all that the batch was ever charged, reserves or does not know.
        retry_failed: send lines again that failed (and were refunded) or were refused.
        wait_for_spend_limit: at the key's spend cap, wait until it resets.
    """

    name: str
    max_credits: int | None = None
    retry_failed: bool = False
    wait_for_spend_limit: bool = False


async def prepare(ledger: Ledger, name: str, lines: Iterable[Line]) -> Plan:
    """Find out what a ledger knows of a manifest's lines.

    Raises:
        ManifestError: an ``id`` asks for something else than was bought under it.
        LedgerError: the ledger cannot be read.
    """
    await ledger.lapse()
    return match(lines, [record async for record in ledger.jobs(batch=name)])


def check_files(folder: Path, plan: Plan, *, overwrite: bool) -> None:
    """Find out, before anything is spent, whether a file is in the way that no job has made.

    A line that says its ``task_id`` is not bought, so nothing is in its way.

    Raises:
        ManifestError: one is: to make it again would be to pay again.
    """
    there = [
        each.line.file_name
        for each in plan.matches
        if each.record is None
        and each.task_to_take_up is None
        and (folder / each.line.file_name).exists()
    ]
    if there and not overwrite:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        problem = (
            f"{folder / there[0]} is there already{more}, and the ledger knows nothing of it: "
            "sending it again would pay again; name the ledger it was made with (--ledger), "
            "choose another --output, or insist with --overwrite"
        )
        raise ManifestError([problem])


class Batch:
    """One run. ``results`` grows as lines end.

    Args:
        session: what sends, watches and fetches.
        plan: what is to be made, and what is known of it.
        folder: where the files go.
        settings: what the run may do.
        on_result: told of each line that ends.
    """

    def __init__(
        self,
        session: Session,
        plan: Plan,
        folder: Path,
        settings: Settings,
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
        """Submit nothing more; what is under way finishes. Call it from the loop's thread."""
        if not self._stop.is_set():
            self._stop.set()
            self._session.stop_submits("the batch was stopped")
            self._write_unfinished()  # at once: whoever stops may stop harder

    async def run(self) -> BatchReport:
        """Run until every line has ended, or until :meth:`stop` has taken effect.

        Raises:
            AuthenticationError: the key is not good; nothing was sent.
            PermissionDeniedError: nor is this machine's address; nothing was sent.
        """
        await self._read_balance()
        download.remove_leftovers(self.folder)
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._session.drain()
                # What had its verdict or its file by now is told in the next turns of the loop.
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
        """Have the account's counter in the ledger: `jobs audit` compares such readings."""
        try:
            await self._session.credits()
        except (AuthenticationError, PermissionDeniedError):
            raise
        except AIVideoError as error:
            log.info("the balance could not be asked for: %s", error)

    async def _work(self) -> None:
        parts = []
        for each in self._matches.values():
            if each.task_to_take_up is not None:
                parts.append(self._take_up(each.line, each.task_to_take_up))
            elif each.record is None and each.line.unknown:
                self._note(Result(line=each.line, status="unknown"))
        parts += [self._see_to_its_end(each) for each in self.plan.orphans if each.record]
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
            if each.task_to_take_up is None and (each.record is not None or not each.line.unknown)
        ]
        while left:
            self._sending = left
            again: list[Match] = []
            outcomes = self._session.generate_many(
                [each.line.request for each in left],
                save_to=self._path_of_sending,
                batch=settings.name,
                key=lambda index, _: self._sending[index].line.id,
                max_credits=settings.max_credits,
                retry_failed=settings.retry_failed,
                on_job=self._note_job,
            )
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    each = left[outcome.index]
                    if self._is_to_wait_for(outcome):
                        again.append(each)
                    elif isinstance(outcome, Failed) and isinstance(outcome.error, LedgerError):
                        self._give_up(str(outcome.error))  # it was not sent: it was not written
                    else:
                        self._note(result_of(each.line, outcome, earlier=self._had_ended(each)))
            left = again
            if left:
                await asyncio.sleep(SPEND_LIMIT_PAUSE)
                if self.stopped:
                    return  # who stops it meanwhile closes the gate for good
                self._session.resume_submits()

    def _had_ended(self, each: Match) -> bool:
        """Whether a line had failed, or was of unknown fate, before this run, and stays so."""
        record = each.record
        if record is None:
            return False
        return record.status in (JobStatus.UNKNOWN, JobStatus.FAULTED) or (
            record.status in _ENDED and not self._settings.retry_failed
        )

    def _is_to_wait_for(self, outcome: Outcome) -> bool:
        return (
            self._settings.wait_for_spend_limit
            and not self._stop.is_set()
            and isinstance(outcome, Failed)
            and isinstance(outcome.error, SpendLimitError)
        )

    async def _take_up(self, line: Line, task_id: TaskId) -> None:
        """Save the result of a task that a line says it has become; the ledger knows of none."""
        path = self._path(line)
        if path.exists():  # files come whole or not at all: an earlier run has fetched it
            self._note(Result(line=line, status="saved", task_id=task_id, path=path, earlier=True))
        else:
            await self._save(line, self._session.job(task_id))

    async def _see_to_its_end(self, each: Match) -> None:
        """See a job to its end that no line asks for any more: it was paid for."""
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
            return  # it says what is, not how it ended: the end of the run asks again
        self.results[result.line.id] = result
        if not result.earlier:
            try:
                reports.append(self.folder, result)
            except OSError as error:
                self._give_up(f"{self.folder / reports.REPORT}: {error.strerror}")
        if self._on_result is not None:
            self._on_result(result)
        number = result.error.errno if isinstance(result.error, DownloadError) else None
        if number is not None and number in _DISK:
            self._give_up(f"{self.folder}: {os.strerror(number)}")

    def _give_up(self, why: str) -> None:
        """Stop: what cannot be written down or saved is not bought. The next run goes on."""
        if self._trouble is None:
            self._trouble = why
        self.stop()

    def _result_of(self, each: Match) -> Result:
        """Say how a line stands, ended or not."""
        line, record = each.line, each.record
        known = self.results.get(line.id)
        if known is not None:
            return known
        if each.task_to_take_up is not None:
            return Result(line=line, status="running", task_id=each.task_to_take_up)
        # The job knows what was taken, however little of it has been told so far.
        job = self._jobs.get(line.id)
        task_id, status = _stands(job, record)
        if task_id is not None:
            return Result(line=line, status="running", task_id=task_id)
        return Result(line=line, status="unknown" if status in _IN_DOUBT else "unsent")

    def _write_unfinished(self) -> Path | None:
        results = [self._result_of(each) for each in self._matches.values()]
        try:
            return reports.write_unfinished(self.folder, results)
        except OSError as error:
            # The ledger knows all that it would say.
            self._give_up(f"{self.folder / reports.UNFINISHED}: {error.strerror}")
            return None


def _stands(job: Job | None, record: JobRecord | None) -> tuple[TaskId | None, JobStatus | None]:
    if job is not None:
        return job.task_id, job.status
    return (None, None) if record is None else (record.task_id, record.status)
