"""The ledgers of simulated processes: they report their calls and results to the law checker."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aivideo.ledger import events
from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import JobRecord
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.models import Credits
from tests.simulated.faults.content import content_of

if TYPE_CHECKING:
    from tests.simulated.faults.process import Claim, Process

CLAIM: ContextVar[Claim | None] = ContextVar("claim", default=None)
"""The latest claim of the running task."""

PLANNED: ContextVar[str | None] = ContextVar("planned", default=None)
"""The id of the job that the running task has planned last."""

if TYPE_CHECKING:
    _AnyLedger = SqliteLedger
else:
    _AnyLedger = object


class _Watched(_AnyLedger):
    """Reports what a ledger is asked and what it answers."""

    process: Process

    async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
        """See :class:`~aivideo.ledger.Ledger`."""
        PLANNED.set(job.id)
        planned = await super().plan(job, replace=replace)
        PLANNED.set(planned.id)
        if planned.id != job.id and planned.fingerprint == job.fingerprint:
            self.process.world.reached["a job was asked for again"] += 1
        return planned

    async def claim(self, job_id: str, *, lease: float, **settings: Any) -> JobRecord | None:
        """See :class:`~aivideo.ledger.Ledger`."""
        process = self.process
        laws = process.world.laws
        if process.alive:
            laws.claim_begins(process, job_id)
        process.claiming += 1
        since = process.world.now()
        try:
            claimed = await super().claim(job_id, lease=lease, **settings)
        finally:
            process.claiming -= 1
        if claimed is not None and process.alive:
            CLAIM.set(laws.claimed(process, claimed, since))
            await process.crash_point("claim", "after a claim")
        return claimed

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        """See :class:`~aivideo.ledger.Ledger`."""
        process = self.process
        written = False
        try:
            record = await super().record(job_id, event, attempt=attempt)
            written = True
        finally:
            if process.alive:
                process.world.laws.recorded(process, job_id, attempt, event, written=written)
        if process.world.tracing:
            content = content_of(record.request.input)
            process.log(f"wrote {_shown(event)}: {content!r} is {record.status}")
        return record

    async def lapse(self) -> Sequence[JobRecord]:
        """See :class:`~aivideo.ledger.Ledger`."""
        lapsed = await super().lapse()
        process = self.process
        if process.alive:
            process.world.laws.lapsed(process.name, process.unix(), lapsed)
        return lapsed

    async def note_credits(self, account: Credits) -> Reading:
        """See :class:`~aivideo.ledger.Ledger`."""
        reading = await super().note_credits(account)
        if self.process.alive:
            self.process.world.laws.audits.read(reading)
        return reading


class WatchedLedger(_Watched, SqliteLedger):
    """The SQLite ledger of a simulated process."""

    def __init__(self, process: Process, path: Path) -> None:
        self.process = process
        super().__init__(path, now=process.unix)
        assert self._file is not None
        self.file = self._file
        pages = process.boot.plan.autocheckpoint
        if pages is not None:
            self.file.connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")

    @property
    def owner(self) -> str:
        """The name under which it claims."""
        return self.file.owner.name

    def status_of(self, job_id: str, number: int) -> str | None:
        """Return the status of an attempt as it is on disk."""
        row = self.file.connection.execute(
            "SELECT a.status FROM attempts a JOIN jobs j ON j.seq = a.job "
            "WHERE j.id = ? AND a.number = ?",
            (job_id, number),
        ).fetchone()
        return None if row is None else str(row[0])

    def is_in_doubt(self, job_id: str) -> bool:
        """Whether a create of a job may have been charged, as far as is on disk."""
        row = self.file.connection.execute(
            "SELECT count(*) FROM attempts a JOIN jobs j ON j.seq = a.job "
            "WHERE j.id = ? AND a.status IN ('unknown', 'faulted')",
            (job_id,),
        ).fetchone()
        return bool(row[0])

    def abandon(self, *, close: bool) -> None:
        """Release what the kernel releases when a process dies."""
        owner = self.file.owner
        if owner._lock is not None:
            os.close(owner._lock)
            owner._lock = None
        if close:
            self.file.connection.close()


class WatchedMemory(_Watched, MemoryLedger):
    """The ledger in memory of a program that keeps none on disk."""

    def __init__(self, process: Process) -> None:
        self.process = process
        MemoryLedger.__init__(
            self, keep_ended=process.plan.keep_ended, owner=process.name, now=process.unix
        )

    @property
    def owner(self) -> str:
        """The name under which it claims."""
        return self._owner

    def status_of(self, job_id: str, number: int) -> str | None:
        """Return the status of an attempt."""
        job = self._jobs.get(job_id)
        return None if job is None else str(job.attempt(number).status)

    def abandon(self, *, close: bool) -> None:
        """Do nothing: the kernel has nothing of it."""


def _shown(event: Event) -> str:
    match event:
        case events.Taken(task_id):
            return f"Taken({task_id[:8]})"
        case events.Doubted(reason) | events.Faulted(reason) | events.Refused(reason):
            return f"{type(event).__name__}({reason.message[:60]})"
        case _:
            return type(event).__name__
