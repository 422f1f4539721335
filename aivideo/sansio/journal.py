"""The life of a job, as events, and what to do with a job found in a ledger.

A job is one request of the user; an attempt is one POST of it. Money moves with attempts, so each
is a record of its own, and the job's status is what its latest attempt says::

    planned ──claim──► submitting ──Taken──► running ──Ended──► completed ──Saved──► saved
       ▲                   │                            └─────► failed (refunded)
       └─────Released──────┤ (proved not taken)
                           ├──Refused──► refused  (final; nothing was charged)
                           ├──Faulted──► faulted  (a 500 or 503: its credits stay held)
                           └──Doubted──► unknown  (never POSTed again by itself)

Three rules make it safe to crash anywhere, and each is a line of :func:`apply`:

* ``submitting`` is left only by a verdict or by a lapse, and a lapse leads to ``unknown``, never
  back to ``planned``: whoever finds it cannot know whether its owner had POSTed.
* A late success always lands: ``Taken`` is legal from ``unknown`` and ``faulted`` too.
* An event that has happened already changes nothing; one that contradicts what is known is
  refused, so a bug shows itself instead of moving money.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import TypeAlias, assert_never

from attrs import evolve, field, frozen

from aivideo.errors import LedgerError
from aivideo.models import Request, TaskId


class JobStatus(StrEnum):
    """Where a job stands."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    RUNNING = "running"
    COMPLETED = "completed"
    SAVED = "saved"
    FAILED = "failed"
    REFUSED = "refused"
    FAULTED = "faulted"
    UNKNOWN = "unknown"


@frozen(kw_only=True)
class JobRecord:
    """What a ledger knows of a job.

    Attributes:
        id: our own name of the job.
        request: what is to be made.
        fingerprint: the request's content (:func:`aivideo.sansio.wire.fingerprint`).
        status: where it stands.
        credits: what it costs, or None where the price is not known.
        batch: the batch it belongs to, or None.
        key: the user's name for it within its batch, or None.
        callback_url: the user's own, sent with the create as it is, or None.
        attempt: the number of its latest POST, from 1; 0 before the first.
        task_id: the task of the attempt that was taken, or None.
        error: one line of why it ended otherwise, or is unknown; "" elsewhere.
        path: where its file was saved, or None.
    """

    id: str
    request: Request
    fingerprint: str
    status: JobStatus = JobStatus.PLANNED
    credits: int | None = None
    batch: str | None = None
    key: str | None = None
    callback_url: str | None = None
    attempt: int = 0
    task_id: TaskId | None = None
    error: str = field(default="", repr=False)
    path: str | None = None


@frozen
class Claimed:
    """Its caller won the right to POST it once: ``attempt`` is the number of that POST."""

    attempt: int


@frozen
class Taken:
    """The service took it, and charged it."""

    task_id: TaskId


@frozen
class Released:
    """It was proved not taken, and may be POSTed again."""


@frozen
class Refused:
    """A final no; nothing was charged."""

    error: str


@frozen
class Faulted:
    """The service's own 500 or 503: whether it was charged is not documented."""

    error: str


@frozen
class Doubted:
    """Nobody can tell whether it was taken."""

    error: str


@frozen
class Completed:
    """The task ended with a result."""


@frozen
class Failed:
    """The task ended without one, and its credits came back."""

    error: str


@frozen
class Saved:
    """Its file lies whole at ``path``."""

    path: str


Event: TypeAlias = (
    Claimed | Taken | Released | Refused | Faulted | Doubted | Completed | Failed | Saved
)

_IN_DOUBT = (JobStatus.SUBMITTING, JobStatus.UNKNOWN, JobStatus.FAULTED)
_ENDED_WELL = (JobStatus.COMPLETED, JobStatus.SAVED)


def apply(job: JobRecord, event: Event) -> JobRecord:  # noqa: C901  one arm an event: a table
    """Say what ``job`` is after ``event``.

    Raises:
        LedgerError: the event cannot follow what is known.
    """
    status = job.status
    match event:
        case Claimed(attempt):
            if status is JobStatus.PLANNED and attempt == job.attempt + 1:
                return evolve(job, status=JobStatus.SUBMITTING, attempt=attempt, error="")
        case Taken(task_id):
            if job.task_id == task_id:
                return job
            if status in _IN_DOUBT and job.task_id is None:
                return evolve(job, status=JobStatus.RUNNING, task_id=task_id, error="")
        case Released():
            if status is JobStatus.SUBMITTING:
                return evolve(job, status=JobStatus.PLANNED)
        case Refused(error):
            if status is JobStatus.SUBMITTING:
                return evolve(job, status=JobStatus.REFUSED, error=error)
        case Faulted(error):
            if status is JobStatus.SUBMITTING:
                return evolve(job, status=JobStatus.FAULTED, error=error)
        case Doubted(error):
            if status in _IN_DOUBT:
                return evolve(job, status=JobStatus.UNKNOWN, error=error)
        case Completed():
            if status in _ENDED_WELL:
                return job
            if status is JobStatus.RUNNING:
                return evolve(job, status=JobStatus.COMPLETED)
        case Failed(error):
            if status is JobStatus.FAILED:
                return job
            if status is JobStatus.RUNNING:
                return evolve(job, status=JobStatus.FAILED, error=error)
        case Saved(path):
            if status in _ENDED_WELL:
                return evolve(job, status=JobStatus.SAVED, path=path)
        case _:
            assert_never(event)
    raise LedgerError(f"job {job.id} is {status}, which {type(event).__name__} cannot follow")


class Holding(Enum):
    """What becomes of a job's credits while it stands where it does."""

    NONE = "none"
    RESERVED = "reserved"
    CHARGED = "charged"
    UNKNOWN = "unknown"
    REFUNDED = "refunded"


def holding(status: JobStatus) -> Holding:
    """Say how a job's credits count towards a ceiling: reserved, charged and unknown ones do."""
    match status:
        case JobStatus.PLANNED | JobStatus.REFUSED:
            return Holding.NONE
        case JobStatus.SUBMITTING:
            return Holding.RESERVED
        case JobStatus.RUNNING | JobStatus.COMPLETED | JobStatus.SAVED:
            return Holding.CHARGED
        case JobStatus.FAULTED | JobStatus.UNKNOWN:
            return Holding.UNKNOWN
        case JobStatus.FAILED:
            return Holding.REFUNDED
        case _:
            assert_never(status)


@frozen(kw_only=True)
class CreditTotals:
    """Credits of all jobs of a ledger, a batch or a session, by what became of them.

    Attributes:
        charged: of tasks that were taken and have not failed.
        reserved: of POSTs on their way.
        unknown: of POSTs whose fate is not known, and of 500s and 503s.
        refunded: of tasks that failed.
    """

    charged: int = 0
    reserved: int = 0
    unknown: int = 0
    refunded: int = 0

    @property
    def held(self) -> int:
        """What counts towards a ceiling: all but what came back."""
        return self.charged + self.reserved + self.unknown

    def moved(self, amount: int, before: Holding | None, after: Holding) -> CreditTotals:
        """Move one job's credits, ``amount``, from one column to another."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        if before is not None and before.value in columns:
            columns[before.value] -= amount
        if after.value in columns:
            columns[after.value] += amount
        return CreditTotals(**columns)


_COLUMNS = ("charged", "reserved", "unknown", "refunded")
