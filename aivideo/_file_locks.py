"""Advisory locks on files, which the kernel releases when their process ends in any way.

They show which processes are alive: whoever can take a process's lock knows that it is gone.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

_fcntl: Any = None
with suppress(ImportError):  # Windows has no fcntl
    _fcntl = import_module("fcntl")


def are_known() -> bool:
    """Return whether this system supports these locks."""
    return _fcntl is not None


def take(handle: int) -> None:
    """Lock an open file for as long as it is open; never wait for the lock.

    Args:
        handle: the file descriptor.

    Raises:
        OSError: another process holds the lock, or the file system does not support locks.
    """
    _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
