"""One loop that looks at every task, when it is worth looking, and wakes whoever waits for it.

There is no asyncio task and no timer per job: the agenda says what is due, the pace says when a
poll may go, and a bounded number of polls is in flight. A waiter gets a future of its own, made
when it waits: an ``asyncio.Future`` awaited twice would die with the first waiter that is
cancelled.

What is heard, and what it does:

* A failed look (a timeout, a reset, a 5xx, a 429, a body that makes no sense, a gateway's 404)
  never ends a job: the task goes on at the service, and is looked at again after 2, 4, 8, … 60 s.
* The service's own 404 may come for a moment right after a task was made. One that stays for
  ``MISSING_FOR`` seconds, and never was anything else since, ends the watching with
  ``TaskNotFoundError``.
* A 401 or 403 would be the answer for every other task too: it ends the watching of all, with one
  error, one line in the log, and not a poll more. Whoever waits again later, watches again.
* ``pending`` after ``processing`` is an old answer that came late: it changes nothing.
* ``completed`` without a URL is looked at again for ``lifecycle.URLS_WITHIN`` seconds; then it is
  taken for what it is.
* The first end wins. A second that says the same is nothing; one that contradicts it is logged,
  counted, and changes nothing.
* A callback may overtake the answer that names its task: an end that is heard before the task is
  watched is kept for it.
* A task that was made long before it is watched may have ended: it is looked at at once.
* The service's clock is only ever compared with itself (``completed_at - created_at``); a skew
  between it and ours moves no look.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from math import inf
from typing import Protocol, TypeAlias

from attrs import frozen

from aivideo._polling import lifecycle
from aivideo._polling.agenda import Agenda, Entry
from aivideo.errors import (
    AIVideoError,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    SessionClosedError,
    TaskNotFoundError,
)
from aivideo.models import CompletedTask, ProcessingTask, Task, TaskId

log = logging.getLogger("aivideo._polling.poller")

MISSING_FOR = 120.0
"""Seconds a task must have been answered by 404 alone before it is taken for gone: a task may
answer 404 for a moment right after it was made."""

BREATH = 500
"""Tasks whose waiters are let go in one turn of the loop, when the watching of all ends."""

REMEMBERED = 10_000
"""Ended tasks whose end is kept, so that who asks late need not ask the service."""

OVERTAKING = 1_000
"""Ends that are kept of tasks that nobody watches yet."""


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
class PollerStatistics:
    """What the poller is doing now.

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


class Waiter(Protocol):
    """Who waits for a task's end: an ``asyncio.Future``, or what answers like one."""

    def done(self) -> bool:
        """Whether it does not wait any more."""
        ...

    def set_result(self, result: Task, /) -> None:
        """Take the end."""
        ...

    def set_exception(self, exception: AIVideoError, /) -> None:
        """Take why the watching ended without one."""
        ...

    def exception(self) -> BaseException | None:
        """Show that the exception was seen: a waiter that left must not make the loop complain."""
        ...


Listener: TypeAlias = Callable[[Task], object]


class _Watched(Entry):
    """A task, who waits for it, and what is known: some 200 B, for there may be 100,000."""

    __slots__ = ("known", "listeners", "missing_since", "urls_missing_since", "waiters")

    def __init__(self, task_id: TaskId) -> None:
        super().__init__(task_id)
        self.known: Task | None = None
        self.waiters: Waiter | list[Waiter] | None = None
        """One, as nearly always, or a list of several."""
        self.listeners: list[Listener] | None = None
        self.missing_since: float | None = None
        self.urls_missing_since: float | None = None

    def add_waiter(self, waiter: Waiter) -> None:
        """Add one; and now and then forget those that have left, so that none need say so."""
        several = self.waiters
        if isinstance(several, list) and len(several) & (len(several) - 1):
            several.append(waiter)
            return
        waiting = self.waiting()
        self.waiters = [*waiting, waiter] if waiting else waiter

    def let_go(self) -> None:
        """Hold nothing any more: the entry may lie on the agenda for minutes yet."""
        self.known = self.waiters = self.listeners = None

    @property
    def waiting_count(self) -> int:
        """How many still wait: asked of 100,000 at once, so nothing is made for it."""
        held = self.waiters
        if held is None:
            return 0
        return len(self.waiting()) if isinstance(held, list) else not held.done()

    def waiting(self) -> list[Waiter]:
        """List those that still wait."""
        match self.waiters:
            case None:
                return []
            case list() as several:
                return [waiter for waiter in several if not waiter.done()]
            case one:
                return [] if one.done() else [one]


def _no_loop_yet() -> float:
    return 0.0


class Poller:
    """Watches tasks; see the module.

    Args:
        admit: waits for the right to send one poll.
        poll_interval: seconds between two looks at a task; None: as the agenda thinks best.
        max_polls_in_flight: looks under way at once.
        on_ended: told once of each task's end.
        on_lost: told of each task that the service does not know any more.
        contended: says whether creates wait for the same requests as looks do.
    """

    def __init__(
        self,
        admit: Admit,
        *,
        poll_interval: float | None = None,
        max_polls_in_flight: int = 32,
        on_ended: Callable[[TaskId, Task], None] | None = None,
        on_lost: Callable[[TaskId], None] | None = None,
        contended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._admit = admit
        self._agenda = Agenda(poll_interval)
        self._max_polls = max_polls_in_flight
        self._on_ended = on_ended
        self._on_lost = on_lost
        self._contended = contended
        self._watched: dict[TaskId, _Watched] = {}
        self._ends: dict[TaskId, Task] = {}
        self._now: Callable[[], float] = _no_loop_yet
        self._oldest: deque[TaskId] = deque()
        self._overtaking: dict[TaskId, Task] = {}
        self._wake = asyncio.Event()
        self._sleeps_until = inf
        self._loop_task: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._polls = self._failed = self._ended = self._contradictions = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"<Poller {self.statistics()}>"

    def watch(
        self,
        task_id: TaskId,
        *,
        kind: tuple[Hashable, ...] = (),
        callback: bool = False,
        age: float | None = 0.0,
    ) -> None:
        """Look at a task until it has ended. Said again, it changes nothing.

        Args:
            task_id: the task.
            kind: jobs of a kind take about as long.
            callback: a callback tells of its end too: it is looked at more rarely.
            age: seconds since it was made; None: nobody knows.
        """
        if self._closed or task_id in self._watched or task_id in self._ends:
            return
        if self._loop_task is None:
            self._now = asyncio.get_running_loop().time
            self._loop_task = asyncio.create_task(self._run())
            self._loop_task.add_done_callback(self._stopped)
        watched = self._watched[task_id] = _Watched(task_id)
        self._agenda.add(watched, kind, self._now(), callback=callback, age=age)
        self._scheduled(watched)
        if self._overtaking and (end := self._overtaking.pop(task_id, None)) is not None:
            # Not before the caller has noted what it watches.
            asyncio.get_running_loop().call_soon(self.deliver, end)

    def _scheduled(self, watched: _Watched) -> None:
        if watched.due < self._sleeps_until:
            self._wake.set()

    def known(self, task_id: TaskId) -> Task | None:
        """Say what was last heard of a task."""
        watched = self._watched.get(task_id)
        return self._ends.get(task_id) if watched is None else watched.known

    def end_of(self, task_id: TaskId) -> Task | None:
        """Give a task's end, if it was heard (and not too many others since)."""
        return self._ends.get(task_id)

    def wait(self, task_id: TaskId) -> asyncio.Future[Task]:
        """Return a future of the caller's own that brings the task's end.

        It raises TaskNotFoundError, AuthenticationError, PermissionDeniedError or
        SessionClosedError where the watching ended first. Cancelling it affects nobody else.
        """
        future: asyncio.Future[Task] = asyncio.get_running_loop().create_future()
        self.wait_with(future, task_id)
        return future

    def wait_with(self, waiter: Waiter, task_id: TaskId) -> None:
        """Let a waiter of the caller's making be told of the task's end, as in :meth:`wait`."""
        end = self._ends.get(task_id)
        watched = self._watched.get(task_id)
        if end is not None:
            waiter.set_result(end)
        elif self._closed or watched is None:
            waiter.set_exception(SessionClosedError(f"task {task_id} is not watched"))
        else:
            watched.add_waiter(waiter)

    def subscribe(self, task_id: TaskId, on_update: Callable[[Task], object]) -> Callable[[], None]:
        """Call ``on_update`` at each change of a watched task; returns what ends that."""
        watched = self._watched.get(task_id)
        if watched is None:
            return lambda: None
        listeners = watched.listeners = watched.listeners or []
        listeners.append(on_update)
        return lambda: None if on_update not in listeners else listeners.remove(on_update)

    async def updates(self, task_id: TaskId) -> AsyncGenerator[Task, None]:
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
        """Take in what a callback has told of a task, confirmed or not doubted."""
        self._hear(task.id, task, by_callback=True)

    def statistics(self) -> PollerStatistics:
        """Say what the poller is doing now."""
        return PollerStatistics(
            watching=len(self._watched),
            waiting=sum(watched.waiting_count for watched in self._watched.values()),
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
        await self._give_up_all(SessionClosedError("the session closed before the task ended"))

    # --- the loop -----------------------------------------------------------------------------

    async def _run(self) -> None:
        now = self._now()
        while True:
            self._wake.clear()
            if len(self._looks) >= self._max_polls:
                now = await self._until(None)
                continue
            contended = self._contended()
            due = self._agenda.next_due(now, contended=contended)
            if due is None or due > now:
                # Nobody tells when creates have stopped waiting, so that what was put off is due.
                now = await self._until(
                    due if due is None or not contended else min(due, now + 1.0)
                )
                continue
            turn = await self._admit()
            # Only now is it decided who is looked at: while we waited, another became due.
            now = self._now()
            watched = self._agenda.take(now)
            if watched is None:
                turn.give_back()
                continue
            assert isinstance(watched, _Watched)  # nothing else was ever put there
            self._looks.add(asyncio.create_task(self._look(turn, watched)))

    async def _until(self, due: float | None) -> float:
        """Wait until then, or until something changes what is next; return the time."""
        timer = None
        if due is not None:
            timer = asyncio.get_running_loop().call_at(due, self._wake.set)
        self._sleeps_until = inf if due is None else due
        try:
            await self._wake.wait()
        finally:
            self._sleeps_until = -inf
            if timer is not None:
                timer.cancel()
        return self._now()

    def _stopped(self, loop_task: asyncio.Task[None]) -> None:
        """Let nobody wait for ever where a defect has ended the loop."""
        if not loop_task.cancelled() and (broken := loop_task.exception()) is not None:
            log.error("watching broke, and ends", exc_info=broken)
            error = SessionClosedError(f"watching broke: {broken!r}")
            self._loop_task = None
            self._give_up(error, [*self._watched.values()])

    async def _look(self, turn: Turn, watched: _Watched) -> None:
        self._polls += 1
        try:
            task = await turn.fetch(watched.task_id)
        except (AuthenticationError, PermissionDeniedError) as error:
            self._failed += 1
            if not watched.ended:  # else another look was told so first
                log.warning("watching stops: %s", error)
                await self._give_up_all(error)
        except NotFoundError as error:
            self._failed += 1
            self._missing(watched, error)
        except Exception as error:
            self._failed += 1
            # What is none of ours is a defect, of a transport perhaps: seen, and no job's end.
            level = logging.DEBUG if isinstance(error, AIVideoError) else logging.ERROR
            log.log(level, "no answer about task %s, which goes on: %r", watched.task_id, error)
            self._again(watched)
        else:
            watched.missing_since = None
            self._hear(watched.task_id, task)
            if not watched.ended:
                known = watched.known
                self._agenda.looked(
                    watched,
                    self._now(),
                    processing=isinstance(known, ProcessingTask),
                    progress=getattr(known, "progress", None),
                )
                self._scheduled(watched)
        finally:
            # Here and not in a callback of the task: that would be a turn of the loop more.
            if len(self._looks) == self._max_polls:
                self._wake.set()  # there is room for another
            self._looks.discard(asyncio.current_task())

    def _again(self, watched: _Watched) -> None:
        self._agenda.failed(watched, self._now())
        self._scheduled(watched)

    def _missing(self, watched: _Watched, error: NotFoundError) -> None:
        now = self._now()
        if watched.missing_since is None:
            watched.missing_since = now
        if now - watched.missing_since < MISSING_FOR:
            self._again(watched)
            return
        if not isinstance(error, TaskNotFoundError):
            error = TaskNotFoundError(
                error.message, status=error.status, code=error.code, type=error.type
            )
        self._give_up(error, [watched])
        if self._on_lost is not None:
            self._on_lost(watched.task_id)

    def _hear(self, task_id: TaskId, task: Task, *, by_callback: bool = False) -> None:
        watched = self._watched.get(task_id)
        if watched is None:
            if by_callback:
                self._agenda.called(task_id, self._now())
            self._hear_late(task_id, task)
            return
        merged = lifecycle.merge(watched.known, task)
        watched.known = merged.task
        if merged.changed:
            for listener in [*(watched.listeners or ())]:
                try:
                    listener(merged.task)
                except Exception:
                    log.exception("a listener to task %s failed; the task goes on", task_id)
        if lifecycle.is_ended(merged.task) or self._urls_overdue(watched):
            self._end(watched, merged.task, by_callback=by_callback)

    def _hear_late(self, task_id: TaskId, task: Task) -> None:
        """Take in what is told of a task that has ended, or is not watched yet."""
        end = self._ends.get(task_id, self._overtaking.get(task_id))
        if end is not None:
            if lifecycle.contradicts(end, task):
                self._contradictions += 1
                log.warning("task %s ended as %s, and now as %s", task_id, end.status, task.status)
        elif lifecycle.is_ended(task):
            self._overtaking[task_id] = task
            if len(self._overtaking) > OVERTAKING:
                del self._overtaking[next(iter(self._overtaking))]

    def _urls_overdue(self, watched: _Watched) -> bool:
        if not isinstance(watched.known, CompletedTask):
            return False
        if watched.urls_missing_since is None:
            watched.urls_missing_since = self._now()
        return self._now() - watched.urls_missing_since >= lifecycle.URLS_WITHIN

    def _end(self, watched: _Watched, task: Task, *, by_callback: bool) -> None:
        duration = None
        if isinstance(task, CompletedTask):
            duration = (task.completed_at - task.created_at).total_seconds()
        self._agenda.end(watched, self._now(), duration, by_callback=by_callback)
        self._ended += 1
        task_id = watched.task_id
        del self._watched[task_id]
        self._ends[task_id] = task
        self._oldest.append(task_id)
        if len(self._oldest) > REMEMBERED:
            del self._ends[self._oldest.popleft()]
        for waiter in watched.waiting():
            waiter.set_result(task)
        watched.let_go()
        if self._on_ended is not None:
            self._on_ended(task_id, task)

    async def _give_up_all(self, error: AIVideoError) -> None:
        """End the watching of all, some in a turn of the loop: 100,000 would hold it for long."""
        everyone = deque(self._watched.values())
        for each in everyone:
            self._agenda.drop(each)  # not a poll more
        while everyone:
            some = [everyone.popleft() for _ in range(min(BREATH, len(everyone)))]
            self._give_up(error, some)
            await asyncio.sleep(0)

    def _give_up(self, error: AIVideoError, watched: list[_Watched]) -> None:
        """End the watching of some with an error, for whoever waits for them."""
        for each in watched:
            if self._watched.get(each.task_id) is not each:
                continue  # it ended meanwhile, and may be watched anew
            del self._watched[each.task_id]
            self._agenda.drop(each)
            for waiter in each.waiting():
                waiter.set_exception(error)
                waiter.exception()
            each.let_go()
