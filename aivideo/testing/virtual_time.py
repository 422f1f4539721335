"""An event loop whose clock costs nothing: when there is nothing to do, time jumps.

The problem: code that paces, polls and backs off spends hours of `asyncio.sleep`, and its tests
must see every second of them, exactly. Patching `sleep` tests another program than the one that is
shipped, and real time is slow and never twice the same.

So the loop is a real one, with real sockets, and only its clock is ours. A loop asks its selector
to wait until a socket speaks or the next timer is due. Our selector looks whether a socket speaks
*now*; if none does, then nothing whatever can happen before the next timer, and the clock is moved
there instead of waiting. `loop.time()` says the moved time; all of asyncio (`sleep`, `timeout`,
`call_later`), anyio and aiohttp tell time by it.

*Why that is exact over loopback*: a `send` to a socket of this same machine delivers before it
returns, so what one task sent is readable by the next look. We look a few times for good measure.

*What the selector cannot see* must hold the clock, or time runs away while it works:

* worker threads of `loop.run_in_executor`, `asyncio.to_thread` and `loop.getaddrinfo`: the loop
  counts them itself, from the call until its result is in;
* worker threads of `anyio.to_thread` (files of anyio, sync endpoints of FastAPI): counted too, by
  the default limiter's tokens; a call with a limiter of its own, or one that is abandoned when
  cancelled, is not seen;
* subprocesses, other machines, threads of your own: `with loop.hold(): ...`.

While the clock is held it stands still: sockets and threads go on, timers do not. Code that spins
(`while not done: await asyncio.sleep(0)`) keeps the loop busy, and time stands still for it too.

Clocks that are not the loop's stay real: `time.monotonic()`, `time.time()`. aiohttp's client uses
one to age its idle connections; they never age here.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, Unpack

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# One look is enough on Linux: of 22,000 sends, connects and closes, on an idle machine and on one
# with three busy processes on two cores, none was seen late. The others cost half a µs each.
_LOOKS = 3

# 194 days, in seconds. A loop that gets there has only `sleep(inf)` left, which would take it from
# day to day for ever. And from there on floats are coarser than asyncio's idea of "now" (1 ns):
# timers would be found due and not due, for ever.
_END_OF_TIME = float(2**24)


class DeadlockError(RuntimeError):
    """Nothing can happen any more that the loop could wait for.

    Nothing is ready; and there is no timer, or the clock has been held for too long, or the next
    timer is beyond 194 days. The message names every task that waits, and where.
    """


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on which waiting takes no time.

    Use it wherever a loop factory is asked for: `asyncio.Runner(loop_factory=VirtualTimeLoop)`, or,
    with anyio's pytest plugin, as a fixture:

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": VirtualTimeLoop}

    What it can and cannot see is said at the top of this module.
    """

    def __init__(self, *, start: float = 0.0, deadlock_after: float | None = 60.0) -> None:
        """Make a loop.

        Args:
            start: what `time()` says first, in seconds: less than 194 days.
            deadlock_after: real seconds without any event, with nothing to jump to, after which
                `DeadlockError` is raised out of `run_until_complete`. None waits for ever, as any
                other loop does.
        """
        self._now = start
        self._jumps = 0
        self._holds = 0
        self._deadlock_after = deadlock_after
        self._pool: ThreadPoolExecutor | None = None
        super().__init__(_JumpingSelector(self))

    def __repr__(self) -> str:
        """Say what one asks when a test hangs: what time it is, and what holds it."""
        state = "closed" if self.is_closed() else "running" if self.is_running() else "idle"
        return (
            f"<VirtualTimeLoop {state} at {self._now:.6g} s, "
            f"{self._jumps} jumps, {self._holds} holds>"
        )

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self._now

    @property
    def jumps(self) -> int:
        """How often time has jumped so far."""
        return self._jumps

    @contextmanager
    def hold(self) -> Generator[None]:
        """Keep the clock from moving while something works that the loop cannot see.

        No timer fires meanwhile: do not sleep inside. May be nested; to be entered and left in the
        loop's own thread.
        """
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    # ---- worker threads -------------------------------------------------------------------------

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Run a function in a worker, the clock held until its result was delivered."""
        if executor is None:
            if self._pool is None:
                self.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
            executor = self._pool
        assert executor is not None
        submit = _Submit(executor)
        result = super().run_in_executor(submit, func, *args)
        self._hold_until_delivered(submit.work)
        return result

    def set_default_executor(self, executor: ThreadPoolExecutor) -> None:  # type: ignore[override] # CPython takes no other Executor
        """Set where `run_in_executor(None, ...)` works."""
        super().set_default_executor(executor)
        self._pool = executor

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait until the workers have ended, the clock held.

        From Python 3.12 on asyncio gives them 300 s, which would be over at once.
        """
        self._pool = None
        with self.hold():
            if sys.version_info >= (3, 12):
                await super().shutdown_default_executor(timeout)
            else:
                await super().shutdown_default_executor()

    def _hold_until_delivered(self, work: Future[Any]) -> None:
        """Hold the clock until a worker has ended *and* whoever waits for it was told.

        Both, because between a worker's last step and the wake-up of the one who waits, the loop
        may look, see nothing, and jump; and because a waiter that was cancelled has its answer
        while the worker still works. A future calls back in the order in which it was asked to:
        asyncio asked first, so the waiter's wake-up stands before the release in the loop's queue.
        """
        self._holds += 1

        def release() -> None:
            self._holds -= 1

        def ended(_work: Future[Any]) -> None:
            if not self.is_closed():
                self.call_soon_threadsafe(release)

        work.add_done_callback(ended)


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that moves its loop's clock instead of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, after having moved the clock by `timeout` if nothing is.

        Args:
            timeout: until the next timer, in seconds: 0 if a callback is ready, None if there is
                no timer.
        """
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None or self._loop._holds or _anyio_workers():
            return self._wait()
        # Besides sockets there is one key, the pipe by which other threads wake the loop: a loop
        # without sockets need not look again.
        if len(self.get_map()) > 1:
            for _ in range(_LOOKS - 1):
                if events := super().select(0):
                    return events
        if self._loop._now + timeout >= _END_OF_TIME:
            raise DeadlockError(_describe(self._loop, "194 days have passed: no timer is near"))
        self._loop._now += timeout
        self._loop._jumps += 1
        return []

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait really, for a socket, a thread or a signal."""
        patience = self._loop._deadlock_after
        began = time.monotonic()
        events = super().select(patience)
        # A signal interrupts the wait; that is no deadlock.
        if not events and patience is not None and time.monotonic() - began >= patience:
            raise DeadlockError(_describe(self._loop, _held_for(self._loop, patience)))
        return events


class _Submit(Executor):
    """Hands work on to an executor and keeps hold of the future it got for it."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.work: Future[Any]

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        work = self._executor.submit(fn, *args, **kwargs)
        self.work = work
        return work


def _anyio_workers() -> float:
    """Count the worker threads that anyio runs for the running loop.

    By its default limiter's tokens: one is borrowed before the thread is asked and given back once
    its result was delivered.
    """
    to_thread = sys.modules.get("anyio.to_thread")
    if to_thread is None:
        return 0
    workers: float = to_thread.current_default_thread_limiter().borrowed_tokens
    return workers


def _held_for(loop: VirtualTimeLoop, patience: float) -> str:
    silence = f"nothing has happened for {patience:g} real seconds"
    workers = _anyio_workers()
    if not (loop._holds or workers):
        return f"{silence}, and no timer is set"
    return (
        f"{silence}, and the clock is held by {loop._holds} hold()s or worker threads "
        f"and {workers:g} worker threads of anyio"
    )


def _describe(loop: VirtualTimeLoop, what: str) -> str:
    lines = [f"{what}. It is {loop.time():g} s. Tasks that wait:"]
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        stack = task.get_stack(limit=1)
        where = f"{stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else "not started"
        lines.append(f"  {task.get_name()}: {task.get_coro()!r} at {where}")
    return "\n".join(lines)
