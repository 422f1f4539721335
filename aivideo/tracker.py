"""One loop that looks at every task, when it is worth looking, and wakes whoever waits for it.

There is no asyncio task and no timer per job: the agenda says what is due, the pace says when a
poll may go, and a bounded number of polls is in flight. A waiter gets a future of its own, made
when it waits: an ``asyncio.Future`` awaited twice would die with the first waiter that is
cancelled.

A failed look (a timeout, a reset, a 5xx, a 429, a body that makes no sense) never ends a job: the
task goes on at the service, and is looked at again. Three answers do end the watching: a 404 that
stays for ``MISSING_FOR`` seconds (``TaskNotFoundError``), and a 401 or 403, which would be the
answer for every other task too, so it ends the watching of all with one error.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from typing import Protocol, TypeAlias, TypeVar

from attrs import define, field, frozen

from aivideo.errors import (
    AIVideoError,
    AuthenticationError,
    PermissionDeniedError,
    SessionClosedError,
    TaskNotFoundError,
)
from aivideo.models import CompletedTask, Task, TaskId
from aivideo.sansio import lifecycle
from aivideo.sansio.agenda import Agenda

log = logging.getLogger("aivideo.tracker")

T = TypeVar("T")

MISSING_FOR = 120.0
"""Seconds a task must have been answered by 404 alone before it is taken for gone: a task may
answer 404 for a moment right after it was made."""

CALLBACK_RARER = 3.0
"""How much longer the waits are between looks at a task whose end is told by callback too."""

REMEMBERED = 10_000
"""Ended tasks whose end is kept, so that who asks late need not ask the service."""


class Turn(Protocol):
    """The right to send one poll now, as the pace granted it."""

    async def fetch(self, task_id: TaskId) -> Task:
        """Send the poll; raises what :meth:`aivideo.Client.retrieve` raises."""
        ...

    def give_back(self) -> None:
        """There is nothing worth a look after all."""
        ...


Admit: TypeAlias = Callable[[], Awaitable[Turn]]
"""Waits until a poll may be sent; which task it is for is decided only then."""


@frozen(kw_only=True)
class TrackerStatistics:
    """What the tracker is doing now.

    Attributes:
        watching: tasks that have not ended.
        waiting: waiters for the end of a task.
        polls_in_flight: looks under way.
        polls: looks ever sent.
        failed_polls: of those, the ones that brought no answer about the task.
        ended: tasks whose end was heard.
        contradictions: ends heard that contradict the first.
    """

    watching: int
    waiting: int
    polls_in_flight: int
    polls: int
    failed_polls: int
    ended: int
    contradictions: int


@define
class _Watched:
    known: Task | None = None
    waiters: list[asyncio.Future[Task]] = field(factory=list)
    listeners: list[Callable[[Task], object]] = field(factory=list)
    missing_since: float | None = None
    urls_missing_since: float | None = None


class TaskTracker:
    """Watches tasks; see the module.

    Args:
        admit: waits for the right to send one poll.
        poll_interval: seconds between two looks at a task; None: as the agenda thinks best.
        max_polls_in_flight: looks under way at once.
        on_ended: told once of each task's end.
    """

    def __init__(
        self,
        admit: Admit,
        *,
        poll_interval: float | None = None,
        max_polls_in_flight: int = 32,
        on_ended: Callable[[TaskId, Task], None] | None = None,
    ) -> None:
        self._admit = admit
        self._agenda = Agenda(poll_interval)
        self._max_polls = max_polls_in_flight
        self._on_ended = on_ended
        self._watched: dict[TaskId, _Watched] = {}
        self._ends: dict[TaskId, Task] = {}
        self._oldest: deque[TaskId] = deque()
        self._wake = asyncio.Event()
        self._loop_task: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._polls = self._failed = self._ended = self._contradictions = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<TaskTracker {self.statistics()}>"

    def watch(
        self, task_id: TaskId, *, kind: tuple[Hashable, ...] = (), callback: bool = False
    ) -> None:
        """Look at a task until it has ended, more rarely if a callback tells of it too.

        Said again, it changes nothing.
        """
        if self._closed or task_id in self._watched or task_id in self._ends:
            return
        self._watched[task_id] = _Watched()
        self._agenda.add(task_id, kind, self._now(), rarer=CALLBACK_RARER if callback else 1.0)
        self._wake.set()
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._run())

    def known(self, task_id: TaskId) -> Task | None:
        """Say what was last heard of a task."""
        watched = self._watched.get(task_id)
        return self._ends.get(task_id) if watched is None else watched.known

    def wait(self, task_id: TaskId) -> asyncio.Future[Task]:
        """Return a future of the caller's own that brings the task's end.

        It raises TaskNotFoundError, AuthenticationError, PermissionDeniedError or
        SessionClosedError where the watching ended first. Cancelling it affects nobody else.
        """
        future: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        end = self._ends.get(task_id)
        watched = self._watched.get(task_id)
        if end is not None:
            future.set_result(end)
        elif self._closed or watched is None:
            future.set_exception(SessionClosedError(f"task {task_id} is not watched"))
        else:
            watched.waiters.append(future)
            future.add_done_callback(lambda done: _discard(watched.waiters, done))
        return future

    def subscribe(self, task_id: TaskId, on_update: Callable[[Task], object]) -> Callable[[], None]:
        """Call ``on_update`` at each change of a watched task; returns what ends that."""
        watched = self._watched.get(task_id)
        if watched is None:
            return lambda: None
        watched.listeners.append(on_update)
        return lambda: _discard(watched.listeners, on_update)

    async def updates(self, task_id: TaskId) -> AsyncIterator[Task]:
        """Yield what is known, then each change; the last is the task's end."""
        heard: deque[Task] = deque()
        news = asyncio.Event()

        def note(task: Task) -> None:
            heard.append(task)
            news.set()

        known = self.known(task_id)
        if known is not None:
            heard.append(known)
        unsubscribe = self.subscribe(task_id, note)
        end = self.wait(task_id)
        end.add_done_callback(lambda _: news.set())
        try:
            while True:
                while heard:
                    yield heard.popleft()
                if end.done():
                    end.result()  # raises why the watching ended without an end
                    return
                news.clear()
                await news.wait()
        finally:
            unsubscribe()
            end.cancel()

    def deliver(self, task: Task) -> None:
        """Take in what was heard of a task, by poll or by a callback that was confirmed."""
        self._hear(task.id, task)
        self._wake.set()

    def statistics(self) -> TrackerStatistics:
        """Say what the tracker is doing now."""
        return TrackerStatistics(
            watching=len(self._watched),
            waiting=sum(len(watched.waiters) for watched in self._watched.values()),
            polls_in_flight=len(self._looks),
            polls=self._polls,
            failed_polls=self._failed,
            ended=self._ended,
            contradictions=self._contradictions,
        )

    async def aclose(self) -> None:
        """End the watching; every waiter gets a SessionClosedError."""
        self._closed = True
        tasks = [*self._looks]
        if self._loop_task is not None:
            tasks.append(self._loop_task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._give_up(SessionClosedError("the session closed before the task ended"))

    # --- the loop -----------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            due = self._agenda.next_due()
            if due is None or due > self._now() or len(self._looks) >= self._max_polls:
                await self._until(due if len(self._looks) < self._max_polls else None)
                continue
            turn = await self._admit()
            # Only now is it decided who is looked at: while we waited, another became due.
            task_id = self._agenda.take(self._now())
            if task_id is None:
                turn.give_back()
                continue
            look = asyncio.create_task(self._look(turn, task_id))
            self._looks.add(look)
            look.add_done_callback(self._looked)

    async def _until(self, due: float | None) -> None:
        timer = None
        if due is not None:
            timer = asyncio.get_running_loop().call_at(due, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _looked(self, look: asyncio.Task[None]) -> None:
        self._looks.discard(look)
        self._wake.set()
        if not look.cancelled():
            look.result()  # a defect of ours must be seen, not lost

    async def _look(self, turn: Turn, task_id: TaskId) -> None:
        self._polls += 1
        try:
            task = await turn.fetch(task_id)
        except (AuthenticationError, PermissionDeniedError) as error:
            self._failed += 1
            log.warning("watching stops: %s", error)
            self._give_up(error)
        except TaskNotFoundError as error:
            self._failed += 1
            self._missing(task_id, error)
        except AIVideoError as error:
            self._failed += 1
            log.debug("no answer about task %s, which goes on: %s", task_id, error)
            self._agenda.failed(task_id, self._now())
        else:
            watched = self._watched.get(task_id)
            if watched is not None:
                watched.missing_since = None
            self._hear(task_id, task)
            self._agenda.looked(task_id, self._now())

    def _missing(self, task_id: TaskId, error: TaskNotFoundError) -> None:
        watched = self._watched.get(task_id)
        if watched is None:
            return
        now = self._now()
        if watched.missing_since is None:
            watched.missing_since = now
        if now - watched.missing_since < MISSING_FOR:
            self._agenda.failed(task_id, now)
            return
        self._agenda.drop(task_id)
        del self._watched[task_id]
        _fail(watched, error)

    def _hear(self, task_id: TaskId, task: Task) -> None:
        watched = self._watched.get(task_id)
        if watched is None:
            end = self._ends.get(task_id)
            if end is not None and lifecycle.merge(end, task).contradiction:
                self._contradict(end, task)
            return
        merged = lifecycle.merge(watched.known, task)
        watched.known = merged.task
        if merged.changed:
            for listener in [*watched.listeners]:
                listener(merged.task)
        if lifecycle.is_ended(merged.task) or self._urls_overdue(watched):
            self._end(task_id, watched, merged.task)

    def _urls_overdue(self, watched: _Watched) -> bool:
        if not isinstance(watched.known, CompletedTask):
            return False
        if watched.urls_missing_since is None:
            watched.urls_missing_since = self._now()
        return self._now() - watched.urls_missing_since >= lifecycle.URLS_WITHIN

    def _end(self, task_id: TaskId, watched: _Watched, task: Task) -> None:
        duration = None
        if isinstance(task, CompletedTask):
            duration = (task.completed_at - task.created_at).total_seconds()
        self._agenda.ended(task_id, self._now(), duration)
        self._ended += 1
        del self._watched[task_id]
        self._ends[task_id] = task
        self._oldest.append(task_id)
        if len(self._oldest) > REMEMBERED:
            del self._ends[self._oldest.popleft()]
        for waiter in [*watched.waiters]:
            if not waiter.done():
                waiter.set_result(task)
        if self._on_ended is not None:
            self._on_ended(task_id, task)

    def _contradict(self, end: Task, heard: Task) -> None:
        self._contradictions += 1
        log.warning(
            "task %s ended as %s, and now is said to be %s", end.id, end.status, heard.status
        )

    def _give_up(self, error: AIVideoError) -> None:
        watched, self._watched = self._watched, {}
        for task_id, each in watched.items():
            self._agenda.drop(task_id)
            _fail(each, error)


def _fail(watched: _Watched, error: AIVideoError) -> None:
    for waiter in [*watched.waiters]:
        if not waiter.done():
            waiter.set_exception(error)
            waiter.exception()  # seen: a waiter that left must not make the loop complain


def _discard(items: list[T], item: T) -> None:
    if item in items:
        items.remove(item)
