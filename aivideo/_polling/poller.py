"""One loop that polls every task when a poll is worth a request, and wakes whoever waits for it.

There is no asyncio task and no timer per job: the agenda says what is due, the source of polls says
when one may be sent, and a bounded number of polls is in flight. Each waiter gets a future of its
own when it begins to wait: an ``asyncio.Future`` shared by several waiters would be cancelled with
the first of them.

What an answer does:

* A failed poll (a timeout, a reset, a 5xx, a 429, a body that cannot be read, a gateway's 404)
  never ends a job: the task goes on at the service, and is polled again after 2, 4, 8, … 60 s.
* The service's own 404 ends the watching of that task with ``TaskNotFoundError``, but only after
  ``lifecycle.NOT_FOUND_GRACE`` seconds of nothing else.
* A 401 or 403 would be the answer for every other task too: it ends the watching of all tasks, with
  one error, one line in the log, and no further poll. A later wait watches its task again.
* Everything that describes the task is merged by :mod:`aivideo._polling.lifecycle`: late and
  duplicate answers change nothing, ``completed`` without a URL is polled again, the first end wins.
  An end that contradicts it is logged, counted, and changes nothing.
* A callback may arrive before the POST's response, which names the task: an end that is received
  before the task is watched is kept for it.
* A task that was created long before it is watched may have ended: it is polled at once.
* The service's clock is only compared with itself (``completed_at - created_at``), so a difference
  between its clock and ours moves no poll.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable
from math import inf
from typing import Protocol

from attrs import frozen

from aivideo._polling import lifecycle
from aivideo._polling.agenda import Agenda
from aivideo._polling.ends import Ends
from aivideo._polling.listeners import Listener, Listeners
from aivideo._polling.source import PollSource, PollTurn
from aivideo._polling.watched import Waiter, Watched
from aivideo.errors import (
    AIVideoError,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    ResponseError,
    SessionClosedError,
    TaskNotFoundError,
)
from aivideo.models import CompletedTask, ProcessingTask, Task, TaskId, UnrecognizedTask

log = logging.getLogger("aivideo._polling.poller")

CLOSE_CHUNK = 500
"""Tasks whose waiters are failed per iteration of the event loop, when all watching ends."""

CONTENTION_INTERVAL = 1.0
"""Seconds between two checks whether creates still wait, while polls are postponed for them."""


class TaskFacts(Protocol):
    """Is told what became of the watched tasks. Its methods must not raise."""

    def task_ended(self, task_id: TaskId, task: Task) -> None:
        """Take note of a task's end; called once per task, after its waiters were resolved."""
        ...

    def task_lost(self, task_id: TaskId) -> None:
        """Take note of a task whose end will perhaps never be seen; may be called repeatedly.

        The service does not know it, its answers cannot be read, or polling has stopped.
        """
        ...


@frozen(kw_only=True)
class PollerStatistics:
    """What the poller is doing now.

    Attributes:
        watching: tasks that have not ended.
        waiting: waiters for the end of a task.
        polls_in_flight: polls sent and not answered.
        polls: polls sent since the start.
        failed_polls: those of them that brought no answer about the task.
        ended: tasks whose end became known.
        contradictions: later ends that contradicted the first end of their task.
    """

    watching: int
    waiting: int
    polls_in_flight: int
    polls: int
    failed_polls: int
    ended: int
    contradictions: int


class Poller:
    """Watches tasks; see the module. The loop starts with the first watched task.

    Args:
        source: grants the right to send polls.
        facts: is told of ends and lost tasks; None: nobody is.
        poll_interval: seconds between two polls of a task; None: learned.
        max_polls_in_flight: polls in flight at once.
    """

    def __init__(
        self,
        source: PollSource,
        facts: TaskFacts | None = None,
        *,
        poll_interval: float | None = None,
        max_polls_in_flight: int = 32,
    ) -> None:
        self._source = source
        self._facts = facts
        self._agenda = Agenda(poll_interval)
        self._max_polls_in_flight = max_polls_in_flight
        self._watched: dict[TaskId, Watched] = {}
        self._listeners = Listeners()
        self._ends = Ends()
        self._grace = lifecycle.GracePeriods()
        self._now: Callable[[], float] = _time_before_start
        self._wake = asyncio.Event()
        self._sleeps_until = -inf
        self._loop_task: asyncio.Task[None] | None = None
        self._polls_in_flight: set[asyncio.Task[None]] = set()
        self._polls = self._failed_polls = self._ended = self._contradictions = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Poller {self.statistics()}>"

    # --- watching and waiting -----------------------------------------------------------------

    def watch(
        self,
        task_id: TaskId,
        *,
        kind: tuple[Hashable, ...] = (),
        callback: bool = False,
        age: float | None = 0.0,
    ) -> None:
        """Poll a task until it has ended. Does nothing if the task is watched or its end known.

        Args:
            task_id: the task's ID.
            kind: identifies the kind of job: jobs of one kind take similarly long.
            callback: whether the service sends a callback when the task ends: then it is polled
                less often.
            age: seconds since the task was created; None: unknown.
        """
        if self._closed or task_id in self._watched or task_id in self._ends:
            return
        if self._loop_task is None:
            self._now = asyncio.get_running_loop().time
            self._loop_task = asyncio.create_task(self._run())
            self._loop_task.add_done_callback(self._stopped)
        watched = self._watched[task_id] = Watched(task_id)
        self._agenda.add(watched, kind, self._now(), callback=callback, age=age)
        self._wake_for(watched)
        if (end := self._ends.pop_early(task_id)) is not None:
            # Not at once: the caller must first have recorded what it watches.
            asyncio.get_running_loop().call_soon(self.deliver, end)

    def watches(self, task_id: TaskId) -> bool:
        """Return whether the task is watched: it has not ended, as far as is known."""
        return task_id in self._watched

    def known(self, task_id: TaskId) -> Task | None:
        """Return what is known about a task, or None."""
        watched = self._watched.get(task_id)
        return self._ends.get(task_id) if watched is None else watched.known

    def end_of(self, task_id: TaskId) -> Task | None:
        """Return a task's end, if it is known and still kept."""
        return self._ends.get(task_id)

    def wait(self, task_id: TaskId) -> asyncio.Future[Task]:
        """Return a new future for the task's end. Cancelling it affects no other waiter.

        Its exception is TaskNotFoundError, AuthenticationError, PermissionDeniedError or
        SessionClosedError, if the watching stops before the task has ended.
        """
        future: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        self.wait_with(future, task_id)
        return future

    def wait_with(self, waiter: Waiter, task_id: TaskId) -> None:
        """Give ``waiter`` the task's end, or the exception that :meth:`wait` describes."""
        end = self._ends.get(task_id)
        watched = self._watched.get(task_id)
        if end is not None:
            waiter.set_result(end)
        elif self._closed or watched is None:
            waiter.set_exception(SessionClosedError(f"task {task_id} is not watched"))
        else:
            watched.add_waiter(waiter)

    def subscribe(self, task_id: TaskId, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with each change of a watched task; return a function that stops it."""
        if task_id not in self._watched:
            return lambda: None
        return self._listeners.add(task_id, listener)

    async def updates(self, task_id: TaskId) -> AsyncGenerator[Task, None]:
        """Yield what is known about a task, then each change; the last one is its end.

        Raises:
            AIVideoError: the watching stopped before the task ended; see :meth:`wait`.
        """
        pending: deque[Task] = deque()
        arrived = asyncio.Event()

        def note(task: Task) -> None:
            pending.append(task)
            arrived.set()

        known = self.known(task_id)
        if known is not None:
            pending.append(known)
        unsubscribe = self.subscribe(task_id, note)
        end = self.wait(task_id)
        end.add_done_callback(lambda _: arrived.set())
        try:
            while True:
                while pending:
                    yield pending.popleft()
                if end.done():
                    end.result()  # raises if the watching stopped without an end
                    return
                arrived.clear()
                await arrived.wait()
        finally:
            unsubscribe()
            end.cancel()

    def deliver(self, task: Task) -> None:
        """Take in what a callback said about a task, once the caller trusts it."""
        self._hear(task.id, task, by_callback=True)

    def statistics(self) -> PollerStatistics:
        """Return what the poller is doing now."""
        return PollerStatistics(
            watching=len(self._watched),
            waiting=sum(watched.waiting_count for watched in self._watched.values()),
            polls_in_flight=len(self._polls_in_flight),
            polls=self._polls,
            failed_polls=self._failed_polls,
            ended=self._ended,
            contradictions=self._contradictions,
        )

    async def aclose(self) -> None:
        """Stop polling; every waiter gets a SessionClosedError."""
        self._closed = True
        tasks = [*self._polls_in_flight]
        if self._loop_task is not None:
            tasks.append(self._loop_task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stop_all(SessionClosedError("the session closed before the task ended"))

    # --- the loop -----------------------------------------------------------------------------

    async def _run(self) -> None:
        now = self._now()
        while True:
            self._wake.clear()
            if len(self._polls_in_flight) >= self._max_polls_in_flight:
                now = await self._sleep_until(inf)
                continue
            contended = self._source.contended
            due = self._agenda.next_due(now, contended=contended)
            if due is None or due > now:
                until = inf if due is None else due
                if contended and due is not None:
                    until = min(until, now + CONTENTION_INTERVAL)
                now = await self._sleep_until(until)
                continue
            turn = await self._source.admit()
            # Decide only now which task to poll: during the wait, others have become due.
            now = self._now()
            watched = self._agenda.take(now)
            if watched is None:
                turn.give_back()
                continue
            assert isinstance(watched, Watched)  # the only entries that watch() adds
            self._polls_in_flight.add(asyncio.create_task(self._poll(turn, watched)))

    async def _sleep_until(self, when: float) -> float:
        """Sleep until the time, or until something changes what is next; return the time."""
        timer = None
        if when < inf:
            timer = asyncio.get_running_loop().call_at(when, self._wake.set)
        self._sleeps_until = when
        try:
            await self._wake.wait()
        finally:
            self._sleeps_until = -inf
            if timer is not None:
                timer.cancel()
        return self._now()

    def _wake_for(self, watched: Watched) -> None:
        """Wake the loop if the task is due before the loop would wake by itself."""
        if watched.due < self._sleeps_until:
            self._wake.set()

    def _stopped(self, loop_task: asyncio.Task[None]) -> None:
        """If the polling loop crashes, fail all waiters."""
        if not loop_task.cancelled() and (defect := loop_task.exception()) is not None:
            log.error("the polling loop crashed", exc_info=defect)
            error = SessionClosedError(f"the polling loop crashed: {defect!r}")
            self._loop_task = None
            self._stop(error, [*self._watched.values()])

    async def _poll(self, turn: PollTurn, watched: Watched) -> None:
        self._polls += 1
        try:
            task = await turn.fetch(watched.task_id)
        except (AuthenticationError, PermissionDeniedError) as error:
            self._failed_polls += 1
            if not watched.ended:  # otherwise another poll has brought the same error before
                log.warning("polling stops: %s", error)
                await self._stop_all(error, lost=True)
        except NotFoundError as error:
            self._failed_polls += 1
            self._not_found(watched, error)
        except Exception as error:
            self._failed_polls += 1
            # An error that is not ours is a defect, perhaps of a transport: log it, end no job.
            level = logging.DEBUG if isinstance(error, AIVideoError) else logging.ERROR
            log.log(level, "poll of task %s failed, will retry: %r", watched.task_id, error)
            if isinstance(error, ResponseError) and error.status < 500:
                self._not_read(watched)
            self._retry(watched)
        else:
            self._grace.found(watched.task_id)
            self._hear(watched.task_id, task)
            if not watched.ended:
                if isinstance(task, UnrecognizedTask):
                    self._not_read(watched)
                else:
                    self._grace.read(watched.task_id)
                known = watched.known
                self._agenda.still_running(
                    watched,
                    self._now(),
                    processing=isinstance(known, ProcessingTask),
                    progress=getattr(known, "progress", None),
                )
                self._wake_for(watched)
        finally:
            # Here, not in a done callback of the task: that would take one more loop iteration.
            if len(self._polls_in_flight) == self._max_polls_in_flight:
                self._wake.set()  # there is room for another poll
            self._polls_in_flight.discard(asyncio.current_task())

    def _retry(self, watched: Watched) -> None:
        self._agenda.poll_failed(watched, self._now())
        self._wake_for(watched)

    def _not_read(self, watched: Watched) -> None:
        """Count an answer without a known status: the task cannot take a place for ever."""
        lost = not watched.ended and self._grace.is_unreadable(watched.task_id, self._now())
        if lost and self._facts is not None:
            self._facts.task_lost(watched.task_id)

    def _not_found(self, watched: Watched, error: NotFoundError) -> None:
        if watched.ended:
            return
        task_id = watched.task_id
        if not self._grace.is_gone(task_id, self._now()):
            self._retry(watched)
            return
        if not isinstance(error, TaskNotFoundError):
            error = TaskNotFoundError(
                error.message, status=error.status, code=error.code, type=error.type
            )
        self._stop(error, [watched])
        if self._facts is not None:
            self._facts.task_lost(task_id)

    # --- what answers do ----------------------------------------------------------------------

    def _hear(self, task_id: TaskId, answer: Task, *, by_callback: bool = False) -> None:
        watched = self._watched.get(task_id)
        if watched is None:
            self._hear_unwatched(task_id, answer, by_callback=by_callback)
            return
        merged = lifecycle.merge(watched.known, answer)
        watched.known = merged.task
        if merged.changed:
            self._listeners.tell(task_id, merged.task)
        if self._grace.has_ended(task_id, merged.task, self._now()):
            self._end(watched, merged.task, by_callback=by_callback)

    def _hear_unwatched(self, task_id: TaskId, answer: Task, *, by_callback: bool) -> None:
        if by_callback:
            self._agenda.callback_received(task_id, self._now())
        end = self._ends.hear(task_id, answer)
        if end is not None:
            self._contradictions += 1
            log.warning(
                "task %s had ended as %s, and is now reported as %s; the first end stands",
                *(task_id, end.status, answer.status),
            )

    def _end(self, watched: Watched, task: Task, *, by_callback: bool) -> None:
        duration = None
        if isinstance(task, CompletedTask):
            duration = (task.completed_at - task.created_at).total_seconds()
        self._agenda.end(watched, self._now(), duration, by_callback=by_callback)
        self._ended += 1
        self._forget(watched)
        self._ends.add(watched.task_id, task)
        watched.resolve(task)
        if self._facts is not None:
            self._facts.task_ended(watched.task_id, task)

    def _forget(self, watched: Watched) -> None:
        task_id = watched.task_id
        del self._watched[task_id]
        self._listeners.drop(task_id)
        self._grace.forget(task_id)

    async def _stop_all(self, error: AIVideoError, *, lost: bool = False) -> None:
        """Stop watching all tasks, some per loop iteration: 100,000 at once would block it.

        Args:
            error: for those that wait.
            lost: whether the tasks are reported as lost.
        """
        everyone = deque(self._watched.values())
        for watched in everyone:
            self._agenda.drop(watched)  # no further poll is sent
        while everyone:
            some = [everyone.popleft() for _ in range(min(CLOSE_CHUNK, len(everyone)))]
            self._stop(error, some)
            if lost and self._facts is not None:
                for watched in some:
                    self._facts.task_lost(watched.task_id)
            await asyncio.sleep(0)

    def _stop(self, error: AIVideoError, tasks: list[Watched]) -> None:
        """Stop watching some tasks, and fail their waiters."""
        for watched in tasks:
            if self._watched.get(watched.task_id) is not watched:
                continue  # it has ended meanwhile, and may be watched again
            self._agenda.drop(watched)
            self._forget(watched)
            watched.fail(error)


def _time_before_start() -> float:
    return 0.0
