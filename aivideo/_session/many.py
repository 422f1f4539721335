"""Many requests at once: submitted as fast as the pace allows, yielded as they end.

There is no asyncio task per running job. A job is a task while it is being submitted, a small
waiter in the poller while it runs, and a task again while its file is fetched. So memory grows with
the jobs that run, not with the requests that there are.

What a function of the user raises is the outcome of the one job that it was called for, and is
kept from the tasks of this module by :mod:`aivideo._session.user_code`.

The file is long because one call is one state: producer, submissions, waiters and downloads share
its counters and its one event, and each must leave them right when it ends.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import secrets
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypeAlias

from attrs import field, frozen

from aivideo._polling.poller import Poller
from aivideo._redaction import shown
from aivideo._session import user_code
from aivideo._session.actions import Actions
from aivideo._session.downloads import Downloads, closed_under, file_name, is_whole
from aivideo._session.intake import Intake, check_key, check_request, content_of
from aivideo._session.job import Job
from aivideo._session.live import IfUnsent, LiveJobs, Submission
from aivideo._session.submitter import Submitter
from aivideo._session.watching import Watching
from aivideo.errors import (
    AIVideoError,
    DownloadError,
    InvalidRequestError,
    ResultExpiredError,
    SessionClosedError,
    TaskFailedError,
    TaskNotFoundError,
    UserCodeError,
)
from aivideo.ledger import Ledger
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.models import (
    CompletedTask,
    Failed,
    FailedTask,
    Outcome,
    Request,
    Succeeded,
    Task,
)

log = logging.getLogger("aivideo.session")

SaveTo: TypeAlias = str | os.PathLike[str] | Callable[[int, Request], str | os.PathLike[str]]
"""A folder, or a function from a request's index and itself to the file it should become."""

KeyOf: TypeAlias = Callable[[int, Request], str]
"""Names the job of an index and a request within a batch."""


@frozen
class BatchOptions:
    """Which jobs of which batch the requests are, and what the batch may cost.

    Attributes:
        batch: the batch's name; None: each request is new work.
        key: names a job; None: its content and its occurrence number.
        max_credits: a new ceiling of the batch; "none": lift it; None: leave it as it is stored.
        retry_failed: whether jobs that failed or were refused are sent again.
        pay_again: whether jobs are paid for again whose result cannot be had, and, with
            ``retry_failed``, jobs whose outcome is unknown.
        known_only: whether only jobs that the ledger knows as asked for are taken on.
    """

    batch: str | None = None
    key: KeyOf | None = None
    max_credits: Decimal | Literal["none"] | None = None
    retry_failed: bool = field(default=False, kw_only=True)
    pay_again: bool = field(default=False, kw_only=True)
    known_only: bool = field(default=False, kw_only=True)


@frozen
class Workers:
    """The parts of a session that ``generate_many`` drives."""

    ledger: Ledger
    live: LiveJobs
    intake: Intake
    submitter: Submitter
    watching: Watching
    poller: Poller
    downloads: Downloads
    actions: Actions


class GenerateMany:
    """One call of ``generate_many``: a producer that submits, and a queue of outcomes.

    Args:
        workers: what submits, polls and fetches.
        requests: any iterable, async or not; read only while there is room.
        save_to: where files go, or None.
        options: which jobs the requests are.
        window: how many may wait to be submitted, and how many outcomes to be taken, at most.
        on_job: called with each job before it is sent, or None.

    Raises:
        ConfigurationError: ``save_to``, ``on_job`` or ``key`` has another type.
    """

    def __init__(
        self,
        workers: Workers,
        requests: Iterable[Request] | AsyncIterable[Request],
        save_to: SaveTo | None,
        options: BatchOptions,
        window: int,
        on_job: Callable[[Job], object] | None = None,
    ) -> None:
        user_code.check_functions(save_to, options.key, on_job)
        self._workers = workers
        self._window = window
        self._on_job = on_job
        self._requests = requests
        self._save_to = save_to
        self._options = options
        self._is_new_work = options.batch is None
        self._batch = options.batch
        if self._batch is None and options.max_credits is not None:
            self._batch = f"call-{secrets.token_hex(8)}"  # a ceiling is stored with a batch
        self._occurrences: Counter[str] = Counter()
        self._named: dict[str, str] = {}
        self._ready: deque[Outcome] = deque()
        self._changed = asyncio.Event()
        self._submitting: dict[asyncio.Task[None], Submission | None] = {}
        self._waiting = 0
        self._fetching: set[asyncio.Task[None]] = set()
        self._producer: asyncio.Task[None] | None = None
        self._is_reading = False
        self._is_exiting = False
        self._to_raise: BaseException | None = None
        self._bought_again: set[str] = set()
        self.was_left = False
        """Whether nobody takes outcomes any more."""

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """Yield how each ended, as they end; then raise what ended the reading of requests."""
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
        if self._to_raise is not None:
            raise self._to_raise
        await producer  # raises only if its event loop is being torn down

    async def leave(self) -> None:
        """Stop: nothing more is submitted; what was taken is polled on by the session."""
        self.was_left = True
        if self._producer is not None:
            self._producer.cancel()
        submitting, self._submitting = self._submitting, {}
        for submission in submitting.values():
            if submission is not None:
                submission.callers -= 1
        for task, submission in submitting.items():
            # Another call of the same batch may wait for it, or resume() has taken it up.
            if submission is not None and not submission.callers and not submission.enqueued:
                submission.interrupt()
            task.cancel()
        self._waiting = 0
        tasks: list[asyncio.Task[None]] = [*submitting, *self._fetching]
        if self._producer is not None:
            tasks.append(self._producer)
        for fetching in self._fetching:
            fetching.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- submitting ---------------------------------------------------------------------------

    async def _produce(self) -> None:
        """Read and submit the requests; what ends that early is raised after the last outcome."""
        try:
            await self._set_ceiling()
            async with aclosing(_each(self._requests)) as requests:
                await self._begin_all(requests)
        except BaseException as error:
            if user_code.is_cancellation(error):
                raise
            self._raise_later(error)

    async def _begin_all(self, requests: AsyncIterator[Request]) -> None:
        index = 0
        while not self._is_exiting:
            self._is_reading = True
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return
            finally:
                self._is_reading = False
            await self._room()
            if not self._is_exiting:
                await self._begin(request, index)
            index += 1

    async def _set_ceiling(self) -> None:
        ceiling = self._options.max_credits
        if ceiling is not None:
            assert self._batch is not None
            await self._workers.ledger.set_ceiling(
                self._batch, None if ceiling == "none" else ceiling
            )

    async def _begin(self, request: Request, index: int) -> None:
        """Plan a request and start submitting it; if it cannot be, that is its outcome."""
        try:
            check_request(request)  # before its key is asked for
            job, record = await self._workers.intake.plan(
                request,
                key=self._key(index, request),
                batch=self._batch,
                index=index,
                replace=not self._is_new_work,
                known_only=self._options.known_only,
                retry_failed=self._options.retry_failed,
                pay_again=self._options.pay_again,
                if_unsent=IfUnsent.WITHDRAW if self._is_new_work else IfUnsent.KEEP,
            )
        except AIVideoError as error:
            self._ended(Failed(request, error, index=index))
            return
        live = self._workers.live.get(job.id)
        submission = None if live is None else live.submission
        if submission is not None:
            submission.callers += 1
        raised = None if self._on_job is None else user_code.raised_by(self._on_job, job)
        if raised is None:
            work = self._submit(job, record, index)
        else:
            self._note_exit(raised)
            stopped = False
            # Its first step was not taken. If another call waits for the job too, it goes on.
            if submission is not None and submission.callers == 1 and not submission.enqueued:
                submission.interrupt()
                stopped = True
            work = self._refuse(job, record.request, index, raised, stopped=stopped)
        submitting = asyncio.create_task(work)
        self._submitting[submitting] = submission
        submitting.add_done_callback(self._submitted)

    def _key(self, index: int, request: Request) -> str | None:
        """Name the job of a request: the same request again, in another run, is the same job.

        Raises:
            InvalidRequestError: it is not a str, or this call has named another request so. (The
                ledger would replace the one by the other while it waits, as it does from one run
                to the next.)
            UserCodeError: the function that names it raised an exception.
        """
        if self._is_new_work:
            return None
        content = content_of(request)
        name_of = self._options.key
        if name_of is not None:
            key = check_key(user_code.call("key", lambda: name_of(index, request), index))
            if key is None:  # it would be a new job in each run
                raise InvalidRequestError.because(
                    "key", key, "must be a str", "return a name from key=, or leave key= out"
                )
            if self._named.setdefault(key, content) != content:
                raise InvalidRequestError.because(
                    "key", key, "was used for another request", "use a key per request"
                )
            return key
        self._occurrences[content] += 1
        return f"{content}-{self._occurrences[content]}"

    async def _room(self) -> None:
        """Wait until submitting one request more serves a purpose."""
        limit = self._window
        while not self._is_exiting and (
            len(self._submitting) >= limit or len(self._ready) >= limit
        ):
            self._changed.clear()
            await self._changed.wait()

    async def _submit(self, job: Job, record: JobRecord, index: int) -> None:
        request = record.request
        try:
            if self._ended_earlier(job, record, index):
                return
            task_id = await self._workers.actions.task_id_of(job)
        except AIVideoError as error:
            self._ended(Failed(request, error, task_id=job.task_id, index=index))
            return
        self._workers.watching.watch(task_id, request)
        self._waiting += 1
        self._workers.poller.wait_with(_Waiter(self, job, index), task_id)

    async def _refuse(
        self, job: Job, request: Request, index: int, raised: BaseException, *, stopped: bool
    ) -> None:
        """Yield the failure of a job for which ``on_job`` raised; if stopped, once it is unsent."""
        if stopped:
            with suppress(AIVideoError):
                await self._workers.actions.task_id_of(job)
        error = user_code.error_of("on_job", raised, index, job)
        self._ended(Failed(request, error, task_id=job.task_id, index=index))

    def _ended_earlier(self, job: Job, record: JobRecord, index: int) -> bool:
        """Yield the end of a job that an earlier run has seen, if nothing is left to be done.

        Raises:
            UserCodeError: ``save_to`` raised an exception.
        """
        task = record.ended_task()
        if isinstance(task, FailedTask):
            error = TaskFailedError(task)
            self._ended(Failed(record.request, error, task_id=task.id, index=index))
            return True
        if task is None or record.status is not JobStatus.SAVED or record.path is None:
            return False
        path = Path(record.path)
        if not is_whole(path, record.size) and self._save_to is not None:
            path = self._path(job, record.request, task, index)  # the folder was moved, say
        if is_whole(path, record.size):
            self._ended(Succeeded(record.request, task, path, index=index))
            return True
        return False  # missing, or not whole: fetched again while its URL lives

    def _submitted(self, submitting: asyncio.Task[None]) -> None:
        submission = self._submitting.pop(submitting, None)
        if submission is not None:
            submission.callers -= 1
        self._task_ended(submitting)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._changed.set()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a job of generate_many has no outcome: %r", error)
            self._raise_later(error)

    # --- ending early ------------------------------------------------------------------------

    def _note_exit(self, raised: BaseException | None) -> None:
        """Read no further request if user code asks for the end of the program."""
        if not isinstance(raised, user_code.EXITS):
            return
        self._raise_later(raised)
        self._is_exiting = True
        self._changed.set()
        if self._is_reading and self._producer is not None:
            self._producer.cancel()  # it waits for the next request, perhaps for long

    def _raise_later(self, error: BaseException) -> None:
        """Keep what is to be raised after the last outcome: the first exit, or the first error."""
        kept = self._to_raise
        if kept is None or (isinstance(error, user_code.EXITS) > isinstance(kept, user_code.EXITS)):
            self._to_raise = error

    # --- ends ---------------------------------------------------------------------------------

    def task_ended(self, job: Job, index: int, heard: Task | AIVideoError) -> None:
        """Take in how a job's task ended, or why it is not polled any more."""
        if self.was_left:
            return
        self._waiting -= 1
        request = job.request
        assert request is not None
        task = closed_under(job) if isinstance(heard, SessionClosedError) else heard
        if isinstance(task, AIVideoError):
            self._failed(job, request, task, index)
        elif isinstance(task, FailedTask):
            self._ended(Failed(request, TaskFailedError(task), task_id=task.id, index=index))
        elif isinstance(task, CompletedTask):
            if self._save_to is None:
                self._ended(Succeeded(request, task, index=index))
            else:
                fetching = asyncio.create_task(self._fetch(job, request, task, index))
                self._fetching.add(fetching)
                fetching.add_done_callback(self._fetched)

    async def _fetch(self, job: Job, request: Request, task: CompletedTask, index: int) -> None:
        try:
            path = self._path(job, request, task, index)
            path = await self._workers.downloads.save(job, task, path)
        except AIVideoError as error:
            self._failed(job, request, error, index)
        except Exception as error:  # of a transport that the user has written, say
            failed = DownloadError(
                f"the result of task {task.id} could not be fetched: {shown(error)}", task=task
            )
            failed.__cause__ = error
            self._ended(Failed(request, failed, task_id=task.id, index=index))
        else:
            self._ended(Succeeded(request, task, path, index=index))

    def _fetched(self, fetching: asyncio.Task[None]) -> None:
        self._fetching.discard(fetching)
        self._task_ended(fetching)

    # --- paying again -------------------------------------------------------------------------

    def _failed(self, job: Job, request: Request, error: AIVideoError, index: int) -> None:
        """Yield why a job that was taken has no result; or buy it again, where that is allowed."""
        is_dead_end = isinstance(error, ResultExpiredError | TaskNotFoundError)
        if is_dead_end and not self._is_new_work:
            if self._options.pay_again and job.id not in self._bought_again and not self.was_left:
                self._bought_again.add(job.id)
                buying = asyncio.create_task(self._buy_again(job, request, error, index))
                self._submitting[buying] = None
                buying.add_done_callback(self._submitted)
                return
            error = _with_cure(error, job.status)
        self._ended(Failed(request, error, task_id=job.task_id, index=index))

    async def _buy_again(self, job: Job, request: Request, why: AIVideoError, index: int) -> None:
        lost = job.task_id
        try:
            record = await self._workers.intake.buy_again(job)
        except AIVideoError as error:
            self._ended(Failed(request, error, task_id=lost, index=index))
            return
        if record is None:
            self._ended(Failed(request, _with_cure(why, job.status), task_id=lost, index=index))
            return
        log.warning("the result of task %s is lost; job %s is paid for again", lost, job.id)
        live = self._workers.live.get(job.id)
        buying = asyncio.current_task()
        if live is not None and live.submission is not None and buying in self._submitting:
            live.submission.callers += 1
            self._submitting[buying] = live.submission
        await self._submit(job, record, index)

    def _path(self, job: Job, request: Request, task: CompletedTask, index: int) -> Path:
        """Return where a result is to be saved.

        Raises:
            UserCodeError: ``save_to`` raised an exception, or returned no path.
        """
        save_to = self._save_to
        assert save_to is not None
        if callable(save_to):
            return user_code.path_from(save_to, request, index, job)
        return Path(save_to) / file_name(task, index)

    def _ended(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed) and isinstance(outcome.error, UserCodeError):
            self._note_exit(outcome.error.__cause__)
        self._ready.append(outcome)
        self._changed.set()


class _Waiter:
    """Waits for the end of one job; answers like a future, at a third of its weight."""

    __slots__ = ("_call", "_index", "_job")

    def __init__(self, call: GenerateMany, job: Job, index: int) -> None:
        self._call = call
        self._job = job
        self._index = index

    def done(self) -> bool:
        return self._call.was_left

    def set_result(self, result: Task, /) -> None:
        self._tell(result)

    def set_exception(self, exception: AIVideoError, /) -> None:
        self._tell(exception)

    def exception(self) -> None:
        return None

    def _tell(self, heard: Task | AIVideoError) -> None:
        # In the next turn of the loop: the session takes the end in first.
        asyncio.get_running_loop().call_soon(self._call.task_ended, self._job, self._index, heard)


def _with_cure(error: AIVideoError, status: JobStatus) -> AIVideoError:
    """Return a copy of an error about a result that is lost, which says how to buy it again."""
    error = copy.copy(error)  # several may wait for one task, and get the same error
    text = str(error).rstrip(".")
    if status is JobStatus.SAVED:
        text += "; its file was saved earlier, and is not where it was"
    error.args = (f"{text}; pay_again=True buys it again", *error.args[1:])
    return error


async def _each(
    requests: Iterable[Request] | AsyncIterable[Request],
) -> AsyncGenerator[Request, None]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
