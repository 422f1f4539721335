"""Locks on files that the kernel drops when their process dies, however it dies.

They say who lives: whoever can take a lock that a process would hold knows that it is gone.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any

_fcntl: Any = None
with suppress(ImportError):  # Windows has none
    _fcntl = import_module("fcntl")


def are_known() -> bool:
    """Whether this system has such locks."""
    return _fcntl is not None


def take(handle: int) -> None:
    """Take the lock of an open file, for as long as it is open.

    Args:
        handle: the file's descriptor.

    Raises:
        OSError: somebody else holds it, or the file system knows no locks.
    """
    _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
