"""Receives the service's callbacks, and confirms each by asking the service itself."""

from __future__ import annotations

import logging

from aivideo._api import callback_tokens, wire
from aivideo._pacing.limiter import Limiter
from aivideo._polling import lifecycle
from aivideo._polling.poller import Poller
from aivideo._session.intake import Intake
from aivideo._session.job import Job
from aivideo._session.live import LiveJobs
from aivideo._session.paced import Questions
from aivideo._session.recorder import end_of
from aivideo._session.watching import Watching
from aivideo.errors import ContradictionError, ResponseError
from aivideo.ledger import Ledger, events
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord
from aivideo.models import Task

log = logging.getLogger("aivideo.session")


class CallbackReceiver:
    """Takes callbacks in; see :meth:`aivideo.Session.receive_callback`.

    Args:
        secret: what the tokens were made with.
        ledger: knows the jobs.
        live: the live jobs.
        intake: takes a job on that is not live.
        watching: polls a task that has not ended.
        poller: is told of ends.
        questions: asks for the task that a callback names.
        limiter: told of a job that runs.
    """

    def __init__(
        self,
        secret: bytes,
        ledger: Ledger,
        live: LiveJobs,
        intake: Intake,
        watching: Watching,
        poller: Poller,
        questions: Questions,
        limiter: Limiter,
    ) -> None:
        self._secret = secret
        self._ledger = ledger
        self._live = live
        self._intake = intake
        self._watching = watching
        self._poller = poller
        self._questions = questions
        self._limiter = limiter

    async def receive(self, token: str, body: bytes) -> Job | None:
        """Take one callback in.

        Returns:
            The job that it was about; None: it was not ours, or not true.
        """
        named = callback_tokens.read_token(self._secret, token)
        if named is None:
            log.debug("a callback with an invalid token was ignored")
            return None
        try:
            said = wire.read_callback(body)
        except ResponseError as error:
            log.info("a callback for job %s was ignored: %s", named.job_id, error)
            return None
        del token, body  # a signed URL may be in it: no traceback with locals may show it
        live = self._live.get(named.job_id)
        if live is not None and live.submission is not None:
            # The response to our own POST comes first: it decides what there is to ask.
            await live.submission.verdict_known()
        record = await self._ledger.find(named.job_id)
        if record is None or named.attempt > record.latest:
            log.debug("a callback for job %s, which this ledger does not know", named.job_id)
            return None
        attempt = record.attempt(named.attempt)
        if attempt.task_id not in (None, said.id):
            log.warning("a callback for task %s names another task", attempt.task_id)
            return None
        # What it says is a hint and no more: the service itself is asked.
        task = await self._questions.retrieve(said.id)
        if attempt.task_id is None:
            return await self._settle(record, attempt, task)
        record = await self._ledger.find(record.id) or record
        if record.attempt(attempt.number).status is not AttemptStatus.RUNNING:
            return self._ended(record)  # meanwhile, or long ago
        live = self._live.get(record.id)
        if not record.status.is_sendable or (live is not None and live.submission is not None):
            job = self._intake.adopt(record).job
        elif live is not None:
            job = live.job
        else:
            # It waits to be paid for again, by its batch or key: to take it on would send it here.
            if lifecycle.is_ended(task):
                end = end_of(task)
                record = await self._ledger.record(record.id, end, attempt=attempt.number)
            return self._ended(record)
        if lifecycle.is_ended(task):
            self._watching.watch(task.id, record.request)
            self._poller.deliver(task)
        return job

    async def _settle(self, record: JobRecord, attempt: Attempt, task: Task) -> Job | None:
        """Settle an unknown attempt by the task that a callback with its token names."""
        if not lifecycle.is_ended(task):
            # Too early to be honest: the service calls when a task has ended. Then its prompt is
            # known, and can be compared.
            self._watching.watch(task.id, record.request)
            task = await self._poller.wait(task.id)
        why_not = callback_tokens.mismatch(record.request, task, sent_at=attempt.sent_at)
        other = await self._ledger.find_task(task.id)
        if other is not None and (other.id, other.attempt_of(task.id)) != (
            record.id,
            attempt.number,
        ):
            why_not = f"it is the task of job {other.id}"
        if why_not is not None:
            log.warning("a callback named task %s for job %s, but %s", task.id, record.id, why_not)
            return None
        taken = events.Taken(task.id)
        try:
            record = await self._ledger.record(record.id, taken, attempt=attempt.number)
        except ContradictionError as error:  # settled otherwise meanwhile
            log.warning("a callback named task %s: %s", task.id, error)
            return None
        log.info("a callback settled that job %s became task %s", record.id, task.id)
        if record.attempt(attempt.number).status is not AttemptStatus.RUNNING:
            return self._ended(record)  # another callback was faster
        live = self._live.get(record.id)
        if live is None:
            live = self._intake.adopt(record)
        elif live.job.task_id == task.id:
            return live.job  # likewise
        else:
            if live.held is not None:
                self._limiter.job_adopted()  # when its permit ended, nobody knew that it runs
            live.job.error = None
            self._watching.follow(live, record)
        self._poller.deliver(task)
        return live.job

    def _ended(self, record: JobRecord) -> Job:
        """Return a handle of a job of which nothing more will be heard."""
        return self._intake.handle_of(record)
