"""Who lives: a lock that the kernel drops when its process dies, however it dies."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from aivideo import _file_locks


class Owner:
    """One handle of a ledger, and the small file beside it whose lock says that it lives.

    Args:
        ledger: the ledger's file.
    """

    def __init__(self, ledger: Path) -> None:
        self.name = secrets.token_hex(6)
        self._ledger = ledger
        self._lock: int | None = None

    def show_life(self) -> None:
        """Hold the lock from now on; before the first claim.

        Raises:
            OSError: it cannot be made.
        """
        if self._lock is None and _file_locks.are_known():
            handle = os.open(self._path(self.name), os.O_RDWR | os.O_CREAT, 0o600)
            _file_locks.take(handle)
            self._lock = handle

    def is_gone(self, name: str) -> bool:
        """Whether another owner is dead for sure: nobody holds its lock any more."""
        if not _file_locks.are_known():  # Windows: there leases alone decide
            return False
        path = self._path(name)
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True  # closed in order, or a copy of a ledger: nobody here will end its claims
        except OSError:
            return False
        try:
            _file_locks.take(handle)
            path.unlink(missing_ok=True)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def leave(self) -> None:
        """Drop the lock: what was claimed and not ended is nobody's from now on."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            with suppress(OSError):
                self._path(self.name).unlink(missing_ok=True)
            os.close(lock)

    def _path(self, name: str) -> Path:
        return self._ledger.with_name(f"{self._ledger.name}-owner-{name}")
