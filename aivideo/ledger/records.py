"""What a ledger knows of a job: its record, its attempts and their statuses.

A job is one request of the user. An attempt is one POST of it, with its own row, its own callback
token and its own credits. What may happen to a job is listed in :mod:`aivideo.ledger.events`; what
follows from it is decided in :mod:`aivideo.ledger.transitions`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache

from attrs import field, frozen

from aivideo import _amounts
from aivideo._redaction import scrub
from aivideo.errors import LedgerError
from aivideo.models import CompletedTask, FailedTask, Request, TaskFailure, TaskId


class JobStatus(StrEnum):
    """The status of a job: that of its most promising attempt, ``planned`` or ``withdrawn``."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    RUNNING = "running"
    COMPLETED = "completed"
    SAVED = "saved"
    FAILED = "failed"
    REFUSED = "refused"
    FAULTED = "faulted"
    UNKNOWN = "unknown"
    WITHDRAWN = "withdrawn"

    @classmethod
    def in_doubt(cls) -> tuple[JobStatus, ...]:
        """Statuses of jobs that may or may not have been charged."""
        return (cls.UNKNOWN, cls.FAULTED)

    @classmethod
    def sendable(cls) -> tuple[JobStatus, ...]:
        """Statuses of jobs that wait for their POST, or whose POST is under way."""
        return (cls.PLANNED, cls.SUBMITTING)

    @classmethod
    def retryable(cls) -> tuple[JobStatus, ...]:
        """Statuses of jobs that may be sent again when asked, without paying twice."""
        return (cls.FAILED, cls.REFUSED)

    @property
    def is_in_doubt(self) -> bool:
        """Whether such a job may or may not have been charged: unknown or faulted."""
        return self in (JobStatus.UNKNOWN, JobStatus.FAULTED)

    @property
    def is_sendable(self) -> bool:
        """Whether such a job waits for its POST, or its POST is under way."""
        return self in (JobStatus.PLANNED, JobStatus.SUBMITTING)

    @property
    def is_retryable(self) -> bool:
        """Whether such a job may be sent again when asked, without paying twice."""
        return self in (JobStatus.FAILED, JobStatus.REFUSED)

    @property
    def is_taken(self) -> bool:
        """Whether such a job has a task that was charged and not refunded."""
        return self in (JobStatus.RUNNING, JobStatus.COMPLETED, JobStatus.SAVED)

    @property
    def is_final(self) -> bool:
        """Whether such a job has ended for good: saved, failed, refused or withdrawn."""
        return self in (
            JobStatus.SAVED,
            JobStatus.FAILED,
            JobStatus.REFUSED,
            JobStatus.WITHDRAWN,
        )


class AttemptStatus(StrEnum):
    """The status of one POST of a job."""

    SUBMITTING = "submitting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    RELEASED = "released"
    REFUSED = "refused"
    FAULTED = "faulted"
    UNKNOWN = "unknown"

    @property
    def is_in_doubt(self) -> bool:
        """Whether such a POST may or may not have been charged: unknown or faulted."""
        return self in (AttemptStatus.UNKNOWN, AttemptStatus.FAULTED)

    @property
    def is_open(self) -> bool:
        """Whether such a POST is on its way, or its task exists."""
        return self in (
            AttemptStatus.SUBMITTING,
            AttemptStatus.RUNNING,
            AttemptStatus.COMPLETED,
        )


_exact = lru_cache(maxsize=1024, typed=True)(_amounts.exact)
"""Records are rebuilt with every event, and a ledger knows few prices: checked once each."""


def amount(value: object) -> Decimal | None:
    """Return credits as an exact Decimal; None stays None: not known.

    Raises:
        ValueError: see :func:`aivideo._amounts.exact`.
    """
    return None if value is None else _exact(value)


@frozen(kw_only=True)
class Reason:
    """Why an attempt has no result, without API keys and signed queries.

    Attributes:
        message: one line.
        status: the HTTP status, or None where there was no answer.
        code: the service's code, or None.
    """

    message: str
    status: int | None = None
    code: str | None = None


PAID_AGAIN = Reason(
    message="its result could not be had, and the job was paid for again", code="paid_again"
)
"""The reason of an attempt that has a task, and was replaced by a later attempt all the same."""


@frozen(kw_only=True)
class Attempt:
    """One POST of a job.

    Attributes:
        number: 1 for the first.
        status: its status.
        owner: the ledger handle (one per process) that claimed it.
        lease_until: Unix seconds after which a ``submitting`` attempt counts as abandoned.
        sent_at: Unix seconds at which it was claimed, by our clock.
        task_id: the task it became, or None.
        reason: why it has no result, or None.
        created_at: when its task was made: Unix seconds by the service's clock, known once the
            task has ended; or None.
        completed_at: when its task completed, likewise.
        credits: the amount reserved when it was claimed, or None where the price was not known.
            This is what is charged, freed or refunded, whatever the job's price is by then.
    """

    number: int
    status: AttemptStatus = AttemptStatus.SUBMITTING
    owner: str = ""
    lease_until: float = 0.0
    sent_at: float = 0.0
    task_id: TaskId | None = None
    reason: Reason | None = None
    created_at: float | None = None
    completed_at: float | None = None
    credits: Decimal | None = field(default=None, converter=amount)

    @property
    def is_replaced(self) -> bool:
        """Whether the job was paid for again although this attempt has a task."""
        return self.reason is not None and self.reason.code == PAID_AGAIN.code and self.has_task

    @property
    def has_task(self) -> bool:
        """Whether it has a task that was charged and not refunded: running or completed."""
        return self.status in (AttemptStatus.RUNNING, AttemptStatus.COMPLETED)


@frozen(kw_only=True)
class JobRecord:
    """What a ledger knows of a job.

    Attributes:
        id: the ID this package gave the job.
        request: what is to be made.
        fingerprint: hash of the request's content (:func:`aivideo.models.fingerprint`).
        credits: its price, or None where the price is not known. Attempts keep the price at which
            they were claimed.
        batch: the batch it belongs to, or None.
        key: the user's name for it, unique within its batch; or None.
        callback_url: the user's own callback URL, sent unchanged; or None.
        status: its status, derived from ``waiting``, ``attempts`` and ``path``.
        waiting: whether it waits to be POSTed.
        attempts: its POSTs, the oldest first.
        path: where its file was saved, or None.
        size: that file's size in bytes, or None.
        planned_at: Unix seconds at which it was recorded, by our clock.
        resumable: whether ``Session.resume()`` may send it while it is planned. False for jobs with
            a key or a batch (their own call sends those) unless they were enqueued.
    """

    id: str
    request: Request
    fingerprint: str
    credits: Decimal | None = field(default=None, converter=amount)
    batch: str | None = None
    key: str | None = None
    callback_url: str | None = field(default=None, repr=lambda url: scrub(repr(url)))
    status: JobStatus = JobStatus.PLANNED
    waiting: bool = True
    attempts: tuple[Attempt, ...] = ()
    path: str | None = None
    size: int | None = None
    planned_at: float = 0.0
    resumable: bool = False

    @property
    def best(self) -> Attempt | None:
        """The attempt that decides the job's status; None while the job waits to be sent."""
        return None if self.status is JobStatus.PLANNED else most_promising(self.attempts)

    @property
    def latest(self) -> int:
        """The number of its latest POST; 0 before the first."""
        return self.attempts[-1].number if self.attempts else 0

    @property
    def task_id(self) -> TaskId | None:
        """The task of its most promising attempt; None while the job waits to be sent."""
        best = self.best
        return None if best is None else best.task_id

    @property
    def reason(self) -> Reason | None:
        """Why it has no result, or None."""
        best = self.best
        return None if best is None else best.reason

    @property
    def doubts(self) -> int:
        """How many of its POSTs are in doubt, whatever became of the others."""
        return sum(attempt.status.is_in_doubt for attempt in self.attempts)

    def attempt(self, number: int) -> Attempt:
        """Find an attempt by its number.

        Raises:
            LedgerError: there is none.
        """
        for attempt in self.attempts:
            if attempt.number == number:
                return attempt
        raise LedgerError(f"job {self.id} has no attempt {number}")

    def attempt_of(self, task_id: TaskId) -> int | None:
        """Find the number of the attempt that became a task."""
        return next((each.number for each in self.attempts if each.task_id == task_id), None)

    def ended_task(self) -> CompletedTask | FailedTask | None:
        """Rebuild the ended task from the record. It has no URLs: signed URLs are not recorded."""
        best = self.best
        if best is None or self.task_id is None or best.task_id is None:
            return None
        created = _moment(best.sent_at if best.created_at is None else best.created_at)
        if best.status is AttemptStatus.FAILED:
            reason = best.reason or Reason(message="the service gave no reason")
            failure = TaskFailure(reason.code or "unspecified", reason.message)
            return FailedTask(
                id=best.task_id, model=self.request.model, created_at=created, error=failure
            )
        if best.status is AttemptStatus.COMPLETED:
            ended = created if best.completed_at is None else _moment(best.completed_at)
            return CompletedTask(
                id=best.task_id,
                model=self.request.model,
                created_at=created,
                completed_at=ended,
                urls=(),
            )
        return None


def _moment(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, UTC)


_RANKS = {
    status: rank
    for rank, status in enumerate(
        (
            AttemptStatus.COMPLETED,
            AttemptStatus.RUNNING,
            AttemptStatus.SUBMITTING,
            AttemptStatus.UNKNOWN,
            AttemptStatus.FAULTED,
            AttemptStatus.FAILED,
            AttemptStatus.REFUSED,
        )
    )
}
"""The statuses that decide a job's status, the most promising first. ``released`` does not."""


def most_promising(attempts: tuple[Attempt, ...]) -> Attempt | None:
    """Return the attempt that decides a job's status, or None where all were released.

    An attempt whose job was paid for again decides only where all later ones were released.
    """
    if len(attempts) == 1:  # as nearly always
        return attempts[0] if attempts[0].status in _RANKS else None
    best: Attempt | None = None
    best_rank = 2 * len(_RANKS)
    for attempt in attempts:
        rank = _RANKS.get(attempt.status)
        if rank is not None and attempt.is_replaced:
            rank += len(_RANKS)
        # Of two with the same status, take the later one: its reason is the current one.
        if rank is not None and rank <= best_rank:
            best, best_rank = attempt, rank
    return best
