"""Session: what most people use. It puts the rooms together, and keeps the laws of money.

The life of a create, and where each law stands in it (:meth:`Session._submit`):

1. The limiter grants a slot; only then is the attempt written down as ``submitting`` and its
   credits reserved (``ledger.claim``, a compare-and-set): a crash makes at most as many unknowns
   as POSTs were in flight.
2. One POST, in a task that the session owns. A cancelled caller does not cancel it, and closing
   the session waits for it.
3. Its verdict decides (:mod:`aivideo.sansio.verdict`), and is written down before anything else
   happens. Only what is proved not taken goes round again.

Everything else waits: for the pace in :mod:`aivideo.limiter`, for the end in
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
from collections import Counter, deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
)
from pathlib import Path
from typing import Any, NoReturn, Self, TypeAlias, assert_never

from attrs import frozen

from aivideo import catalog, download
from aivideo.client import DEFAULT_REQUEST_TIMEOUT, Client
from aivideo.errors import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    InvalidRequestError,
    PermissionDeniedError,
    QueueFullError,
    RateLimitError,
    SessionClosedError,
    SubmitUnknownError,
    TaskFailedError,
    WaitTimeoutError,
)
from aivideo.job import Job
from aivideo.ledger import Ledger
from aivideo.ledger.memory import MemoryLedger
from aivideo.limiter import GateClosed, Limiter, LimiterStatistics, RequestKind, Slot
from aivideo.models import (
    CompletedTask,
    Credits,
    Failed,
    FailedTask,
    Generation,
    Outcome,
    Request,
    Sora2,
    Succeeded,
    Task,
    TaskId,
)
from aivideo.sansio import journal, verdict, wire
from aivideo.sansio.journal import CreditTotals, JobStatus
from aivideo.sansio.pace import RateLimit
from aivideo.tracker import TaskTracker, TrackerStatistics
from aivideo.transport import Transport

log = logging.getLogger("aivideo.session")

OnUpdate: TypeAlias = Callable[[Task], object]
"""Told of each change of a task; may be a coroutine function."""

SaveTo: TypeAlias = str | os.PathLike[str] | Callable[[int, Request], str | os.PathLike[str]]
"""A folder, or a function from a request's place and itself to the file it should become."""

MAX_QUEUED = 10_000
"""Jobs that ``enqueue`` lets wait for their POST before it refuses more."""

DOWNLOADS_AT_ONCE = 8

UNSENT_TRIES = 6
"""POSTs that never connected, in a row, before a job gives up (some 15 s)."""

FAULTED_TRIES = 4
"""POSTs of a job answered by 500 or 503, when the user allowed to send those again."""

UNKNOWNS_IN_A_ROW = 5
"""Unknowns in a row that close the gate until ``GET /v1/credits`` answers: an outage must not
turn every waiting job into an unknown."""


@frozen(kw_only=True)
class SessionStatistics:
    """What a session is doing now, as one value.

    Attributes:
        limiter: the pace, and who waits for it.
        tracker: the tasks watched.
        credits: what was charged, reserved, is unknown, came back.
        jobs: how many jobs stand where, by status; of this session, ended ones included.
    """

    limiter: LimiterStatistics
    tracker: TrackerStatistics
    credits: CreditTotals
    jobs: dict[str, int]


class Session:
    """Submits requests at the pace the key allows, watches their tasks, saves their results.

    ::

        async with Session() as session:
            task = await session.generate(
                Sora2("A paper boat in the rain", duration=8, aspect_ratio="16:9")
            )
            print(task.urls[0], task.expires_at)

    A session keeps its jobs in memory: it never pays twice for a request while it lives. What is
    known after a crash, only a ledger on disk can tell; until there is one, keep ``job.task_id``.

    Args:
        api_key: ``sk-…``; by default ``AIVIDEO_API_KEY``.
        base_url: by default ``AIVIDEO_BASE_URL``, else the service's own.
        max_requests_in_flight: HTTP requests under way at once.
        max_running_jobs: tasks under way at once, at most; None: as many as the service takes.
        max_requests_per_minute: the key's rate limit, if you know it: then no 429 occurs.
        rate_limit: the same, said exactly: ``RateLimit.bucket(50, burst=10)`` or
            ``RateLimit.window(20, seconds=10)``.
        poll_interval: seconds between two looks at a task; None: learned, which costs less.
        ledger: where jobs are written down; None: in memory.
        max_credits: a hard ceiling over what is charged, reserved or unknown in this session.
        resubmit_server_errors: send a create again that was answered by 500 or 503. It is not
            documented whether such a create was charged, so this may pay twice.
        request_timeout: seconds for one HTTP request, connecting included.
        transport: what carries the requests; the session closes only one it made itself.
        allow_insecure: allow a plain ``http://`` base URL that is not this machine.

    Raises:
        ConfigurationError: a setting that cannot work; found here, before anything is sent.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        max_requests_in_flight: int = 64,
        max_running_jobs: int | None = None,
        max_requests_per_minute: float | None = None,
        rate_limit: RateLimit | None = None,
        poll_interval: float | None = None,
        ledger: Ledger | None = None,
        max_credits: int | None = None,
        resubmit_server_errors: bool = False,
        request_timeout: float = DEFAULT_REQUEST_TIMEOUT,
        transport: Transport | None = None,
        allow_insecure: bool = False,
    ) -> None:
        _check_settings(
            max_requests_in_flight=max_requests_in_flight,
            max_running_jobs=max_running_jobs,
            max_requests_per_minute=max_requests_per_minute,
            poll_interval=poll_interval,
            max_credits=max_credits,
        )
        if rate_limit is not None and max_requests_per_minute is not None:
            raise ConfigurationError("state the limit once: rate_limit or max_requests_per_minute")
        self._client = Client(
            api_key,
            base_url=base_url,
            request_timeout=request_timeout,
            transport=transport,
            allow_insecure=allow_insecure,
        )
        self._limiter = Limiter(
            max_in_flight=max_requests_in_flight,
            max_running_jobs=max_running_jobs,
            rate_limit=rate_limit,
            max_requests_per_minute=max_requests_per_minute,
        )
        self._tracker = TaskTracker(
            self._admit_poll, poll_interval=poll_interval, on_ended=self._heard_the_end
        )
        self._ledger: Ledger = MemoryLedger() if ledger is None else ledger
        self._owns_ledger = ledger is None
        self._max_credits = max_credits
        self._resubmit_server_errors = resubmit_server_errors
        self._window = max_requests_in_flight
        self._jobs: dict[str, Job] = {}
        self._by_task: dict[TaskId, Job] = {}
        self._submissions: dict[str, asyncio.Task[TaskId]] = {}
        self._posting: set[str] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._saving: set[asyncio.Task[Any]] = set()
        self._downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self._counts: Counter[str] = Counter()
        self._outage = _Outage()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._jobs)} jobs"
        return f"<Session {self._client.base_url} {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # --- submitting -----------------------------------------------------------------------

    async def submit(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        on_update: OnUpdate | None = None,
    ) -> Job:
        """Send a request, and return its job once the service has taken it.

        Cancelling this call does not cancel a POST that is under way.

        Args:
            request: what to make; it costs ``request.credits`` when taken.
            callback_url: told by the service when the task has ended.
            key: your name for the job: the same key again is the same job, and sends nothing.
            on_update: told of each change of the task.

        Raises:
            InvalidRequestError: the request, or ``callback_url``, breaks a rule; or ``key`` was
                used for another request.
            BudgetExceededError: it would pass ``max_credits``; nothing was sent.
            SubmitUnknownError: nobody can tell whether it was taken; it is not sent again.
            APIStatusError: the service refused it.
            APIConnectionError: the service could not be reached; nothing was sent.
        """
        job = await self.enqueue(
            request, callback_url=callback_url, key=key, on_update=on_update
        )
        await self.taken(job)
        return job

    async def enqueue(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        on_update: OnUpdate | None = None,
    ) -> Job:
        """Write a request down and return its job at once; it is sent when the pace allows.

        Takes what :meth:`submit` takes.

        Raises:
            QueueFullError: too many jobs wait to be sent.
            InvalidRequestError: as in :meth:`submit`. All else is raised by ``await job``.
        """
        if len(self._submissions) >= MAX_QUEUED:
            raise QueueFullError(MAX_QUEUED)
        return await self._plan(
            request, callback_url=callback_url, key=key, on_update=on_update, batch=None, index=None
        )

    async def generate(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        on_update: OnUpdate | None = None,
        wait_timeout: float | None = None,
    ) -> CompletedTask:
        """Submit a request and wait for its result: minutes to hours.

        Takes what :meth:`submit` takes, and raises what it and :meth:`Job.result` raise.

        Args:
            request: what to make.
            callback_url: see :meth:`submit`.
            key: see :meth:`submit`.
            on_update: see :meth:`submit`.
            wait_timeout: seconds to wait at most; the job then goes on (``error.job``).
        """
        job = await self.submit(
            request, callback_url=callback_url, key=key, on_update=on_update
        )
        return await job.result(wait_timeout=wait_timeout)

    async def generate_many(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        save_to: SaveTo | None = None,
        batch: str | None = None,
    ) -> AsyncIterator[Outcome]:
        """Make many, and yield how each ended, in the order they end.

        ``requests`` is read only as fast as it can be submitted, and a slow consumer holds back
        new submits. One failure never ends the others. Left early, nothing more is submitted, and
        what was taken stays watched until the session closes; use ``contextlib.aclosing`` so that
        leaving takes effect at once.

        Args:
            requests: any iterable, async or not.
            save_to: a folder for the files, or a function from place and request to a path; None:
                do not fetch results.
            batch: a name under which each request is one job, by its place: with a ledger that
                outlives the process, what was taken is not sent again.

        Yields:
            :class:`~aivideo.Succeeded` or :class:`~aivideo.Failed`.
        """
        many = _Many(self, requests, save_to, batch)
        try:
            async for outcome in many.outcomes():
                yield outcome
        finally:
            await many.leave()

    def stop_submits(self, reason: str = "submits were stopped") -> None:
        """Send no further create: whatever still waits ends with a SessionClosedError, unsent.

        POSTs under way, polls and downloads go on; :meth:`resume_submits` opens again.
        """
        self._limiter.close_creates(SessionClosedError(f"{reason}; it was not sent"))

    def resume_submits(self) -> None:
        """Let creates go out again: after a top-up, say, or when a spend cap has reset."""
        self._limiter.open_creates()

    async def drain(self, *, downloads: bool = True) -> None:
        """Wait until each POST under way has its verdict and, with ``downloads``, is each saved."""
        while waiting := [
            *(task for job_id, task in self._submissions.items() if job_id in self._posting),
            *(self._saving if downloads else ()),
        ]:
            await asyncio.wait(waiting)

    # --- asking ---------------------------------------------------------------------------

    def job(self, task_id: TaskId) -> Job:
        """Take up a task again by its id; it is watched once somebody waits for it."""
        known = self._by_task.get(task_id)
        if known is not None:
            return known
        if not isinstance(task_id, str) or not task_id.strip():
            raise InvalidRequestError.because(
                "task_id", task_id, "must be the id of a task", "take it from job.task_id"
            )
        return Job(
            f"task-{task_id}", None, owner=self, status=JobStatus.RUNNING, task_id=task_id
        )

    def jobs(self) -> list[Job]:
        """List the jobs that have not ended."""
        return list(self._jobs.values())

    async def credits(self) -> Credits:
        """Ask for the balance, at the pace.

        Raises:
            APIStatusError: the service refused.
            APIConnectionError: no answer.
            ResponseError: an answer that is no balance.
        """
        while True:
            slot = await self._limiter.acquire(RequestKind.OTHER)
            try:
                return await _settling(slot, self._client.credits())
            except RateLimitError:
                continue  # the limiter has taken note, and says when

    def statistics(self) -> SessionStatistics:
        """Say what the session is doing now."""
        return SessionStatistics(
            limiter=self._limiter.statistics(),
            tracker=self._tracker.statistics(),
            credits=self._ledger.totals(),
            jobs={status: count for status, count in self._counts.items() if count},
        )

    async def aclose(self) -> None:
        """Close: send nothing more, wait for POSTs under way, and let every waiter go.

        A POST under way is waited for up to ``request_timeout``: its verdict is money. Waiters
        get a :class:`~aivideo.SessionClosedError` that carries their job.
        """
        if self._closed:
            return
        self._closed = True
        self._limiter.close_creates(SessionClosedError("the session closed; it was not sent"))
        self._outage.over()
        try:
            while self._submissions:
                await asyncio.wait(self._submissions.values())
        finally:
            await self._tracker.aclose()
            left = [*self._saving, *self._background]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self._client.aclose()
            if self._owns_ledger:
                await self._ledger.aclose()

    # --- the way of a create --------------------------------------------------------------

    async def _plan(
        self,
        request: Request,
        *,
        callback_url: str | None,
        key: str | None,
        on_update: OnUpdate | None,
        batch: str | None,
        index: int | None,
    ) -> Job:
        if self._closed:
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
        written = await self._ledger.plan(record)
        job = self._jobs.get(written.id)
        if job is None:
            job = Job(written.id, written.request, owner=self, key=key, index=index)
            self._adopt(job, written)
        if on_update is not None:
            self._tell(job, on_update)
        return job

    def _adopt(self, job: Job, record: journal.JobRecord) -> None:
        """Take on a job as its record stands: to be sent, to be watched, or left alone."""
        self._jobs[job.id] = job
        self._counts[JobStatus.PLANNED] += 1
        self._note(job, record)
        if record.status is JobStatus.PLANNED:
            submission = asyncio.create_task(self._submit(job, record.callback_url))
            self._submissions[job.id] = submission
            submission.add_done_callback(lambda done: self._submitted(job, done))

    async def _submit(self, job: Job, callback_url: str | None) -> TaskId:
        assert job.request is not None
        unsent = faulted = 0
        retry_after: float | None = None
        while True:
            slot = await self._create_slot(retry_after)
            # From here to the verdict nobody may cancel this task: see _withdraw.
            self._posting.add(job.id)
            try:
                try:
                    claimed = await self._ledger.claim(job.id, ceiling=self._max_credits)
                except BaseException:
                    slot.unused()
                    raise
                if claimed is None:
                    slot.unused()
                    raise SessionClosedError(f"job {job.id} is being sent elsewhere", job=job)
                self._note(job, claimed)
                try:
                    heard = await self._client.submit(job.request, callback_url=callback_url)
                except BaseException as error:
                    # Only a loop that is torn down gets here. What left, left.
                    slot.lost()
                    reason = f"interrupted by {type(error).__name__}"
                    self._note(job, await self._ledger.record(job.id, journal.Doubted(reason)))
                    raise
                event = _event_of(heard, resubmit_server_errors=self._resubmit_server_errors)
                self._note(job, await self._ledger.record(job.id, event))
                self._settle_slot(slot, heard)
            finally:
                self._posting.discard(job.id)
            retry_after = None
            match heard:
                case verdict.Accepted(task_id):
                    return task_id
                case verdict.Throttled(error, retry_after):
                    log.debug("create throttled, Retry-After %s", retry_after)
                case verdict.Unsent(error):
                    unsent += 1
                    if unsent >= UNSENT_TRIES or self._closed:
                        raise error
                    await asyncio.sleep(min(8.0, 0.5 * 2**unsent) * random.uniform(0.5, 1.0))
                case verdict.Faulted(error):
                    faulted += 1
                    if not self._resubmit_server_errors or faulted >= FAULTED_TRIES:
                        raise error
                    await asyncio.sleep(2.0**faulted * random.uniform(0.5, 1.0))
                case verdict.Unknown(error):
                    raise SubmitUnknownError(str(error), job=job) from error
                case verdict.Exhausted(error) | verdict.Refused(error):
                    raise error
                case _:
                    assert_never(heard)

    async def _create_slot(self, retry_after: float | None) -> Slot:
        while True:
            await self._outage.passed()
            try:
                slot = await self._limiter.acquire(RequestKind.CREATE, retry_after=retry_after)
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
        if self._limiter.creates_closed_by is None:
            log.warning("no further creates: %s", error)
            self._limiter.close_creates(error)

    async def _probe(self) -> None:
        """Ask for the balance until the service answers, then let creates go on."""
        while self._outage.on:
            await asyncio.sleep(self._outage.pause)
            try:
                await self.credits()
            except AIVideoError as error:
                log.info("the service does not answer yet: %s", error)
                self._outage.relapse()
            else:
                self._outage.over()

    def _submitted(self, job: Job, done: asyncio.Task[TaskId]) -> None:
        self._submissions.pop(job.id, None)
        if done.cancelled():
            job.error = SessionClosedError("it was withdrawn, and not sent", job=job)
        elif (error := done.exception()) is not None:  # also marks it as seen
            if isinstance(error, AIVideoError):
                job.error = error
            else:
                log.error("submitting job %s broke", job.id, exc_info=error)
                job.error = SessionClosedError(f"submitting broke: {error!r}", job=job)
        if job.error is not None:
            self._jobs.pop(job.id, None)

    def _withdraw(self, job: Job) -> None:
        """Take back a job that still waits for its slot; one whose POST is under way stays."""
        submission = self._submissions.get(job.id)
        if submission is not None and job.id not in self._posting:
            submission.cancel()

    def _note(self, job: Job, record: journal.JobRecord) -> None:
        """Let a handle say what its record says, and watch a task from the moment it is known."""
        self._counts[job.status] -= 1
        self._counts[record.status] += 1
        job.status = record.status
        if record.task_id is None or job.task_id == record.task_id:
            return
        job.task_id = record.task_id
        if record.status is JobStatus.RUNNING:
            self._by_task[record.task_id] = job
            self._watch(record.task_id, record.request, callback=record.callback_url is not None)

    # --- watching -------------------------------------------------------------------------

    def _watch(self, task_id: TaskId, request: Request | None, *, callback: bool = False) -> None:
        kind: tuple[object, ...] = ()
        if request is not None:
            model_input = request.input
            fields = catalog.find(request.model).kind
            kind = (request.model, *(model_input.get(name) for name in fields))
        self._tracker.watch(task_id, kind=kind, callback=callback)

    async def _admit_poll(self) -> _PollTurn:
        return _PollTurn(await self._limiter.acquire(RequestKind.POLL), self._client)

    def _heard_the_end(self, task_id: TaskId, task: Task) -> None:
        job = self._by_task.pop(task_id, None)
        if job is not None:
            self._limiter.job_ended()
            self._spawn(self._write_end(job, task))

    async def _write_end(self, job: Job, task: Task) -> None:
        event: journal.Event
        if isinstance(task, FailedTask):
            event = journal.Failed(f"{task.error.code}: {task.error.message}")
        else:
            event = journal.Completed()
        self._note(job, await self._ledger.record(job.id, event))
        self._jobs.pop(job.id, None)

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
            # Shielded: cancelling a waiter must not cancel a paid POST.
            await asyncio.wait([submission])
        if job.task_id is not None:
            return job.task_id
        _raise_why(job)

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
        if self._closed:
            raise _closed_under(job)
        self._watch(task_id, job.request)
        try:
            task = await self._tracker.wait(task_id)
        except SessionClosedError:
            raise _closed_under(job) from None
        if job.request is None:
            job.status = (
                JobStatus.FAILED if isinstance(task, FailedTask) else JobStatus.COMPLETED
            )
        assert isinstance(task, CompletedTask | FailedTask)  # the tracker resolves with no other
        return task

    async def updates_of(self, job: Job) -> AsyncIterator[Task]:
        """Yield what is heard of ``job``; see :meth:`Job.updates`."""
        task_id = await self.taken(job)
        self._watch(task_id, job.request)
        async for task in self._tracker.updates(task_id):
            yield task

    async def save_result_of(self, job: Job, path: str | os.PathLike[str]) -> Path:
        """Fetch the result of ``job`` to ``path``; see :meth:`Job.save`."""
        return await self._fetch(job, await self.result_of(job, None), path)

    def last_heard(self, task_id: TaskId) -> Task | None:
        """Say what was last heard of a task."""
        return self._tracker.known(task_id)

    async def _fetch(self, job: Job, task: CompletedTask, path: str | os.PathLike[str]) -> Path:
        async with self._downloads:
            saved = await download.save(task, path, self._client.transport)
        record = await self._ledger.find(job.id)
        if record is not None:
            await self._ledger.record(job.id, journal.Completed())
            self._note(job, await self._ledger.record(job.id, journal.Saved(str(saved))))
        else:
            job.status = JobStatus.SAVED
        return saved

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


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


async def _settling(slot: Slot, request: Awaitable[Any]) -> Any:
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
        await self._passed.wait()


class _Many:
    """One ``generate_many``: a producer that submits, and a queue of what has ended.

    There is no asyncio task per running job: a job is a task while it is being submitted, a future
    in the tracker while it runs, and a task again while its file is fetched.
    """

    def __init__(
        self,
        session: Session,
        requests: Iterable[Request] | AsyncIterable[Request],
        save_to: SaveTo | None,
        batch: str | None,
    ) -> None:
        self._session = session
        self._requests = requests
        self._save_to = save_to
        self._batch = batch
        self._ready: deque[Outcome] = deque()
        self._changed = asyncio.Event()
        self._submitting: dict[asyncio.Task[None], Job] = {}
        self._waiting: dict[asyncio.Future[Task], Job] = {}
        self._fetching: set[asyncio.Task[None]] = set()
        self._producer: asyncio.Task[None] | None = None
        self._left = False

    async def outcomes(self) -> AsyncIterator[Outcome]:
        producer = self._producer = asyncio.create_task(self._produce())
        producer.add_done_callback(lambda _: self._changed.set())
        while True:
            while self._ready:
                yield self._ready.popleft()
                self._changed.set()  # the producer may go on
            if producer.done() and not (self._submitting or self._waiting or self._fetching):
                if not self._ready:
                    break
                continue
            self._changed.clear()
            await self._changed.wait()
        await producer  # raises what the caller's iterable raised, after all else has ended

    async def leave(self) -> None:
        """Stop: nothing more is submitted; what was taken stays watched by the session."""
        self._left = True
        if self._producer is not None:
            self._producer.cancel()
        for task, job in list(self._submitting.items()):
            self._session._withdraw(job)
            task.cancel()
        for future in list(self._waiting):
            future.cancel()
        tasks: list[asyncio.Task[None]] = [*self._submitting, *self._fetching]
        if self._producer is not None:
            tasks.append(self._producer)
        for fetching in self._fetching:
            fetching.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _produce(self) -> None:
        index = 0
        async for request in _each(self._requests):
            await self._room()
            try:
                job = await self._session._plan(
                    request,
                    callback_url=None,
                    key=None if self._batch is None else str(index),
                    on_update=None,
                    batch=self._batch,
                    index=index,
                )
            except (SessionClosedError, QueueFullError) as error:
                self._ended(Failed(request, error, index=index))
            else:
                submitting = asyncio.create_task(self._submit(job, request, index))
                self._submitting[submitting] = job
                submitting.add_done_callback(self._submitted)
            index += 1

    async def _room(self) -> None:
        """Wait until reading one request more serves a purpose."""
        limit = self._session._window
        while len(self._submitting) >= limit or len(self._ready) >= limit:
            self._changed.clear()
            await self._changed.wait()

    async def _submit(self, job: Job, request: Request, index: int) -> None:
        try:
            task_id = await self._session.taken(job)
        except AIVideoError as error:
            self._ended(Failed(request, error, index=index))
            return
        self._session._watch(task_id, request)
        future = self._session._tracker.wait(task_id)
        self._waiting[future] = job
        future.add_done_callback(lambda done: self._heard(done, job, request, index))

    def _submitted(self, submitting: asyncio.Task[None]) -> None:
        self._submitting.pop(submitting, None)
        self._changed.set()
        if not submitting.cancelled():
            submitting.result()  # a defect of ours must be seen, not lost

    def _heard(
        self, done: asyncio.Future[Task], job: Job, request: Request, index: int
    ) -> None:
        self._waiting.pop(done, None)
        if done.cancelled() or self._left:
            return
        error = done.exception()
        if isinstance(error, SessionClosedError):
            error = _closed_under(job)
        if isinstance(error, AIVideoError):
            self._ended(Failed(request, error, task_id=job.task_id, index=index))
            return
        task = done.result()
        if isinstance(task, FailedTask):
            self._ended(
                Failed(request, TaskFailedError(task), task_id=task.id, index=index)
            )
        elif isinstance(task, CompletedTask):
            if self._save_to is None:
                self._ended(Succeeded(request, task, index=index))
            else:
                fetching = asyncio.create_task(self._fetch(job, request, task, index))
                self._fetching.add(fetching)
                self._session._saving.add(fetching)
                fetching.add_done_callback(self._fetched)

    async def _fetch(self, job: Job, request: Request, task: CompletedTask, index: int) -> None:
        try:
            path = await self._session._fetch(job, task, self._path(request, task, index))
        except AIVideoError as error:
            self._ended(Failed(request, error, task_id=task.id, index=index))
        else:
            self._ended(Succeeded(request, task, path, index=index))

    def _fetched(self, fetching: asyncio.Task[None]) -> None:
        self._fetching.discard(fetching)
        self._session._saving.discard(fetching)
        self._changed.set()
        if not fetching.cancelled():
            fetching.result()  # as in _submitted

    def _path(self, request: Request, task: CompletedTask, index: int) -> Path:
        assert self._save_to is not None
        if callable(self._save_to):
            return Path(self._save_to(index, request))
        suffix = Path(task.urls[0].partition("?")[0]).suffix if task.urls else ""
        return Path(self._save_to) / f"{index + 1:05d}-{_safe(task.id)}{suffix or '.mp4'}"

    def _ended(self, outcome: Outcome) -> None:
        self._ready.append(outcome)
        self._changed.set()


async def _each(requests: Iterable[Request] | AsyncIterable[Request]) -> AsyncIterator[Request]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


def _event_of(heard: verdict.Verdict, *, resubmit_server_errors: bool) -> journal.Event:
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
            return journal.Released() if resubmit_server_errors else journal.Faulted(str(error))
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


def _check_settings(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is None:
            continue
        whole = name in ("max_requests_in_flight", "max_running_jobs", "max_credits")
        least = 0 if name == "max_credits" else None
        if (
            isinstance(value, bool)
            or not isinstance(value, int if whole else int | float)
            or value != value
            or (value < 0 if least == 0 else value <= 0)
        ):
            kind = "a whole number" if whole else "a number"
            raise ConfigurationError(
                f"{name}={value!r} must be {kind} {'of 0 or more' if least == 0 else 'above 0'}"
            )


def _closed_under(job: Job) -> SessionClosedError:
    return SessionClosedError(
        f"the session closed before job {job.id} ended; it goes on at the service: take it up "
        f"again with session.job({job.task_id!r})",
        job=job,
    )


def _raise_why(job: Job) -> NoReturn:
    if job.error is None:
        raise SessionClosedError(f"job {job.id} was not sent", job=job)
    raise copy.copy(job.error) from job.error.__cause__


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except AIVideoError as error:
        log.debug("updates ended: %s", error)


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80]
