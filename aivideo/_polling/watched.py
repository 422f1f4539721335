"""A task that the poller watches, and who waits for its end."""

from __future__ import annotations

from typing import Protocol

from aivideo._polling.kind import Entry
from aivideo.errors import AIVideoError
from aivideo.models import Task, TaskId


class Waiter(Protocol):
    """Receives a task's end: an ``asyncio.Future``, or an object that behaves like one."""

    def done(self) -> bool:
        """Return whether it does not wait any more."""
        ...

    def set_result(self, result: Task, /) -> None:
        """Receive the task's end."""
        ...

    def set_exception(self, exception: AIVideoError, /) -> None:
        """Receive the reason why the watching stopped without an end."""
        ...

    def exception(self) -> BaseException | None:
        """Mark the exception as retrieved, so that asyncio does not log an abandoned waiter."""
        ...


class Watched(Entry):
    """A watched task: its place on the agenda, what is known about it, and its waiters.

    Attributes:
        known: the latest accepted answer, or None.
        waiters: None, one waiter (nearly always), or a list of several.
    """

    __slots__ = ("known", "waiters")

    def __init__(self, task_id: TaskId) -> None:
        super().__init__(task_id)
        self.known: Task | None = None
        self.waiters: Waiter | list[Waiter] | None = None

    def add_waiter(self, waiter: Waiter) -> None:
        """Add a waiter. Whenever a list's length is a power of two, drop those that have left."""
        several = self.waiters
        if isinstance(several, list) and len(several) & (len(several) - 1):
            several.append(waiter)
            return
        waiting = self.waiting()
        self.waiters = [*waiting, waiter] if waiting else waiter

    def waiting(self) -> list[Waiter]:
        """Return the waiters that still wait."""
        match self.waiters:
            case None:
                return []
            case list() as several:
                return [waiter for waiter in several if not waiter.done()]
            case one:
                return [] if one.done() else [one]

    @property
    def waiting_count(self) -> int:
        """Number of waiters that still wait. Statistics ask 100,000 tasks: no list is made."""
        held = self.waiters
        if held is None:
            return 0
        return len(self.waiting()) if isinstance(held, list) else not held.done()

    def resolve(self, end: Task) -> None:
        """Give every waiter the task's end."""
        for waiter in self.waiting():
            waiter.set_result(end)
        self._release()

    def fail(self, error: AIVideoError) -> None:
        """Tell every waiter why the watching stopped without an end."""
        for waiter in self.waiting():
            waiter.set_exception(error)
            waiter.exception()
        self._release()

    def _release(self) -> None:
        # The entry may stay in one of the agenda's heaps for minutes after its end.
        self.known = self.waiters = None
