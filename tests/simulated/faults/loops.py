"""The event loop that all processes of a boot share, and how one of them is made to stand still.

Each callback of the loop runs in the context of the process that it belongs to. While a process
stands still, its callbacks are set aside when their turn comes and run, in that order, when it goes
on; the clock and the other processes go on meanwhile. This is what SIGSTOP, a suspended virtual
machine, or user code that blocks the event loop do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aivideo.testing import VirtualTimeLoop

if TYPE_CHECKING:
    from tests.simulated.faults.process import Process

PROCESS: ContextVar[Process] = ContextVar("process")
"""The process that the running callback belongs to; unset for the service and the checks."""

MAX_STEPS = 400_000
"""Maximum event-loop iterations in one boot; a boot that needs more is in an endless loop."""

_NOTHING = SimpleNamespace(_cancelled=True)
"""Stands for a callback that was set aside: the loop skips cancelled ones."""


class StuckError(Exception):
    """A boot does not terminate."""


class _SerialTask(asyncio.Task[Any]):
    """A task whose hash is a serial number, so that the order of sets of tasks is deterministic."""

    _numbers = count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_SerialTask._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Ready(deque[Any]):
    """The callbacks whose turn has come, without those of processes that stand still."""

    def popleft(self) -> Any:
        handle = super().popleft()
        process = handle._context.get(PROCESS)
        if process is None or not process.stands_still:
            return handle
        process.set_aside.append(handle)
        return _NOTHING


class WorldLoop(VirtualTimeLoop):
    """The event loop of a boot. Work for executor threads runs in the loop, possibly delayed.

    Args:
        start: initial time of its clock, in seconds.
    """

    def __init__(self, start: float) -> None:
        super().__init__(start=start, deadlock_after=0.5)
        self.steps = 0
        self._ready = _Ready()
        self.set_task_factory(
            lambda loop, coro, **settings: _SerialTask(coro, loop=loop, **settings)
        )

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run file or ledger work of the calling process."""
        future: asyncio.Future[Any] = self.create_future()
        process = PROCESS.get()
        if executor is None:
            process.write_file(future, lambda: func(*args))
        else:
            process.write_ledger(future, lambda: func(*args))
        return future

    def call_outside(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call something that belongs to no process, after ``delay`` seconds."""
        self.call_later(delay, callback, *args, context=Context())

    def go_on(self, process: Process) -> None:
        """Run what was set aside while a process stood still."""
        self._ready.extend(process.set_aside)
        process.set_aside.clear()

    def _run_once(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise StuckError(f"{MAX_STEPS} iterations of the event loop")
        super()._run_once()  # type: ignore[misc]
