"""What plan, claim, record and lapse do to records: the rules that all ledgers share.

Pure functions from what a ledger has read to what it must write. A ledger reads, calls one of these
and writes the result, all in one transaction; if the result is the record it passed in, there is
nothing to write.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from decimal import Decimal

from attrs import evolve

from aivideo.errors import ContradictionError, InvalidRequestError, LedgerError
from aivideo.ledger import budget, events
from aivideo.ledger.events import Claimed, Event, Taken
from aivideo.ledger.records import AttemptStatus, JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals, Holding, holding
from aivideo.ledger.transitions import apply


def plan(
    job: JobRecord, *, same_id: JobRecord | None, same_key: JobRecord | None, replace: bool
) -> JobRecord:
    """Return the record to keep when ``job`` is planned.

    Args:
        job: the new job.
        same_id: the record that has its id, or None.
        same_key: the record that has its batch and key, or None, also if it has no key.
        replace: whether it may replace the request of ``same_key``, if that was never taken.

    Returns:
        ``job`` (add it), ``same_id`` or ``same_key`` (nothing changes), or else a record with the
        id of ``same_key``, which it replaces.

    Raises:
        InvalidRequestError: the key was used for another request, which may not be replaced.
        LedgerError: the id belongs to another job.
    """
    if same_id is not None:
        return same_job(same_id, job)
    if same_key is not None:
        return planned_again(same_key, job, replace=replace)
    return job


def planned_again(earlier: JobRecord, job: JobRecord, *, replace: bool) -> JobRecord:
    """Return what ``earlier`` becomes when ``job`` is planned under its key.

    That is ``earlier`` itself if nothing changes. A withdrawn job is planned again, also for
    another request: nothing was taken. Otherwise the price becomes the one stated now, as long as
    no credits are counted at the old one; and a job that is resumable for either is resumable.

    Raises:
        InvalidRequestError: the key was used for another request, which may not be replaced.
    """
    if earlier.status is JobStatus.WITHDRAWN or (
        replace and earlier.fingerprint != job.fingerprint and is_untaken(earlier)
    ):
        return evolve(job, id=earlier.id, attempts=earlier.attempts)
    if earlier.fingerprint != job.fingerprint:
        raise InvalidRequestError.because(
            "key", job.key, "was used for another request", "use a key per request"
        )
    again = earlier
    held = {holding(attempt.status) for attempt in earlier.attempts}
    if job.credits not in (None, earlier.credits) and held <= {Holding.NONE, Holding.REFUNDED}:
        again = evolve(again, request=job.request, credits=job.credits)
    if job.resumable and not earlier.resumable:
        again = evolve(again, resumable=True)
    return again


def same_job(known: JobRecord, job: JobRecord) -> JobRecord:
    """Return ``known``, which has the id of ``job``, if it is that job.

    Raises:
        LedgerError: the id belongs to another job.
    """
    if (known.fingerprint, known.batch, known.key) != (job.fingerprint, job.batch, job.key):
        raise LedgerError(f"the id {job.id} belongs to another job of the ledger")
    return known


def is_untaken(job: JobRecord) -> bool:
    """Return whether no POST of a job can have been taken, and none is on its way."""
    return job.status in (JobStatus.PLANNED, JobStatus.REFUSED, JobStatus.WITHDRAWN) and not (
        job.doubts or any(attempt.task_id for attempt in job.attempts)
    )


def claim(
    job: JobRecord,
    *,
    owner: str,
    lease: float,
    now: float,
    totals: CreditTotals,
    ceiling: Decimal | None,
    retry_faulted: bool = False,
    unpriced_jobs: Sequence[str] = (),
) -> JobRecord | None:
    """Return the job with a new attempt, its price reserved; None if it is not ``planned``.

    Args:
        job: the job.
        owner: the ledger handle that claims it.
        lease: seconds after which the claim counts as abandoned.
        now: Unix seconds.
        totals: the credits of its batch so far.
        ceiling: the stored ceiling of its batch, in credits; None: there is none.
        retry_faulted: whether a ``faulted`` job is claimed too. The retry is recorded by this claim
            and by nothing before it, so that nobody else repeats a POST that may have been charged.
        unpriced_jobs: ids of jobs of its batch that count in ``totals.unpriced``, for the error.

    Raises:
        BudgetExceededError: its price would pass the ceiling, or is not known under one; or an
            earlier attempt of the batch, without a known price, is charged, reserved or unknown.
    """
    if not (job.status is JobStatus.PLANNED or (retry_faulted and job.status is JobStatus.FAULTED)):
        return None
    if ceiling is not None:
        budget.admit(
            job.request.model,
            job.credits,
            held=totals.held,
            ceiling=ceiling,
            unpriced=totals.unpriced,
            unpriced_jobs=unpriced_jobs,
        )
    claimed = Claimed(owner=owner, lease_until=now + lease, at=now, retry_faulted=retry_faulted)
    return apply(job, claimed)


def record(
    job: JobRecord, event: Event, attempt: int | None, *, holder_of_task: str | None
) -> JobRecord:
    """Return the job after an event; ``job`` itself if that changes nothing.

    Args:
        job: the job.
        event: what happened.
        attempt: the number of the attempt it happened to; None: the latest.
        holder_of_task: the id of the job that has the event's task already, or None. Only looked at
            if the event is ``Taken``.

    Raises:
        ContradictionError: the event contradicts the record, or its task belongs to another job.
        LedgerError: there is no such attempt.
    """
    if isinstance(event, Taken) and holder_of_task not in (None, job.id):
        raise ContradictionError(f"task {event.task_id} belongs to job {holder_of_task} already")
    return apply(job, event, attempt)


def lapse(job: JobRecord, *, owner: str, now: float, gone: Collection[str] = ()) -> JobRecord:
    """Return the job with its abandoned attempts ``unknown``; ``job`` itself if it has none.

    Abandoned is an attempt that is ``submitting`` for another owner, if its lease has expired or
    that owner is gone.

    Args:
        job: the job.
        owner: the ledger handle that asks: its own claims do not lapse for it.
        now: Unix seconds.
        gone: owners whose processes have certainly ended.
    """
    for attempt in job.attempts:
        expired = attempt.lease_until < now or attempt.owner in gone
        if attempt.status is AttemptStatus.SUBMITTING and attempt.owner != owner and expired:
            job = apply(job, events.ABANDONED, attempt.number)
    return job
