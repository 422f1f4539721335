"""The engine: the way of a create and of its task, and where the laws of money stand in it.

:class:`~aivideo.Session` is what people write; this is what it drives. The life of a create
(:meth:`Engine.submit`):

1. The limiter grants a slot; only then is the attempt written down as ``submitting`` and its
   credits reserved (``ledger.claim``, a compare-and-set): a crash makes at most as many unknowns
   as POSTs were in flight.
2. One POST, in a task that the engine owns. A cancelled caller does not cancel it, and closing
   waits for it.
3. Its verdict decides (:mod:`aivideo.sansio.verdict`), and is written down before anything else
   happens. Only what is proved not taken goes round again.

Everything else waits elsewhere: for the pace in :mod:`aivideo.limiter`, for the end in
:mod:`aivideo.tracker`.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, assert_never

from aivideo import catalog, download
from aivideo.client import Client
from aivideo.errors import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    InvalidRequestError,
    PermissionDeniedError,
    RateLimitError,
    SessionClosedError,
    SubmitUnknownError,
    TaskFailedError,
    WaitTimeoutError,
)
from aivideo.job import Job
from aivideo.ledger import Ledger
from aivideo.limiter import GateClosed, Limiter, Slot
from aivideo.models import (
    CompletedTask,
    FailedTask,
    Generation,
    Request,
    Sora2,
    Task,
    TaskId,
)
from aivideo.sansio import journal, verdict, wire
from aivideo.sansio.journal import JobStatus
from aivideo.sansio.queue import RequestKind
from aivideo.tracker import TaskTracker

log = logging.getLogger("aivideo.session")

T = TypeVar("T")

OnUpdate: TypeAlias = Callable[[Task], object]
"""Told of each change of a task; may be a coroutine function."""

DOWNLOADS_AT_ONCE = 8

UNSENT_TRIES = 6
"""POSTs that never connected, in a row, before a job gives up (some 15 s)."""

FAULTED_TRIES = 4
"""POSTs of a job answered by 500 or 503, when the user allowed to send those again."""

UNKNOWNS_IN_A_ROW = 5
"""Unknowns in a row that close the gate until ``GET /v1/credits`` answers: an outage must not
turn every waiting job into an unknown."""


class Engine:
    """Sends creates, watches their tasks, fetches their results; owns every asyncio task it starts.

    Args:
        client: the endpoints.
        limiter: who may send when.
        ledger: where jobs are written down.
        poll_interval: seconds between two looks at a task, or None: learned.
        max_credits: ceiling over what is charged, reserved or unknown, or None.
        resubmit_server_errors: whether a create answered by 500 or 503 is sent again.
    """

    def __init__(
        self,
        client: Client,
        limiter: Limiter,
        ledger: Ledger,
        *,
        poll_interval: float | None,
        max_credits: int | None,
        resubmit_server_errors: bool,
    ) -> None:
        self.client = client
        self.limiter = limiter
        self.ledger = ledger
        self.tracker = TaskTracker(
            self._admit_poll,
            poll_interval=poll_interval,
            on_ended=self._heard_the_end,
            contended=lambda: limiter.creates_wait,
        )
        self.closed = False
        self.counts: Counter[str] = Counter()
        self.jobs: dict[str, Job] = {}
        self.saving: set[asyncio.Task[None]] = set()
        self._by_task: dict[TaskId, Job] = {}
        self._submissions: dict[str, asyncio.Task[TaskId]] = {}
        self._posting: set[str] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self._outage = _Outage()
        self._max_credits = max_credits
        self._resubmit_server_errors = resubmit_server_errors

    @property
    def queued(self) -> int:
        """Jobs that have been written down and have no verdict yet."""
        return len(self._submissions)

    def job_of(self, task_id: TaskId) -> Job:
        """Find the job of a task, or make a handle for a task that was made elsewhere."""
        known = self._by_task.get(task_id)
        if known is not None:
            return known
        return Job(f"task-{task_id}", None, owner=self, status=JobStatus.RUNNING, task_id=task_id)

    async def ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Send a GET at the pace; again where the pace was to blame."""
        while True:
            slot = await self.limiter.acquire(RequestKind.OTHER)
            try:
                return await _settling(slot, question())
            except RateLimitError:
                continue  # the limiter has taken note, and says when

    async def drain(self, *, downloads: bool) -> None:
        """Wait for each POST that is under way, and for the downloads that are open now."""
        open_now = {*self.saving} if downloads else set[asyncio.Task[None]]()
        while waiting := [
            *(self._submissions[job_id] for job_id in self._posting),
            *(saving for saving in open_now if not saving.done()),
        ]:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def aclose(self) -> None:
        """Send nothing more, wait for POSTs under way, let every waiter go."""
        self.closed = True
        self.limiter.close_creates(SessionClosedError("the session closed; it was not sent"))
        for job in [*self.jobs.values()]:
            self.withdraw(job)
        try:
            while self._submissions:
                await asyncio.wait(self._submissions.values())
        finally:
            await self.tracker.aclose()
            left = [*self.saving, *self._background]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    # --- the way of a create ------------------------------------------------------------------

    async def plan(
        self,
        request: Request,
        *,
        callback_url: str | None,
        key: str | None,
        on_update: OnUpdate | None,
        batch: str | None,
        index: int | None,
    ) -> Job:
        """Write a request down as a job, and begin to submit it."""
        if self.closed:
            raise SessionClosedError("the session is closed; nothing was sent")
        _check_request(request, callback_url)
        record = journal.JobRecord(
            id=secrets.token_hex(8),
            request=request,
            fingerprint=wire.fingerprint(request),
            credits=request.credits,
            batch=batch,
            key=key,
            callback_url=callback_url,
        )
        written = await self.ledger.plan(record)
        job = self.jobs.get(written.id)
        if job is None:
            job = Job(written.id, written.request, owner=self, key=key, index=index)
            self._adopt(job, written)
        if on_update is not None:
            self._tell(job, on_update)
        return job

    def _adopt(self, job: Job, record: journal.JobRecord) -> None:
        """Take on a job as its record stands: to be sent, to be watched, or left alone."""
        self.jobs[job.id] = job
        self.counts[JobStatus.PLANNED] += 1
        self._note(job, record)
        if record.status is JobStatus.PLANNED:
            submission = asyncio.create_task(self.submit(job, record.request, record.callback_url))
            self._submissions[job.id] = submission
            submission.add_done_callback(lambda done: self._submitted(job, done))

    async def submit(self, job: Job, request: Request, callback_url: str | None) -> TaskId:
        """Send a job's create until it has a verdict that ends it; see the module."""
        unsent = faulted = 0
        retry_after: float | None = None
        while True:
            slot = await self._create_slot(retry_after)
            # From here to the verdict nobody may cancel this task: see withdraw.
            self._posting.add(job.id)
            try:
                again_after_fault = self._resubmit_server_errors and faulted + 1 < FAULTED_TRIES
                heard = await self._post(
                    job, request, callback_url, slot, again_after_fault=again_after_fault
                )
            finally:
                self._posting.discard(job.id)
            retry_after = None
            match heard:
                case verdict.Accepted(task_id):
                    return task_id
                case verdict.Throttled():
                    retry_after = heard.retry_after or 0.0
                case verdict.Unsent():
                    unsent += 1
                    if unsent >= UNSENT_TRIES:
                        raise heard.error
                    await asyncio.sleep(min(8.0, 0.5 * 2**unsent) * random.uniform(0.5, 1.0))
                case verdict.Faulted():
                    faulted += 1
                    if not again_after_fault:
                        raise heard.error
                    await asyncio.sleep(2.0**faulted * random.uniform(0.5, 1.0))
                case verdict.Unknown():
                    raise SubmitUnknownError(str(heard.error), job=job) from heard.error
                case verdict.Exhausted() | verdict.Refused():
                    raise heard.error
                case _:
                    assert_never(heard)

    async def _post(
        self,
        job: Job,
        request: Request,
        callback_url: str | None,
        slot: Slot,
        *,
        again_after_fault: bool,
    ) -> verdict.Verdict:
        """Claim, POST once, and write the verdict down: the one place that spends money."""
        try:
            claimed = await self.ledger.claim(job.id, ceiling=self._max_credits)
        except BaseException:
            slot.unused()
            raise
        if claimed is None:
            slot.unused()
            raise SessionClosedError(f"job {job.id} is being sent elsewhere", job=job)
        self._note(job, claimed)
        try:
            heard = await self.client.submit(request, callback_url=callback_url)
        except BaseException as error:
            # Only a loop that is torn down gets here. What has left, has left.
            slot.lost()
            reason = f"interrupted by {type(error).__name__}"
            self._note(job, await self.ledger.record(job.id, journal.Doubted(reason)))
            raise
        event = _event_of(heard, again_after_fault=again_after_fault)
        try:
            self._note(job, await self.ledger.record(job.id, event))
        finally:
            self._settle_slot(slot, heard)
        return heard

    async def _create_slot(self, retry_after: float | None) -> Slot:
        while True:
            await self._outage.passed()
            try:
                slot = await self.limiter.acquire(RequestKind.CREATE, retry_after=retry_after)
            except GateClosed as closed:
                # A copy for each: one error raised a thousand times would grow a traceback.
                raise copy.copy(closed.error) from None
            if not self._outage.on:
                return slot
            slot.unused()

    def _settle_slot(self, slot: Slot, heard: verdict.Verdict) -> None:
        """Tell the pace, the gate and the outage watch what a verdict means to each."""
        match heard:
            case verdict.Accepted():
                slot.accepted(job_taken=True)
                self._outage.answered()
            case verdict.Throttled(_, retry_after):
                slot.rejected(retry_after)
            case verdict.Exhausted(error):
                slot.accepted()
                self._close_gate(error)
            case verdict.Refused(error):
                slot.accepted()
                self._outage.answered()
                if isinstance(error, AuthenticationError | PermissionDeniedError):
                    self._close_gate(error)
            case verdict.Faulted():
                slot.accepted()
            case verdict.Unsent():
                slot.lost()
            case verdict.Unknown():
                slot.lost()
                if self._outage.unknown():
                    log.warning(
                        "%d creates in a row of unknown fate: no more until the service answers",
                        UNKNOWNS_IN_A_ROW,
                    )
                    self._spawn(self._probe())
            case _:
                assert_never(heard)

    def _close_gate(self, error: APIStatusError) -> None:
        if self.limiter.creates_closed_by is None:
            log.warning("no further creates: %s", error)
            self.limiter.close_creates(error)

    async def _probe(self) -> None:
        """Ask for the balance until the service answers, then let creates go on."""
        while self._outage.on:
            await asyncio.sleep(self._outage.pause)
            try:
                await self.ask(self.client.credits)
            except AIVideoError as error:
                log.info("the service does not answer yet: %s", error)
                self._outage.relapse()
            else:
                self._outage.over()

    def _submitted(self, job: Job, done: asyncio.Task[TaskId]) -> None:
        self._submissions.pop(job.id, None)
        error = None if done.cancelled() else done.exception()  # also marks it as seen
        in_doubt = job.status in (JobStatus.SUBMITTING, JobStatus.UNKNOWN)
        if in_doubt and not isinstance(error, SubmitUnknownError):
            # The ledger failed after the POST, say: whoever reads the error must not send it again.
            what = f"no verdict was written down: {error or 'it was interrupted'}"
            log.error("job %s: %s", job.id, what)
            job.error = SubmitUnknownError(what, job=job)
        elif done.cancelled():
            job.error = SessionClosedError("it was withdrawn, and not sent", job=job)
        elif error is not None:
            if isinstance(error, AIVideoError):
                job.error = error
            else:
                log.error("submitting job %s broke", job.id, exc_info=error)
                job.error = SessionClosedError(f"submitting broke: {error!r}", job=job)
        if job.error is not None:
            self.jobs.pop(job.id, None)

    def withdraw(self, job: Job) -> None:
        """Take back a job that still waits for its slot; one whose POST is under way stays."""
        submission = self._submissions.get(job.id)
        if submission is not None and job.id not in self._posting:
            submission.cancel()

    def _stand(self, job: Job, status: JobStatus) -> None:
        self.counts[job.status] -= 1
        self.counts[status] += 1
        job.status = status

    def _note(self, job: Job, record: journal.JobRecord) -> None:
        """Let a handle say what its record says, and watch a task from the moment it is known."""
        self._stand(job, record.status)
        if record.task_id is None or job.task_id == record.task_id:
            return
        job.task_id = record.task_id
        if record.status is JobStatus.RUNNING:
            self._by_task[record.task_id] = job
            self.watch(record.task_id, record.request, callback=record.callback_url is not None)

    # --- watching -------------------------------------------------------------------------

    def watch(self, task_id: TaskId, request: Request | None, *, callback: bool = False) -> None:
        """Have a task watched, as one of its kind: jobs of a kind take about as long."""
        kind: tuple[object, ...] = ()
        if request is not None:
            model_input = request.input
            fields = catalog.find(request.model).kind
            kind = (request.model, *(model_input.get(name) for name in fields))
        self.tracker.watch(task_id, kind=kind, callback=callback)

    async def _admit_poll(self) -> _PollTurn:
        return _PollTurn(await self.limiter.acquire(RequestKind.POLL), self.client)

    def _heard_the_end(self, task_id: TaskId, task: Task) -> None:
        job = self._by_task.pop(task_id, None)
        if job is not None:
            self.limiter.job_ended()
            failed = isinstance(task, FailedTask)
            self._stand(job, JobStatus.FAILED if failed else JobStatus.COMPLETED)
            self._spawn(self._write_end(job, task))

    async def _write_end(self, job: Job, task: Task) -> None:
        event: journal.Event
        if isinstance(task, FailedTask):
            event = journal.Failed(f"{task.error.code}: {task.error.message}")
        else:
            event = journal.Completed()
        await self.ledger.record(job.id, event)
        self.jobs.pop(job.id, None)

    def _tell(self, job: Job, on_update: OnUpdate) -> None:
        async def subscribe() -> None:
            async for task in self.updates_of(job):
                try:
                    said = on_update(task)
                    if inspect.isawaitable(said):
                        await said
                except Exception:
                    log.exception("on_update of job %s failed; the job goes on", job.id)

        self._spawn(_quietly(subscribe()))

    # --- what jobs ask (job.Owner) ----------------------------------------------------------

    async def taken(self, job: Job) -> TaskId:
        """Wait until the service has taken ``job``; raises why, if it has not."""
        if job.task_id is not None:
            return job.task_id
        submission = self._submissions.get(job.id)
        if submission is not None:
            # Not awaited itself: cancelling a waiter must not cancel a paid POST.
            await asyncio.wait([submission])
        return _task_id_or_why(job)

    async def result_of(self, job: Job, wait_timeout: float | None) -> CompletedTask:
        """Wait for the end of ``job``; see :meth:`Job.result`."""
        deadline = asyncio.timeout(wait_timeout)
        try:
            async with deadline:
                task = await self._end_of(job)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise WaitTimeoutError(
                f"job {job.id} has not ended within {wait_timeout:g} s; it goes on: wait again, or "
                f"later with session.job({job.task_id!r})",
                job=job,
            ) from None
        if isinstance(task, FailedTask):
            raise TaskFailedError(task)
        return task

    async def _end_of(self, job: Job) -> CompletedTask | FailedTask:
        task_id = await self.taken(job)
        if self.closed:
            raise closed_under(job)
        self.watch(task_id, job.request)
        try:
            task = await self.tracker.wait(task_id)
        except SessionClosedError:
            raise closed_under(job) from None
        if job.request is None:
            job.status = JobStatus.FAILED if isinstance(task, FailedTask) else JobStatus.COMPLETED
        assert isinstance(task, CompletedTask | FailedTask)  # the tracker resolves with no other
        return task

    async def updates_of(self, job: Job) -> AsyncIterator[Task]:
        """Yield what is heard of ``job``; see :meth:`Job.updates`."""
        task_id = await self.taken(job)
        self.watch(task_id, job.request)
        async for task in self.tracker.updates(task_id):
            yield task

    async def save_result_of(self, job: Job, path: str | os.PathLike[str]) -> Path:
        """Fetch the result of ``job`` to ``path``; see :meth:`Job.save`."""
        return await self.fetch(job, await self.result_of(job, None), path)

    def last_heard(self, task_id: TaskId) -> Task | None:
        """Say what was last heard of a task."""
        return self.tracker.known(task_id)

    async def fetch(self, job: Job, task: CompletedTask, path: str | os.PathLike[str]) -> Path:
        """Fetch the first result of ``task``, a few at a time, and write down where it lies."""
        async with self._downloads:
            saved = await download.save(task, path, self.client.transport)
        record = await self.ledger.find(job.id)
        if record is not None:
            await self.ledger.record(job.id, journal.Completed())
            self._note(job, await self.ledger.record(job.id, journal.Saved(str(saved))))
        else:
            job.status = JobStatus.SAVED
        return saved

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, done: asyncio.Task[Any]) -> None:
        self._background.discard(done)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("what was to be written down was not: %s", error)


class _PollTurn:
    """The right to send one poll; tells the pace what came of it."""

    __slots__ = ("_client", "_slot")

    def __init__(self, slot: Slot, client: Client) -> None:
        self._slot = slot
        self._client = client

    async def fetch(self, task_id: TaskId) -> Task:
        return await _settling(self._slot, self._client.retrieve(task_id))

    def give_back(self) -> None:
        self._slot.unused()


async def _settling(slot: Slot, request: Coroutine[Any, Any, T]) -> T:
    """Await a GET, and tell its slot what came of it."""
    try:
        answer = await request
    except RateLimitError as error:
        slot.rejected(error.retry_after)
        raise
    except (APIConnectionError, asyncio.CancelledError):
        slot.lost()
        raise
    except BaseException:
        slot.accepted()
        raise
    slot.accepted()
    return answer


class _Outage:
    """Counts unknowns in a row; when there are too many, creates wait until the service answers."""

    FIRST_PAUSE = 5.0

    def __init__(self) -> None:
        self.on = False
        self.pause = self.FIRST_PAUSE
        self._in_a_row = 0
        self._passed = asyncio.Event()
        self._passed.set()

    def unknown(self) -> bool:
        """Note an unknown; True if it was the one that closes the gate."""
        self._in_a_row += 1
        if self.on or self._in_a_row < UNKNOWNS_IN_A_ROW:
            return False
        self.on = True
        self._passed.clear()
        return True

    def answered(self) -> None:
        """Note a create that was answered: the row is broken, and the next pause short again."""
        self._in_a_row = 0
        self.pause = self.FIRST_PAUSE

    def relapse(self) -> None:
        self.pause = min(600.0, self.pause * 2)

    def over(self) -> None:
        # The row goes on: one more unknown right after is a relapse, and waits twice as long.
        self.on = False
        self._in_a_row = UNKNOWNS_IN_A_ROW - 1
        self.relapse()
        self._passed.set()

    async def passed(self) -> None:
        """Wait until creates may go."""
        await self._passed.wait()


def _event_of(heard: verdict.Verdict, *, again_after_fault: bool) -> journal.Event:
    """Say what a verdict writes into the ledger."""
    match heard:
        case verdict.Accepted(task_id):
            return journal.Taken(task_id)
        case verdict.Throttled() | verdict.Unsent() | verdict.Exhausted():
            return journal.Released()
        case verdict.Refused(error):
            if isinstance(error, AuthenticationError | PermissionDeniedError):
                return journal.Released()  # the key is at fault, not the job
            return journal.Refused(str(error))
        case verdict.Faulted(error):
            return journal.Released() if again_after_fault else journal.Faulted(str(error))
        case verdict.Unknown(error):
            return journal.Doubted(str(error))
        case _:
            assert_never(heard)


def _check_request(request: Request, callback_url: str | None) -> None:
    if not isinstance(request, Sora2 | Generation):
        raise InvalidRequestError.because(
            "request", request, "is no request", "give Sora2(...) or Generation(...)"
        )
    if callback_url is not None and not catalog.is_web_url(callback_url):
        raise InvalidRequestError.because(
            "callback_url", callback_url, "must be an http:// or https:// URL", "give a whole URL"
        )


def closed_under(job: Job) -> SessionClosedError:
    """Say that a session closed under a job that goes on."""
    return SessionClosedError(
        f"the session closed before job {job.id} ended; it goes on at the service: take it up "
        f"again with session.job({job.task_id!r})",
        job=job,
    )


def _task_id_or_why(job: Job) -> TaskId:
    if job.task_id is not None:
        return job.task_id
    if job.error is None:
        raise SessionClosedError(f"job {job.id} was not sent", job=job)
    raise copy.copy(job.error) from job.error.__cause__


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except AIVideoError as error:
        log.debug("updates ended: %s", error)
