"""Signals that end a command in order, as Ctrl-C does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager


def termination_signals() -> tuple[signal.Signals, ...]:
    """Return SIGTERM, and SIGHUP (the terminal was closed) unless it is ignored, as under nohup."""
    hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
    if hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN:
        return (signal.SIGTERM,)
    return (signal.SIGTERM, hang_up)


@contextmanager
def cancelled_by_signals() -> Iterator[asyncio.Task[object]]:
    """Have SIGTERM and SIGHUP cancel the current task once, as ``asyncio.run`` does on Ctrl-C.

    Later ones are ignored: a create under way is waited for, up to the request timeout. So a task
    that is told twice (a terminal that closes, then a shutdown) does not lose its answer.

    Yields:
        The task; ``task.cancelling()`` says whether it was told to stop.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    numbers = termination_signals()
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        yield task
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
