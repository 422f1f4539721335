"""The live jobs of a session: one small object per job, and the one place that changes it.

A job is live while it waits to be sent, is being sent, or runs; and while its outcome is unknown,
since a callback may still settle it. The ledger is the truth: a change is recorded there first,
and :meth:`LiveJobs.apply` then brings the job's handle, the indexes, the counters and the
instrumentation up to date. Nothing else changes them.

What a session has spent itself is counted here too, by the amount that was reserved for each POST.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from enum import Enum

from aivideo._session.job import Job, JobActions
from aivideo.errors import AIVideoError
from aivideo.events import Instrumentation, JobChanged, SessionEvent
from aivideo.ledger.records import AttemptStatus, JobRecord, JobStatus
from aivideo.ledger.totals import HELD, CreditTotals, Holding
from aivideo.models import TaskId

log = logging.getLogger("aivideo.session")

_NOTHING = Decimal(0)
NO_CREDITS = CreditTotals()


class IfUnsent(Enum):
    """What becomes of a job whose submission ends before its POST has left."""

    WITHDRAW = "withdraw"
    """Its caller is told that nothing was sent: nobody may send it later."""
    KEEP = "keep"
    """It stays planned: ``resume()`` sends it, or the same key or batch."""


class Submission:
    """One job on its way to the service: from the queue to the verdict that ends it.

    Attributes:
        if_unsent: what becomes of the job if this fails before the POST has left.
        enqueued: whether the job stays in the queue although nobody waits for it.
        callers: calls of ``submit`` and ``generate`` that wait for it now.
        posting: whether the POST is under way; then nobody may cancel the task.
        ending: whether there is an error, and the job is withdrawn if it must be; likewise.
        interrupted: whether it was told to stop: before its next POST, at the latest.
        fault: the answer 500 or 503 after which the user allowed to send it again, or None.
        begun: whether its task has taken its first step; one that has not cannot be cancelled, for
            it would end without a word.
    """

    __slots__ = (
        *("_task", "_verdict", "_waiters", "begun", "callers", "ending", "enqueued", "if_unsent"),
        *("fault", "interrupted", "posting"),
    )

    def __init__(self, if_unsent: IfUnsent, *, enqueued: bool) -> None:
        self.if_unsent = if_unsent
        self.enqueued = enqueued
        self.callers = 0
        self.posting = False
        self.ending = False
        self.interrupted = False
        self.begun = False
        self.fault: AIVideoError | None = None
        self._task: asyncio.Task[None] | None = None
        self._verdict: asyncio.Event | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def start(self, task: asyncio.Task[None]) -> None:
        """Note the task that does it."""
        self._task = task

    def interrupt(self) -> None:
        """Stop it; a POST under way gets its verdict first, and is not followed by another."""
        if self.ending:
            return
        self.interrupted = True
        if self._task is not None and self.begun and not self.posting:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until it has ended; a cancelled waiter affects nobody else."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def verdict_known(self) -> None:
        """Wait until the POST under way, if there is one, has its verdict."""
        if self.posting:
            if self._verdict is None:
                self._verdict = asyncio.Event()
            await self._verdict.wait()

    def begin_post(self) -> None:
        """Note that the POST is under way."""
        self.posting = True

    def end_post(self) -> None:
        """Note that the POST has its verdict."""
        self.posting = False
        if self._verdict is not None:
            self._verdict.set()
            self._verdict = None

    def end(self) -> None:
        """Note that it has ended, and release who waits for that."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class LiveJob:
    """What a session knows of one live job: small, for there may be 100,000.

    Attributes:
        record: the job as the ledger knows it.
        job: its handle.
        submission: its way to the service, while it is on it.
        attempt: the number of this session's own POST; 0: it made none.
        held: how this session counts the credits of that POST; None: it made none.
        reserved: the credits that were reserved for that POST; None: its price is not known.
    """

    __slots__ = ("attempt", "held", "job", "record", "reserved", "submission")

    def __init__(self, record: JobRecord, job: Job) -> None:
        self.record = record
        self.job = job
        self.submission: Submission | None = None
        self.attempt = 0
        self.held: Holding | None = None
        self.reserved: Decimal | None = None

    @property
    def id(self) -> str:
        """The job's id."""
        return self.record.id

    @property
    def is_posting(self) -> bool:
        """Whether its POST is under way."""
        return self.submission is not None and self.submission.posting

    @property
    def may_be_bought(self) -> bool:
        """Whether this session's own POST of it was taken, or may have been."""
        return self.held in HELD


class LiveJobs:
    """All live jobs of a session; see the module.

    Args:
        instrumentation: told of each change of a job's status, or None.

    Attributes:
        counts: jobs taken on, by status; those that have ended are counted too.
    """

    def __init__(self, instrumentation: Instrumentation | None = None) -> None:
        self._spent = dict.fromkeys(Holding, _NOTHING)
        self._unpriced: Counter[str] = Counter()
        self.counts: Counter[JobStatus] = Counter()
        self._instrumentation = instrumentation
        self._by_id: dict[str, LiveJob] = {}
        self._by_task: dict[TaskId, LiveJob] = {}
        self._lost: set[TaskId] = set()

    # --- asking -------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[LiveJob]:
        """Iterate over a snapshot of all live jobs."""
        return iter([*self._by_id.values()])

    def get(self, job_id: str) -> LiveJob | None:
        """Find a live job by its id."""
        return self._by_id.get(job_id)

    def of_task(self, task_id: TaskId) -> LiveJob | None:
        """Find the live job of a task that runs."""
        return self._by_task.get(task_id)

    def tasks(self) -> list[tuple[TaskId, LiveJob]]:
        """List the tasks that run, with their jobs."""
        return [*self._by_task.items()]

    def unfinished(self) -> list[Job]:
        """List the handles of jobs that wait, are being sent, or run."""
        return [live.job for live in self._by_id.values() if not live.record.status.is_in_doubt]

    # --- changing -----------------------------------------------------------------------------

    def add(self, record: JobRecord, job: Job) -> LiveJob:
        """Take a job on, with a handle whose status is still ``planned``; apply its record next.

        Args:
            record: as the ledger knows it.
            job: its handle.
        """
        live = self._by_id[record.id] = LiveJob(record, job)
        self.counts[job.status] += 1
        return live

    def renew(self, record: JobRecord, job: Job) -> LiveJob:
        """Take a job on again that had a task, with the handle it had; apply its record next.

        What the session was charged for its earlier POST stays counted, with the end of its task.

        Args:
            record: as the ledger knows it now.
            job: its handle; it forgets the task that it had.
        """
        job.task_id = job.error = None
        live = self._by_id.get(record.id)
        if live is None or live.submission is None:
            live = self._by_id[record.id] = LiveJob(record, job)
        return live

    def remove(self, live: LiveJob) -> None:
        """Stop managing a job."""
        if self._by_id.get(live.record.id) is live:
            del self._by_id[live.record.id]

    def apply(self, live: LiveJob, record: JobRecord) -> list[TaskId]:
        """Bring everything up to date with what the ledger knows of a job now.

        Returns:
            The tasks of it that run and were not known to run: they are to be polled.
        """
        live.record = record
        job = live.job
        task_id = record.task_id
        if task_id is not None:
            job.task_id = task_id
        self.set_status(job, record.status, record)
        started = []
        for attempt in record.attempts:
            task_id = attempt.task_id
            if (
                task_id is not None
                and attempt.status is AttemptStatus.RUNNING
                and task_id not in self._by_task
            ):
                self._by_task[task_id] = live
                started.append(task_id)
        return started

    def set_status(self, job: Job, status: JobStatus, record: JobRecord) -> None:
        """Set the status of a handle, update the counters and tell the instrumentation."""
        before = job.status
        if before is status:
            return
        self.counts[before] -= 1
        self.counts[status] += 1
        job.status = status
        if self._instrumentation is not None:
            self.emit(
                JobChanged(
                    job_id=record.id,
                    batch=record.batch,
                    key=record.key,
                    model=record.request.model,
                    task_id=job.task_id,
                    credits=record.credits,
                    before=before,
                    after=status,
                )
            )

    def fail(self, live: LiveJob, error: AIVideoError | None) -> None:
        """Note why a job was not taken; keep it live only if its outcome is unknown."""
        live.job.error = error
        if not live.job.status.is_in_doubt:
            self.remove(live)

    def task_ended(self, task_id: TaskId) -> tuple[LiveJob, bool] | None:
        """Forget a task that has ended.

        Returns:
            Its job, and whether the task still counted as running; None: it is not ours.
        """
        live = self._by_task.pop(task_id, None)
        if live is None:
            return None
        counted = task_id not in self._lost
        self._lost.discard(task_id)
        return live, counted

    def task_lost(self, task_id: TaskId) -> bool:
        """Note that the service does not know a task; returns whether it counted as running."""
        if task_id not in self._by_task or task_id in self._lost:
            return False
        self._lost.add(task_id)
        return True

    def task_found(self, task_id: TaskId) -> bool:
        """Note that a task is polled again; return whether it did not count as running."""
        was_lost = task_id in self._lost
        self._lost.discard(task_id)
        return was_lost

    # --- credits ------------------------------------------------------------------------------

    @property
    def spent(self) -> CreditTotals:
        """Credits of this session's own POSTs, by what became of them."""
        return NO_CREDITS.plus(self._spent, self._unpriced.total())

    @property
    def unpriced_jobs(self) -> list[str]:
        """The ids of jobs whose POSTs count in ``spent.unpriced``."""
        return [*self._unpriced]

    def reserve(self, live: LiveJob) -> None:
        """Count the price of a job as reserved for a POST of this session."""
        live.reserved = live.record.credits
        live.held = Holding.NONE
        self.hold(live, Holding.RESERVED)

    def release(self, live: LiveJob) -> None:
        """Take a reservation back: this session does not POST the job after all."""
        self.hold(live, Holding.NONE)
        live.held = None

    def hold(self, live: LiveJob, after: Holding) -> None:
        """Move the credits of this session's own POST of a job to another column."""
        before = live.held
        if before is None or before is after:
            return
        live.held = after
        if live.reserved is not None:
            self._spent[before] -= live.reserved
            self._spent[after] += live.reserved
        elif (after in HELD) is not (before in HELD):
            self._unpriced[live.id] += 1 if after in HELD else -1
            if not self._unpriced[live.id]:
                del self._unpriced[live.id]

    # --- instrumentation ----------------------------------------------------------------------

    def emit(self, event: SessionEvent) -> None:
        """Tell the instrumentation; whatever it raises is logged and affects no job.

        That includes ``SystemExit`` and ``CancelledError``: raised here, they would end the task
        that records a POST, or the event loop with all its POSTs.
        """
        if self._instrumentation is None:
            return
        try:
            self._instrumentation(event)
        except BaseException:
            log.exception("the instrumentation failed on %r", event)


def new_job(record: JobRecord, actions: JobActions, index: int | None = None) -> Job:
    """Make the handle of a job that a ledger knows; its status is ``planned`` until applied."""
    return Job(record.id, record.request, owner=actions, key=record.key, index=index)
