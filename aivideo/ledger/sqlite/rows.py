"""Jobs and attempts as rows, and back. Amounts are whole millionths of a credit.

Written out, not done by a cattrs converter: a converter takes 16 µs to read a job with one attempt,
this module 11 µs (6 µs of either rebuild the request), because a converter needs dictionaries and a
row is a tuple. ``benchmarks/ledger.py`` prints both figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson

from aivideo import models
from aivideo._amounts import of_millionths, to_millionths
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus, Reason
from aivideo.ledger.totals import CreditTotals
from aivideo.models import Request

JOB = (
    *("seq", "id", "batch", "key", "model", "input", "fingerprint", "credits_millionths"),
    *("callback_url", "status", "waiting", "resumable", "path", "size", "planned_at"),
)
"""The columns of a job. ``seq``, its row number, is not part of :func:`job_values`."""

ATTEMPT = (
    *("number", "status", "owner", "lease_until", "sent_at", "task_id", "reason"),
    *("created_at", "completed_at", "reserved_millionths"),
)
"""The columns of an attempt besides ``job``, the row number of its job."""


def millionths_or_none(amount: Decimal | None) -> int | None:
    """Return an amount as a column holds it."""
    return None if amount is None else to_millionths(amount)


def _amount(millionths: int | None) -> Decimal | None:
    return None if millionths is None else of_millionths(millionths)


def request_of(model: str, content: bytes, credits: Decimal | None) -> Request:  # noqa: A002
    """Rebuild a request from its row, at the price it had when it was recorded."""
    return models.kept_request(model, orjson.loads(content), credits=credits)


def job_values(job: JobRecord) -> tuple[Any, ...]:
    """Return the row of a job, without its row number."""
    request = job.request
    return (
        job.id,
        job.batch or "",
        job.key,
        request.model,
        orjson.dumps(request.input),
        job.fingerprint,
        millionths_or_none(job.credits),
        job.callback_url,
        job.status.value,
        job.waiting,
        job.resumable,
        job.path,
        job.size,
        job.planned_at,
    )


def job_of(joined: Sequence[tuple[Any, ...]]) -> JobRecord:
    """Return the job of rows that join it with its attempts, ordered by ``number``.

    A row has the columns :data:`JOB`, then :data:`ATTEMPT`; the latter are NULL, in the only row of
    a job, if it has no attempts.

    Raises:
        ValueError, TypeError, KeyError: a value is not one that this module writes.
    """
    row = joined[0]
    credits_ = _amount(row[7])
    return JobRecord(
        id=row[1],
        batch=row[2] or None,
        key=row[3],
        request=request_of(row[4], row[5], credits_),
        fingerprint=row[6],
        credits=credits_,
        callback_url=row[8],
        status=JobStatus(row[9]),
        waiting=bool(row[10]),
        resumable=bool(row[11]),
        path=row[12],
        size=row[13],
        planned_at=row[14],
        attempts=tuple([_attempt_of(each) for each in joined if each[15] is not None]),
    )


def attempt_values(attempt: Attempt) -> tuple[Any, ...]:
    """Return the row of an attempt, without its job."""
    why = attempt.reason
    return (
        attempt.number,
        attempt.status.value,
        attempt.owner,
        attempt.lease_until,
        attempt.sent_at,
        attempt.task_id,
        None if why is None else orjson.dumps([why.message, why.status, why.code]),
        attempt.created_at,
        attempt.completed_at,
        millionths_or_none(attempt.credits),
    )


def _attempt_of(row: tuple[Any, ...]) -> Attempt:
    reason = None
    if row[21] is not None:
        message, status, code = orjson.loads(row[21])
        reason = Reason(message=message, status=status, code=code)
    return Attempt(
        number=row[15],
        status=AttemptStatus(row[16]),
        owner=row[17],
        lease_until=row[18],
        sent_at=row[19],
        task_id=row[20],
        reason=reason,
        created_at=row[22],
        completed_at=row[23],
        credits=_amount(row[24]),
    )


def totals_of(row: Sequence[int]) -> CreditTotals:
    """Return the sums of a row: four amounts, and the number of unpriced attempts."""
    *amounts, unpriced = row
    charged, reserved, unknown, refunded = map(of_millionths, amounts)
    return CreditTotals(
        charged=charged,
        reserved=reserved,
        unknown=unknown,
        refunded=refunded,
        unpriced=unpriced,
    )
