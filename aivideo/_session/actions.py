"""What job handles ask of their session: wait, follow, save, cancel."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import math
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

from aivideo._polling.poller import Poller
from aivideo._session import user_code
from aivideo._session.downloads import Downloads, closed_under
from aivideo._session.job import Job
from aivideo._session.live import LiveJobs
from aivideo._session.recorder import Recorder
from aivideo._session.submitter import Submitter
from aivideo._session.supervisor import CancellableTask, Supervisor
from aivideo._session.watching import Watching
from aivideo.errors import (
    AIVideoError,
    ConfigurationError,
    ContradictionError,
    SessionClosedError,
    TaskFailedError,
    WaitTimeoutError,
)
from aivideo.ledger.records import JobStatus
from aivideo.models import CompletedTask, FailedTask, Task, TaskId

log = logging.getLogger("aivideo.session")

OnUpdate: TypeAlias = Callable[[Task], object]
"""Called at each change of a task; may be a coroutine function."""

LAST_UPDATES_TIMEOUT = 5.0
"""Seconds that a closing session gives ``on_update`` to take in what has ended."""


class Actions:
    """Implements :class:`~aivideo._session.job.JobActions`.

    Args:
        live: the live jobs.
        poller: polls the tasks.
        watching: starts the polling.
        submitter: withdraws.
        recorder: withdraws jobs that are not live.
        downloads: fetches results.
        supervisor: knows the event loop, and runs ``on_update``.
    """

    def __init__(
        self,
        live: LiveJobs,
        poller: Poller,
        watching: Watching,
        submitter: Submitter,
        recorder: Recorder,
        downloads: Downloads,
        supervisor: Supervisor,
    ) -> None:
        self._closed = False
        self._live = live
        self._poller = poller
        self._watching = watching
        self._submitter = submitter
        self._recorder = recorder
        self._downloads = downloads
        self._supervisor = supervisor
        self._listeners: set[CancellableTask] = set()

    def close(self) -> None:
        """Let nobody begin to wait."""
        self._closed = True

    def job_of(self, task_id: TaskId) -> Job:
        """Find the job of a task, or make a handle for a task that was made elsewhere."""
        known = self._live.of_task(task_id)
        if known is not None:
            return known.job
        return Job(f"task-{task_id}", None, owner=self, status=JobStatus.RUNNING, task_id=task_id)

    async def task_id_of(self, job: Job) -> TaskId:
        """Wait until the service has taken a job; raises why, if it has not."""
        self._supervisor.check_loop()
        if job.task_id is not None:
            return job.task_id
        live = self._live.get(job.id)
        if live is not None and live.job is job and live.submission is not None:
            await live.submission.ended()
        return _task_id_or_error(job)

    async def result_of(self, job: Job, wait_timeout: float | None) -> CompletedTask:
        """Wait for the end of a job; see :meth:`Job.result`."""
        self._supervisor.check_loop()
        check_wait_timeout(wait_timeout)
        deadline = asyncio.timeout(wait_timeout)
        try:
            async with deadline:
                task = await self._end_of(job)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise timed_out(job, wait_timeout) from None
        if isinstance(task, FailedTask):
            raise TaskFailedError(task)
        return task

    async def _end_of(self, job: Job) -> CompletedTask | FailedTask:
        task_id = await self.task_id_of(job)
        if self._closed:
            raise closed_under(job)
        self._watching.watch(task_id, job.request)
        try:
            task = await self._poller.wait(task_id)
        except SessionClosedError:
            raise closed_under(job) from None
        if job.request is None:
            job.status = JobStatus.FAILED if isinstance(task, FailedTask) else JobStatus.COMPLETED
        assert isinstance(task, CompletedTask | FailedTask)  # a wait ends with no other
        return task

    async def updates_of(self, job: Job) -> AsyncGenerator[Task, None]:
        """Yield the states of a job's task; see :meth:`Job.updates`."""
        task_id = await self.task_id_of(job)
        self._watching.watch(task_id, job.request)
        try:
            async with aclosing(self._poller.updates(task_id)) as updates:
                async for task in updates:
                    yield task
        except SessionClosedError:
            raise closed_under(job) from None

    async def save(self, job: Job, path: str | os.PathLike[str]) -> Path:
        """Wait for the result of a job and fetch it; see :meth:`Job.save`."""
        return await self._downloads.save(job, await self.result_of(job, None), path)

    async def cancel(self, job: Job) -> bool:
        """Withdraw a job; see :meth:`Job.cancel`."""
        self._supervisor.check_loop()
        live = self._live.get(job.id)
        if live is not None and live.job is job:
            return await self._submitter.withdraw(live)
        if job.status is not JobStatus.PLANNED:
            return False
        try:
            record = await self._recorder.withdraw(job.id)
        except ContradictionError:
            return False
        self._live.set_status(job, record.status, record)
        return True

    def last_state_of(self, task_id: TaskId) -> Task | None:
        """Return the last known state of a task."""
        return self._poller.known(task_id)

    # --- on_update ----------------------------------------------------------------------------

    def listen(self, job: Job, on_update: OnUpdate) -> None:
        """Call ``on_update`` at each change of a job's task.

        An exception of it is logged with the job and the task, and the job goes on. It is called
        again, except after a ``SystemExit``, a ``KeyboardInterrupt`` or a ``CancelledError``.
        """

        async def listen() -> None:
            try:
                async with aclosing(self.updates_of(job)) as updates:
                    async for task in updates:
                        if not await _call(on_update, job, task):
                            break
            except AIVideoError as error:
                log.debug("updates of job %s ended: %s", job.id, error)
            finally:
                self._listeners.discard(listener)

        listener = self._supervisor.start_cancellable(listen)
        self._listeners.add(listener)

    async def finish_updates(self) -> None:
        """Give ``on_update`` a moment to be called with what has just ended."""
        try:
            async with asyncio.timeout(LAST_UPDATES_TIMEOUT):
                for listener in [*self._listeners]:
                    await listener.ended.wait()
        except TimeoutError:
            log.warning("on_update took more than %g s; it is cancelled", LAST_UPDATES_TIMEOUT)


async def _call(on_update: OnUpdate, job: Job, task: Task) -> bool:
    """Call ``on_update``; returns whether to call it again."""
    try:
        said = on_update(task)
        if inspect.isawaitable(said):
            await said
    except BaseException as error:
        if user_code.is_cancellation(error) or isinstance(error, GeneratorExit):
            raise  # the session closes, or its event loop ends
        again = isinstance(error, Exception)
        log.error(  # noqa: TRY400  a scrubbed traceback: the task has signed URLs
            "on_update of job %s failed for task %s; the job goes on%s\n%s",
            *(job.id, task.id, "" if again else ", and on_update is not called again for it"),
            user_code.traceback_of(error),
        )
        return again
    return True


def _task_id_or_error(job: Job) -> TaskId:
    if job.task_id is not None:
        return job.task_id
    if job.error is not None:
        raise copy.copy(job.error) from job.error.__cause__
    if job.status is JobStatus.SUBMITTING:
        raise SessionClosedError(
            f"job {job.id} is being submitted by another process; find it again later", job=job
        )
    raise SessionClosedError(f"job {job.id} was not sent", job=job)


def check_wait_timeout(wait_timeout: object) -> None:
    """Check a ``wait_timeout``: seconds, 0 or more, or None.

    Raises:
        ConfigurationError: it is neither.
    """
    if wait_timeout is None:
        return
    if (
        isinstance(wait_timeout, bool)
        or not isinstance(wait_timeout, int | float)
        or math.isnan(wait_timeout)
        or wait_timeout < 0
    ):
        raise ConfigurationError(
            f"wait_timeout={wait_timeout!r} must be a number of seconds, 0 or more, or None"
        )


def timed_out(job: Job, wait_timeout: float | None) -> WaitTimeoutError:
    """Return the error of whoever has waited long enough."""
    if job.task_id is None:
        how = "it is still waiting to be sent: wait again with await error.job"
    else:
        how = f"it goes on: wait again, or later with session.job({job.task_id!r})"
    return WaitTimeoutError(f"job {job.id} has not ended within {wait_timeout:g} s; {how}", job=job)
