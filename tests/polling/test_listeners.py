from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aivideo._polling.listeners import Listeners
from aivideo.models import PendingTask, Task

TASK = PendingTask(id="t", model="m", created_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_each_listener_of_the_task_is_called_and_no_other() -> None:
    listeners = Listeners()
    first: list[Task] = []
    second: list[Task] = []
    other: list[Task] = []
    for task_id, seen in (("t", first), ("t", second), ("u", other)):
        listeners.add(task_id, seen.append)
    listeners.tell("t", TASK)
    listeners.tell("unknown", TASK)
    assert (first, second, other) == ([TASK], [TASK], [])


def test_a_listener_that_raises_is_logged_and_the_next_is_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: Task) -> None:
        raise ValueError("in user code")

    listeners = Listeners()
    seen: list[Task] = []
    listeners.add("t", broken)
    listeners.add("t", seen.append)
    listeners.tell("t", TASK)
    assert seen == [TASK]
    assert "in user code" in caplog.text


def test_a_listener_may_remove_itself_while_it_is_called() -> None:
    listeners = Listeners()
    seen: list[Task] = []

    def once(task: Task) -> None:
        seen.append(task)
        remove()

    remove = listeners.add("t", once)
    listeners.tell("t", TASK)
    listeners.tell("t", TASK)
    assert seen == [TASK]
    assert len(listeners) == 0


def test_removing_twice_or_late_does_not_remove_another_listener() -> None:
    listeners = Listeners()
    seen: list[Task] = []
    remove = listeners.add("t", print)
    listeners.drop("t")  # the task has ended
    listeners.add("t", seen.append)  # and is watched again
    remove()
    remove()
    listeners.tell("t", TASK)
    assert seen == [TASK]
