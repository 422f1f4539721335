"""What is known about a task, merged from polls and callbacks in any order.

Polls and callbacks race: an answer may be late, duplicated, or contradict another. One rule handles
all of it: a state only moves forward (``pending`` → ``processing`` → an end), the first end wins,
and the same answer again changes nothing. :func:`is_ended` is the only definition of "ended".

Two answers are believed only after some time (:class:`GracePeriods`):

* The service's 404 may come for a moment right after a task was created. The task counts as gone
  once it has been answered by 404, and by nothing else, for ``NOT_FOUND_GRACE`` seconds.
* ``completed`` without a URL is no end: the service promises URLs, and a later poll may bring them.
  After ``URLS_GRACE`` seconds the task counts as ended all the same.
"""

from __future__ import annotations

from typing import TypeGuard, assert_never

from attrs import field, frozen

from aivideo.models import (
    CompletedTask,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Task,
    TaskId,
    UnrecognizedTask,
)

NOT_FOUND_GRACE = 120.0
"""Seconds of nothing but 404 after which a task counts as gone."""

URLS_GRACE = 600.0
"""Seconds after which a completed task without URLs counts as completed without a result."""


UNREADABLE_GRACE = 600.0
"""Seconds of nothing but answers that show no known status, after which a task no longer takes a
place under ``max_running_jobs``: whether it still runs cannot be seen."""


@frozen
class Merge:
    """What is known about a task after an answer.

    Attributes:
        task: what is known now.
        changed: whether the answer brought something new.
        contradiction: whether the answer was an end that contradicts the known end.
    """

    task: Task
    changed: bool = False
    contradiction: bool = False


def is_ended(task: Task | None) -> TypeGuard[CompletedTask | FailedTask]:
    """Return whether the task has ended: failed, or completed with a result to fetch."""
    return isinstance(task, FailedTask) or (isinstance(task, CompletedTask) and bool(task.urls))


def contradicts(end: Task, answer: Task) -> bool:
    """Return whether ``answer`` is an end other than ``end``, the one that is known."""
    return is_ended(answer) and answer.status != end.status


def merge(known: Task | None, answer: Task) -> Merge:
    """Merge an answer into what is known. Idempotent, and never a step back."""
    if known is None:
        return Merge(answer, changed=True)
    if is_ended(known):
        return Merge(known, contradiction=contradicts(known, answer))
    if known == answer or _rank(answer) < _rank(known):
        return Merge(known)
    return Merge(answer, changed=True)


def _rank(task: Task) -> int:
    match task:
        case PendingTask():
            return 0
        case ProcessingTask() | UnrecognizedTask():
            return 1  # an unknown state may come before or after processing: neither is a step back
        case CompletedTask():
            return 2 if not task.urls else 3
        case FailedTask():
            return 3
        case _:
            assert_never(task)


@frozen
class GracePeriods:
    """Since when tasks have been answered in ways that are not believed at once.

    ``now`` is in seconds of one monotonic clock. Only the few tasks concerned are stored.
    """

    _not_found_since: dict[TaskId, float] = field(factory=dict)
    _urls_missing_since: dict[TaskId, float] = field(factory=dict)
    _unreadable_since: dict[TaskId, float] = field(factory=dict)

    def is_gone(self, task_id: TaskId, now: float) -> bool:
        """Record a 404; return whether the task counts as gone."""
        return now - self._not_found_since.setdefault(task_id, now) >= NOT_FOUND_GRACE

    def is_unreadable(self, task_id: TaskId, now: float) -> bool:
        """Record an answer without a known status; return whether it has been so for too long."""
        return now - self._unreadable_since.setdefault(task_id, now) >= UNREADABLE_GRACE

    def read(self, task_id: TaskId) -> None:
        """Record an answer with a known status."""
        self._unreadable_since.pop(task_id, None)

    def found(self, task_id: TaskId) -> None:
        """Record an answer that describes the task: a later 404 begins a new grace period."""
        self._not_found_since.pop(task_id, None)

    def has_ended(self, task_id: TaskId, task: Task, now: float) -> bool:
        """Record what is known about a task; return whether it counts as ended."""
        if is_ended(task):
            return True
        if not isinstance(task, CompletedTask):
            return False
        return now - self._urls_missing_since.setdefault(task_id, now) >= URLS_GRACE

    def forget(self, task_id: TaskId) -> None:
        """Drop what is stored about a task that is not watched any more."""
        self._not_found_since.pop(task_id, None)
        self._urls_missing_since.pop(task_id, None)
        self._unreadable_since.pop(task_id, None)
