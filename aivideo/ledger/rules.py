"""The rules that all ledgers share, as pure functions."""

from __future__ import annotations

from attrs import evolve

from aivideo.errors import InvalidRequestError, LedgerError
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.totals import Holding, holding


def planned_again(earlier: JobRecord, job: JobRecord, *, replace: bool) -> JobRecord:
    """Say what ``earlier`` is when ``job`` is planned under its key: itself where nothing changes.

    A price that was not known, or was another, is the one that is stated now, as long as nothing
    is counted at the old one.

    Raises:
        InvalidRequestError: the key was used for another request, which is not to be replaced.
    """
    if earlier.fingerprint == job.fingerprint:
        held = {holding(attempt.status) for attempt in earlier.attempts}
        if job.credits in (None, earlier.credits) or not held <= {Holding.NONE, Holding.REFUNDED}:
            return earlier
        return evolve(earlier, request=job.request, credits=job.credits)
    if replace and is_untaken(earlier):
        return evolve(job, id=earlier.id, attempts=earlier.attempts)
    raise InvalidRequestError.because(
        "key", job.key, "was used for another request", "use a key per request"
    )


def same_job(known: JobRecord, job: JobRecord) -> JobRecord:
    """Give back ``known``, which has the id of ``job``, if it is that job.

    Raises:
        LedgerError: the id is another job's.
    """
    if (known.fingerprint, known.batch, known.key) != (job.fingerprint, job.batch, job.key):
        raise LedgerError(f"job {job.id} is written down already, and is another")
    return known


def is_untaken(job: JobRecord) -> bool:
    """Whether no POST of a job can have been taken, and none is on its way."""
    return job.status in (JobStatus.PLANNED, JobStatus.REFUSED) and not (
        job.doubts or any(attempt.task_id for attempt in job.attempts)
    )
