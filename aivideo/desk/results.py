"""What a desk returns, and why it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum

from attrs import field, frozen

from aivideo.errors import AIVideoError
from aivideo.ledger.audit import Finding
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals


class Refusal(StrEnum):
    """Why a desk refused an operation."""

    NO_SUCH_JOB = "no_such_job"
    NOTHING_TO_SETTLE = "nothing_to_settle"
    TASK_OF_ANOTHER_JOB = "task_of_another_job"
    NO_SUCH_TASK = "no_such_task"
    TASK_DOES_NOT_MATCH = "task_does_not_match"
    NOT_RETRYABLE = "not_retryable"
    MAY_PAY_AGAIN = "may_pay_again"
    PAID_ALREADY = "paid_already"
    TOO_FEW_READINGS = "too_few_readings"


class DeskError(AIVideoError):
    """An operation that a desk refused. No job was changed.

    Attributes:
        refusal: why, for programs.
        problem: why, in words.
        cure: what to do next, in terms of this API.
    """

    def __init__(self, refusal: Refusal, problem: str, cure: str) -> None:
        super().__init__(f"{problem}; {cure}")
        self.refusal = refusal
        self.problem = problem
        self.cure = cure


@frozen(kw_only=True)
class JobList:
    """A list of jobs, and the sums of the whole batch or ledger.

    Attributes:
        records: the listed jobs, those that need a person first.
        left: how many more jobs match and were cut off by ``limit``.
        counts: how many jobs have each status, listed or not.
        totals: credits by what became of them, in all jobs, listed or not.
    """

    records: tuple[JobRecord, ...]
    left: int
    counts: Mapping[JobStatus, int]
    totals: CreditTotals


@frozen(kw_only=True)
class Retry:
    """Jobs that are to be sent again, and what that costs.

    Attributes:
        records: the jobs: as they are now (:meth:`Desk.preview_retry`), or ``planned``, after they
            were marked (:meth:`Desk.retry`, :meth:`Desk.mark`).
        credits: what sending them again will charge, as far as prices are known.
        at_risk: credits of their earlier creates whose outcome is unknown: with ``pay_again=True``
            these may turn out to be charged as well.
        paid_before: credits that were charged for their earlier creates, and are not refunded:
            with ``pay_again=True`` the jobs are paid for twice.
        unpriced: how many of the jobs have no known price.
        unpriced_before: how many of their earlier creates that were charged, or may have been,
            have no known price.
    """

    records: tuple[JobRecord, ...]
    credits: Decimal
    at_risk: Decimal
    paid_before: Decimal = Decimal(0)
    unpriced: int
    unpriced_before: int = 0


@frozen(kw_only=True)
class FaultedJobs:
    """Jobs whose creates were answered by a documented 500 or 503, as an outage leaves them.

    Attributes:
        records: the jobs, all ``faulted``.
        attempts: what :meth:`Desk.settle_all` settles: ids of jobs, and numbers of attempts.
        credits: what is held for these creates, as far as prices are known.
        unpriced: how many of these creates have no known price.
        unknown: how many jobs sent within the same time have the status ``unknown``: they are not
            among ``records``, because nobody knows what the service answered.
    """

    records: tuple[JobRecord, ...]
    attempts: tuple[tuple[str, int], ...]
    credits: Decimal
    unpriced: int
    unknown: int


@frozen(kw_only=True)
class Cancellation:
    """What :meth:`Desk.cancel` did.

    Attributes:
        withdrawn: jobs that will not be sent. One that had failed or is in doubt has that status
            again; the others are ``withdrawn``.
        too_late: jobs that had left ``planned`` before; they are unchanged.
    """

    withdrawn: tuple[JobRecord, ...]
    too_late: tuple[JobRecord, ...]


@frozen(kw_only=True)
class Audit:
    """What the account's counter says about the jobs of a ledger.

    Attributes:
        finding: the comparison of two readings of the counter.
        in_doubt: the jobs with a create whose outcome is unknown.
        error: why the counter could not be read now, or None; then ``finding`` compares the
            readings that were stored before.
    """

    finding: Finding
    in_doubt: tuple[JobRecord, ...]
    error: AIVideoError | None = field(default=None)
