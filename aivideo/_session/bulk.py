"""Many requests at once: submitted as fast as the pace allows, told of as they end.

There is no asyncio task per running job. A job is a task while it is being submitted, a future in
the poller while it runs, and a task again while its file is fetched; so what is held is small,
and grows with the jobs that run, not with the requests that there are.
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
from typing import TypeAlias

from attrs import field, frozen

from aivideo import models
from aivideo._session.engine import Engine, check_request, closed_under
from aivideo._session.job import Job
from aivideo.errors import (
    AIVideoError,
    InvalidRequestError,
    SessionClosedError,
    TaskFailedError,
)
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.models import CompletedTask, Failed, FailedTask, Outcome, Request, Succeeded, Task

log = logging.getLogger("aivideo._session.session")

SaveTo: TypeAlias = str | os.PathLike[str] | Callable[[int, Request], str | os.PathLike[str]]
"""A folder, or a function from a request's place and itself to the file it should become."""


KeyOf: TypeAlias = Callable[[int, Request], str]
"""Names the job of a request and its place within a batch."""


@frozen
class Naming:
    """Which job of which batch a request is, and what the batch may cost.

    Attributes:
        batch: the batch's name; None: each request is new work.
        key: names a job; None: by content and occurrence.
        max_credits: the batch's ceiling, or None.
        retry_failed: whether jobs that failed or were refused are sent again.
    """

    batch: str | None = None
    key: KeyOf | None = None
    max_credits: int | None = None
    retry_failed: bool = field(default=False, kw_only=True)


class Bulk:
    """One ``generate_many``: a producer that submits, and a queue of what has ended.

    Args:
        engine: what submits, watches and fetches.
        requests: any iterable, async or not; read only while there is room.
        save_to: where files go, or None.
        naming: which jobs the requests are.
        window: how many may wait to be submitted, and how many outcomes to be taken, at most.
        on_job: told of each job before it is sent, or None.
    """

    def __init__(
        self,
        engine: Engine,
        requests: Iterable[Request] | AsyncIterable[Request],
        save_to: SaveTo | None,
        naming: Naming,
        window: int,
        on_job: Callable[[Job], object] | None = None,
    ) -> None:
        self._engine = engine
        self._window = window
        self._on_job = on_job
        self._requests = requests
        self._save_to = save_to
        self._naming = naming
        self._batch = naming.batch
        if self._batch is None and naming.max_credits is not None:
            self._batch = f"call-{secrets.token_hex(8)}"  # a ceiling counts what has a name
        self._seen: Counter[str] = Counter()
        self._named: dict[str, str] = {}
        self._ready: deque[Outcome] = deque()
        self._changed = asyncio.Event()
        self._submitting: dict[asyncio.Task[None], Job] = {}
        self._waiting = 0
        self._fetching: set[asyncio.Task[None]] = set()
        self._producer: asyncio.Task[None] | None = None
        self._left = False
        self._broken: BaseException | None = None

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
        if self._broken is not None:
            raise self._broken

    async def leave(self) -> None:
        """Stop: nothing more is submitted; what was taken stays watched by the session."""
        self._left = True
        if self._producer is not None:
            self._producer.cancel()
        for task, job in list(self._submitting.items()):
            self._engine.withdraw(job)
            task.cancel()
        self._waiting = 0
        tasks: list[asyncio.Task[None]] = [*self._submitting, *self._fetching]
        if self._producer is not None:
            tasks.append(self._producer)
        for fetching in self._fetching:
            fetching.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _produce(self) -> None:
        index = 0
        ceiling = self._naming.max_credits
        if self._batch is not None and ceiling is not None:
            await self._engine.ledger.set_ceiling(self._batch, Decimal(ceiling))
        async for request in _each(self._requests):
            await self._room()
            try:
                check_request(request)  # before it is asked for its name
                job, record = await self._engine.plan(
                    request,
                    key=self._key(index, request),
                    batch=self._batch,
                    index=index,
                    replace=self._naming.batch is not None,
                    retry_failed=self._naming.retry_failed,
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
            InvalidRequestError: this call has named another request so. (The ledger would let the
                one replace the other while it waits, as it does from one run to the next.)
        """
        naming = self._naming
        if naming.batch is None:
            return None
        content = models.fingerprint(request)
        if naming.key is not None:
            key = naming.key(index, request)
            if self._named.setdefault(key, content) != content:
                raise InvalidRequestError.because(
                    "key", key, "was used for another request", "use a key per request"
                )
            return key
        self._seen[content] += 1
        return f"{content}-{self._seen[content]}"

    async def _room(self) -> None:
        """Wait until reading one request more serves a purpose."""
        limit = self._window
        while len(self._submitting) >= limit or len(self._ready) >= limit:
            self._changed.clear()
            await self._changed.wait()

    async def _submit(self, job: Job, record: JobRecord, index: int) -> None:
        request = record.request
        if self._told_by_ledger(record, index):
            return
        try:
            task_id = await self._engine.taken(job)
        except AIVideoError as error:
            self._ended(Failed(request, error, index=index))
            return
        self._engine.watch(task_id, request)
        self._waiting += 1
        self._engine.poller.wait_with(_Waiting(self, job, index), task_id)

    def _told_by_ledger(self, record: JobRecord, index: int) -> bool:
        """Tell the end of a job that an earlier run has seen, if nothing is left to be done."""
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
        return False  # gone, or not whole: fetched again while its URL lives

    def _submitted(self, submitting: asyncio.Task[None]) -> None:
        self._submitting.pop(submitting, None)
        self._changed.set()
        if not submitting.cancelled():
            self._saw(submitting.exception())

    def _saw(self, defect: BaseException | None) -> None:
        """Keep what is no outcome, a ``save_to`` of the caller's that raises say: it is raised."""
        if defect is not None:
            log.error("a job of generate_many has no outcome: %r", defect)
            self._broken = self._broken or defect

    @property
    def left(self) -> bool:
        """Whether nobody takes outcomes any more."""
        return self._left

    def heard(self, job: Job, index: int, heard: Task | AIVideoError) -> None:
        """Take in how a job's task ended, or why it is not watched any more."""
        if self._left:
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
                self._engine.saving.add(fetching)
                fetching.add_done_callback(lambda done: self._fetched(done, job, request, index))

    async def _fetch(self, job: Job, request: Request, task: CompletedTask, index: int) -> None:
        try:
            path = await self._engine.fetch(job, task, self._path(request, task, index))
        except AIVideoError as error:
            self._ended(Failed(request, error, task_id=task.id, index=index))
        else:
            self._ended(Succeeded(request, task, path, index=index))

    def _fetched(
        self, fetching: asyncio.Task[None], job: Job, request: Request, index: int
    ) -> None:
        self._fetching.discard(fetching)
        self._engine.saving.discard(fetching)
        self._changed.set()
        if not fetching.cancelled():
            self._saw(fetching.exception())
        elif not self._left:  # the session closed under it: that is an outcome too
            self._ended(Failed(request, closed_under(job), task_id=job.task_id, index=index))

    def _path(self, request: Request, task: CompletedTask, index: int) -> Path:
        assert self._save_to is not None
        if callable(self._save_to):
            return Path(self._save_to(index, request))
        suffix = Path(task.urls[0].partition("?")[0]).suffix if task.urls else ""
        return Path(self._save_to) / f"{index + 1:05d}-{_safe(task.id)}{suffix or '.mp4'}"

    def _ended(self, outcome: Outcome) -> None:
        self._ready.append(outcome)
        self._changed.set()


class _Waiting:
    """One job that waits for its end; answers like a future, at a third of its weight."""

    __slots__ = ("_bulk", "_index", "_job")

    def __init__(self, bulk: Bulk, job: Job, index: int) -> None:
        self._bulk = bulk
        self._job = job
        self._index = index

    def done(self) -> bool:
        return self._bulk.left

    def set_result(self, result: Task, /) -> None:
        self._tell(result)

    def set_exception(self, exception: AIVideoError, /) -> None:
        self._tell(exception)

    def exception(self) -> None:
        return None

    def _tell(self, heard: Task | AIVideoError) -> None:
        # Not at once: the engine hears of it first.
        asyncio.get_running_loop().call_soon(self._bulk.heard, self._job, self._index, heard)


async def _each(requests: Iterable[Request] | AsyncIterable[Request]) -> AsyncIterator[Request]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80]
