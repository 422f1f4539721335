"""Polls the tasks of live jobs, and takes in what the poller hears of them."""

from __future__ import annotations

import logging

from aivideo._pacing.limiter import Limiter
from aivideo._polling.poller import Poller
from aivideo._session.live import LiveJob, LiveJobs
from aivideo._session.recorder import Recorder
from aivideo._session.supervisor import Supervisor
from aivideo.catalog import Catalog
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.models import FailedTask, Request, Task, TaskId

log = logging.getLogger("aivideo.session")


class TaskEnds:
    """Takes in the ends of tasks: implements :class:`aivideo._polling.poller.TaskFacts`.

    Args:
        live: the live jobs.
        limiter: told that a running job has ended.
        recorder: records the end.
        supervisor: runs the writing; closing waits for it.
    """

    def __init__(
        self, live: LiveJobs, limiter: Limiter, recorder: Recorder, supervisor: Supervisor
    ) -> None:
        self._live = live
        self._limiter = limiter
        self._recorder = recorder
        self._supervisor = supervisor

    def task_ended(self, task_id: TaskId, task: Task) -> None:
        """Take in how a task has ended."""
        found = self._live.task_ended(task_id)
        if found is None:
            return
        live, counted = found
        if counted:
            self._limiter.job_ended()
        if task_id == live.job.task_id:
            failed = isinstance(task, FailedTask)
            status = JobStatus.FAILED if failed else JobStatus.COMPLETED
            self._live.set_status(live.job, status, live.record)
        self._supervisor.start_must_finish(lambda: self._record(live, task))

    def task_lost(self, task_id: TaskId) -> None:
        """Free the place of a task whose end will perhaps never be seen."""
        if self._live.task_lost(task_id):
            self._limiter.job_ended()

    async def _record(self, live: LiveJob, task: Task) -> None:
        record = await self._recorder.record_end(live, task)
        if record is not None:
            self._live.apply(live, record)
        if not self._has_more(live):
            self._live.remove(live)

    def _has_more(self, live: LiveJob) -> bool:
        """Whether a job whose task has ended is being sent again, or has another task."""
        return live.submission is not None or any(
            attempt.task_id is not None and self._live.of_task(attempt.task_id) is live
            for attempt in live.record.attempts
        )


class Watching:
    """Keeps live jobs up to date with their records, and polls each task that runs.

    Args:
        live: the live jobs.
        poller: polls the tasks.
        ends: takes in an end that was heard before it was known whose it is.
        limiter: told of running jobs that no permit of ours has started.
        catalog: says which fields of a request decide how long its task takes.
        called_back: whether the service is asked to call back for each create.
    """

    def __init__(
        self,
        live: LiveJobs,
        poller: Poller,
        ends: TaskEnds,
        limiter: Limiter,
        catalog: Catalog,
        *,
        called_back: bool,
    ) -> None:
        self._live = live
        self._poller = poller
        self._ends = ends
        self._limiter = limiter
        self._catalog = catalog
        self._called_back = called_back

    def follow(self, live: LiveJob, record: JobRecord) -> None:
        """Bring a job up to date with its record; start polling each task that runs."""
        for task_id in self._live.apply(live, record):
            if live.held is None:
                self._limiter.job_adopted()  # no permit of ours has started it
            called = self._called_back or record.callback_url is not None
            # Our own POST has just ended; any other was taken at an unknown time before.
            age = 0.0 if live.is_posting else None
            self.watch(task_id, record.request, callback=called, age=age)
            end = self._poller.end_of(task_id)
            if end is not None:  # heard before it was known whose it is
                self._ends.task_ended(task_id, end)

    def watch(
        self,
        task_id: TaskId,
        request: Request | None,
        *,
        callback: bool = False,
        age: float | None = None,
    ) -> None:
        """Poll a task until it has ended; tasks of one kind take about as long.

        Args:
            task_id: the task.
            request: what it was made for, or None where that is not known.
            callback: whether a callback will tell of its end too.
            age: seconds since it was made; None: not known.
        """
        kind: tuple[object, ...] = ()
        if request is not None:
            model_input = request.input
            fields = self._catalog.find(request.model).kind
            kind = (request.model, *(model_input.get(name) for name in fields))
        self._poller.watch(task_id, kind=kind, callback=callback, age=age)

    def watch_again(self) -> None:
        """Poll every running task again, where a bad key has ended the polling."""
        for task_id, live in self._live.tasks():
            if self._live.task_found(task_id):
                self._limiter.job_adopted()
            self.watch(task_id, live.record.request)
