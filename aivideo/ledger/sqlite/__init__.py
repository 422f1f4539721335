"""A ledger in one SQLite file: it survives crashes, for all the processes of one machine.

It has two parts. :class:`~aivideo.ledger.sqlite.file.LedgerFile` is synchronous code around one
connection: each method is a step inside a transaction. :class:`SqliteLedger` collects the calls
that wait, has a worker thread take their steps in one transaction, and answers them once it is on
disk. So a thousand jobs at once cost one ``fsync`` and not a thousand (group commit), and the event
loop never blocks on the disk.

How it keeps its promises:

* WAL with ``synchronous=FULL``: a transaction is on disk when ``COMMIT`` returns. A torn end of
  the log is found by its checksums and dropped; it holds no committed transaction.
* ``BEGIN IMMEDIATE``: transactions of several processes are serialized, so a compare-and-set holds
  across all of them.
* A claim has an owner and a lease. An owner holds a lock (``flock``) on a small file beside the
  ledger, which the kernel releases when its process dies, however it dies: whoever opens the ledger
  next knows at once which claims will never be ended. Where there is no such file, or locks are not
  supported, the lease decides.
* Credits are summed per batch as they move: checking a ceiling reads two rows, however long the
  history is.
* A file that another process keeps locked is waited for, up to 30 s a transaction; while closing,
  up to 10 s for all of them.

It refuses, with one line each: a file that is not a ledger, or is damaged; a newer schema; a
network file system, where WAL's shared memory does not work; a file with hard links, whose log the
processes would not share; use in a forked child, where SQLite would overwrite its parent's locks;
use in a second event loop. A ledger of an older schema is migrated when it is opened.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from aivideo.errors import ConfigurationError, LedgerError
from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.sqlite import opening
from aivideo.ledger.sqlite.file import PAGE, LedgerFile
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Credits, TaskId

T = TypeVar("T")

GROUP = 256
"""The most calls in one transaction, so that answering them does not block the event loop."""

_Waiting: TypeAlias = "tuple[Callable[[LedgerFile], Any], asyncio.Future[Any]]"


class SqliteLedger:
    """A ledger in one file, shared by the processes of one machine; see the module.

    It belongs to the event loop of its first use. Once that loop is closed, another one may use it,
    unless calls were left without an answer.

    ::

        async with Session(ledger="jobs.db") as session:  # opens and closes one
            ...

    Args:
        path: the file, created if it does not exist. SQLite's log and index, and a lock file, are
            created beside it.
        now: returns Unix seconds.
        read_only: for reading a ledger that must not, or cannot, be written.

    Raises:
        LedgerError: the file cannot be used; the message says why, in one line.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        now: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        self._file: LedgerFile | None = LedgerFile(path, now=now, read_only=read_only)
        self.path: Path = self._file.path
        self._process = os.getpid()
        self._waiting: list[_Waiting] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="aivideo-ledger")
        self._flushing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<SqliteLedger {self.path}{'' if self._file else ' closed'}>"

    async def _step(self, step: Callable[[LedgerFile], T]) -> T:
        """Take ``step`` in the next transaction; return its result once that is on disk."""
        if self._file is None:
            raise LedgerError(f"ledger {self.path} is closed")
        if os.getpid() != self._process:
            raise LedgerError(
                f"ledger {self.path} was opened before a fork; open it anew in each process"
            )
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._move_to(loop)
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((step, future))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(self._file))
        # If the caller is cancelled here, its step is taken all the same.
        return await future

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note the event loop of the first use; refuse another one while the first may be used.

        Raises:
            ConfigurationError: the ledger belongs to another event loop. Nothing was queued.
        """
        if self._loop is not None:
            cure = "open the ledger once per event loop, inside the coroutine that uses it"
            if not self._loop.is_closed():
                raise ConfigurationError(
                    f"ledger {self.path} is in use in another event loop, whose calls would never "
                    f"be answered in this one; {cure}"
                )
            if self._waiting or self._flushing is not None:
                raise ConfigurationError(
                    f"ledger {self.path} was in use in an event loop that was closed before all "
                    f"calls were answered; {cure}"
                )
        self._loop = loop

    async def _flush(self, file: LedgerFile) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
                steps = [step for step, _ in group]
                try:
                    results = await loop.run_in_executor(self._worker, file.group, steps)
                except Exception as error:  # every waiting call must raise it
                    results = [error] * len(group)
                for (_, future), result in zip(group, results, strict=True):
                    if future.done():
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        finally:
            self._flushing = None
            for _, future in self._waiting:  # only if the event loop is being torn down
                future.cancel()

    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        """Record a job; see :class:`~aivideo.ledger.Ledger`."""
        return await self._step(lambda file: file.plan(job, replace=replace))

    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        """Win the right to POST a job once; see :class:`~aivideo.ledger.Ledger`."""
        return await self._step(
            lambda file: file.claim(job_id, lease=lease, retry_faulted=retry_faulted)
        )

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        """Record what happened; see :class:`~aivideo.ledger.Ledger`."""
        return await self._step(lambda file: file.record(job_id, event, attempt))

    async def lapse(self) -> Sequence[JobRecord]:
        """Record ``unknown`` for abandoned claims; see :class:`~aivideo.ledger.Ledger`."""
        return await self._step(LedgerFile.lapse)

    async def set_ceiling(self, batch: str, credits: Decimal | None) -> None:  # noqa: A002
        """Store or remove a batch's ceiling; see :class:`~aivideo.ledger.Ledger`."""
        await self._step(lambda file: file.set_ceiling(batch, credits))

    async def ceiling(self, batch: str) -> Decimal | None:
        """Return a batch's ceiling in credits, or None."""
        return await self._step(lambda file: file.ceiling(batch))

    async def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        return await self._step(lambda file: file.find(job_id))

    async def find_key(self, batch: str | None, key: str) -> JobRecord | None:
        """Find a job by its batch and key."""
        return await self._step(lambda file: file.find_key(batch, key))

    async def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by its task."""
        return await self._step(lambda file: file.find_task(task_id))

    async def jobs(
        self, *, batch: str | None = None, statuses: Collection[JobStatus] = ()
    ) -> AsyncIterator[JobRecord]:
        """Yield jobs, read a page at a time; see :class:`~aivideo.ledger.Ledger`."""
        after, wanted = 0, frozenset(statuses)
        while True:
            rows = await self._step(
                partial(LedgerFile.page, after=after, batch=batch, statuses=wanted)
            )
            for after, job in rows:  # noqa: B007  where the next page begins
                yield job
            if len(rows) < PAGE:
                return

    async def counts(self, *, batch: str | None = None) -> Mapping[JobStatus, int]:
        """Count jobs by status."""
        return await self._step(lambda file: file.counts(batch))

    async def totals(self, *, batch: str | None = None) -> CreditTotals:
        """Sum the credits of a batch, or of all."""
        return await self._step(lambda file: file.totals(batch))

    async def note_credits(self, account: Credits) -> Reading:
        """Store a reading of the account's counters."""
        return await self._step(lambda file: file.note_credits(account))

    async def readings(self) -> Sequence[Reading]:
        """List the readings, the oldest first."""
        return await self._step(LedgerFile.readings)

    def limit_waiting(self, seconds: float | None) -> None:
        """Limit how long this ledger waits for other processes, in all and from now on.

        A session calls this when nothing more is to be sent, so that a file that stays locked does
        not delay each of the last transactions by 30 s.

        Args:
            seconds: for all transactions together, until one succeeds; None: as usual again.
        """
        if self._file is not None:
            self._file.patience.limit(seconds)

    async def aclose(self) -> None:
        """Finish writing, and close; do nothing in a forked child: the parent closes.

        If another process keeps the file locked, calls that wait fail after 10 s in all.

        Raises:
            ConfigurationError: the ledger is in use in another event loop.
        """
        if os.getpid() != self._process:
            return
        loop = asyncio.get_running_loop()
        if self._file is not None and loop is not self._loop:
            if self._loop is not None and self._loop.is_closed():
                self._waiting.clear()  # nobody waits for these calls any more
                self._flushing = None
            self._move_to(loop)
        self.limit_waiting(opening.BUSY_WHILE_CLOSING)
        while self._flushing is not None:
            await asyncio.wait([self._flushing])
        file, self._file = self._file, None
        if file is not None:
            closing = loop.run_in_executor(self._worker, file.close)
            self._worker.shutdown(wait=False)  # after that
            await closing
