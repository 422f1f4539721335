"""Liveness of owners: a file lock, which the kernel releases when the process dies.

Each owner that claims holds a lock on a small file beside the ledger, ``<ledger>-owner-<name>``.

* The file is there and locked: the owner lives. Only its leases can end its claims.
* The file is there and not locked: the owner has ended, however it ended.
* There is no such file: that proves nothing. The ledger may be a copy, or the owner may see it
  under another path (a mount, a container). Only the leases decide.

So an owner that closes and leaves claims behind leaves its file too, without the lock.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from aivideo import _file_locks


class Owner:
    """One handle of a ledger, with a small file beside the ledger whose lock shows that it lives.

    Args:
        ledger: the ledger's file: its real path, since the file must be found from every process
            and from every working directory.
    """

    def __init__(self, ledger: Path) -> None:
        self.name: str = secrets.token_hex(6)
        self._ledger = ledger
        self._lock: int | None = None

    @property
    def shows_life(self) -> bool:
        """Whether the liveness lock is held."""
        return self._lock is not None

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
        """Return whether another owner has certainly ended: its file is there and not locked."""
        if not _file_locks.are_known():  # Windows: only leases decide there
            return False
        try:
            handle = os.open(self._path(name), os.O_RDWR)
        except OSError:
            return False
        try:
            _file_locks.take(handle)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def remove_files_of(self, gone: Iterable[str]) -> None:
        """Remove the files of owners that have ended and have no claims left."""
        for name in gone:
            with suppress(OSError):
                self._path(name).unlink(missing_ok=True)

    def leave(self, *, claims_left: bool = True) -> None:
        """Release the lock: this owner has ended.

        Args:
            claims_left: whether it has, or may have, claims that were not ended: then its file
                stays, and others can tell that it has ended.
        """
        if self._lock is not None:
            lock, self._lock = self._lock, None
            if not claims_left:
                self.remove_files_of([self.name])
            os.close(lock)

    def _path(self, name: str) -> Path:
        return self._ledger.with_name(f"{self._ledger.name}-owner-{name}")
