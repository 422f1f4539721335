"""The ends of tasks that are not being watched: because it is over, or because it has not begun."""

from __future__ import annotations

from collections import OrderedDict

from attrs import field, frozen

from aivideo._polling import lifecycle
from aivideo.models import Task, TaskId

MAX_ENDS = 10_000
"""Ended tasks whose end is kept, so that a late question needs no request."""

MAX_EARLY_ENDS = 1_000
"""Ends kept of tasks that are not watched yet: a callback may arrive before the POST's response."""


@frozen
class Ends:
    """A bounded number of ends; the oldest are dropped first."""

    _ends: OrderedDict[TaskId, Task] = field(factory=OrderedDict)
    _early: OrderedDict[TaskId, Task] = field(factory=OrderedDict)

    def __contains__(self, task_id: TaskId) -> bool:
        return task_id in self._ends

    def get(self, task_id: TaskId) -> Task | None:
        """Return the end of a task that was watched, if it is still kept."""
        return self._ends.get(task_id)

    def add(self, task_id: TaskId, end: Task) -> None:
        """Keep the end of a watched task."""
        _keep(self._ends, task_id, end, MAX_ENDS)

    def pop_early(self, task_id: TaskId) -> Task | None:
        """Remove and return the end that arrived before its task was watched."""
        return self._early.pop(task_id, None) if self._early else None

    def hear(self, task_id: TaskId, answer: Task) -> Task | None:
        """Take in an answer about a task that is not watched.

        Returns:
            The known end, if the answer contradicts it; else None.
        """
        end = self._ends.get(task_id, self._early.get(task_id))
        if end is not None:
            return end if lifecycle.contradicts(end, answer) else None
        if lifecycle.is_ended(answer):
            _keep(self._early, task_id, answer, MAX_EARLY_ENDS)
        return None


def _keep(ends: OrderedDict[TaskId, Task], task_id: TaskId, end: Task, most: int) -> None:
    ends[task_id] = end
    if len(ends) > most:
        ends.popitem(last=False)
