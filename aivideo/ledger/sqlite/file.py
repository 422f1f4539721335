"""One connection to a ledger's file, and the steps taken in its transactions.

One thread at a time may use it. The file is long because all that reads or writes a row is here:
what a transaction has written, and what is remembered of it, must agree.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

from aivideo._amounts import exact, of_millionths, to_millionths
from aivideo.errors import AIVideoError, LedgerError
from aivideo.ledger import rules
from aivideo.ledger.audit import Reading
from aivideo.ledger.events import Event, Taken
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.sqlite import opening, statements
from aivideo.ledger.sqlite.owner import Owner
from aivideo.ledger.sqlite.rows import attempt_values, job_of, job_values, totals_of
from aivideo.ledger.totals import (
    NOTHING,
    CreditTotals,
    Holding,
    credits_moved,
    unpriced_moved,
)
from aivideo.models import Credits, Generation, TaskId

PAGE = 200
"""Jobs per read."""

KNOWN = 1024
"""Records kept in memory, those that were claimed or changed last."""


_COLUMNS = (Holding.CHARGED, Holding.RESERVED, Holding.UNKNOWN, Holding.REFUNDED)
_NO_CREDITS = CreditTotals()


Step: TypeAlias = "Callable[[LedgerFile], object]"
"""What is done inside a transaction."""


class _StepError(Exception):
    """One step cannot be taken; ``__cause__`` says why, ``place`` which one it is."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


class LedgerFile:
    """The connection. Its methods are steps, to be taken inside :meth:`group`.

    Args:
        path: the file; created if it does not exist.
        now: returns Unix seconds.
        read_only: never write, not even a lock.

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
        self.path: Path = Path(path)
        # Resolved once: the lock files must be found whatever symbolic links other processes
        # follow, and after a change of the working directory.
        real = Path(os.path.realpath(path))
        self.owner: Owner = Owner(real)
        self.patience: opening.Patience = opening.Patience()
        self._now = now
        self._read_only = read_only
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        # Kept in memory while nobody else commits: records by id, and the ceilings and totals of
        # batches (without a ceiling, claims need no totals).
        self._known: dict[str, tuple[int, JobRecord]] = {}
        self._budgets: dict[str, tuple[Decimal | None, CreditTotals]] = {}
        self._data_version: int | None = None
        self._unsummed: dict[str, dict[Holding, Decimal]] = {}
        self._uncounted: Counter[str] = Counter()  # attempts without a known price, by batch
        self._gone: set[str] = set()
        opening.refuse_shared_disk(self.path)
        try:
            self.connection: sqlite3.Connection = opening.connect(
                real, named=self.path, read_only=read_only
            )
        except (sqlite3.Error, OSError) as error:
            raise opening.trouble(self.path, error) from None
        try:
            opening.patiently(
                self.connection,
                lambda: opening.prepare(self.connection, self.path, read_only=read_only),
                self.patience,
            )
            if read_only:
                self.connection = opening.newest(self.connection)
        except sqlite3.Error as error:
            self.connection.close()
            raise opening.trouble(self.path, error) from None
        except LedgerError:
            self.connection.close()
            raise

    def group(self, steps: Sequence[Step]) -> list[object]:
        """Take all steps in one transaction; return each one's result, or the error it raised.

        A step that raises an :class:`~aivideo.AIVideoError` has written nothing: it checks before
        it writes. A step with a value that SQLite cannot store (a wrong type, a text that is not
        UTF-8, a number that is too large) fails alone: the transaction is rolled back, and the
        other steps are taken in another one.

        Raises:
            LedgerError: the transaction was not committed.
        """
        refused: dict[int, LedgerError] = {}
        while True:
            numbers = [number for number in range(len(steps)) if number not in refused]
            try:
                done = self._in_one([steps[number] for number in numbers])
            except _StepError as error:
                refused[numbers[error.place]] = self._cannot_hold(error.__cause__)
            except LedgerError:
                raise
            except Exception as error:  # what the steps together add to the totals
                if len(steps) == 1:
                    return [self._cannot_hold(error)]
                return [self._alone(step) for step in steps]
            else:
                results = refused | dict(zip(numbers, done, strict=True))
                return [results[number] for number in range(len(steps))]

    def _alone(self, step: Step) -> object:
        try:
            return self.group([step])[0]
        except LedgerError as error:
            return error

    def _cannot_hold(self, error: BaseException | None) -> LedgerError:
        return LedgerError(f"ledger {self.path} cannot hold this: {error}")

    def _in_one(self, steps: Sequence[Step]) -> list[object]:
        """Take steps in one transaction.

        Raises:
            _StepError: one of them cannot be taken; nothing was committed.
            LedgerError: none of them can: the disk is full, the file locked or damaged.
        """
        results: list[object] = []
        run = self.connection.execute
        try:
            opening.patiently(self.connection, lambda: run(self._begin), self.patience)
            self._forget_if_changed()
            for step in steps:
                results.append(self._result_of(step, len(results)))
            self._add_credits()
            run("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise opening.trouble(self.path, error) from None
        except BaseException:
            self._roll_back()
            raise
        # Not before the commit: until then their files must show that they have ended.
        self.owner.remove_files_of(self._gone)
        self._gone.clear()
        return results

    def _result_of(self, step: Step, place: int) -> object:
        try:
            return step(self)
        except AIVideoError as error:
            return error
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not opening.is_of_one_step(error):
                raise
            raise _StepError(place) from error

    def _roll_back(self) -> None:
        self._forget()
        self._gone.clear()
        self._unsummed.clear()
        self._uncounted.clear()
        with suppress(sqlite3.Error):
            self.connection.execute("ROLLBACK")

    def _forget(self) -> None:
        self._known.clear()
        self._budgets.clear()

    def _forget_if_changed(self) -> None:
        """Forget what is in memory if another connection has committed since it was read."""
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        if version != self._data_version:
            self._forget()
            self._data_version = version

    def close(self) -> None:
        """Close. Claims that were not ended may be found by other owners' lapse() from now on."""
        claims_left = self.owner.shows_life and self._has_claims()
        self.connection.close()
        self.owner.leave(claims_left=claims_left)

    def _has_claims(self) -> bool:
        """Return whether claims of this owner were not ended, or that cannot be read."""
        query = "SELECT count(*) FROM attempts WHERE status = 'submitting' AND owner = ?"
        try:
            (count,) = self.connection.execute(query, (self.owner.name,)).fetchone()
        except sqlite3.Error:
            return True
        return bool(count)

    # --- steps ------------------------------------------------------------------------------

    def plan(self, job: JobRecord, *, replace: bool) -> JobRecord:
        """Record a job, or return the one of the same id or key."""
        # Mostly the job is new: try to add it before looking for another one.
        added = self.connection.execute(statements.ADD_JOB, job_values(job))
        if added.rowcount:
            # A Generation holds a dict: what is sent must be what was written, so it is read again.
            if added.lastrowid is not None and not isinstance(job.request, Generation):
                self._remember(added.lastrowid, job)
            return job
        same_id = self._one("id = ?", (job.id,))
        same_key = None
        if job.key is not None:
            same_key = self._one("batch = ? AND key = ?", (job.batch or "", job.key))
        planned = rules.plan(
            job, same_id=record_of(same_id), same_key=record_of(same_key), replace=replace
        )
        if same_id is None and same_key is not None and planned is not same_key[1]:
            self.connection.execute(statements.REPLACE_JOB, (*job_values(planned), same_key[0]))
            self._known.pop(planned.id, None)
        return planned

    def claim(self, job_id: str, *, lease: float, retry_faulted: bool) -> JobRecord | None:
        """Compare and set: from planned (or faulted, if allowed) to submitting."""
        seq, job = self._job(job_id)
        ceiling, totals = self._budget(job.batch)
        claimed = rules.claim(
            job,
            owner=self.owner.name,
            lease=lease,
            now=self._now(),
            totals=totals,
            ceiling=ceiling,
            retry_faulted=retry_faulted,
            unpriced_jobs=()
            if ceiling is None or not totals.unpriced
            else self._unpriced_jobs(job.batch),
        )
        if claimed is None:
            return None
        self._show_life()
        return self._write(seq, job, claimed)

    def record(self, job_id: str, event: Event, attempt: int | None) -> JobRecord:
        """Record what happened to a job."""
        seq, job = self._job(job_id)
        holder = self._holder_of(event.task_id) if isinstance(event, Taken) else None
        return self._write(seq, job, rules.record(job, event, attempt, holder_of_task=holder))

    def lapse(self) -> list[JobRecord]:
        """Record unknown for abandoned claims."""
        now = self._now()
        rows = self.connection.execute(
            "SELECT job, owner FROM attempts WHERE status = 'submitting' AND owner <> ?",
            (self.owner.name,),
        ).fetchall()
        gone = {owner for owner in {row[1] for row in rows} if self.owner.is_gone(owner)}
        lapsed = []
        for seq in sorted({row[0] for row in rows}):
            _, job = self._required("seq = ?", (seq,), f"row {seq}")
            after = rules.lapse(job, owner=self.owner.name, now=now, gone=gone)
            if after is not job:
                lapsed.append(self._write(seq, job, after))
        self._gone |= gone
        return lapsed

    def set_ceiling(self, batch: str, credits: Decimal | None) -> None:  # noqa: A002
        """Store or remove a batch's ceiling."""
        run = self.connection.execute
        self._budgets.pop(batch, None)
        if credits is None:
            run("DELETE FROM ceilings WHERE batch = ?", (batch,))
        else:
            run(
                "INSERT INTO ceilings (batch, credits_millionths) VALUES (?, ?) "
                "ON CONFLICT (batch) DO UPDATE "
                "SET credits_millionths = excluded.credits_millionths",
                (batch, to_millionths(exact(credits))),
            )

    def ceiling(self, batch: str) -> Decimal | None:
        """Return a batch's ceiling in credits, or None."""
        row = self.connection.execute(
            "SELECT credits_millionths FROM ceilings WHERE batch = ?", (batch,)
        ).fetchone()
        return None if row is None else of_millionths(row[0])

    def _budget(self, batch: str | None) -> tuple[Decimal | None, CreditTotals]:
        """Return the ceiling of a batch, and its totals if it has one."""
        if batch is None:
            return None, _NO_CREDITS
        if batch not in self._budgets:
            ceiling = self.ceiling(batch)
            totals = _NO_CREDITS if ceiling is None else self.totals(batch)
            self._budgets[batch] = ceiling, totals
        return self._budgets[batch]

    def _unpriced_jobs(self, batch: str | None) -> list[str]:
        """Name a few jobs that count in ``unpriced``."""
        rows = self.connection.execute(statements.UNPRICED_JOBS, (batch or "",))
        return [row[0] for row in rows]

    def find(self, job_id: str) -> JobRecord | None:
        """Find a job by its id."""
        return record_of(self._one("id = ?", (job_id,)))

    def find_key(self, batch: str | None, key: str) -> JobRecord | None:
        """Find a job by its batch and key."""
        return record_of(self._one("batch = ? AND key = ?", (batch or "", key)))

    def find_task(self, task_id: TaskId) -> JobRecord | None:
        """Find a job by the task of any of its attempts."""
        return record_of(
            self._one("seq = (SELECT job FROM attempts WHERE task_id = ?)", (task_id,))
        )

    def page(
        self, after: int, batch: str | None, statuses: Collection[JobStatus]
    ) -> list[tuple[int, JobRecord]]:
        """Read the next jobs after row number ``after``."""
        if batch is None and not statuses:
            return self._many(f"seq > ? ORDER BY seq LIMIT {PAGE}", (after,))
        # One short walk of an index per status: the few unfinished jobs among a million are found
        # without reading the others.
        within: tuple[str, ...] = () if batch is None else (batch,)
        in_batch = statements.IN_BATCH if within else ""
        each = (
            f"SELECT * FROM (SELECT seq FROM jobs WHERE {in_batch} status = ? "
            f"AND seq > ? ORDER BY seq LIMIT {PAGE})"
        )
        walks = [(*within, status.value, after) for status in statuses or JobStatus]
        union = " UNION ALL ".join([each] * len(walks))
        return self._many(f"seq IN ({union}) ORDER BY seq LIMIT {PAGE}", chain(*walks))

    def counts(self, batch: str | None) -> dict[JobStatus, int]:
        """Count jobs by status."""
        where, values = (
            ("", ()) if batch is None else (f"WHERE {statements.IN_BATCH} true", (batch,))
        )
        rows = self.connection.execute(
            f"SELECT status, count(*) FROM jobs {where} GROUP BY status", values
        )
        return {JobStatus(status): count for status, count in rows}

    def totals(self, batch: str | None) -> CreditTotals:
        """Sum credits; None: of all batches."""
        where, values = ("", ()) if batch is None else ("WHERE batch = ?", (batch,))
        row = self.connection.execute(
            "SELECT coalesce(sum(charged), 0), coalesce(sum(reserved), 0), "
            "coalesce(sum(unknown), 0), coalesce(sum(refunded), 0), coalesce(sum(unpriced), 0) "
            f"FROM credit_totals {where}",
            values,
        ).fetchone()
        totals = totals_of(row)
        for moved_in, change in self._unsummed.items():
            if batch in (None, moved_in):
                totals = totals.plus(change, self._uncounted[moved_in])
        return totals

    def note_credits(self, account: Credits) -> Reading:
        """Store a reading."""
        reading = Reading(self._now(), account, self.totals(None))
        sums = reading.ledger
        amounts = (
            *(account.balance, account.total_purchased, account.total_consumed),
            *(sums.charged, sums.reserved, sums.unknown, sums.refunded),
        )
        self.connection.execute(
            "INSERT INTO account_readings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (reading.at, *map(to_millionths, amounts), sums.unpriced),
        )
        return reading

    def readings(self) -> list[Reading]:
        """List the readings, the oldest first."""
        rows = self.connection.execute("SELECT * FROM account_readings ORDER BY rowid")
        return [
            Reading(
                at,
                Credits(
                    balance=of_millionths(balance),
                    total_purchased=of_millionths(purchased),
                    total_consumed=of_millionths(consumed),
                ),
                totals_of(sums),
            )
            for at, balance, purchased, consumed, *sums in rows
        ]

    # --- rows -------------------------------------------------------------------------------

    def _many(self, where: str, values: Iterable[Any]) -> list[tuple[int, JobRecord]]:
        rows = self.connection.execute(statements.select(where), tuple(values)).fetchall()
        found = []
        for seq, joined in groupby(rows, itemgetter(0)):
            try:
                found.append((seq, job_of(list(joined))))
            except (ValueError, TypeError, KeyError) as error:
                raise opening.damaged(self.path, f"row {seq}: {error!r}") from None
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
        known = self._known.get(job_id)
        return self._required("id = ?", (job_id,), job_id) if known is None else known

    def _remember(self, seq: int, job: JobRecord) -> None:
        """Keep a record that this connection has just written: its next event follows soon."""
        self._known.pop(job.id, None)
        self._known[job.id] = seq, job
        if len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]

    def _holder_of(self, task_id: TaskId) -> str | None:
        row = self.connection.execute(
            "SELECT jobs.id FROM attempts JOIN jobs ON jobs.seq = attempts.job "
            "WHERE attempts.task_id = ?",
            (task_id,),
        ).fetchone()
        return None if row is None else str(row[0])

    def _write(self, seq: int, before: JobRecord, after: JobRecord) -> JobRecord:
        if after is before:
            return after
        run = self.connection.execute
        run(statements.UPDATE_JOB, (after.status.value, after.waiting, after.path, after.size, seq))
        known = {attempt.number: attempt for attempt in before.attempts}
        for attempt in after.attempts:
            earlier = known.get(attempt.number)
            if earlier is None:
                run(statements.ADD_ATTEMPT, (*attempt_values(attempt), seq))
            elif earlier is not attempt:
                run(statements.UPDATE_ATTEMPT, (*attempt_values(attempt), seq, attempt.number))
        self._move_credits(
            after.batch or "", credits_moved(before, after), unpriced_moved(before, after)
        )
        self._remember(seq, after)
        return after

    def _move_credits(self, batch: str, change: Mapping[Holding, Decimal], unpriced: int) -> None:
        unsummed = self._unsummed.setdefault(batch, {})
        for column, amount in change.items():
            unsummed[column] = unsummed.get(column, NOTHING) + amount
        self._uncounted[batch] += unpriced
        ceiling, totals = self._budgets.get(batch, (None, _NO_CREDITS))
        if ceiling is not None:
            self._budgets[batch] = ceiling, totals.plus(change, unpriced)

    def _add_credits(self) -> None:
        """Add what this transaction has moved to the stored totals: once, not with each event."""
        for batch, change in self._unsummed.items():
            unpriced = self._uncounted[batch]
            if change or unpriced:
                amounts = [to_millionths(change.get(column, NOTHING)) for column in _COLUMNS]
                self.connection.execute(statements.ADD_CREDITS, (*amounts, unpriced, batch))
        self._unsummed.clear()
        self._uncounted.clear()

    def _show_life(self) -> None:
        if self._read_only:
            raise LedgerError(f"ledger {self.path} was opened to be read only")
        try:
            self.owner.show_life()
        except OSError as error:
            raise opening.trouble(self.path, error) from None


def record_of(found: tuple[int, JobRecord] | None) -> JobRecord | None:
    """Drop the row number of a job."""
    return None if found is None else found[1]
