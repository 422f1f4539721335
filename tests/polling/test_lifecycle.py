from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from aivideo._polling.lifecycle import is_ended, merge
from aivideo.models import (
    CompletedTask,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Task,
    TaskFailure,
    UnrecognizedTask,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
PENDING = PendingTask(id="t", model="m", created_at=AT)
PROCESSING = ProcessingTask(id="t", model="m", created_at=AT)
HALF = ProcessingTask(id="t", model="m", created_at=AT, progress=0.5)
ODD = UnrecognizedTask(id="t", model="m", created_at=AT, status="paused")
BARE = CompletedTask(id="t", model="m", created_at=AT, completed_at=AT, urls=())
DONE = CompletedTask(id="t", model="m", created_at=AT, completed_at=AT, urls=("https://h/a",))
FAILED = FailedTask(id="t", model="m", created_at=AT, error=TaskFailure("e", "m"))

TASKS: list[Task] = [PENDING, PROCESSING, HALF, ODD, BARE, DONE, FAILED]


def after(*heard: Task) -> Task | None:
    known: Task | None = None
    for task in heard:
        known = merge(known, task).task
    return known


def test_in_whatever_order_it_is_heard_the_end_is_what_stays() -> None:
    kept: list[Task] = [PENDING, PROCESSING, BARE, DONE]
    for order in permutations(kept):
        assert after(*order) == DONE
    kept = [PENDING, ODD, HALF, FAILED]
    for order in permutations(kept):
        assert after(*order) == FAILED


@given(st.lists(st.sampled_from(TASKS), min_size=1))
def test_hearing_it_all_again_changes_nothing(heard: list[Task]) -> None:
    known = after(*heard)
    assert known is not None
    assert merge(known, known).changed is False
    if is_ended(known):
        for task in heard:
            assert merge(known, task).task is known


@given(st.lists(st.sampled_from(TASKS), min_size=2))
def test_the_first_end_wins_and_a_contradiction_is_told(heard: list[Task]) -> None:
    known: Task | None = None
    for task in heard:
        merged = merge(known, task)
        if is_ended(known):
            assert merged.task is known
            assert merged.contradiction == (is_ended(task) and task.status != known.status)
        else:
            assert not merged.contradiction
        known = merged.task


def test_pending_after_processing_is_old_news() -> None:
    merged = merge(PROCESSING, PENDING)
    assert merged.task is PROCESSING
    assert not merged.changed


def test_progress_is_news_and_its_absence_is_too() -> None:
    assert merge(PROCESSING, HALF).changed
    assert merge(HALF, HALF).changed is False


def test_completed_without_urls_is_not_over() -> None:
    assert not is_ended(BARE)
    assert merge(BARE, DONE).task is DONE
    assert merge(BARE, PROCESSING).task is BARE
    assert not is_ended(None)
