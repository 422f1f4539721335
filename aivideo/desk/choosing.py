"""Which jobs a desk settles or has sent again, and what that may cost. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from aivideo._amounts import plain
from aivideo.desk.results import DeskError, FaultedJobs, Refusal, Retry
from aivideo.errors import ConfigurationError, ContradictionError
from aivideo.ledger import transitions
from aivideo.ledger.events import Retried
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus

# --- sending again ------------------------------------------------------------------------------


def check_retryable(job: JobRecord, event: Retried) -> None:
    """Check that a job may be sent again.

    Raises:
        DeskError: it may not.
    """
    try:
        transitions.apply(job, event)
    except ContradictionError:
        if job.status.is_in_doubt:
            raise DeskError(
                Refusal.MAY_PAY_AGAIN,
                f"job {job.id} is {job.status}: its create may have been charged",
                "settle it first, or pass pay_again=True",
            ) from None
        if job.status.is_taken and not event.pay_again:
            raise DeskError(
                Refusal.PAID_ALREADY,
                f"job {job.id} is {job.status}: its create was charged",
                "if its result cannot be had any more, pass pay_again=True to buy it again",
            ) from None
        raise DeskError(
            Refusal.NOT_RETRYABLE,
            f"job {job.id} is {job.status}",
            "a create is on its way: wait until it has ended"
            if not job.status.is_final
            else "only jobs that failed or were refused are sent again",
        ) from None


def summarized(records: Sequence[JobRecord]) -> Retry:
    """Return what sending some jobs again charges, and what was or may be charged before."""
    prices = [job.credits for job in records if job.credits is not None]
    earlier = [
        each for job in records for each in job.attempts if each.status.is_in_doubt or each.has_task
    ]
    return Retry(
        records=tuple(records),
        credits=_sum(prices),
        at_risk=_sum(each.credits for each in earlier if each.status.is_in_doubt),
        paid_before=_sum(each.credits for each in earlier if each.has_task),
        unpriced=len(records) - len(prices),
        unpriced_before=sum(each.credits is None for each in earlier),
    )


# --- settling what an outage left ---------------------------------------------------------------


def interval(start: object, end: object) -> tuple[float, float]:
    """Return the first and the last second of an interval, as Unix seconds.

    Args:
        start: a datetime; one without a time zone is local time.
        end: likewise, not before ``start``.

    Raises:
        ConfigurationError: one is not a datetime, or ``end`` is before ``start``.
    """
    for name, moment in (("start", start), ("end", end)):
        if not isinstance(moment, datetime):
            raise ConfigurationError.because(
                name, moment, "must be a datetime", "give datetime(2026, 1, 31, 9, 30), say"
            )
    assert isinstance(start, datetime)
    assert isinstance(end, datetime)
    first, last = start.timestamp(), end.timestamp()
    if last < first:
        raise ConfigurationError.because(
            "end", _utc(last), f"is before start={_utc(first)}", "give the earlier time first"
        )
    return first, last


def faulted_within(
    faulted: Iterable[JobRecord], unknown: Iterable[JobRecord], first: float, last: float
) -> FaultedJobs:
    """Return which jobs were sent within an interval and answered by a documented 500 or 503.

    Args:
        faulted: jobs whose status is ``faulted``.
        unknown: jobs whose status is ``unknown``: they are only counted.
        first: the first second of the interval, in Unix seconds.
        last: the last one.
    """
    records, attempts = [], []
    for job in faulted:
        latest = latest_in_doubt(job)
        if latest is not None and _is_within(latest, first, last):
            records.append(job)
            attempts += [(job.id, each) for each in job.attempts if _is_within(each, first, last)]
    left_out = [
        job
        for job in unknown
        if any(each.status.is_in_doubt and first <= each.sent_at <= last for each in job.attempts)
    ]
    return FaultedJobs(
        records=tuple(records),
        attempts=tuple([(job_id, each.number) for job_id, each in attempts]),
        credits=_sum(each.credits for _, each in attempts),
        unpriced=sum(each.credits is None for _, each in attempts),
        unknown=len(left_out),
    )


def latest_in_doubt(job: JobRecord) -> Attempt | None:
    """Return the latest attempt whose outcome is unknown, or None."""
    return next((each for each in reversed(job.attempts) if each.status.is_in_doubt), None)


def number_in_doubt(job: JobRecord) -> int:
    """Return the number of the latest attempt whose outcome is unknown.

    Raises:
        DeskError: there is none.
    """
    latest = latest_in_doubt(job)
    if latest is not None:
        return latest.number
    raise DeskError(
        Refusal.NOTHING_TO_SETTLE,
        f"job {job.id} is {job.status} and has nothing to settle",
        "another process is submitting it, or its lease has not expired"
        if job.status is JobStatus.SUBMITTING
        else "only creates whose outcome is unknown can be settled",
    )


def _is_within(attempt: Attempt, first: float, last: float) -> bool:
    return attempt.status is AttemptStatus.FAULTED and first <= attempt.sent_at <= last


def _sum(amounts: Iterable[Decimal | None]) -> Decimal:
    return plain(sum((each for each in amounts if each is not None), Decimal(0)))


def _utc(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
