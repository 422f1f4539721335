"""Who is told of each change of a task."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from attrs import field, frozen

from aivideo.models import Task, TaskId

log = logging.getLogger("aivideo._polling.poller")

Listener: TypeAlias = Callable[[Task], object]


@frozen
class Listeners:
    """The listeners of each task. Few tasks have any, so they are kept beside the tasks."""

    _by_task: dict[TaskId, list[Listener]] = field(factory=dict)

    def __len__(self) -> int:
        return len(self._by_task)

    def add(self, task_id: TaskId, listener: Listener) -> Callable[[], None]:
        """Add a listener; return a function that removes it, once or more often."""
        listeners = self._by_task.setdefault(task_id, [])
        listeners.append(listener)

        def remove() -> None:
            if listener in listeners:
                listeners.remove(listener)
            if not listeners and self._by_task.get(task_id) is listeners:
                del self._by_task[task_id]

        return remove

    def drop(self, task_id: TaskId) -> None:
        """Remove all listeners of a task."""
        self._by_task.pop(task_id, None)

    def tell(self, task_id: TaskId, task: Task) -> None:
        """Call each listener of the task. One that raises is logged, and disturbs nobody."""
        for listener in [*self._by_task.get(task_id, ())]:
            try:
                listener(task)
            except Exception:
                log.exception("a listener of task %s raised; the task goes on", task_id)
