"""What a job's record is after an event.

::

    planned ──Claimed──► submitting ──Taken──► running ──Completed──► completed ──Saved──► saved
       ▲                     │                    └─────Failed─────► failed (refunded)
       ├──────Released───────┤ (proved not taken)
       │                     ├──Refused──► refused  (final; nothing was charged)
       │                     ├──Faulted──► faulted  (a 500 or 503: its credits stay held)
       │                     └──Doubted──► unknown  (never POSTed again by itself)
       ├──────Retried (asked by a person)── failed, refused; only to pay again: unknown, faulted;
       │                                   running, completed, saved
       └──Withdrawn──► withdrawn (never sent; its key may be planned again)

A job that waits to be sent is ``planned``; otherwise it has the status of its most promising
attempt. A job that does not wait and has no attempt but released ones is
``withdrawn``; withdrawing a retry gives the job the status it had before.

A job that was taken and whose result cannot be had (its URL has expired, the service does not know
its task, its file is lost) may be paid for again. Its earlier attempt keeps its task, and stays
charged; from the next claim on it does not decide the job's status any more, unless its task is
heard to complete after all. A task that completes, or a file that is saved, before the job is
claimed ends the waiting: nothing has to be paid again.

Four rules make a crash at any moment safe:

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

from collections.abc import Mapping
from types import MappingProxyType
from typing import assert_never

from attrs import evolve, frozen

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
    Withdrawn,
)
from aivideo.ledger.records import (
    PAID_AGAIN,
    Attempt,
    AttemptStatus,
    JobRecord,
    JobStatus,
    most_promising,
)


@frozen
class Transition:
    """What one type of event does to an attempt.

    An attempt in any status named by neither set makes the event a contradiction.

    Attributes:
        lands_from: statuses from which the event moves the attempt to ``to``.
        to: the attempt's status after the event.
        ignored_from: statuses in which the event adds nothing and changes nothing.
    """

    lands_from: frozenset[AttemptStatus]
    to: AttemptStatus
    ignored_from: frozenset[AttemptStatus] = frozenset()


_UNANSWERED = frozenset({AttemptStatus.SUBMITTING, AttemptStatus.UNKNOWN, AttemptStatus.FAULTED})
_EVERY = frozenset(AttemptStatus)

TRANSITIONS: Mapping[type[AttemptEvent], Transition] = MappingProxyType(
    {
        Taken: Transition(
            lands_from=_UNANSWERED | {AttemptStatus.RELEASED, AttemptStatus.REFUSED},
            to=AttemptStatus.RUNNING,
        ),
        Released: Transition(
            lands_from=_UNANSWERED,
            to=AttemptStatus.RELEASED,
            ignored_from=frozenset({AttemptStatus.RELEASED}),
        ),
        Refused: Transition(
            lands_from=_UNANSWERED,
            to=AttemptStatus.REFUSED,
            ignored_from=frozenset({AttemptStatus.REFUSED}),
        ),
        # A doubt adds nothing to an attempt that is settled: a callback, or a person, may have
        # told its outcome before its owner gave up waiting for the response.
        Faulted: Transition(
            lands_from=frozenset({AttemptStatus.SUBMITTING, AttemptStatus.UNKNOWN}),
            to=AttemptStatus.FAULTED,
            ignored_from=_EVERY,
        ),
        Doubted: Transition(
            lands_from=frozenset({AttemptStatus.SUBMITTING}),
            to=AttemptStatus.UNKNOWN,
            ignored_from=_EVERY,
        ),
        Completed: Transition(
            lands_from=frozenset({AttemptStatus.RUNNING}),
            to=AttemptStatus.COMPLETED,
            ignored_from=frozenset({AttemptStatus.COMPLETED}),
        ),
        Failed: Transition(
            lands_from=frozenset({AttemptStatus.RUNNING}),
            to=AttemptStatus.FAILED,
            ignored_from=frozenset({AttemptStatus.FAILED}),
        ),
    }
)
"""What each event does to an attempt. ``lands_from`` is looked up first.

Two rules depend on the attempt's task, see :func:`apply_to_attempt`: ``Taken`` of the task that the
attempt has is ignored and of another is a contradiction; ``Faulted`` is ignored if it has a task.
"""


def apply(job: JobRecord, event: Event, number: int | None = None) -> JobRecord:
    """Return what ``job`` is after ``event``: the same object if the event changes nothing.

    Args:
        job: the job's record.
        event: what happened.
        number: the attempt it happened to; None: the latest. Ignored for events of the job as a
            whole (``Claimed``, ``Saved``, ``Retried``, ``Withdrawn``).

    Raises:
        ContradictionError: the event contradicts the record.
        LedgerError: there is no such attempt.
    """
    match event:
        case Claimed():
            return _claimed(job, event)
        case Saved():
            return _saved(job, event)
        case Retried():
            return _retried(job, event)
        case Withdrawn():
            return _withdrawn(job)
        case _:
            return _applied_to_attempt(job, event, job.latest if number is None else number)


def _applied_to_attempt(job: JobRecord, event: AttemptEvent, number: int) -> JobRecord:
    attempt = job.attempt(number)
    if isinstance(event, Taken) and job.attempt_of(event.task_id) not in (None, attempt.number):
        raise ContradictionError(f"task {event.task_id} is that of another attempt of job {job.id}")
    after = apply_to_attempt(attempt, event, job_id=job.id)
    if after is attempt:
        return job
    attempts = tuple([after if each is attempt else each for each in job.attempts])
    waiting, path = job.waiting, job.path
    if isinstance(event, Taken | Completed):
        waiting = False  # there is a task, or a result, after all: there is nothing left to send
    elif isinstance(event, Released):
        waiting = waiting or (event.again and not _is_overtaken(attempts, number))
    if isinstance(event, Completed) and not _has_result(job.attempts):
        path = None  # a file that was saved before is that of an attempt that was replaced
    return _evolved(job, attempts=attempts, waiting=waiting, path=path)


def _has_result(attempts: tuple[Attempt, ...]) -> bool:
    """Return whether one of the attempts has completed, and was not replaced."""
    return any(each.status is AttemptStatus.COMPLETED and not each.is_replaced for each in attempts)


def _is_overtaken(attempts: tuple[Attempt, ...], number: int) -> bool:
    """Return whether a POST is under way or has a task, or a later one than ``number`` ended."""
    return any(
        (each.status.is_open and not each.is_replaced)
        or (each.number > number and each.status is not AttemptStatus.RELEASED)
        for each in attempts
    )


def apply_to_attempt(attempt: Attempt, event: AttemptEvent, *, job_id: str) -> Attempt:
    """Return what ``attempt`` is after ``event``: the same object if the event changes nothing.

    Raises:
        ContradictionError: the event contradicts the attempt's status; see :data:`TRANSITIONS`.
    """
    transition = TRANSITIONS[type(event)]
    if attempt.task_id is not None and isinstance(event, Taken):
        lands, ignored = False, attempt.task_id == event.task_id
    elif attempt.task_id is not None and isinstance(event, Faulted):
        lands, ignored = False, True  # a callback has proved meanwhile that it was taken
    else:
        lands = attempt.status in transition.lands_from
        ignored = attempt.status in transition.ignored_from
    if lands:
        return _with_facts(attempt, event, transition.to)
    if ignored:
        return attempt
    raise ContradictionError(
        f"attempt {attempt.number} of job {job_id} is {attempt.status}, "
        f"which {type(event).__name__} cannot follow"
    )


def _with_facts(attempt: Attempt, event: AttemptEvent, status: AttemptStatus) -> Attempt:
    """Return the attempt with the new status and with what the event tells besides it."""
    match event:
        case Taken(task_id):
            return evolve(attempt, status=status, task_id=task_id, reason=None)
        case Released():
            return evolve(attempt, status=status, reason=None)
        case Refused(reason) | Faulted(reason) | Doubted(reason):
            return evolve(attempt, status=status, reason=reason)
        case Completed(created_at, completed_at):
            return evolve(
                attempt,
                status=status,
                reason=None,  # it may have been replaced, and has its result after all
                created_at=created_at,
                completed_at=completed_at,
            )
        case Failed(reason, created_at):
            return evolve(attempt, status=status, reason=reason, created_at=created_at)
        case _:
            assert_never(event)


def _claimed(job: JobRecord, event: Claimed) -> JobRecord:
    if not (
        job.status is JobStatus.PLANNED or (event.retry_faulted and job.status is JobStatus.FAULTED)
    ):
        raise ContradictionError(f"job {job.id} is {job.status}, which a claim cannot follow")
    attempt = Attempt(
        number=job.latest + 1,
        owner=event.owner,
        lease_until=event.lease_until,
        sent_at=event.at,
        credits=job.credits,
    )
    earlier = job.attempts
    if any(each.has_task for each in earlier):
        earlier = tuple(
            [evolve(each, reason=PAID_AGAIN) if each.has_task else each for each in earlier]
        )
    return _evolved(job, attempts=(*earlier, attempt), waiting=False, path=job.path)


def _saved(job: JobRecord, event: Saved) -> JobRecord:
    waits_to_be_paid_again = job.waiting and any(
        each.status is AttemptStatus.COMPLETED for each in job.attempts
    )
    if job.status not in (JobStatus.COMPLETED, JobStatus.SAVED) and not waits_to_be_paid_again:
        raise ContradictionError(f"job {job.id} is {job.status}, and has no file")
    return evolve(job, path=event.path, size=event.size, status=JobStatus.SAVED, waiting=False)


def _retried(job: JobRecord, event: Retried) -> JobRecord:
    status = job.status
    if status is JobStatus.PLANNED:
        return job
    if event.seen not in (None, (status, job.latest)):
        raise ContradictionError(
            f"job {job.id} is {status} now, and has changed since it was asked to be sent again"
        )
    if (
        status.is_retryable
        or (event.pay_again and status.is_in_doubt)
        or (event.pay_again and event.seen is not None and _may_be_replaced(job))
    ):
        return _evolved(job, attempts=job.attempts, waiting=True, path=job.path)
    raise ContradictionError(
        f"job {job.id} is {status}, and is not sent again"
        + (": settle it first, or allow that it may be paid twice" if status.is_in_doubt else "")
    )


def _may_be_replaced(job: JobRecord) -> bool:
    """Return whether a job was taken, and no other POST of it is on its way."""
    return job.status.is_taken and not any(
        each.status is AttemptStatus.SUBMITTING for each in job.attempts
    )


def _withdrawn(job: JobRecord) -> JobRecord:
    if job.status is not JobStatus.PLANNED:
        raise ContradictionError(f"job {job.id} is {job.status}: too late to withdraw it")
    return _evolved(job, attempts=job.attempts, waiting=False, path=job.path)


def _evolved(
    job: JobRecord, *, attempts: tuple[Attempt, ...], waiting: bool, path: str | None
) -> JobRecord:
    """Return the job with these attempts, and the status that follows from them."""
    # Written out: attrs.evolve takes four times as long, and each POST changes its record twice.
    return JobRecord(
        id=job.id,
        request=job.request,
        fingerprint=job.fingerprint,
        credits=job.credits,
        batch=job.batch,
        key=job.key,
        callback_url=job.callback_url,
        status=_status(attempts, waiting=waiting, is_saved=path is not None),
        waiting=waiting,
        attempts=attempts,
        path=path,
        size=None if path is None else job.size,
        planned_at=job.planned_at,
        resumable=job.resumable,
    )


_STATUS_OF_JOB: dict[AttemptStatus, JobStatus] = {
    status: JobStatus(status.value)
    for status in AttemptStatus
    if status is not AttemptStatus.RELEASED
}
"""The status of a job by that of its most promising attempt."""


def _status(attempts: tuple[Attempt, ...], *, waiting: bool, is_saved: bool) -> JobStatus:
    """Derive a job's status."""
    if waiting:
        return JobStatus.PLANNED
    best = most_promising(attempts)
    if best is None:
        return JobStatus.WITHDRAWN
    if best.status is AttemptStatus.COMPLETED and is_saved:
        return JobStatus.SAVED
    return _STATUS_OF_JOB[best.status]
