"""A job: the handle of one request, from intent to saved file.

A handle holds no task, timer or connection of its own; it asks its session. So ten thousand of
them cost what ten thousand small objects cost, and dropping one loses nothing: the session goes on
with the job.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from aivideo import catalog
from aivideo.errors import AIVideoError, SessionClosedError
from aivideo.ledger.records import JobStatus
from aivideo.ledger.totals import Holding
from aivideo.models import CompletedTask, Request, Task, TaskId


class Owner(Protocol):
    """What a job asks of the session that owns it."""

    async def result_of(self, job: Job, wait_timeout: float | None) -> CompletedTask:
        """Wait for the job's end."""
        ...

    async def taken(self, job: Job) -> TaskId:
        """Wait until the service has taken the job."""
        ...

    def updates_of(self, job: Job) -> AsyncIterator[Task]:
        """Yield what is heard of the job's task."""
        ...

    async def save_result_of(self, job: Job, path: str | os.PathLike[str]) -> Path:
        """Wait for the job's end, and fetch its result."""
        ...

    def last_heard(self, task_id: TaskId) -> Task | None:
        """Say what was last heard of a task, without asking the service."""
        ...


class Job:
    """One request on its way. Sessions make these; see :meth:`aivideo.Session.submit`.

    ``await job`` waits for the result; several may wait, and each may stop waiting alone. A job
    that was pickled comes back detached: its ``id``, ``task_id``, ``request`` and ``status``
    are there, and ``session.job(job.task_id)`` makes a live one of it.

    Attributes:
        id: our own name of it.
        request: what is to be made; None for a task this session did not submit.
        key: the user's name for it, or None.
        index: its place in what ``generate_many`` was given, or None.
        task_id: the service's name of the task, or None while it has not been taken.
        status: where it stands (a :class:`~aivideo.JobStatus`, which is a str too).
        error: why it was not taken, or None.
        attempt: the number of the POST that ``task_id`` came of, or of the one under way; 0: none.
        holding: how its session counts the credits of its own POST; None: it made none.
    """

    __slots__ = (
        *("_owner", "attempt", "error", "holding", "id", "index", "key", "request"),
        *("status", "task_id"),
    )

    def __init__(
        self,
        id: str,  # noqa: A002  what it is
        request: Request | None,
        *,
        owner: Owner | None,
        status: JobStatus = JobStatus.PLANNED,
        task_id: TaskId | None = None,
        key: str | None = None,
        index: int | None = None,
    ) -> None:
        self.id = id
        self.request = request
        self.status = status
        self.task_id = task_id
        self.key = key
        self.index = index
        self.error: AIVideoError | None = None
        self.attempt = 0
        self.holding: Holding | None = None
        self._owner = owner

    def __repr__(self) -> str:
        detached = "" if self._owner else " detached"
        return f"<Job {self.id} {self.status}{detached} task_id={self.task_id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (self.id, self.request, self.status, self.task_id, self.key, self.index)

    @property
    def credits(self) -> int | None:
        """What it costs, in credits; None where that is not known."""
        return None if self.request is None else self.request.credits

    @property
    def dollars(self) -> Decimal | None:
        """What it costs, in US dollars, exactly; None where that is not known."""
        return None if self.credits is None else catalog.dollars(self.credits)

    @property
    def task(self) -> Task | None:
        """What was last heard of its task; asks nobody."""
        if self._owner is None or self.task_id is None:
            return None
        return self._owner.last_heard(self.task_id)

    def __await__(self) -> Generator[Any, None, CompletedTask]:
        return self.result().__await__()

    async def result(self, *, wait_timeout: float | None = None) -> CompletedTask:
        """Wait until the job has ended.

        Args:
            wait_timeout: seconds to wait at most; None: as long as it takes (minutes to hours).

        Raises:
            TaskFailedError: the task ended as failed (its credits come back).
            WaitTimeoutError: ``wait_timeout`` passed; the job goes on, and is in ``error.job``.
            SubmitUnknownError: nobody can tell whether the POST was taken.
            SessionClosedError: the session closed first; a job that was taken goes on.
            AIVideoError: the service refused the request; see :mod:`aivideo.errors`.
        """
        return await self._session.result_of(self, wait_timeout)

    async def submitted(self) -> TaskId:
        """Wait until the service has taken the job; raises like :meth:`result` if it does not."""
        return await self._session.taken(self)

    def updates(self) -> AsyncIterator[Task]:
        """Yield the task each time its status or progress changes; the last one is its end."""
        return self._session.updates_of(self)

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Wait for the result and fetch it to ``path``: streamed, resumed, whole or not at all.

        Raises:
            DownloadError: it could not be fetched or written; the task is not lost.
            AIVideoError: what :meth:`result` raises.
        """
        return await self._session.save_result_of(self, path)

    @property
    def _session(self) -> Owner:
        if self._owner is None:
            raise SessionClosedError(
                f"job {self.id} was unpickled and belongs to no session; "
                f"use session.job({self.task_id!r})",
                job=self,
            )
        return self._owner


def _detached(
    id: str,  # noqa: A002  as above
    request: Request | None,
    status: JobStatus,
    task_id: TaskId | None,
    key: str | None,
    index: int | None,
) -> Job:
    return Job(id, request, owner=None, status=status, task_id=task_id, key=key, index=index)
