"""What the jobs of a ledger contribute to an audit, as values for :mod:`aivideo.ledger.audit`."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from aivideo.ledger.audit import SETTLING_TIME, Doubt, Finding, Reading, conclude
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord
from aivideo.ledger.totals import Holding, holding


def is_evidence(attempt: Attempt) -> bool:
    """Return whether an attempt that is not in doubt may have moved the counter by itself.

    That is one whose task runs (it may have been refunded meanwhile), or whose price is not known.
    """
    if attempt.status is AttemptStatus.RUNNING:
        return True
    column = holding(attempt.status)
    return attempt.credits is None and column not in (Holding.NONE, Holding.UNKNOWN)


def compare(
    readings: Sequence[Reading],
    in_doubt: Sequence[JobRecord],
    others: Sequence[Attempt],
    *,
    failed_since: Decimal,
) -> Finding:
    """Compare the last reading with the one that says most about what is unknown.

    Args:
        readings: all of them, the oldest first.
        in_doubt: the jobs with a create whose outcome is unknown.
        others: the attempts that :func:`is_evidence` names.
        failed_since: credits of tasks of which the failure was recorded after the last reading.
    """
    now = readings[-1]
    doubts = [
        Doubt(attempt.sent_at, attempt.credits)
        for job in in_doubt
        for attempt in job.attempts
        if attempt.status.is_in_doubt
    ]
    # Start from the last reading before the first unknown create: earlier refunds and other
    # people's spending then do not blur the result. A reading taken while a create was in flight
    # says less, because the counter may or may not have included it.
    first = min((each.sent_at for each in doubts), default=0.0)
    quiet = [each for each in readings[:-1] if each.at <= first and not each.ledger.reserved]
    since = quiet[-1] if quiet else readings[0]
    running = [each for each in others if each.status is AttemptStatus.RUNNING]
    # Of those without a known price: tasks that run (they may have been refunded since), and POSTs
    # that may have been counted after the earlier reading.
    unpriced = [
        each
        for each in others
        if each.credits is None
        and (each.status is AttemptStatus.RUNNING or each.sent_at > since.at - SETTLING_TIME)
    ]
    return conclude(
        since,
        now,
        doubts=doubts,
        refunds_unseen=sum((each.credits or Decimal(0) for each in running), failed_since),
        unpriced=len(unpriced),
    )
