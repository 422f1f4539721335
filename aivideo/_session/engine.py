"""The engine: what a session drives, put together of parts that each do one thing.

:mod:`aivideo._session.purchase` sends creates, :mod:`aivideo._session.books` writes down,
:mod:`aivideo._polling.poller` watches, :mod:`aivideo.delivery.download` fetches. Here jobs are
taken on as their records say (:meth:`Engine.adopt`): sent, watched, or left alone; and
here is answered what jobs ask.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from aivideo import catalog, models
from aivideo._api import callback_tokens as callbacks
from aivideo._api import wire
from aivideo._api.client import Client
from aivideo._pacing.limiter import Limiter, Permit
from aivideo._pacing.turns import RequestKind
from aivideo._polling import lifecycle
from aivideo._polling.poller import Poller
from aivideo._session.books import Books, why_untaken
from aivideo._session.job import Job
from aivideo._session.purchase import CallbackURLs, Purchase
from aivideo.delivery import download
from aivideo.errors import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    ContradictionError,
    InvalidRequestError,
    RateLimitError,
    ResponseError,
    SessionClosedError,
    SubmitUnknownError,
    TaskFailedError,
    WaitTimeoutError,
)
from aivideo.ledger import Ledger, events
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus
from aivideo.ledger.totals import Holding
from aivideo.models import (
    CompletedTask,
    Credits,
    FailedTask,
    Generation,
    Request,
    Sora2,
    Task,
    TaskId,
)

log = logging.getLogger("aivideo._session.session")

T = TypeVar("T")

OnUpdate: TypeAlias = Callable[[Task], object]
"""Told of each change of a task; may be a coroutine function."""

DOWNLOADS_AT_ONCE = 8

_MAY_BE_SENT = (JobStatus.PLANNED, JobStatus.SUBMITTING)

LAST_WORDS = 5.0
"""Seconds that a closing session gives ``on_update`` to be told of what has ended."""


class Engine:
    """Sends creates, watches their tasks, fetches their results; owns every asyncio task it starts.

    Args:
        client: the endpoints.
        limiter: who may send when.
        ledger: where jobs are written down.
        poll_interval: seconds between two looks at a task, or None: learned.
        max_credits: ceiling over what this session was charged, has reserved or does not know.
        resubmit_server_errors: whether a create answered by 500 or 503 is sent again.
        callback_urls: where the service is to call us, if it can.
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
        callback_urls: CallbackURLs,
    ) -> None:
        self.client = client
        self.limiter = limiter
        self.ledger = ledger
        self.poller = Poller(
            self._admit_poll,
            poll_interval=poll_interval,
            on_ended=self._heard_the_end,
            on_lost=self._heard_no_more,
            contended=lambda: limiter.creates_wait,
        )
        self.books = Books(
            ledger,
            max_credits=max_credits,
            on_trouble=lambda error: self._purchase.close_gate(error),  # noqa: PLW0108  made below
            on_mended=lambda: self._purchase.reopen_gate(),  # noqa: PLW0108  likewise
        )
        self._purchase = Purchase(
            client,
            limiter,
            self.books,
            urls=callback_urls,
            note=self._note,
            answers=self.balance,
            resubmit_server_errors=resubmit_server_errors,
        )
        self.closed = False
        self.jobs: dict[str, Job] = {}
        self.saving: set[asyncio.Task[Any]] = set()
        self._callback_urls = callback_urls
        self._by_task: dict[TaskId, Job] = {}
        self._lost: set[TaskId] = set()
        self._in_doubt: dict[str, Job] = {}
        self._submissions: dict[str, asyncio.Task[TaskId]] = {}
        self._writing: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._telling: set[asyncio.Task[Any]] = set()
        self._downloads = asyncio.Semaphore(DOWNLOADS_AT_ONCE)

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
            permit = await self.limiter.acquire(RequestKind.OTHER)
            try:
                return await _settling(permit, question())
            except RateLimitError:
                continue  # the limiter has taken note, and says when

    async def balance(self) -> Credits:
        """Ask for the account's credits, and keep what was heard beside what the ledger knows."""
        account = await self.ask(self.client.credits)
        await self.books.keep_balance(account)
        return account

    def resume_submits(self) -> None:
        """Let creates go, and watch again what a bad key has ended the watching of."""
        self.limiter.open_creates()
        for task_id, job in self._by_task.items():
            self.watch(task_id, job.request)

    async def drain(self, *, downloads: bool) -> None:
        """Wait for the verdicts of POSTs, and for the downloads, that are under way now."""
        verdicts = [*self._purchase.posting.values()]
        open_now = [*self.saving] if downloads else []
        for verdict_in in verdicts:
            await verdict_in.wait()
        if open_now:
            await asyncio.wait(open_now)

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
            await self.poller.aclose()
            if self._telling:  # each has the end to tell, or that it will not hear of it
                await asyncio.wait(self._telling, timeout=LAST_WORDS)
            await self._purchase.aclose()
            # What is being written down is written; only what waits for more is cancelled.
            while self._writing:
                await asyncio.wait([*self._writing])
            left = [*self.saving, *self._background]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self.books.aclose()

    # --- taking jobs on -------------------------------------------------------------------

    async def plan(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        on_update: OnUpdate | None = None,
        batch: str | None = None,
        index: int | None = None,
        replace: bool = False,
        retry_failed: bool = False,
    ) -> tuple[Job, JobRecord]:
        """Write a request down as a job, or find the job it is already, and take it on.

        Args:
            request: what is to be made.
            callback_url: the user's own.
            key: the user's name for the job, within its batch.
            on_update: told of each change of its task.
            batch: what it belongs to.
            index: its place in what it came with.
            replace: let the job ask for ``request`` where it asked for another and was not taken.
            retry_failed: send it again if it failed (and was refunded) or was refused.
        """
        if self.closed:
            raise SessionClosedError("the session is closed; nothing was sent")
        check_request(request, callback_url)
        record = JobRecord(
            id=secrets.token_hex(8),
            request=request,
            fingerprint=models.fingerprint(request),
            credits=request.credits,
            batch=batch,
            key=key,
            callback_url=callback_url,
            planned_at=time.time(),
        )
        record = await self.ledger.plan(record, replace=replace)
        if retry_failed and record.status in (JobStatus.FAILED, JobStatus.REFUSED):
            try:
                record = await self.ledger.record(record.id, events.Retried())
            except ContradictionError:
                # Somebody else was asked for the same, and was faster: it is as they left it.
                record = await self.ledger.find(record.id) or record
        if self.closed:  # while it was written down
            raise SessionClosedError("the session closed; the job is planned, and was not sent")
        job = self.adopt(record, index=index)
        if on_update is not None:
            self._tell(job, on_update)
        return job, record

    def adopt(self, record: JobRecord, *, index: int | None = None) -> Job:
        """Take a job on as its record stands: to be sent, to be watched, or left alone."""
        job = self.jobs.get(record.id)
        # One that is to be sent and that nobody sends has ended here, and was asked for again.
        stale = record.status is JobStatus.PLANNED and record.id not in self._submissions
        if job is not None and not stale:
            job.index = job.index if index is None else index
            return job
        doubtful = self._in_doubt.get(record.id)
        if doubtful is not None and doubtful.status is record.status:
            return doubtful
        job = Job(record.id, record.request, owner=self, key=record.key, index=index)
        self.books.counts[job.status] += 1
        self._note(job, record)
        if record.status in _MAY_BE_SENT:
            self.jobs[job.id] = job
            submission = asyncio.create_task(self._purchase.submit(job, record))
            self._submissions[job.id] = submission
            submission.add_done_callback(lambda done: self._submitted(job, done))
        elif record.status is JobStatus.RUNNING:
            self.jobs[job.id] = job
        else:
            self._left(job, why_untaken(job, record))
        return job

    async def resume(self, statuses: tuple[JobStatus, ...]) -> list[Job]:
        """Take on every job of the ledger that stands so; claims that lapsed become unknown."""
        await self.ledger.lapse()
        return [
            self.adopt(record)
            async for record in self.ledger.jobs(statuses=statuses)
            # What a batch has not sent, the batch sends: it knows its ceiling, and whether to.
            if record.batch is None or record.status not in _MAY_BE_SENT
        ]

    def _note(self, job: Job, record: JobRecord) -> None:
        """Let a handle say what its record says, and watch each task that runs."""
        self.books.stand(job, record.status)
        best = record.best
        if best is not None and record.task_id is not None:
            job.task_id, job.attempt = record.task_id, best.number
        for attempt in record.attempts:
            task_id = attempt.task_id
            if task_id is None or attempt.status is not AttemptStatus.RUNNING:
                continue
            if task_id not in self._by_task and not self.closed:
                self._by_task[task_id] = job
                if job.holding is None:
                    self.limiter.job_adopted()  # it came through no permit of ours
                called = self._callback_urls.base is not None or record.callback_url is not None
                # A POST of ours has just ended; else it was taken long ago.
                age = 0.0 if job.id in self._purchase.posting else None
                self.watch(task_id, record.request, callback=called, age=age)
                end = self.poller.end_of(task_id)
                if end is not None:  # heard before it was known whose it is
                    self._heard_the_end(task_id, end)

    def _left(self, job: Job, why: AIVideoError | None) -> None:
        """Leave a job alone; one of unknown fate may yet be settled by a callback."""
        job.error = why
        self.jobs.pop(job.id, None)
        if job.status in (JobStatus.UNKNOWN, JobStatus.FAULTED):
            self._in_doubt[job.id] = job

    def _submitted(self, job: Job, done: asyncio.Task[TaskId]) -> None:
        self._submissions.pop(job.id, None)
        error = None if done.cancelled() else done.exception()  # also marks it as seen
        if job.task_id is not None:
            return  # perhaps by a callback that told what the answer did not
        may_be_bought = job.holding in (Holding.RESERVED, Holding.UNKNOWN, Holding.CHARGED)
        if may_be_bought and not isinstance(error, SubmitUnknownError | APIStatusError):
            # A defect after the POST, say: whoever reads the error must not send it again.
            what = f"no verdict was written down: {error or 'it was interrupted'}"
            log.error("job %s: %s", job.id, what)
            self._left(job, SubmitUnknownError(what, job=job))
        elif done.cancelled():
            self._left(job, SessionClosedError("it was withdrawn, and not sent", job=job))
        elif isinstance(error, AIVideoError):
            self._left(job, error)
        elif error is not None:
            log.error("submitting job %s broke", job.id, exc_info=error)
            self._left(job, SessionClosedError(f"submitting broke: {error!r}", job=job))

    def withdraw(self, job: Job) -> None:
        """Take back a job that still waits for its permit; one whose POST is under way stays."""
        submission = self._submissions.get(job.id)
        if submission is not None and job.id not in self._purchase.posting:
            submission.cancel()

    # --- watching -------------------------------------------------------------------------

    def watch(
        self,
        task_id: TaskId,
        request: Request | None,
        *,
        callback: bool = False,
        age: float | None = None,
    ) -> None:
        """Have a task watched, as one of its kind: jobs of a kind take about as long.

        ``age`` is seconds since it was made, or None where nobody knows.
        """
        kind: tuple[object, ...] = ()
        if request is not None:
            model_input = request.input
            fields = catalog.find(request.model).kind
            kind = (request.model, *(model_input.get(name) for name in fields))
        self.poller.watch(task_id, kind=kind, callback=callback, age=age)

    async def _admit_poll(self) -> _PollTurn:
        return _PollTurn(await self.limiter.acquire(RequestKind.POLL), self.client)

    def _heard_the_end(self, task_id: TaskId, task: Task) -> None:
        job = self._by_task.pop(task_id, None)
        if job is None:
            return
        if task_id in self._lost:
            self._lost.discard(task_id)
        else:
            self.limiter.job_ended()
        if task_id == job.task_id:
            failed = isinstance(task, FailedTask)
            self.books.stand(job, JobStatus.FAILED if failed else JobStatus.COMPLETED)
        writing = self._spawn(self._write_end(job, task))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    def _heard_no_more(self, task_id: TaskId) -> None:
        """Free the place of a task that the service does not know: it may never end."""
        if task_id in self._by_task and task_id not in self._lost:
            self._lost.add(task_id)
            self.limiter.job_ended()

    async def _write_end(self, job: Job, task: Task) -> None:
        await self.books.keep_end(job, task)
        if self.jobs.get(job.id) is job:
            del self.jobs[job.id]

    def _tell(self, job: Job, on_update: OnUpdate) -> None:
        async def subscribe() -> None:
            async for task in self.updates_of(job):
                try:
                    said = on_update(task)
                    if inspect.isawaitable(said):
                        await said
                except Exception:
                    log.exception("on_update of job %s failed; the job goes on", job.id)

        telling = self._spawn(_quietly(subscribe()))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    # --- callbacks --------------------------------------------------------------------------

    async def receive_callback(self, token: str, body: bytes) -> Job | None:
        """Take in a callback; see :meth:`aivideo.Session.receive_callback`."""
        named = callbacks.read_token(self._callback_urls.secret, token)
        if named is None:
            log.debug("a callback whose token is not ours was dropped")
            return None
        try:
            said = wire.read_callback(body)
        except ResponseError as error:
            log.info("a callback for job %s was dropped: %s", named.job_id, error)
            return None
        del token, body  # a signed URL may be in it: no traceback with locals is to show it
        verdict_in = self._purchase.posting.get(named.job_id)
        if verdict_in is not None:
            # The answer to our own POST comes first: what it says decides what there is to ask.
            await verdict_in.wait()
        record = await self.ledger.find(named.job_id)
        if record is None or named.attempt > record.latest:
            log.debug("a callback for job %s, which this ledger does not know", named.job_id)
            return None
        attempt = record.attempt(named.attempt)
        if attempt.task_id not in (None, said.id):
            log.warning("a callback for task %s names another task", attempt.task_id)
            return None
        # What it says is a hint and no more: the service itself is asked.
        task = await self.ask(lambda: self.client.retrieve(said.id))
        if attempt.task_id is None:
            return await self._attribute(record, attempt, task)
        record = await self.ledger.find(record.id) or record
        if record.attempt(attempt.number).status is not AttemptStatus.RUNNING:
            return self._told(record)  # it has ended meanwhile, or long ago
        job = self.adopt(record)
        if lifecycle.is_ended(task):
            self.watch(task.id, record.request)
            self.poller.deliver(task)
        return job

    async def _attribute(self, record: JobRecord, attempt: Attempt, task: Task) -> Job | None:
        """Settle a POST of unknown fate by the task that a callback with its token named."""
        if not lifecycle.is_ended(task):
            # Too early to be honest: the service calls when it is over. Then it tells its prompt.
            self.watch(task.id, record.request)
            task = await self.poller.wait(task.id)
        why_not = callbacks.mismatch(record.request, task, sent_at=attempt.sent_at)
        other = await self.ledger.find_task(task.id)
        if other is not None and (other.id, other.attempt_of(task.id)) != (
            record.id,
            attempt.number,
        ):
            why_not = f"it is the task of job {other.id}"
        if why_not is not None:
            log.warning(
                "task %s, named for job %s, is not its own: %s", task.id, record.id, why_not
            )
            return None
        taken = events.Taken(task.id)
        try:
            record = await self.ledger.record(record.id, taken, attempt=attempt.number)
        except ContradictionError as error:  # told meanwhile, and otherwise
            log.warning("a callback named task %s: %s", task.id, error)
            return None
        log.info("a callback told that job %s became task %s", record.id, task.id)
        if record.attempt(attempt.number).status is not AttemptStatus.RUNNING:
            return self._told(record)  # another callback was faster
        job = self.jobs.get(record.id) or self._in_doubt.pop(record.id, None)
        if job is None:
            job = self.adopt(record)
        elif job.task_id == task.id:
            return job  # likewise
        else:
            self.jobs[job.id] = job
            if job.holding is not None:
                self.limiter.job_adopted()  # when its permit ended, nobody knew that it runs
            job.error = None
            self._note(job, record)
        self.poller.deliver(task)
        return job

    def _told(self, record: JobRecord) -> Job:
        """Give the handle of a job of which nothing more is to be heard."""
        known = self.jobs.get(record.id)
        if known is not None:
            return known
        task_id, status = record.task_id, record.status
        return Job(
            record.id, record.request, owner=self, status=status, task_id=task_id, key=record.key
        )

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
        if wait_timeout is not None and not wait_timeout >= 0:
            raise ConfigurationError(f"wait_timeout={wait_timeout!r} must be 0 seconds or more")
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
            task = await self.poller.wait(task_id)
        except SessionClosedError:
            raise closed_under(job) from None
        if job.request is None:
            job.status = JobStatus.FAILED if isinstance(task, FailedTask) else JobStatus.COMPLETED
        assert isinstance(task, CompletedTask | FailedTask)  # the poller resolves with no other
        return task

    async def updates_of(self, job: Job) -> AsyncIterator[Task]:
        """Yield what is heard of ``job``; see :meth:`Job.updates`."""
        task_id = await self.taken(job)
        self.watch(task_id, job.request)
        try:
            async with aclosing(self.poller.updates(task_id)) as updates:
                async for task in updates:
                    yield task
        except SessionClosedError:
            raise closed_under(job) from None

    async def save_result_of(self, job: Job, path: str | os.PathLike[str]) -> Path:
        """Fetch the result of ``job`` to ``path``; see :meth:`Job.save`."""
        return await self.fetch(job, await self.result_of(job, None), path)

    def last_heard(self, task_id: TaskId) -> Task | None:
        """Say what was last heard of a task."""
        return self.poller.known(task_id)

    async def fetch(self, job: Job, task: CompletedTask, path: str | os.PathLike[str]) -> Path:
        """Fetch the first result of ``task``, a few at a time, and write down where it lies.

        Raises:
            DownloadError: it could not be fetched or written.
            SessionClosedError: the session closed first; nothing half is left.
        """
        if self.closed:
            raise closed_under(job)
        # In a task that the close can end, tries and pauses and all, whoever has asked for it.
        fetching = asyncio.create_task(self._download(task, path))
        self.saving.add(fetching)
        fetching.add_done_callback(self.saving.discard)
        try:
            saved = await fetching
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and not caller.cancelling():  # so it was the close
                raise closed_under(job) from None
            raise
        record = await self.books.keep_file(job, task, saved)
        if record is not None:
            self._note(job, record)
        else:
            job.status = JobStatus.SAVED
        return saved

    async def _download(self, task: CompletedTask, path: str | os.PathLike[str]) -> Path:
        async with self._downloads:
            return await download.save(task, path, self.client.transport)

    def _spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, done: asyncio.Task[Any]) -> None:
        self._background.discard(done)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("what was to be written down was not: %s", error)


class _PollTurn:
    """The right to send one poll; tells the pace what came of it."""

    __slots__ = ("_client", "_permit")

    def __init__(self, permit: Permit, client: Client) -> None:
        self._permit = permit
        self._client = client

    async def fetch(self, task_id: TaskId) -> Task:
        return await _settling(self._permit, self._client.retrieve(task_id))

    def give_back(self) -> None:
        self._permit.unused()


async def _settling(permit: Permit, request: Coroutine[Any, Any, T]) -> T:
    """Await a GET, and tell its permit what came of it."""
    try:
        answer = await request
    except RateLimitError as error:
        permit.rejected(error.retry_after)
        raise
    except (APIConnectionError, asyncio.CancelledError):
        permit.lost()
        raise
    except BaseException:
        permit.accepted()
        raise
    permit.accepted()
    return answer


def check_request(request: Request, callback_url: str | None = None) -> None:
    """See that a request, and the user's own callback URL, are some.

    Raises:
        InvalidRequestError: they are not.
    """
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
