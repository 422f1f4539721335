"""Jobs and attempts as rows, and back."""

from __future__ import annotations

from typing import Any

import orjson

from aivideo import models
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus, Reason

JOB = (
    "seq, id, batch, key, model, input, stated_credits, fingerprint, credits, callback_url, "
    "status, waiting, path, size, planned_at"
)
ATTEMPT = "number, status, owner, lease_until, sent_at, task_id, reason, created_at, completed_at"
TOTALS = "charged, reserved, unknown, refunded"


def job_values(job: JobRecord) -> tuple[Any, ...]:
    """Make the row of a job, without its number."""
    request = job.request
    return (
        job.id,
        job.batch or "",
        job.key,
        request.model,
        orjson.dumps(request.input),
        getattr(request, "stated_credits", None),
        job.fingerprint,
        job.credits,
        job.callback_url,
        job.status.value,
        job.waiting,
        job.path,
        job.size,
        job.planned_at,
    )


def job_of(row: tuple[Any, ...], attempts: tuple[Attempt, ...]) -> JobRecord:
    """Make a job of its row and its attempts."""
    return JobRecord(
        id=row[1],
        batch=row[2] or None,
        key=row[3],
        request=models.kept_request(row[4], orjson.loads(row[5]), stated_credits=row[6]),
        fingerprint=row[7],
        credits=row[8],
        callback_url=row[9],
        status=JobStatus(row[10]),
        waiting=bool(row[11]),
        path=row[12],
        size=row[13],
        planned_at=row[14],
        attempts=attempts,
    )


def attempt_values(attempt: Attempt) -> tuple[Any, ...]:
    """Make the row of an attempt, without its job."""
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
    )


def attempt_of(row: tuple[Any, ...]) -> Attempt:
    """Make an attempt of its row."""
    reason = None
    if row[6] is not None:
        message, status, code = orjson.loads(row[6])
        reason = Reason(message=message, status=status, code=code)
    return Attempt(
        number=row[0],
        status=AttemptStatus(row[1]),
        owner=row[2],
        lease_until=row[3],
        sent_at=row[4],
        task_id=row[5],
        reason=reason,
        created_at=row[7],
        completed_at=row[8],
    )
