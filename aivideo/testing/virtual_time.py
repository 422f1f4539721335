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
  the default limiter's tokens; a call with a limiter of its own is not seen;
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
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, TypeVarTuple, Unpack

from attrs import define

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# One look is enough on Linux (22,000 sends, connects and closes, on an idle machine and on one
# with three busy processes per two cores: none was seen late). The others cost half a µs each.
_LOOKS = 3

# How often a loop that waits for real looks whether its deadline has passed, in real seconds.
_REAL_WAIT = 0.5


class DeadlockError(RuntimeError):
    """Nothing can happen any more: no timer, no socket that speaks, and no thread that ends.

    The message names every task that waits, and where.
    """


@define
class _Clock:
    """The time it is, and how many things hold it."""

    now: float
    holds: int = 0
    jumps: int = 0


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop on which waiting takes no time.

    Use it wherever a loop factory is asked for: `asyncio.Runner(loop_factory=VirtualTimeLoop)`;
    with anyio's pytest plugin, as a fixture:

        @pytest.fixture
        def anyio_backend():
            return "asyncio", {"loop_factory": VirtualTimeLoop}

    What it can and cannot see is said at the top of this module.
    """

    def __init__(self, *, start: float = 0.0, deadlock_after: float | None = 60.0) -> None:
        """Make a loop.

        Args:
            start: what `time()` says first, in seconds.
            deadlock_after: real seconds of silence after which `DeadlockError` is raised out of
                `run_until_complete`: nothing is ready, and either no timer is set or the clock is
                held. None waits for ever, as any other loop does.
        """
        self._clock = _Clock(start)
        self._pool: Executor | None = None
        self._selector_ = _JumpingSelector(self._clock, self._wait_for_real)
        self._deadlock_after = deadlock_after
        super().__init__(self._selector_)

    def __repr__(self) -> str:
        """Say what one asks when a test hangs: what time it is, and what holds it."""
        state = "closed" if self.is_closed() else "running" if self.is_running() else "idle"
        return (
            f"<VirtualTimeLoop {state} at {self._clock.now:.6g} s, "
            f"{self._clock.jumps} jumps, {self._clock.holds} holds>"
        )

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        # The base class asks for the time while it is being made, and after it was closed.
        return self._clock.now

    @property
    def jumps(self) -> int:
        """How often time has jumped."""
        return self._clock.jumps

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the clock from moving while something works that the loop cannot see.

        Timers do not fire meanwhile, so do not sleep inside. May be nested, and entered from any
        coroutine or callback of this loop.
        """
        self._clock.holds += 1
        try:
            yield
        finally:
            self._clock.holds -= 1

    # ---- worker threads -------------------------------------------------------------------------

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[_Ts]], _T], *args: Unpack[_Ts]
    ) -> asyncio.Future[_T]:
        """Run a function in a worker, the clock held until its result is in."""
        if executor is None:
            if self._pool is None:
                self.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
            executor = self._pool
        assert executor is not None
        work = _Submitted(executor)
        result = super().run_in_executor(work, func, *args)
        self._hold_until_delivered(work.future, result)
        return result

    def set_default_executor(self, executor: ThreadPoolExecutor) -> None:  # type: ignore[override] # typeshed says Executor, CPython refuses any other
        """Set where `run_in_executor(None, ...)` works."""
        super().set_default_executor(executor)
        self._pool = executor

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait until the workers have ended.

        The clock is held: from Python 3.12 on there is a timeout of 300 s around it, which would be
        over at once.
        """
        self._pool = None
        with self.hold():
            if sys.version_info >= (3, 12):
                await super().shutdown_default_executor(timeout)
            else:
                await super().shutdown_default_executor()

    def _hold_until_delivered(self, work: Future[_T], result: asyncio.Future[_T]) -> None:
        """Hold the clock from now until the worker has ended and its result was delivered.

        Ended alone is too early: between the worker's last breath and the wake-up of whoever
        waits, the loop may look, see nothing, and jump. Delivered alone is too early as well: a
        waiter that was cancelled has its answer while the worker still works.
        """
        self._clock.holds += 1

        def release() -> None:
            self._clock.holds -= 1

        def release_from_worker(_work: Future[_T]) -> None:
            if not self.is_closed():
                self.call_soon_threadsafe(release)

        def delivered(_result: asyncio.Future[_T]) -> None:
            if work.done():
                release()
            else:
                work.add_done_callback(release_from_worker)

        result.add_done_callback(delivered)

    # ---- waiting for real -----------------------------------------------------------------------

    def _wait_for_real(self, timeout: float | None) -> float | None:
        """Say how long the selector must really wait: 0 for not at all, None for ever."""
        if timeout is None or self._clock.holds or _anyio_workers():
            return self._deadlock_after
        return 0.0
