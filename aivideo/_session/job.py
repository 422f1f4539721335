"""A job: the handle of one request, from intent to saved file.

A handle holds no task, timer or connection; it asks its session. So ten thousand of them cost what
ten thousand small objects cost, and dropping one loses nothing: the session goes on with the job.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from aivideo import _amounts
from aivideo.errors import AIVideoError, SessionClosedError
from aivideo.ledger.records import JobStatus
from aivideo.models import CompletedTask, Request, Task, TaskId


class JobActions(Protocol):
    """What a handle asks of the session that owns it."""

    async def result_of(self, job: Job, wait_timeout: float | None) -> CompletedTask:
        """Wait for the job's end."""
        ...

    async def task_id_of(self, job: Job) -> TaskId:
        """Wait until the service has taken the job."""
        ...

    def updates_of(self, job: Job) -> AsyncIterator[Task]:
        """Yield the states of the job's task."""
        ...

    async def save(self, job: Job, path: str | os.PathLike[str]) -> Path:
        """Wait for the job's end, and fetch its result."""
        ...

    async def cancel(self, job: Job) -> bool:
        """Withdraw the job if it was not sent."""
        ...

    def last_state_of(self, task_id: TaskId) -> Task | None:
        """Return the last known state of a task, without asking the service."""
        ...


class Job:
    """One request on its way. Sessions make these; see :meth:`aivideo.Session.submit`.

    ``await job`` waits for the result; several may wait, and each may stop waiting alone. A job
    that was pickled comes back detached: its ``id``, ``task_id``, ``request`` and ``status`` are
    there, and ``session.job(job.task_id)`` makes a live one of it.

    Attributes:
        id: our id of it.
        request: what to make; None for a task that this session did not submit.
        key: the user's name for it, or None.
        index: its place among the requests that ``generate_many`` was given, or None.
        task_id: the service's id of its task, or None while it has not been taken.
        status: its status (a :class:`~aivideo.JobStatus`, which is a str too).
        error: why it was not taken, or None.
    """

    __slots__ = ("_owner", "error", "id", "index", "key", "request", "status", "task_id")

    def __init__(
        self,
        id: str,  # noqa: A002  the attribute's name
        request: Request | None,
        *,
        owner: JobActions | None,
        status: JobStatus = JobStatus.PLANNED,
        task_id: TaskId | None = None,
        key: str | None = None,
        index: int | None = None,
    ) -> None:
        self.id: str = id
        self.request: Request | None = request
        self.status: JobStatus = status
        self.task_id: TaskId | None = task_id
        self.key: str | None = key
        self.index: int | None = index
        self.error: AIVideoError | None = None
        self._owner = owner

    def __repr__(self) -> str:
        detached = "" if self._owner else " detached"
        return f"<Job {self.id} {self.status}{detached} task_id={self.task_id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (self.id, self.request, self.status, self.task_id, self.key, self.index)

    @property
    def credits(self) -> Decimal | None:
        """Its price in credits; None where that is not known."""
        return None if self.request is None else self.request.credits

    @property
    def dollars(self) -> Decimal | None:
        """Its price in US dollars, exactly; None where that is not known."""
        return None if self.credits is None else _amounts.dollars(self.credits)

    @property
    def task(self) -> Task | None:
        """The last known state of its task; the service is not asked."""
        if self._owner is None or self.task_id is None:
            return None
        return self._owner.last_state_of(self.task_id)

    def __await__(self) -> Generator[Any, None, CompletedTask]:
        return self.result().__await__()

    async def result(self, *, wait_timeout: float | None = None) -> CompletedTask:
        """Wait until the job has ended, its time in the queue included.

        Args:
            wait_timeout: seconds to wait at most; None: as long as it takes (minutes to hours).

        Raises:
            TaskFailedError: the task ended as failed (its credits come back).
            WaitTimeoutError: ``wait_timeout`` passed; the job goes on, and is in ``error.job``.
            SubmitUnknownError: whether the POST was taken is unknown.
            JobWithdrawnError: it was withdrawn before it was sent.
            SessionClosedError: the session closed first; a job that was taken goes on.
            ConfigurationError: this is another event loop than the session's.
            AIVideoError: the service refused the request; see :mod:`aivideo.errors`.
        """
        return await self._session.result_of(self, wait_timeout)

    async def submitted(self) -> TaskId:
        """Wait until the service has taken the job; raises like :meth:`result` if it does not."""
        return await self._session.task_id_of(self)

    def updates(self) -> AsyncIterator[Task]:
        """Yield the task each time its status or progress changes; the last one is its end."""
        return self._session.updates_of(self)

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Wait for the result and fetch it to ``path``: streamed, resumed, whole or not at all.

        Raises:
            DownloadError: it could not be fetched or written; the task is not lost.
            AIVideoError: what :meth:`result` raises.
        """
        return await self._session.save(self, path)

    async def cancel(self) -> bool:
        """Withdraw the job, if it was not sent: it is never sent then, and costs nothing.

        Returns:
            True: it was withdrawn. False: it is too late: its POST is under way, it was taken, or
            it has ended. The service has no way to cancel a task.

        Raises:
            LedgerError: it could not be recorded; the job may still be sent.
        """
        return await self._session.cancel(self)

    @property
    def _session(self) -> JobActions:
        if self._owner is None:
            raise SessionClosedError(
                f"job {self.id} was unpickled and belongs to no session; "
                f"use session.job({self.task_id!r})",
                job=self,
            )
        return self._owner


def _detached(
    id: str,  # noqa: A002  the attribute's name
    request: Request | None,
    status: JobStatus,
    task_id: TaskId | None,
    key: str | None,
    index: int | None,
) -> Job:
    return Job(id, request, owner=None, status=status, task_id=task_id, key=key, index=index)
