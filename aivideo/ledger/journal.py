"""The life of a job, as events; what to do with a job that is found in a ledger.

A job is one request of the user. An attempt is one POST of it: its own record, its own callback
token, its own place in the accounts, because money moves with attempts::

    (waiting) ──Claimed──► submitting ──Taken──► running ──Completed──► completed ──Saved──► saved
        ▲                      │                    └─────Failed─────► failed (refunded)
        ├──────Released────────┤ (proved not taken)
        │                      ├──Refused──► refused  (final; nothing was charged)
        │                      ├──Faulted──► faulted  (a 500 or 503: its credits stay held)
        │                      └──Doubted──► unknown  (never POSTed again by itself)
        └──────Retried (a person's word)──── failed, refused; unknown and faulted if they insist

Where a job stands is where its most promising attempt stands; with none on its way and ``waiting``
it is ``planned``. Four rules make it safe to crash anywhere, and each is a line of :func:`apply`:

* Only a job that waits can be claimed, and a claim ends the waiting: whoever wins that
  compare-and-set may POST once.
* ``submitting`` is left only by its owner's verdict, or by a lapse, which is ``Doubted``: it leads
  to ``unknown``, never back to waiting. Whoever finds it cannot know whether its owner had POSTed.
* A late success always lands: ``Taken`` is legal from every state of an attempt that has no task
  yet, and is counted, though another attempt of the same job was taken meanwhile.
* What has happened already changes nothing, and neither does a doubt about what is settled by now;
  what contradicts it is refused, so that a bug shows itself instead of moving money.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import TypeAlias, assert_never

from attrs import evolve, field, frozen

from aivideo._redaction import scrub
from aivideo.errors import ContradictionError, LedgerError
from aivideo.models import CompletedTask, FailedTask, Request, TaskFailure, TaskId


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


class AttemptStatus(StrEnum):
    """Where one POST of a job stands."""

    SUBMITTING = "submitting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    RELEASED = "released"
    REFUSED = "refused"
    FAULTED = "faulted"
    UNKNOWN = "unknown"


@frozen(kw_only=True)
class Reason:
    """Why an attempt ended as it did, scrubbed of keys and signed queries.

    Attributes:
        message: one line.
        status: the HTTP status, or None where there was no answer.
        code: the service's code, or None.
    """

    message: str
    status: int | None = None
    code: str | None = None


@frozen(kw_only=True)
class Attempt:
    """One POST of a job.

    Attributes:
        number: 1 for the first.
        status: where it stands.
        owner: who claimed it: the ledger handle of a process.
        lease_until: Unix seconds after which a ``submitting`` attempt counts as abandoned.
        sent_at: Unix seconds at which it was claimed, by our clock.
        task_id: the task it became, or None.
        reason: why it ended otherwise, or None.
        created_at: Unix seconds by the service's clock, once the task has ended; or None.
        completed_at: likewise.
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


@frozen(kw_only=True)
class JobRecord:
    """What a ledger knows of a job.

    Attributes:
        id: our own name of the job.
        request: what is to be made.
        fingerprint: the request's content (:func:`aivideo.models.fingerprint`).
        credits: what it costs, or None where the price is not known.
        batch: the batch it belongs to, or None.
        key: the user's name for it within its batch, or None.
        callback_url: the user's own, sent with the create as it is, or None.
        status: where it stands; follows from what is below.
        waiting: whether it waits to be POSTed.
        attempts: its POSTs, the oldest first.
        path: where its file was saved, or None.
        size: that file's bytes, or None.
        planned_at: Unix seconds at which it was written down, by our clock.
    """

    id: str
    request: Request
    fingerprint: str
    credits: int | None = None
    batch: str | None = None
    key: str | None = None
    callback_url: str | None = field(default=None, repr=lambda url: scrub(repr(url)))
    status: JobStatus = JobStatus.PLANNED
    waiting: bool = True
    attempts: tuple[Attempt, ...] = ()
    path: str | None = None
    size: int | None = None
    planned_at: float = 0.0

    @property
    def best(self) -> Attempt | None:
        """The attempt that says where the job stands; None while it waits to be sent (again)."""
        return None if self.status is JobStatus.PLANNED else _best(self.attempts)

    @property
    def latest(self) -> int:
        """The number of its latest POST; 0 before the first."""
        return self.attempts[-1].number if self.attempts else 0

    @property
    def task_id(self) -> TaskId | None:
        """The task of its most promising attempt; None too while it waits to be POSTed again."""
        best = self.best
        return None if best is None or self.status is JobStatus.PLANNED else best.task_id

    @property
    def reason(self) -> Reason | None:
        """Why it stands where it stands, or None."""
        best = self.best
        return None if best is None else best.reason

    @property
    def doubts(self) -> int:
        """How many of its POSTs are of unknown fate, whatever became of the others."""
        return sum(holding(attempt.status) is Holding.UNKNOWN for attempt in self.attempts)

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
        """Tell the end as a task, from what was written down: without URLs, which are signed."""
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


# --- events -------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Claimed:
    """Its caller won the right to POST it once."""

    owner: str = ""
    lease_until: float = 0.0
    at: float = 0.0


@frozen
class Taken:
    """The service took the attempt, and charged it."""

    task_id: TaskId


@frozen
class Released:
    """The attempt was proved not taken, or a person said so: the job may be POSTed again."""


@frozen
class Refused:
    """A final no to the attempt; nothing was charged."""

    reason: Reason


@frozen
class Faulted:
    """The service's own 500 or 503: whether the attempt was charged is not documented."""

    reason: Reason


@frozen
class Doubted:
    """Nobody can tell whether the attempt was taken."""

    reason: Reason


@frozen
class Completed:
    """The attempt's task ended with a result; times are Unix seconds by the service's clock."""

    created_at: float | None = None
    completed_at: float | None = None


@frozen
class Failed:
    """The attempt's task ended without one, and its credits came back."""

    reason: Reason
    created_at: float | None = None


@frozen
class Saved:
    """The job's file lies whole at ``path``, ``size`` bytes long."""

    path: str
    size: int | None = None


@frozen
class Retried:
    """A person wants the job POSTed again.

    Attributes:
        may_pay_twice: although a POST of it may have been taken.
    """

    may_pay_twice: bool = False


Verdict: TypeAlias = Taken | Released | Refused | Faulted | Doubted | Completed | Failed
"""What happens to one attempt."""

Event: TypeAlias = Claimed | Saved | Retried | Verdict

ABANDONED = Doubted(
    Reason(message="its process died, or its lease ran out, before an answer was written down")
)
"""What a lapse writes."""

_NOT_TAKEN_YET = frozenset(
    {
        AttemptStatus.SUBMITTING,
        AttemptStatus.UNKNOWN,
        AttemptStatus.FAULTED,
        AttemptStatus.RELEASED,
        AttemptStatus.REFUSED,
    }
)
_IN_DOUBT = frozenset({AttemptStatus.SUBMITTING, AttemptStatus.UNKNOWN, AttemptStatus.FAULTED})


def apply(job: JobRecord, event: Event, number: int | None = None) -> JobRecord:
    """Say what ``job`` is after ``event``.

    Args:
        job: what is known of it.
        event: what happened.
        number: the attempt it happened to; None: the latest. Of no matter where the event is
            the job's own (``Claimed``, ``Saved``, ``Retried``).

    Raises:
        ContradictionError: the event cannot follow what is known.
        LedgerError: there is no such attempt.
    """
    match event:
        case Claimed():
            return _claimed(job, event)
        case Saved():
            return _saved(job, event)
        case Retried():
            return _retried(job, event)
        case _:
            attempt = job.attempt(job.latest if number is None else number)
            if isinstance(event, Taken) and job.attempt_of(event.task_id) not in (
                None,
                attempt.number,
            ):
                raise ContradictionError(
                    f"task {event.task_id} is that of another attempt of job {job.id}"
                )
            after = _after(job, attempt, event)
            if after is attempt:
                return job
            attempts = tuple(after if each is attempt else each for each in job.attempts)
            waiting = job.waiting
            if isinstance(event, Taken):
                waiting = False  # it was taken after all: nothing is left to be sent
            elif isinstance(event, Released):
                waiting = waiting or (
                    after.number == job.latest and not any(each.task_id for each in attempts)
                )
            return _stood(evolve(job, attempts=attempts, waiting=waiting))


def _claimed(job: JobRecord, event: Claimed) -> JobRecord:
    if job.status is not JobStatus.PLANNED:
        raise ContradictionError(f"job {job.id} is {job.status}, which a claim cannot follow")
    attempt = Attempt(
        number=job.latest + 1, owner=event.owner, lease_until=event.lease_until, sent_at=event.at
    )
    return _stood(evolve(job, attempts=(*job.attempts, attempt), waiting=False))


def _saved(job: JobRecord, event: Saved) -> JobRecord:
    if job.status not in (JobStatus.COMPLETED, JobStatus.SAVED):
        raise ContradictionError(f"job {job.id} is {job.status}, and has no file")
    return _stood(evolve(job, path=event.path, size=event.size))


def _retried(job: JobRecord, event: Retried) -> JobRecord:
    if job.status is JobStatus.PLANNED:
        return job
    doubtful = job.status in (JobStatus.UNKNOWN, JobStatus.FAULTED)
    if job.status in (JobStatus.FAILED, JobStatus.REFUSED) or (doubtful and event.may_pay_twice):
        return _stood(evolve(job, waiting=True))
    raise ContradictionError(
        f"job {job.id} is {job.status}, and is not sent again"
        + (": settle it first, or say that it may be paid twice" if doubtful else "")
    )


def _after(job: JobRecord, attempt: Attempt, event: Verdict) -> Attempt:  # noqa: C901  a table
    """Say what an attempt is after ``event``; the same object where nothing changes."""
    status = attempt.status
    match event:
        case Taken(task_id):
            if attempt.task_id == task_id:
                return attempt
            if attempt.task_id is None and status in _NOT_TAKEN_YET:
                running = AttemptStatus.RUNNING
                return evolve(attempt, status=running, task_id=task_id, reason=None)
        case Released():
            if status is AttemptStatus.RELEASED:
                return attempt
            if status in _IN_DOUBT:
                return evolve(attempt, status=AttemptStatus.RELEASED, reason=None)
        case Refused(reason):
            if status is AttemptStatus.REFUSED:
                return attempt
            if status in _IN_DOUBT:
                return evolve(attempt, status=AttemptStatus.REFUSED, reason=reason)
        case Faulted() if attempt.task_id is not None:
            return attempt  # a callback has proved meanwhile that it was taken
        case Faulted(reason):
            if status in (AttemptStatus.SUBMITTING, AttemptStatus.UNKNOWN):
                return evolve(attempt, status=AttemptStatus.FAULTED, reason=reason)
            return attempt  # as below
        case Doubted(reason):
            if status is AttemptStatus.SUBMITTING:
                return evolve(attempt, status=AttemptStatus.UNKNOWN, reason=reason)
            # Whoever doubts adds nothing to what is known: a callback, or a person, may have told
            # what became of a POST before its owner gave up on the answer.
            return attempt
        case Completed(created_at, completed_at):
            if status is AttemptStatus.COMPLETED:
                return attempt
            if status is AttemptStatus.RUNNING:
                return evolve(
                    attempt,
                    status=AttemptStatus.COMPLETED,
                    created_at=created_at,
                    completed_at=completed_at,
                )
        case Failed(reason, created_at):
            if status is AttemptStatus.FAILED:
                return attempt
            if status is AttemptStatus.RUNNING:
                return evolve(
                    attempt, status=AttemptStatus.FAILED, reason=reason, created_at=created_at
                )
        case _:
            assert_never(event)
    raise ContradictionError(
        f"attempt {attempt.number} of job {job.id} is {status}, "
        f"which {type(event).__name__} cannot follow"
    )


_PROMISE = {
    AttemptStatus.COMPLETED: JobStatus.COMPLETED,
    AttemptStatus.RUNNING: JobStatus.RUNNING,
    AttemptStatus.SUBMITTING: JobStatus.SUBMITTING,
    AttemptStatus.UNKNOWN: JobStatus.UNKNOWN,
    AttemptStatus.FAULTED: JobStatus.FAULTED,
    AttemptStatus.FAILED: JobStatus.FAILED,
    AttemptStatus.REFUSED: JobStatus.REFUSED,
}
"""Attempts that say something about their job, the most promising first."""

_RANK = {status: rank for rank, status in enumerate(_PROMISE)}
_ON_ITS_WAY = frozenset({AttemptStatus.COMPLETED, AttemptStatus.RUNNING, AttemptStatus.SUBMITTING})


def _best(attempts: tuple[Attempt, ...]) -> Attempt | None:
    best: Attempt | None = None
    for attempt in attempts:
        rank = _RANK.get(attempt.status)
        # Of two that stand alike the later one tells: it is what its reason is about.
        if rank is not None and (best is None or rank <= _RANK[best.status]):
            best = attempt
    return best


def _stood(job: JobRecord) -> JobRecord:
    best = _best(job.attempts)
    if best is not None and best.status in _ON_ITS_WAY:
        status = _PROMISE[best.status]
        if status is JobStatus.COMPLETED and job.path is not None:
            status = JobStatus.SAVED
    elif job.waiting or best is None:
        status = JobStatus.PLANNED
    else:
        status = _PROMISE[best.status]
    return job if status is job.status else evolve(job, status=status)


# --- credits ------------------------------------------------------------------------------------


class Holding(Enum):
    """What becomes of an attempt's credits while it stands where it does."""

    NONE = "none"
    RESERVED = "reserved"
    CHARGED = "charged"
    UNKNOWN = "unknown"
    REFUNDED = "refunded"


def holding(status: AttemptStatus) -> Holding:
    """Say how an attempt's credits count: reserved, charged and unknown ones towards a ceiling."""
    match status:
        case AttemptStatus.RELEASED | AttemptStatus.REFUSED:
            return Holding.NONE
        case AttemptStatus.SUBMITTING:
            return Holding.RESERVED
        case AttemptStatus.RUNNING | AttemptStatus.COMPLETED:
            return Holding.CHARGED
        case AttemptStatus.FAULTED | AttemptStatus.UNKNOWN:
            return Holding.UNKNOWN
        case AttemptStatus.FAILED:
            return Holding.REFUNDED
        case _:
            assert_never(status)


@frozen(kw_only=True)
class CreditTotals:
    """Credits of all attempts of a ledger, a batch or a session, by what became of them.

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

    def moved(self, amount: int, before: Holding, after: Holding) -> CreditTotals:
        """Move one attempt's credits, ``amount``, from one column to another."""
        return self.plus({before: -amount}).plus({after: amount})

    def plus(self, change: Mapping[Holding, int]) -> CreditTotals:
        """Add ``change``, column by column; what is held nowhere does not count."""
        columns = {
            column.value: getattr(self, column.value) + amount
            for column, amount in change.items()
            if column is not Holding.NONE
        }
        return evolve(self, **columns) if columns else self


def credits_moved(before: JobRecord | None, after: JobRecord) -> dict[Holding, int]:
    """Say by how much each column changes when ``before`` becomes ``after``."""
    change: dict[Holding, int] = {}
    for record, sign in ((before, -1), (after, 1)):
        for attempt in () if record is None else record.attempts:
            column = holding(attempt.status)
            change[column] = change.get(column, 0) + sign * (after.credits or 0)
    return {column: amount for column, amount in change.items() if amount}
