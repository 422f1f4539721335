"""What is known of a task, merged with what is heard of it, in whatever order that comes.

Polls and callbacks race: an answer may be late, doubled, or contradict another. So there is one
rule, in one place: a state only moves on (``pending`` → ``processing`` → an end), the first end
wins, and hearing the same again changes nothing. :func:`is_ended` is the one definition of "over".

A ``completed`` without a URL is not over: the service has promised URLs, and a later look may
bring them. It is over after ``URLS_WITHIN`` seconds all the same, as what it is.
"""

from __future__ import annotations

from typing import TypeGuard, assert_never

from attrs import frozen

from aivideo.models import (
    CompletedTask,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Task,
    UnrecognizedTask,
)

URLS_WITHIN = 600.0
"""Seconds after which a completed task without URLs is taken for what it is."""


@frozen
class Merge:
    """What is known after something was heard.

    Attributes:
        task: what is known now.
        changed: whether that is news.
        contradiction: whether an end was heard that contradicts the one that is known.
    """

    task: Task
    changed: bool = False
    contradiction: bool = False


def is_ended(task: Task | None) -> TypeGuard[CompletedTask | FailedTask]:
    """Whether the task is over: failed, or completed with a result to fetch."""
    return isinstance(task, FailedTask) or (isinstance(task, CompletedTask) and bool(task.urls))


def contradicts(end: Task, heard: Task) -> bool:
    """Whether ``heard`` is another end than the one a task has come to."""
    return is_ended(heard) and heard.status != end.status


def merge(known: Task | None, heard: Task) -> Merge:
    """Say what is known of a task after ``heard``; idempotent, and never a step back."""
    if known is None:
        return Merge(heard, changed=True)
    if is_ended(known):
        return Merge(known, contradiction=contradicts(known, heard))
    if known == heard:
        return Merge(known)
    if _rank(heard) < _rank(known):
        return Merge(known)
    return Merge(heard, changed=True)


def _rank(task: Task) -> int:
    match task:
        case PendingTask():
            return 0
        case ProcessingTask() | UnrecognizedTask():
            return 1  # nobody knows where an unknown state stands: neither takes the other back
        case CompletedTask():
            return 2 if not task.urls else 3
        case FailedTask():
            return 3
        case _:
            assert_never(task)
