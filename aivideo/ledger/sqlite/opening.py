"""Opening a ledger's file: refused with one line, or safe to use."""

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

T = TypeVar("T")

APPLICATION_ID = 0x61697631
"""Marks the file as ours (“aiv1”); see SQLite's list of such numbers."""

BUSY = 30.0
"""Seconds to wait for another process's transaction."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        batch TEXT NOT NULL,        -- '' for none
        key TEXT,
        model TEXT NOT NULL,
        input BLOB NOT NULL,        -- JSON
        stated_credits INTEGER,
        fingerprint TEXT NOT NULL,
        credits INTEGER,
        callback_url TEXT,
        status TEXT NOT NULL,
        waiting INTEGER NOT NULL,
        path TEXT,
        size INTEGER,
        planned_at REAL NOT NULL
    );
    CREATE UNIQUE INDEX jobs_by_key ON jobs (batch, key) WHERE key IS NOT NULL;
    CREATE INDEX jobs_by_status ON jobs (status, seq);
    CREATE INDEX jobs_by_batch ON jobs (batch, status, seq) WHERE batch <> '';
    CREATE TABLE attempts (
        job INTEGER NOT NULL,
        number INTEGER NOT NULL,
        status TEXT NOT NULL,
        owner TEXT NOT NULL,
        lease_until REAL NOT NULL,
        sent_at REAL NOT NULL,
        task_id TEXT,
        reason BLOB,                -- JSON: [message, HTTP status, code]
        created_at REAL,
        completed_at REAL,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX attempts_by_task ON attempts (task_id) WHERE task_id IS NOT NULL;
    CREATE INDEX attempts_on_their_way ON attempts (owner) WHERE status = 'submitting';
    CREATE TABLE totals (
        batch TEXT PRIMARY KEY,
        charged INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        refunded INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE readings (
        at REAL NOT NULL,
        balance INTEGER NOT NULL,
        purchased INTEGER NOT NULL,
        consumed INTEGER NOT NULL,
        charged INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        refunded INTEGER NOT NULL
    );
    """,
    # Amounts become whole millionths of a credit, and attempts keep the amount that was reserved
    # for them. Tables and columns get new names, so that a process that has the file open with the
    # first schema fails on each statement, instead of counting credits as millionths.
    """
    CREATE TABLE jobs_2 (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        batch TEXT NOT NULL,        -- '' for none
        key TEXT,
        model TEXT NOT NULL,
        input BLOB NOT NULL,        -- JSON
        fingerprint TEXT NOT NULL,
        credits_millionths INTEGER, -- the price; NULL where it is not known
        callback_url TEXT,
        status TEXT NOT NULL,
        waiting INTEGER NOT NULL,
        resumable INTEGER NOT NULL,
        path TEXT,
        size INTEGER,
        planned_at REAL NOT NULL
    );
    INSERT INTO jobs_2
        SELECT seq, id, batch, key, model, input, fingerprint, credits * 1000000, callback_url,
            status, waiting, key IS NULL AND batch = '', path, size, planned_at
        FROM jobs;
    DROP TABLE jobs;
    ALTER TABLE jobs_2 RENAME TO jobs;
    CREATE UNIQUE INDEX jobs_by_key ON jobs (batch, key) WHERE key IS NOT NULL;
    CREATE INDEX jobs_by_status ON jobs (status, seq);
    CREATE INDEX jobs_by_batch ON jobs (batch, status, seq) WHERE batch <> '';
    ALTER TABLE attempts ADD COLUMN credits_millionths INTEGER;
    UPDATE attempts SET credits_millionths =
        (SELECT credits_millionths FROM jobs WHERE jobs.seq = attempts.job);
    CREATE TABLE credit_totals (    -- millionths of a credit
        batch TEXT PRIMARY KEY,
        charged INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        refunded INTEGER NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO credit_totals
        SELECT batch, charged * 1000000, reserved * 1000000, unknown * 1000000, refunded * 1000000
        FROM totals;
    DROP TABLE totals;
    CREATE TABLE account_readings ( -- millionths of a credit
        at REAL NOT NULL,
        balance INTEGER NOT NULL,
        purchased INTEGER NOT NULL,
        consumed INTEGER NOT NULL,
        charged INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        refunded INTEGER NOT NULL
    );
    INSERT INTO account_readings
        SELECT at, balance * 1000000, purchased * 1000000, consumed * 1000000, charged * 1000000,
            reserved * 1000000, unknown * 1000000, refunded * 1000000
        FROM readings ORDER BY rowid;
    DROP TABLE readings;
    CREATE TABLE ceilings (
        batch TEXT PRIMARY KEY,
        credits_millionths INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
)
"""The SQL that turns each schema version into the next; their number is the newest version."""

_SHARED_DISKS = frozenset(
    (
        *("9p", "afs", "ceph", "cifs", "coda", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs"),
        *("nfs4", "ocfs2", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    )
)
"""File systems that other machines may share, or that have no shared memory."""


_FULL = "the disk is full: free space, and go on with the same command"
_READ_ONLY = "it is read-only: make it writable, or name another ledger"
_DAMAGED = "it is damaged: move it aside, and take the last good copy"

_CURES = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_IOERR: "the disk does not take or give it (a quota? a broken disk?): see to it",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the folder and its permissions",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: "it is no ledger: name another file",
    sqlite3.SQLITE_BUSY: "another process keeps it locked: end that one, or wait",
}

_OS_CURES = {
    errno.ENOENT: "its folder is not there: make it",
    errno.ENOTDIR: "its folder is no folder: name another",
    errno.EACCES: "its folder may not be written: check the permissions",
    errno.EPERM: "its folder may not be written: check the permissions",
    errno.EROFS: _READ_ONLY,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


def trouble(path: Path, error: Exception) -> LedgerError:
    """Say an error of SQLite or the disk as ours: one line, with the cure."""
    code = getattr(error, "sqlite_errorcode", None)
    cure = _CURES.get(code & 0xFF) if isinstance(code, int) else None
    if isinstance(error, OSError):
        cure = _OS_CURES.get(error.errno or 0)
    return LedgerError(f"ledger {path}: {cure or error}")


def damaged(path: Path, what: str) -> LedgerError:
    """Say that what was read makes no sense."""
    return LedgerError(f"ledger {path}: {_DAMAGED} ({what})")


def patiently(connection: sqlite3.Connection, step: Callable[[], T]) -> T:
    """Take a step again and again, outside of a transaction, while another process is writing.

    SQLite's own waiting naps for up to 100 ms, in which a process that writes group after group
    takes every turn; and where several make a file's log at once, it does not wait at all. Short
    naps get one of the next turns.

    Raises:
        sqlite3.Error: what the step raises, if it is not that; or that, after ``BUSY`` seconds.
    """
    patience = time.monotonic() + BUSY
    while True:
        try:
            return step()
        except sqlite3.OperationalError as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > patience:
                raise
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        time.sleep(random.uniform(0.0005, 0.002))


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the file; make it, readable by nobody else, where there is none.

    Raises:
        LedgerError: it is a folder, or (to be read only) is not there.
        sqlite3.Error: SQLite cannot open it.
        OSError: it cannot be made.
    """
    settings: dict[str, Any] = {
        "isolation_level": None,  # transactions are begun and ended by name
        "check_same_thread": False,
        "timeout": BUSY if read_only else 0.0,  # see patiently()
    }
    if not read_only:
        if path.is_dir():
            raise LedgerError(f"ledger {path} is a folder; name a file")
        with suppress(FileExistsError):
            # Prompts are nobody else's business: not left to the umask.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        made: sqlite3.Connection = sqlite3.connect(path, **settings)
        return made
    if not path.exists():
        raise LedgerError(f"there is no ledger {path}")
    uri = f"{path.resolve().as_uri()}?mode=ro"
    connection: sqlite3.Connection = sqlite3.connect(uri, uri=True, **settings)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        # A medium that cannot be written: without a log beside it, the file is all there is.
        connection.close()
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise
        connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, **settings)
    return connection


def _statements(script: str) -> list[str]:
    """Split a script at its semicolons; ``executescript`` would commit on its own."""
    plain = "\n".join(line.partition("--")[0] for line in script.splitlines())
    return [statement for statement in plain.split(";") if statement.strip()]


def refuse_shared_disk(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> None:
    """Refuse a file system that machines share, as far as the system tells (Linux).

    Raises:
        LedgerError: the ledger would lie on one.
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
                f"ledger {path} would lie on a network file system ({kind}), where its log is not "
                "safe; put it on a local disk"
            )


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """Tell the version of a ledger's schema, 0 of an empty file; refuse what is neither.

    In one transaction: another process may make the ledger meanwhile.
    """
    run = connection.execute
    run("BEGIN")
    (version,) = run("PRAGMA user_version").fetchone()
    (mark,) = run("PRAGMA application_id").fetchone()
    (tables,) = run("SELECT count(*) FROM sqlite_schema").fetchone()
    run("COMMIT")
    if mark != APPLICATION_ID and (version or mark or tables):
        raise LedgerError(f"{path} is a database of something else; name another file")
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{path} was written by a newer aivideo (schema {version}, this one knows "
            f"{len(MIGRATIONS)}): upgrade aivideo"
        )
    return int(version)


def prepare(connection: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    """Make the connection safe and its schema the newest, or refuse.

    Raises:
        LedgerError: it is no ledger, a newer one, or lies where it would not be safe.
        sqlite3.Error: it cannot be read or written.
    """
    run = connection.execute
    version, newest = _version(connection, path), len(MIGRATIONS)
    if read_only:
        if version < newest:
            raise LedgerError(f"{path} holds no ledger yet, or an older one to migrate")
        return
    (mode,) = run("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LedgerError(
            f"{path} lies where SQLite's WAL does not work (it said {mode!r}); "
            "put the ledger on a local disk"
        )
    run("PRAGMA synchronous = FULL")
    run("PRAGMA fullfsync = ON")  # macOS: a plain fsync there does not reach the disk
    while version < newest:
        run("BEGIN IMMEDIATE")
        try:
            # Another process may have been faster.
            (version,) = run("PRAGMA user_version").fetchone()
            if version < newest:
                for statement in _statements(MIGRATIONS[version]):
                    run(statement)
                version += 1
                run(f"PRAGMA user_version = {version}")
                run(f"PRAGMA application_id = {APPLICATION_ID}")
            run("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # a full disk has rolled back already
                run("ROLLBACK")
            raise
