"""Many requests at once: submitted as fast as the pace allows, yielded as they end.

There is no asyncio task per running job. A job is a task while it is being submitted, a small
waiter in the poller while it runs, and a task again while its file is fetched. So memory grows with
the jobs that run, not with the requests that there are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypeAlias

from attrs import field, frozen

from aivideo._polling.poller import Poller
from aivideo._session.actions import Actions
from aivideo._session.downloads import Downloads, closed_under
from aivideo._session.intake import Intake, check_key, check_request
from aivideo._session.job import Job
from aivideo._session.live import IfUnsent, LiveJobs
from aivideo._session.submitter import Submitter
from aivideo._session.watching import Watching
from aivideo.errors import (
    AIVideoError,
    InvalidRequestError,
    SessionClosedError,
    TaskFailedError,
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
    fingerprint,
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
        known_only: whether only jobs that the ledger knows as asked for are taken on.
    """

    batch: str | None = None
    key: KeyOf | None = None
    max_credits: Decimal | Literal["none"] | None = None
    retry_failed: bool = field(default=False, kw_only=True)
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
        self._submitting: dict[asyncio.Task[None], Job] = {}
        self._waiting = 0
        self._fetching: set[asyncio.Task[None]] = set()
        self._producer: asyncio.Task[None] | None = None
        self._callers_error: BaseException | None = None
        self.was_left = False
        """Whether nobody takes outcomes any more."""

    async def outcomes(self) -> AsyncIterator[Outcome]:
        """Yield how each ended, as they end; then raise what the caller's own code raised."""
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
        if self._callers_error is not None:
            raise self._callers_error

    async def leave(self) -> None:
        """Stop: nothing more is submitted; what was taken is polled on by the session."""
        self.was_left = True
        if self._producer is not None:
            self._producer.cancel()
        for task, job in list(self._submitting.items()):
            live = self._workers.live.get(job.id)
            submission = None if live is None else live.submission
            # Another call of the same batch may wait for it, or resume() has taken it up.
            if submission is not None and submission.callers <= 1 and not submission.enqueued:
                submission.interrupt()
            task.cancel()
        self._waiting = 0
        tasks: list[asyncio.Task[None]] = [*self._submitting, *self._fetching]
        if self._producer is not None:
            tasks.append(self._producer)
        for fetching in self._fetching:
            fetching.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- submitting ---------------------------------------------------------------------------

    async def _produce(self) -> None:
        ceiling = self._options.max_credits
        if ceiling is not None:
            assert self._batch is not None
            await self._workers.ledger.set_ceiling(
                self._batch, None if ceiling == "none" else ceiling
            )
        index = 0
        async for request in _each(self._requests):
            await self._room()
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
                    if_unsent=IfUnsent.WITHDRAW if self._is_new_work else IfUnsent.KEEP,
                )
            except AIVideoError as error:
                self._ended(Failed(request, error, index=index))
            else:
                if self._on_job is not None:
                    self._on_job(job)
                submitting = asyncio.create_task(self._submit(job, record, index))
                self._submitting[submitting] = job
                submitting.add_done_callback(self._submitted)
            index += 1

    def _key(self, index: int, request: Request) -> str | None:
        """Name the job of a request: the same request again, in another run, is the same job.

        Raises:
            InvalidRequestError: it is not a str, or this call has named another request so. (The
                ledger would replace the one by the other while it waits, as it does from one run
                to the next.)
        """
        if self._is_new_work:
            return None
        content = fingerprint(request)
        name_of = self._options.key
        if name_of is not None:
            key = name_of(index, request)
            check_key(key)
            if self._named.setdefault(key, content) != content:
                raise InvalidRequestError.because(
                    "key", key, "was used for another request", "use a key per request"
                )
            return key
        self._occurrences[content] += 1
        return f"{content}-{self._occurrences[content]}"

    async def _room(self) -> None:
        """Wait until reading one request more serves a purpose."""
        limit = self._window
        while len(self._submitting) >= limit or len(self._ready) >= limit:
            self._changed.clear()
            await self._changed.wait()

    async def _submit(self, job: Job, record: JobRecord, index: int) -> None:
        request = record.request
        if self._ended_earlier(record, index):
            return
        live = self._workers.live.get(job.id)
        submission = None if live is None else live.submission
        if submission is not None:
            submission.callers += 1
        try:
            task_id = await self._workers.actions.task_id_of(job)
        except AIVideoError as error:
            self._ended(Failed(request, error, index=index))
            return
        finally:
            if submission is not None:
                submission.callers -= 1
        self._workers.watching.watch(task_id, request)
        self._waiting += 1
        self._workers.poller.wait_with(_Waiter(self, job, index), task_id)

    def _ended_earlier(self, record: JobRecord, index: int) -> bool:
        """Yield the end of a job that an earlier run has seen, if nothing is left to be done."""
        task = record.ended_task()
        if isinstance(task, FailedTask):
            error = TaskFailedError(task)
            self._ended(Failed(record.request, error, task_id=task.id, index=index))
            return True
        if task is None or record.status is not JobStatus.SAVED or record.path is None:
            return False
        places = [Path(record.path)]
        if self._save_to is not None:
            places.append(self._path(record.request, task, index))  # the folder was moved, say
        for path in places:
            if path.is_file() and record.size in (None, path.stat().st_size):
                self._ended(Succeeded(record.request, task, path, index=index))
                return True
        return False  # missing, or not whole: fetched again while its URL lives

    def _submitted(self, submitting: asyncio.Task[None]) -> None:
        self._submitting.pop(submitting, None)
        self._changed.set()
        if not submitting.cancelled():
            self._keep_error(submitting.exception())

    def _keep_error(self, error: BaseException | None) -> None:
        """Keep an exception of the caller's own code; it is raised after the last outcome."""
        if error is not None:
            log.error("a job of generate_many has no outcome: %r", error)
            self._callers_error = self._callers_error or error

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
            self._ended(Failed(request, task, task_id=job.task_id, index=index))
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
            path = await self._workers.downloads.save(job, task, self._path(request, task, index))
        except AIVideoError as error:
            self._ended(Failed(request, error, task_id=task.id, index=index))
        else:
            self._ended(Succeeded(request, task, path, index=index))

    def _fetched(self, fetching: asyncio.Task[None]) -> None:
        self._fetching.discard(fetching)
        self._changed.set()
        if not fetching.cancelled():
            self._keep_error(fetching.exception())

    def _path(self, request: Request, task: CompletedTask, index: int) -> Path:
        assert self._save_to is not None
        if callable(self._save_to):
            return Path(self._save_to(index, request))
        suffix = Path(task.urls[0].partition("?")[0]).suffix if task.urls else ""
        return Path(self._save_to) / f"{index + 1:05d}-{_safe(task.id)}{suffix or '.mp4'}"

    def _ended(self, outcome: Outcome) -> None:
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


async def _each(requests: Iterable[Request] | AsyncIterable[Request]) -> AsyncIterator[Request]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80]
