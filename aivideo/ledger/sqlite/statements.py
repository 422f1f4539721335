"""The SQL statements of a ledger's steps."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from aivideo.ledger import budget
from aivideo.ledger.records import AttemptStatus
from aivideo.ledger.sqlite.rows import ATTEMPT, JOB
from aivideo.ledger.totals import HELD, holding


def _marks(columns: Collection[str]) -> str:
    return ", ".join("?" * len(columns))


def _assignments(columns: Iterable[str]) -> str:
    return ", ".join(f"{name} = ?" for name in columns)


ADD_JOB = (
    f"INSERT INTO jobs ({', '.join(JOB[1:])}) VALUES ({_marks(JOB[1:])}) ON CONFLICT DO NOTHING"
)
REPLACE_JOB = f"UPDATE jobs SET {_assignments(JOB[1:])} WHERE seq = ?"
UPDATE_JOB = "UPDATE jobs SET status = ?, waiting = ?, path = ?, size = ? WHERE seq = ?"
ADD_ATTEMPT = f"INSERT INTO attempts ({', '.join(ATTEMPT)}, job) VALUES ({_marks(ATTEMPT)}, ?)"
UPDATE_ATTEMPT = f"UPDATE attempts SET {_assignments(ATTEMPT)} WHERE job = ? AND number = ?"
ADD_CREDITS = (
    "INSERT INTO credit_totals (charged, reserved, unknown, refunded, unpriced, batch) "
    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (batch) DO UPDATE SET "
    "charged = charged + excluded.charged, reserved = reserved + excluded.reserved, "
    "unknown = unknown + excluded.unknown, "
    "refunded = refunded + excluded.refunded, unpriced = unpriced + excluded.unpriced"
)
UNPRICED_JOBS = (
    "SELECT DISTINCT jobs.id FROM attempts JOIN jobs ON jobs.seq = attempts.job "
    "WHERE attempts.reserved_millionths IS NULL AND attempts.status IN "
    f"({', '.join(repr(status.value) for status in AttemptStatus if holding(status) in HELD)}) "
    f"AND jobs.batch = ? ORDER BY attempts.job LIMIT {budget.NAMED}"
)

_JOINED = ", ".join([*(f"job.{name}" for name in JOB), *(f"attempts.{name}" for name in ATTEMPT)])


def select(where: str) -> str:
    """Return the query of jobs ``where``, each joined with its attempts, in order."""
    return (
        f"SELECT {_JOINED} FROM (SELECT {', '.join(JOB)} FROM jobs WHERE {where}) AS job "
        "LEFT JOIN attempts ON attempts.job = job.seq ORDER BY job.seq, attempts.number"
    )


IN_BATCH = "batch = ? AND batch <> '' AND"
"""The second condition, always true then, lets SQLite use the partial index ``jobs_by_batch``."""
