"""One connection to a ledger's file, and each step inside a transaction. One thread at a time."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from aivideo.errors import AIVideoError, ContradictionError, LedgerError
from aivideo.ledger import budget, events, totals, transitions
from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.rules import planned_again, same_job
from aivideo.ledger.sqlite import opening
from aivideo.ledger.sqlite.owner import Owner
from aivideo.ledger.sqlite.rows import (
    ATTEMPT,
    JOB,
    TOTALS,
    attempt_of,
    attempt_values,
    job_of,
    job_values,
)
from aivideo.ledger.totals import CreditTotals, Holding
from aivideo.models import Credits, TaskId

_WRITE_ATTEMPT = (
    f"INSERT INTO attempts (job, {ATTEMPT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (job, number) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in ATTEMPT.split(", ")[1:])
)

_IN_BATCH = "batch = ? AND batch <> '' AND"
"""The second term, which a batch's name fulfils, lets SQLite use the index that says it too."""

PAGE = 200
"""Jobs that one read brings."""


class LedgerFile:
    """The connection, and what is done through it.

    Args:
        path: the file; made where there is none.
        now: Unix seconds.
        read_only: never write, not even a lock.

    Raises:
        LedgerError: it cannot be used; one line says why.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        now: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        self.path = Path(path)
        self.owner = Owner(self.path)
        self._now = now
        self._read_only = read_only
        opening.refuse_shared_disk(self.path)
        try:
            self.connection = opening.connect(self.path, read_only=read_only)
        except (sqlite3.Error, OSError) as error:
            raise opening.trouble(self.path, error) from None
        try:
            opening.patiently(
                self.connection,
                lambda: opening.prepare(self.connection, self.path, read_only=read_only),
            )
        except sqlite3.Error as error:
            self.connection.close()
            raise opening.trouble(self.path, error) from None
        except LedgerError:
            self.connection.close()
            raise

    def group(self, steps: Sequence[Callable[[LedgerFile], object]]) -> list[object]:
        """Take all steps in one transaction; return each one's result, or the error it raised.

        A step that raises an error of ours has written nothing: it checks before it writes. One
        that breaks otherwise (on a text that is no UTF-8, a number too large for SQLite) must not
        take the others with it, a verdict perhaps: then each has a transaction of its own.

        Raises:
            LedgerError: the transaction did not happen.
        """
        try:
            return self._in_one(steps)
        except LedgerError:
            raise
        except Exception as error:
            if len(steps) == 1:
                return [LedgerError(f"ledger {self.path} cannot hold this: {error}")]
        results: list[object] = []
        for step in steps:
            try:
                results += self.group([step])
            except LedgerError as error:
                results.append(error)
        return results

    def _in_one(self, steps: Sequence[Callable[[LedgerFile], object]]) -> list[object]:
        results: list[object] = []
        run = self.connection.execute
        try:
            opening.patiently(self.connection, lambda: run("BEGIN IMMEDIATE"))
            for step in steps:
                try:
                    results.append(step(self))
                except AIVideoError as error:
                    results.append(error)
            run("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                run("ROLLBACK")
            raise opening.trouble(self.path, error) from None
        except BaseException:
            with suppress(sqlite3.Error):
                run("ROLLBACK")
            raise
        return results

    def close(self) -> None:
        """Close; what was claimed and not ended is nobody's from now on."""
        self.connection.close()
        self.owner.leave()

    # --- steps ------------------------------------------------------------------------------

    def plan(self, job: JobRecord, *, replace: bool) -> JobRecord:
        """Write down a job, or find it."""
        if job.key is not None:
            found = self._one("batch = ? AND key = ?", (job.batch or "", job.key))
            if found is not None:
                seq, earlier = found
                job = planned_again(earlier, job, replace=replace)
                if job is earlier:
                    return earlier
                values = job_values(job)
                names = ", ".join(f"{name} = ?" for name in JOB.split(", ")[1:])
                self.connection.execute(f"UPDATE jobs SET {names} WHERE seq = ?", (*values, seq))
                return job
        marks = ", ".join("?" * 14)
        names = JOB.partition(", ")[2]
        made = self.connection.execute(
            f"INSERT INTO jobs ({names}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING",
            job_values(job),
        )
        return job if made.rowcount else same_job(self._job(job.id)[1], job)

    def claim(self, job_id: str, *, lease: float, ceiling: int | None) -> JobRecord | None:
        """Compare and set: from planned to submitting."""
        seq, job = self._job(job_id)
        if job.status is not JobStatus.PLANNED:
            return None
        if ceiling is not None:
            held = self.totals(job.batch or "").held
            budget.admit(job.request.model, job.credits, held=held, ceiling=ceiling)
        self._show_life()
        now = self._now()
        claimed = events.Claimed(owner=self.owner.name, lease_until=now + lease, at=now)
        return self._write(seq, job, transitions.apply(job, claimed))

    def record(self, job_id: str, event: Event, attempt: int | None) -> JobRecord:
        """Write down what happened to a job."""
        seq, job = self._job(job_id)
        if isinstance(event, events.Taken):
            other = self._of_task(event.task_id)
            if other is not None and other[1].id != job_id:
                raise ContradictionError(
                    f"task {event.task_id} is that of job {other[1].id} already"
                )
        return self._write(seq, job, transitions.apply(job, event, attempt))

    def lapse(self) -> list[JobRecord]:
        """Write unknown for the claims that nobody will end."""
        now = self._now()
        rows = self.connection.execute(
            "SELECT job, number, owner, lease_until FROM attempts "
            "WHERE status = 'submitting' AND owner <> ?",
            (self.owner.name,),
        ).fetchall()
        gone = {owner: self.owner.is_gone(owner) for owner in {row[2] for row in rows}}
        lapsed = []
        for seq, number, owner, lease_until in rows:
            if lease_until < now or gone[owner]:
                _, job = self._required("seq = ?", (seq,), f"row {seq}")
                after = transitions.apply(job, events.ABANDONED, number)
                lapsed.append(self._write(seq, job, after))
        return lapsed

    def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        return record_of(self._one("id = ?", (job_id,)))

    def find_key(self, batch: str | None, key: str) -> JobRecord | None:
        """Find a job by its name within a batch."""
        return record_of(self._one("batch = ? AND key = ?", (batch or "", key)))

    def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by a task."""
        return record_of(self._of_task(task_id))

    def page(
        self, after: int, batch: str | None, statuses: Collection[JobStatus]
    ) -> list[tuple[int, JobRecord]]:
        """Read the next jobs behind row ``after``."""
        if batch is None and not statuses:
            return self._many(f"seq > ? ORDER BY seq LIMIT {PAGE}", (after,))
        # One short walk of an index per status, so that the few unfinished ones of a million are
        # found without a walk past the others.
        within: tuple[str, ...] = () if batch is None else (batch,)
        each = (
            f"SELECT * FROM (SELECT seq FROM jobs WHERE {_IN_BATCH if within else ''} status = ? "
            f"AND seq > ? ORDER BY seq LIMIT {PAGE})"
        )
        walks = [(*within, status.value, after) for status in statuses or JobStatus]
        union = " UNION ALL ".join([each] * len(walks))
        return self._many(f"seq IN ({union}) ORDER BY seq LIMIT {PAGE}", chain(*walks))

    def counts(self, batch: str | None) -> dict[JobStatus, int]:
        """Count jobs by status."""
        where, values = ("", ()) if batch is None else (f"WHERE {_IN_BATCH} true", (batch,))
        rows = self.connection.execute(
            f"SELECT status, count(*) FROM jobs {where} GROUP BY status", values
        )
        return {JobStatus(status): count for status, count in rows}

    def totals(self, batch: str | None) -> CreditTotals:
        """Sum credits; None: of all batches."""
        columns = ", ".join(f"coalesce(sum({name}), 0)" for name in TOTALS.split(", "))
        where, values = ("", ()) if batch is None else ("WHERE batch = ?", (batch,))
        row = self.connection.execute(f"SELECT {columns} FROM totals {where}", values).fetchone()
        return CreditTotals(charged=row[0], reserved=row[1], unknown=row[2], refunded=row[3])

    def note_credits(self, account: Credits) -> Reading:
        """Keep a reading."""
        reading = Reading(self._now(), account, self.totals(None))
        sums = reading.ledger
        self.connection.execute(
            "INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(reading.at, account.balance, account.total_purchased, account.total_consumed),
                *(sums.charged, sums.reserved, sums.unknown, sums.refunded),
            ),
        )
        return reading

    def readings(self) -> list[Reading]:
        """List the readings."""
        return [
            Reading(
                at,
                Credits(balance=balance, total_purchased=purchased, total_consumed=consumed),
                CreditTotals(
                    charged=charged, reserved=reserved, unknown=unknown, refunded=refunded
                ),
            )
            for at, balance, purchased, consumed, charged, reserved, unknown, refunded in (
                self.connection.execute("SELECT * FROM readings ORDER BY rowid")
            )
        ]

    # --- rows -------------------------------------------------------------------------------

    def _many(self, where: str, values: Iterable[Any]) -> list[tuple[int, JobRecord]]:
        run = self.connection.execute
        rows = run(f"SELECT {JOB} FROM jobs WHERE {where}", tuple(values)).fetchall()
        attempts: dict[int, list[tuple[Any, ...]]] = {row[0]: [] for row in rows}
        marks = ", ".join("?" * len(rows))
        for job, *attempt in run(
            f"SELECT job, {ATTEMPT} FROM attempts WHERE job IN ({marks}) ORDER BY job, number",
            tuple(attempts),
        ):
            attempts[job].append(tuple(attempt))
        found = []
        for row in rows:
            try:
                found.append((row[0], job_of(row, tuple(map(attempt_of, attempts[row[0]])))))
            except (ValueError, TypeError, KeyError) as error:
                raise opening.damaged(self.path, f"row {row[0]}: {error!r}") from None
        return found

    def _one(self, where: str, values: tuple[Any, ...]) -> tuple[int, JobRecord] | None:
        found = self._many(where, values)
        return found[0] if found else None

    def _required(self, where: str, values: tuple[Any, ...], name: str) -> tuple[int, JobRecord]:
        found = self._one(where, values)
        if found is None:
            raise LedgerError(f"the ledger has no job {name}")
        return found

    def _job(self, job_id: str) -> tuple[int, JobRecord]:
        return self._required("id = ?", (job_id,), job_id)

    def _of_task(self, task_id: TaskId) -> tuple[int, JobRecord] | None:
        return self._one("seq = (SELECT job FROM attempts WHERE task_id = ?)", (task_id,))

    def _write(self, seq: int, before: JobRecord, after: JobRecord) -> JobRecord:
        if after is before:
            return after
        run = self.connection.execute
        run(
            "UPDATE jobs SET status = ?, waiting = ?, path = ?, size = ? WHERE seq = ?",
            (after.status.value, after.waiting, after.path, after.size, seq),
        )
        known = {attempt.number: attempt for attempt in before.attempts}
        for attempt in after.attempts:
            if known.get(attempt.number) is not attempt:
                # Not OR REPLACE: that would also drop another attempt that has the same task.
                run(_WRITE_ATTEMPT, (seq, *attempt_values(attempt)))
        change = totals.credits_moved(before, after)
        if change:
            self._add_up(after.batch or "", change)
        return after

    def _add_up(self, batch: str, change: Mapping[Holding, int]) -> None:
        amounts = [
            change.get(column, 0)
            for column in (Holding.CHARGED, Holding.RESERVED, Holding.UNKNOWN, Holding.REFUNDED)
        ]
        self.connection.execute(
            "INSERT INTO totals VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (batch) DO UPDATE SET "
            "charged = charged + ?2, reserved = reserved + ?3, unknown = unknown + ?4, "
            "refunded = refunded + ?5",
            (batch, *amounts),
        )

    def _show_life(self) -> None:
        if self._read_only:
            raise LedgerError(f"ledger {self.path} was opened to be read only")
        try:
            self.owner.show_life()
        except OSError as error:
            raise opening.trouble(self.path, error) from None


def record_of(found: tuple[int, JobRecord] | None) -> JobRecord | None:
    """Drop the number of a job's row."""
    return None if found is None else found[1]
