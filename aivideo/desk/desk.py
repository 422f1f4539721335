"""The desk itself; see :mod:`aivideo.desk`.

The file is long because it is a public class: each method states its contract, and hands on what
can be decided without a ledger to :mod:`aivideo.desk.choosing` and :mod:`aivideo.desk.evidence`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing, suppress
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from aivideo._api import callback_tokens
from aivideo.desk.choosing import (
    check_retryable,
    faulted_within,
    interval,
    number_in_doubt,
    summarized,
)
from aivideo.desk.evidence import compare, is_evidence
from aivideo.desk.results import (
    Audit,
    Cancellation,
    DeskError,
    FaultedJobs,
    JobList,
    Refusal,
    Retry,
)
from aivideo.errors import (
    AIVideoError,
    ConfigurationError,
    ContradictionError,
    LedgerError,
    TaskNotFoundError,
)
from aivideo.ledger import Ledger
from aivideo.ledger.events import Event, Released, Retried, Taken, Withdrawn
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus
from aivideo.models import Credits, Task, TaskId

_NOT_ENDED = (
    *JobStatus.in_doubt(),
    JobStatus.SUBMITTING,
    JobStatus.RUNNING,
    JobStatus.COMPLETED,
)
BY_URGENCY = (
    *_NOT_ENDED,
    *JobStatus.retryable(),
    JobStatus.PLANNED,
    JobStatus.SAVED,
    JobStatus.WITHDRAWN,
)
"""All statuses, those that need a person first: the order of :meth:`Desk.list`."""


class AccountSource(Protocol):
    """What a desk asks the service; a ``Client`` and a ``Session`` both provide it."""

    async def retrieve(self, task_id: TaskId) -> Task:
        """``GET`` a task."""
        ...

    async def credits(self) -> Credits:
        """``GET`` the balance."""
        ...


class Desk:
    """List, show, settle, retry, cancel and audit the jobs of a ledger.

    ::

        desk = Desk(SqliteLedger("clips/aivideo.db"))
        for job in (await desk.list([JobStatus.UNKNOWN])).records:
            print(job.id, job.request.prompt)

    A method that takes several names looks all of them up, and checks all of them, before it
    changes the first. ``name`` is always a job's id or the id of one of its tasks.

    Args:
        ledger: the jobs. The caller closes it.
        client: used to check a task and to read the balance: a ``Client`` or a ``Session``. The
            caller closes it.

    Every method may raise :class:`~aivideo.LedgerError`: the ledger cannot be read or written.
    """

    def __init__(self, ledger: Ledger, *, client: AccountSource | None = None) -> None:
        self._ledger = ledger
        self._client = client

    # --- reading --------------------------------------------------------------------------

    async def list(
        self,
        statuses: Iterable[JobStatus] = (),
        *,
        batch: str | None = None,
        limit: int | None = None,
    ) -> JobList:
        """List jobs, those that need a person first, with the sums of the whole batch or ledger.

        Args:
            statuses: only jobs with one of these; none: all jobs.
            batch: only jobs of this batch; None: all. It applies to the sums too.
            limit: list at most so many jobs; None: all of them.
        """
        wanted = frozenset(statuses) or frozenset(JobStatus)
        records: list[JobRecord] = []
        if limit is None or limit > 0:
            async with aclosing(self.jobs(wanted, batch=batch)) as found:
                async for record in found:
                    records.append(record)
                    if len(records) == limit:
                        break
        counts = await self._ledger.counts(batch=batch)
        matching = sum(count for status, count in counts.items() if status in wanted)
        return JobList(
            records=tuple(records),
            left=max(0, matching - len(records)),
            counts=counts,
            totals=await self._ledger.totals(batch=batch),
        )

    async def jobs(
        self, statuses: Collection[JobStatus] = (), *, batch: str | None = None
    ) -> AsyncGenerator[JobRecord, None]:
        """Yield what :meth:`list` would list, without holding all of it in memory."""
        await self._find_abandoned()
        for status in BY_URGENCY:
            if not statuses or status in statuses:
                async for record in self._ledger.jobs(batch=batch, statuses=(status,)):
                    yield record

    async def show(self, name: str) -> JobRecord:
        """Return one job with all its attempts.

        Raises:
            DeskError: there is no such job.
        """
        await self._find_abandoned()
        return await self._find(name)

    # --- changing -------------------------------------------------------------------------

    async def settle(
        self,
        names: Iterable[str],
        *,
        task_id: TaskId | None = None,
        not_taken: bool = False,
        check: bool = True,
    ) -> tuple[JobRecord, ...]:
        """Record what became of creates whose outcome is unknown. The ledger believes it.

        Of a job with several such creates, the latest is settled.

        Args:
            names: the jobs; only one with ``task_id``.
            task_id: the create was taken and became this task: the job is polled and saved.
            not_taken: the creates were not taken: their credits are free, the jobs may be sent.
            check: ask the service for the task first, and compare its model, prompt and length
                with the job's; this needs the desk's ``client``.

        Returns:
            The jobs as they are now.

        Raises:
            ConfigurationError: the arguments do not go together.
            DeskError: there is no such job or task, the job has no create whose outcome is
                unknown, or the task is another job's.
            AIVideoError: the service could not be asked for the task.
        """
        names = _several(names)
        if (task_id is None) is not not_taken:
            raise ConfigurationError("pass either task_id=… or not_taken=True")
        if not names or (task_id is not None and len(names) > 1):
            raise ConfigurationError("names must hold one job; several only with not_taken=True")
        await self._ledger.lapse()
        found = [await self._find(name) for name in names]
        numbers = [number_in_doubt(job) for job in found]
        event: Event | None = None
        if task_id is not None:
            await self._check_task(task_id, found[0], numbers[0], ask=check)
            event = Taken(task_id)
        return tuple(
            [
                await self._ledger.record(job.id, event or _not_taken(job, number), attempt=number)
                for job, number in zip(found, numbers, strict=True)
            ]
        )

    async def faulted(
        self, start: datetime, end: datetime, *, batch: str | None = None
    ) -> FaultedJobs:
        """Find the jobs that an outage left in doubt: answered by a documented 500 or 503.

        This changes nothing: :meth:`settle_all` settles what it returns.

        Args:
            start: only jobs whose latest create of unknown outcome was sent at this time or later;
                a datetime without a time zone is local time.
            end: and at this time or earlier.
            batch: only jobs of this batch; None: all.

        Raises:
            ConfigurationError: one is not a datetime, or ``end`` is before ``start``.
        """
        first, last = interval(start, end)
        await self._find_abandoned()
        in_doubt = [
            each async for each in self._ledger.jobs(batch=batch, statuses=JobStatus.in_doubt())
        ]
        return faulted_within(
            [job for job in in_doubt if job.status is JobStatus.FAULTED],
            [job for job in in_doubt if job.status is JobStatus.UNKNOWN],
            first,
            last,
        )

    async def settle_all(self, found: FaultedJobs) -> tuple[JobRecord, ...]:
        """Record that the creates of ``found`` were not taken. The ledger believes it.

        Their credits are free then, and the jobs may be sent. A create that was settled meanwhile
        is left as it is.

        Args:
            found: what :meth:`faulted` returned.

        Returns:
            The jobs that were settled, as they are now.
        """
        settled: dict[str, JobRecord] = {}
        for job_id, number in found.attempts:  # of each job, the latest attempt comes last
            job = await self._find(job_id)
            if job.attempt(number).status is AttemptStatus.FAULTED:
                event = _not_taken(job, number)
                with suppress(ContradictionError):
                    settled[job_id] = await self._ledger.record(job_id, event, attempt=number)
        return tuple(settled.values())

    async def retry(
        self,
        names: Iterable[str] = (),
        *,
        all_failed: bool = False,
        batch: str | None = None,
        pay_again: bool = False,
    ) -> Retry:
        """Mark jobs to be sent again, as new creates of the same jobs. This sends nothing.

        Args:
            names: jobs that failed (and were refunded) or were refused.
            all_failed: instead of ``names``: all jobs that failed or were refused.
            batch: with ``all_failed``: only those of this batch.
            pay_again: allow to pay twice. ``all_failed`` includes jobs whose outcome is unknown;
                ``names`` may hold such jobs, and jobs that were taken and whose result cannot be
                had any more: expired, vanished or lost. The earlier creates stay charged, or in
                doubt.

        Raises:
            ConfigurationError: the arguments do not go together.
            DeskError: there is no such job, or it cannot be sent again.
        """
        found = await self.preview_retry(
            names, all_failed=all_failed, batch=batch, pay_again=pay_again
        )
        return await self.mark(found, pay_again=pay_again)

    async def preview_retry(
        self,
        names: Iterable[str] = (),
        *,
        all_failed: bool = False,
        batch: str | None = None,
        pay_again: bool = False,
    ) -> Retry:
        """Return which jobs :meth:`retry` would mark, and what that costs; change nothing.

        Takes what :meth:`retry` takes, and raises what it raises.
        """
        names = _several(names)
        if bool(names) is all_failed:
            raise ConfigurationError("pass either names=… or all_failed=True")
        if batch is not None and not all_failed:
            raise ConfigurationError("batch=… needs all_failed=True")
        await self._ledger.lapse()
        if all_failed:
            statuses = JobStatus.retryable() + (JobStatus.in_doubt() if pay_again else ())
            found = [each async for each in self._ledger.jobs(batch=batch, statuses=statuses)]
        else:
            found = [await self._find(name) for name in names]
        for job in found:
            check_retryable(job, Retried.of(job, pay_again=pay_again))
        return summarized(found)

    async def mark(self, found: Retry, *, pay_again: bool = False) -> Retry:
        """Mark jobs to be sent again: those of ``found`` that have not changed since.

        Args:
            found: what :meth:`preview_retry` returned.
            pay_again: as it was passed to :meth:`preview_retry`.

        Returns:
            What was marked. A job that has changed meanwhile (a callback may have settled it) is
            not in it.
        """
        marked = []
        for job in found.records:
            with suppress(ContradictionError):
                again = Retried.of(job, pay_again=pay_again)
                marked.append(await self._ledger.record(job.id, again))
        return summarized(marked)

    async def cancel(self, names: Iterable[str] = (), *, batch: str | None = None) -> Cancellation:
        """Withdraw jobs that are still ``planned``: they are not sent, and cost nothing.

        A job that a process is about to send may be claimed first; it is then too late for it.

        Args:
            names: the jobs.
            batch: instead of ``names``: all planned jobs of this batch. Jobs of the batch that
                were sent and have not ended count as too late.

        Raises:
            ConfigurationError: neither ``names`` nor ``batch``, or both.
            DeskError: there is no such job.
        """
        names = _several(names)
        if bool(names) is (batch is not None):
            raise ConfigurationError("pass either names=… or batch=…")
        await self._ledger.lapse()
        if names:
            found = [await self._find(name) for name in names]
        else:
            statuses = (JobStatus.PLANNED, *_NOT_ENDED)
            found = [each async for each in self._ledger.jobs(batch=batch, statuses=statuses)]
        withdrawn: list[JobRecord] = []
        too_late: list[JobRecord] = []
        for job in found:
            now = job
            if job.status is JobStatus.PLANNED:
                try:
                    withdrawn.append(await self._ledger.record(job.id, Withdrawn()))
                except ContradictionError:  # claimed, or withdrawn, since it was read
                    now = await self._find(job.id)
                else:
                    continue
            (withdrawn if now.status is JobStatus.WITHDRAWN else too_late).append(now)
        return Cancellation(withdrawn=tuple(withdrawn), too_late=tuple(too_late))

    # --- auditing -------------------------------------------------------------------------

    async def audit(self) -> Audit:
        """Compare the ledger with the account's own counter of consumed credits.

        With a ``client`` the counter is read once more, and the reading is stored. If that fails,
        the readings that were stored before are compared (:attr:`Audit.error`).

        What is concluded about creates of unknown outcome holds under :attr:`Finding.assumption`.
        Nothing is concluded before the last of them is 15 minutes old
        (:attr:`Finding.ask_again_at`).

        Raises:
            ConfigurationError: the client's settings cannot work.
            DeskError: fewer than two readings are stored.
        """
        await self._ledger.lapse()
        error = await self._read_counter()
        readings = await self._ledger.readings()
        if len(readings) < 2:
            raise DeskError(
                Refusal.TOO_FEW_READINGS,
                f"an audit compares two readings of the account's counter, and {len(readings)} "
                f"{'is' if len(readings) == 1 else 'are'} stored",
                "call audit() again with client=…",
            )
        in_doubt: list[JobRecord] = []
        others: list[Attempt] = []
        async for job in self._ledger.jobs():
            if job.doubts:
                in_doubt.append(job)
            others += filter(is_evidence, job.attempts)
        # Tasks that the ledger believed to run at the last reading, and knows to have failed now.
        failed = (await self._ledger.totals()).refunded - readings[-1].ledger.refunded
        finding = compare(readings, in_doubt, others, failed_since=max(Decimal(0), failed))
        return Audit(finding=finding, in_doubt=tuple(in_doubt), error=error)

    async def _read_counter(self) -> AIVideoError | None:
        if self._client is None:
            return None
        before = await self._ledger.readings()
        try:
            account = await self._client.credits()
        except ConfigurationError:
            raise
        except AIVideoError as error:
            return error
        if len(await self._ledger.readings()) == len(before):  # a Session may have stored it
            await self._ledger.note_credits(account)
        return None

    # --- shared ---------------------------------------------------------------------------

    async def _find_abandoned(self) -> None:
        """Mark creates of dead processes as unknown; a read-only ledger is read as it is."""
        with suppress(LedgerError):
            await self._ledger.lapse()

    async def _find(self, name: str) -> JobRecord:
        found = await self._ledger.find(name) or await self._ledger.find_task(name)
        if found is None:
            raise DeskError(
                Refusal.NO_SUCH_JOB, f"the ledger has no job {name!r}", "list() returns all jobs"
            )
        return found

    async def _check_task(self, task_id: TaskId, job: JobRecord, number: int, *, ask: bool) -> None:
        """Refuse a task that cannot be what an attempt of a job became."""
        other = await self._ledger.find_task(task_id)
        if other is not None:
            raise DeskError(
                Refusal.TASK_OF_ANOTHER_JOB,
                f"task {task_id} already belongs to job {other.id}",
                "check which of the two jobs it is",
            )
        if not ask:
            return
        if self._client is None:
            raise ConfigurationError(
                "check=True asks the service for the task: pass client=… to Desk, or check=False"
            )
        try:
            task = await self._client.retrieve(task_id)
        except TaskNotFoundError:
            raise DeskError(
                Refusal.NO_SUCH_TASK,
                f"the service has no task {task_id}",
                "copy the whole id, or pass check=False",
            ) from None
        why_not = callback_tokens.mismatch(job.request, task, sent_at=job.attempt(number).sent_at)
        if why_not is not None:
            raise DeskError(
                Refusal.TASK_DOES_NOT_MATCH,
                f"task {task_id} is not that of job {job.id}: {why_not}",
                "look for another task, or pass check=False",
            )


def _several(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigurationError("names must be a list of job ids, not one str")
    return tuple(dict.fromkeys(names))


def _not_taken(job: JobRecord, number: int) -> Released:
    """Return the event of an attempt that was not taken.

    The job waits to be sent again only if no other create of it is in doubt.
    """
    others = (each for each in job.attempts if each.number != number)
    return Released(again=not any(each.status.is_in_doubt for each in others))
