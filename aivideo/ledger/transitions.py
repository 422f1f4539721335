"""What a job's record is after an event.

::

    planned ──Claimed──► submitting ──Taken──► running ──Completed──► completed ──Saved──► saved
       ▲                     │                    └─────Failed─────► failed (refunded)
       ├──────Released───────┤ (proved not taken)
       │                     ├──Refused──► refused  (final; nothing was charged)
       │                     ├──Faulted──► faulted  (a 500 or 503: its credits stay held)
       │                     └──Doubted──► unknown  (never POSTed again by itself)
       └──────Retried (asked by a person)── failed, refused; unknown, faulted: only if told that
                                           it may be paid twice

A job has the status of its most promising attempt; if no attempt is on its way and the job waits
to be sent, it is ``planned``. Four rules make a crash at any moment safe:

* Only a job that waits can be claimed, and a claim ends the waiting: the one caller whose
  compare-and-set succeeds may POST once.
* ``submitting`` ends only by its owner's answer, or by a lapse (``Doubted``), which leads to
  ``unknown`` and never back to ``planned``: nobody else can know whether its owner had POSTed.
* A late success is always recorded: ``Taken`` is valid in every status of an attempt that has no
  task yet, and its credits are counted even if another attempt of the job was taken meanwhile.
* An event that has been recorded already changes nothing, and neither does a doubt about an attempt
  that is settled. An event that contradicts the record is refused, so that a bug cannot move
  credits unseen.
"""

from __future__ import annotations

from typing import assert_never

from attrs import evolve

from aivideo.errors import ContradictionError
from aivideo.ledger.events import (
    AttemptEvent,
    Claimed,
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Released,
    Retried,
    Saved,
    Taken,
)
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus, most_promising

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


def _after(job: JobRecord, attempt: Attempt, event: AttemptEvent) -> Attempt:  # noqa: C901  a table
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


def _stood(job: JobRecord) -> JobRecord:
    best = most_promising(job.attempts)
    if best is not None and best.status.is_open:
        status = JobStatus(best.status.value)
        if status is JobStatus.COMPLETED and job.path is not None:
            status = JobStatus.SAVED
    elif job.waiting or best is None:
        status = JobStatus.PLANNED
    else:
        status = JobStatus(best.status.value)
    return job if status is job.status else evolve(job, status=status)
