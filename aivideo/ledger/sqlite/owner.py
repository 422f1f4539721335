"""Liveness of owners: a file lock, which the kernel releases when the process dies."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from aivideo import _file_locks


class Owner:
    """One handle of a ledger, with a small file beside the ledger whose lock shows that it lives.

    Args:
        ledger: the ledger's file.
    """

    def __init__(self, ledger: Path) -> None:
        self.name: str = secrets.token_hex(6)
        self._ledger = ledger
        self._lock: int | None = None

    def show_life(self) -> None:
        """Acquire the liveness lock. Call before the first claim.

        Raises:
            OSError: the lock file cannot be created.
        """
        if self._lock is None and _file_locks.are_known():
            handle = os.open(self._path(self.name), os.O_RDWR | os.O_CREAT, 0o600)
            _file_locks.take(handle)
            self._lock = handle

    def is_gone(self, name: str) -> bool:
        """Return whether another owner has certainly ended: nobody holds its lock."""
        if not _file_locks.are_known():  # Windows: only leases decide there
            return False
        path = self._path(name)
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True  # it was closed, or the ledger is a copy: nobody here will end its claims
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
        """Release the lock: this owner has ended."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            with suppress(OSError):
                self._path(self.name).unlink(missing_ok=True)
            os.close(lock)

    def _path(self, name: str) -> Path:
        return self._ledger.with_name(f"{self._ledger.name}-owner-{name}")
