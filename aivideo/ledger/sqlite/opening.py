"""Open a ledger's file so that it is safe to use, or refuse it with an error of one line."""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from aivideo.errors import LedgerError
from aivideo.ledger.sqlite import schema

T = TypeVar("T")

BUSY = 30.0
"""Seconds to wait for the transactions of other processes."""

BUSY_WHILE_CLOSING = 10.0
"""The same while closing: for all transactions together, until one succeeds."""

_SHARED_DISKS = frozenset(
    (
        *("9p", "afs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs"),
        *("nfs4", "ocfs2", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    )
)
"""File systems that other machines may share, or on which shared memory does not work."""


_FULL = "the disk is full: free space, and repeat the same command"
_READ_ONLY = "it is read-only: make it writable, or choose another ledger"
_DAMAGED = "it is damaged: move it away, and restore the last good copy"

_CURES = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_IOERR: "disk I/O error: check free space, quota and disk health",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the folder and its permissions",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: "it is not a ledger: choose another file",
    sqlite3.SQLITE_BUSY: "another process keeps it locked: wait, or end that process",
}

_OS_CURES = {
    errno.ENOENT: "its folder does not exist: create it",
    errno.ENOTDIR: "its folder is a file: choose another path",
    errno.EACCES: "no permission to write its folder: check the permissions",
    errno.EPERM: "no permission to write its folder: check the permissions",
    errno.EROFS: _READ_ONLY,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


def trouble(path: Path, error: Exception) -> LedgerError:
    """Return an error of SQLite or the disk as a LedgerError: one line, with the cure."""
    code = getattr(error, "sqlite_errorcode", None)
    cure = _CURES.get(code & 0xFF) if isinstance(code, int) else None
    if isinstance(error, OSError):
        cure = _OS_CURES.get(error.errno or 0)
    return LedgerError(f"ledger {path}: {cure or error}")


def is_of_one_step(error: sqlite3.Error) -> bool:
    """Return whether SQLite refused the values of one step; else its file or disk has a problem."""
    if isinstance(error, sqlite3.OperationalError):
        # "integer overflow" in a sum; full disks and locks have codes of their own.
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_ERROR
    refusals = (sqlite3.DataError, sqlite3.IntegrityError)
    return isinstance(error, (*refusals, sqlite3.InterfaceError, sqlite3.ProgrammingError))


def damaged(path: Path, what: str) -> LedgerError:
    """Return the error for a file with contents that no ledger writes."""
    return LedgerError(f"ledger {path}: {_DAMAGED} ({what})")


class Patience:
    """How long to wait for the transactions of other processes.

    Usually each transaction waits for up to ``seconds``. From :meth:`limit` on, all of them
    together do: where a file stays locked, the first one waits, and the others fail at once. One
    that succeeds proves that the file is not locked for good, and the wait begins anew.

    One thread may wait while another one calls :meth:`limit`.

    Args:
        seconds: how long one transaction waits; None: ``BUSY``.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._each = BUSY if seconds is None else seconds
        self._total: float | None = None
        self._ends_at: float | None = None

    def limit(self, total: float | None) -> None:
        """Wait for at most ``total`` seconds in all from now on; None: as usual again.

        A limit that is set already stays: closing has several steps, each of which sets it.
        """
        if total is None or self._total is None:
            self._ends_at = None
            self._total = total

    def succeeded(self) -> None:
        """Note that a transaction could begin."""
        self._ends_at = None

    def is_over(self, began: float) -> bool:
        """Return whether to wait no longer.

        Args:
            began: when this transaction began to wait, by ``time.monotonic``.
        """
        now, total = time.monotonic(), self._total
        if total is None:
            return now - began > self._each
        ends_at = self._ends_at
        if ends_at is None:
            ends_at = self._ends_at = now + min(total, self._each)
        return now > ends_at


def patiently(connection: sqlite3.Connection, step: Callable[[], T], patience: Patience) -> T:
    """Retry a step, outside of a transaction, while other processes keep the file locked.

    SQLite's own busy handler sleeps for up to 100 ms, during which a process that commits group
    after group wins every time; and where several processes create a file's log at once, SQLite
    does not wait at all. Short sleeps win one of the next turns.

    Raises:
        sqlite3.Error: any other error of the step; or the lock, once the patience is over.
    """
    began = time.monotonic()
    while True:
        try:
            result = step()
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or patience.is_over(began):
                raise
        else:
            patience.succeeded()
            return result
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        time.sleep(random.uniform(0.0005, 0.002))


def connect(path: Path, *, named: Path, read_only: bool) -> sqlite3.Connection:
    """Open the file; create it, readable by its owner only, if it does not exist.

    Args:
        path: the file's real path.
        named: the path as the user gave it, for messages.
        read_only: never write.

    Raises:
        LedgerError: it is a folder, or has a second name; or it does not exist, and is to be read
            only.
        sqlite3.Error: SQLite cannot open it.
        OSError: it cannot be created.
    """
    settings: dict[str, Any] = {
        "isolation_level": None,  # transactions are begun and ended explicitly
        "check_same_thread": False,
        "timeout": BUSY if read_only else 0.0,  # see patiently()
    }
    if not read_only:
        if path.is_dir():
            raise LedgerError(f"ledger {named} is a folder; choose a file")
        refuse_second_name(path)
        with suppress(FileExistsError):
            # Prompts are private: do not leave the permissions to the umask.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        made: sqlite3.Connection = sqlite3.connect(path, **settings)
        return made
    if not path.exists():
        raise LedgerError(f"there is no ledger {named}")
    uri = f"{path.as_uri()}?mode=ro"
    connection: sqlite3.Connection = sqlite3.connect(uri, uri=True, **settings)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        # On a read-only medium SQLite cannot open a WAL file as it is. If there is no log beside
        # it, the file alone is complete.
        connection.close()
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, **settings)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _statements(script: str) -> list[str]:
    """Split a script at its semicolons; ``executescript`` would commit by itself."""
    plain = "\n".join(line.partition("--")[0] for line in script.splitlines())
    return [statement for statement in plain.split(";") if statement.strip()]


def refuse_shared_disk(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Refuse a file system that several machines may share, as far as Linux names it.

    Raises:
        LedgerError: the ledger is, or would be, on such a file system.
    """
    try:
        device = (path if path.exists() else path.parent).stat().st_dev
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields, _, rest = line.partition(" - ")
        kind = rest.split(" ", 1)[0]
        if kind in _SHARED_DISKS and fields.split()[2:3] == [wanted]:
            raise LedgerError(
                f"ledger {path} is on a network file system ({kind}), where its log is not safe; "
                "put it on a local disk"
            )


def refuse_second_name(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Refuse a file that other processes may open under another name in another folder.

    SQLite's log lies beside the file, and so do the owners' locks: processes that use the two names
    would not see each other, and damage the file. A symbolic link is no second name.

    Raises:
        LedgerError: the file has hard links, or is itself a mount point, as far as Linux tells.
    """
    try:
        links = path.stat().st_nlink
    except OSError:
        return  # it does not exist yet
    if links > 1:
        raise LedgerError(
            f"ledger {path} has {links} names (hard links), and processes that use different ones "
            "would damage it: keep one name, and use symbolic links"
        )
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    # Spaces and the like are octal in this file: a path with any is not recognized.
    if any(line.split()[4:5] == [str(path)] for line in lines):
        raise LedgerError(
            f"ledger {path} is mounted as a single file, apart from its log: mount its folder"
        )


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a ledger's schema, 0 for an empty file; refuse any other file.

    In one transaction: another process may be creating the ledger.
    """
    run = connection.execute
    run("BEGIN")
    (version,) = run("PRAGMA user_version").fetchone()
    (mark,) = run("PRAGMA application_id").fetchone()
    (tables,) = run("SELECT count(*) FROM sqlite_schema").fetchone()
    run("COMMIT")
    if mark != schema.APPLICATION_ID and (version or mark or tables):
        raise LedgerError(f"{path} is a database of something else; choose another file")
    if version > len(schema.MIGRATIONS):
        raise LedgerError(
            f"{path} was written by a newer aivideo (schema {version}, this one knows "
            f"{len(schema.MIGRATIONS)}): upgrade aivideo"
        )
    return int(version)


def prepare(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    """Set the connection up to be safe, and migrate the file to the newest schema.

    Raises:
        LedgerError: it is not a ledger, is a newer one, or lies where it would not be safe.
        sqlite3.Error: it cannot be read or written.
    """
    run = connection.execute
    version = _version(connection, path)
    if read_only:
        if version == 0:
            raise LedgerError(f"{path} is empty: it holds no ledger yet")
        return
    (mode,) = run("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LedgerError(
            f"{path} lies where SQLite's WAL does not work (it answered {mode!r}); "
            "put the ledger on a local disk"
        )
    run("PRAGMA synchronous = FULL")
    run("PRAGMA fullfsync = ON")  # macOS: a plain fsync there does not reach the disk
    _migrate(connection, version)


def newest(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Return a connection for reading the newest schema.

    That is the given one, or one to a migrated copy in memory: a file that is opened to be read
    only is not changed, not even to migrate it. The given connection is closed then.

    Raises:
        sqlite3.Error: the file cannot be read.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= len(schema.MIGRATIONS):
        return connection
    copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        connection.backup(copy)
        _migrate(copy, version)
        copy.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        copy.close()
        raise
    connection.close()
    return copy


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the schema to the newest version: one transaction a version."""
    run = connection.execute
    while version < len(schema.MIGRATIONS):
        run("BEGIN IMMEDIATE")
        try:
            # Another process may have migrated it meanwhile. A query has SQLite read the schema
            # again then; ALTER TABLE alone would use the one that it knows.
            run("SELECT count(*) FROM sqlite_schema").fetchone()
            (version,) = run("PRAGMA user_version").fetchone()
            if version < len(schema.MIGRATIONS):
                for statement in _statements(schema.MIGRATIONS[version]):
                    run(statement)
                version += 1
                run(f"PRAGMA user_version = {version}")
                run(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            run("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back already
                run("ROLLBACK")
            raise
