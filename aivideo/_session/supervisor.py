"""One owner of all tasks of a session, and the event loop they belong to.

Everything that a session runs concurrently is a child of one supervisor task, in two anyio task
groups:

* *must finish*: ledger writes and everything else whose loss would lose money. Closing waits for
  these; nothing of ours cancels them.
* *cancellable*: updates to listeners, the question whether an outage is over, downloads. Closing
  cancels these.

A task group must be left by the task that entered it, and ``aclose()`` may be called from any task
(FastAPI lifespans, pytest fixtures): hence the supervisor task, which starts at first use.
Children never raise: an error is a fact that they handle, and a defect is logged.

Two kinds of hot-path tasks are plain asyncio tasks that the supervisor owns: submissions (one a
job) and polls (owned by the poller). A child of an anyio task group costs 16 µs of CPU, a plain
task 4 µs (CPython 3.11, anyio 4.16): 12 µs more per request would be 8 % of a raw aiohttp POST.

A session belongs to one event loop. With another one, futures would be resolved that nobody can
wait for, and a create would be bought and lost; so every call in another loop is refused.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

from aivideo.errors import ConfigurationError

if TYPE_CHECKING:
    from anyio import CancelScope
    from anyio.abc import TaskGroup

log = logging.getLogger("aivideo.session")

Work = Callable[[], Coroutine[Any, Any, object]]


class CancellableTask:
    """A child of the cancellable group: cancel it, or wait until it has ended."""

    __slots__ = ("_scope", "cancelled", "ended")

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.cancelled = False
        self._scope: CancelScope | None = None

    def cancel(self) -> None:
        """Cancel the child; it ends soon after."""
        self.cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, work: Work) -> None:
        """Run the child's work; called by the supervisor."""
        from anyio import CancelScope

        try:
            with CancelScope() as scope:
                self._scope = scope
                if self.cancelled:  # before it had begun
                    scope.cancel()
                await _guarded(work)
        finally:
            self.ended.set()


class Supervisor:
    """Owns the tasks of one session; see the module."""

    def __init__(self) -> None:
        self.submissions: set[asyncio.Task[None]] = set()
        self.torn_down = False
        self._is_closing_down = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._must_finish: TaskGroup | None = None
        self._cancellable: TaskGroup | None = None
        self._before_start: list[tuple[bool, Work]] = []
        self._closing: asyncio.Event | None = None
        self._shutdown: Callable[[], Awaitable[None]] | None = None

    @property
    def is_left_open(self) -> bool:
        """Whether the session has run something and was neither closed nor reported yet."""
        return self._task is not None and not self.torn_down

    def check_loop(self) -> None:
        """Note the running event loop at first use; refuse any other.

        Raises:
            ConfigurationError: this is another event loop than the one of the first use.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            state = "has been closed" if self._loop.is_closed() else "is another one"
            raise ConfigurationError(
                f"this Session belongs to the event loop of its first use, which {state}; nothing "
                "was sent. Make one Session per event loop, inside the coroutine that "
                "asyncio.run() runs"
            )

    # --- starting work ------------------------------------------------------------------------

    def start_must_finish(self, work: Work) -> None:
        """Start work that closing waits for."""
        self._start(must_finish=True, work=work)

    def start_cancellable(self, work: Work) -> CancellableTask:
        """Start work that closing cancels."""
        child = CancellableTask()
        if self._is_closing_down:
            child.cancelled = True
            child.ended.set()
        else:
            self._start(must_finish=False, work=lambda: child.run(work))
        return child

    def start_submission(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start one job's submission: a plain task, see the module. It must not raise."""
        self._ensure_running()
        task = asyncio.create_task(work)
        self.submissions.add(task)
        task.add_done_callback(self.submissions.discard)
        return task

    def _start(self, *, must_finish: bool, work: Work) -> None:
        self._ensure_running()
        group = self._must_finish if must_finish else self._cancellable
        if self._task is not None and self._task.done():
            late = asyncio.create_task(_guarded(work))  # a caller that outlived the close
            self.submissions.add(late)
            late.add_done_callback(self.submissions.discard)
        elif group is None:  # the supervisor task enters its groups in the next turn of the loop
            self._before_start.append((must_finish, work))
        else:
            group.start_soon(_guarded, work)

    def _ensure_running(self) -> None:
        if self._task is None:
            self.check_loop()
            self._closing = asyncio.Event()
            self._task = asyncio.create_task(self._run(self._closing), name="aivideo session")

    # --- the supervisor task ------------------------------------------------------------------

    async def _run(self, closing: asyncio.Event) -> None:
        import anyio

        try:
            async with (
                anyio.create_task_group() as self._must_finish,
                anyio.create_task_group() as self._cancellable,
            ):
                early, self._before_start = self._before_start, []
                for must_finish, work in early:
                    group = self._must_finish if must_finish else self._cancellable
                    group.start_soon(_guarded, work)
                await closing.wait()
                assert self._shutdown is not None
                await self._shutdown()
                self._is_closing_down = True
                self._cancellable.cancel_scope.cancel()
        except asyncio.CancelledError:
            # The loop is being torn down without a close: what is in flight is unknown.
            self.torn_down = True
            warnings.warn(
                "a Session was not closed before its event loop ended: use `async with Session(…)` "
                "or await session.aclose()",
                ResourceWarning,
                stacklevel=1,
            )
            raise

    async def close(self, shutdown: Callable[[], Awaitable[None]]) -> None:
        """Have the supervisor task run ``shutdown``, end its groups and end.

        Args:
            shutdown: the session's steps of closing, in order. Afterwards what is cancellable is
                cancelled, and what must finish is waited for.
        """
        self._shutdown = shutdown
        self._ensure_running()
        assert self._task is not None
        assert self._closing is not None
        self._closing.set()
        await asyncio.shield(self._task)


async def _guarded(work: Work) -> None:
    """Run a child's work: children of a group never raise, since that would cancel the others."""
    try:
        await work()
    except asyncio.CancelledError:
        # By the group's scope: it ends here. By the loop's tear-down: the supervisor is told too.
        return
    except Exception:
        log.exception("a background task of the session failed; this is a defect")
