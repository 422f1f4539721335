from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from aivideo._polling.lifecycle import (
    NOT_FOUND_GRACE,
    URLS_GRACE,
    GracePeriods,
    is_ended,
    merge,
)
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
HALF_DONE = ProcessingTask(id="t", model="m", created_at=AT, progress=0.5)
UNRECOGNIZED = UnrecognizedTask(id="t", model="m", created_at=AT, status="paused")
WITHOUT_URLS = CompletedTask(id="t", model="m", created_at=AT, completed_at=AT, urls=())
DONE = CompletedTask(id="t", model="m", created_at=AT, completed_at=AT, urls=("https://h/a",))
FAILED = FailedTask(id="t", model="m", created_at=AT, error=TaskFailure("e", "m"))

TASKS: list[Task] = [PENDING, PROCESSING, HALF_DONE, UNRECOGNIZED, WITHOUT_URLS, DONE, FAILED]


def merged(*answers: Task) -> Task | None:
    known: Task | None = None
    for task in answers:
        known = merge(known, task).task
    return known


def test_in_any_order_the_end_is_kept() -> None:
    answers: list[Task] = [PENDING, PROCESSING, WITHOUT_URLS, DONE]
    for order in permutations(answers):
        assert merged(*order) == DONE
    answers = [PENDING, UNRECOGNIZED, HALF_DONE, FAILED]
    for order in permutations(answers):
        assert merged(*order) == FAILED


@given(st.lists(st.sampled_from(TASKS), min_size=1))
def test_repeated_answers_change_nothing(answers: list[Task]) -> None:
    known = merged(*answers)
    assert known is not None
    assert merge(known, known).changed is False
    if is_ended(known):
        for task in answers:
            assert merge(known, task).task is known


@given(st.lists(st.sampled_from(TASKS), min_size=2))
def test_the_first_end_wins_and_a_contradiction_is_reported(answers: list[Task]) -> None:
    known: Task | None = None
    for task in answers:
        result = merge(known, task)
        if is_ended(known):
            assert result.task is known
            assert result.contradiction == (is_ended(task) and task.status != known.status)
        else:
            assert not result.contradiction
        known = result.task


def test_pending_after_processing_is_outdated() -> None:
    result = merge(PROCESSING, PENDING)
    assert result.task is PROCESSING
    assert not result.changed


def test_progress_is_a_change_and_the_same_progress_is_none() -> None:
    assert merge(PROCESSING, HALF_DONE).changed
    assert merge(HALF_DONE, HALF_DONE).changed is False


def test_completed_without_urls_has_not_ended() -> None:
    assert not is_ended(WITHOUT_URLS)
    assert merge(WITHOUT_URLS, DONE).task is DONE
    assert merge(WITHOUT_URLS, PROCESSING).task is WITHOUT_URLS
    assert not is_ended(None)


def test_a_task_is_gone_after_a_grace_period_of_nothing_but_404() -> None:
    grace = GracePeriods()
    assert not grace.is_gone("t", 1000.0)
    assert not grace.is_gone("t", 1000.0 + NOT_FOUND_GRACE - 1)
    assert grace.is_gone("t", 1000.0 + NOT_FOUND_GRACE)
    assert not grace.is_gone("another", 1000.0 + NOT_FOUND_GRACE)


def test_an_answer_about_the_task_restarts_the_404_grace_period() -> None:
    grace = GracePeriods()
    grace.is_gone("t", 0.0)
    grace.found("t")
    assert not grace.is_gone("t", NOT_FOUND_GRACE)
    assert grace.is_gone("t", 2 * NOT_FOUND_GRACE)


def test_completed_without_urls_counts_as_ended_after_a_grace_period() -> None:
    grace = GracePeriods()
    assert not grace.has_ended("t", PROCESSING, 0.0)
    assert not grace.has_ended("t", WITHOUT_URLS, 500.0)
    assert not grace.has_ended("t", WITHOUT_URLS, 500.0 + URLS_GRACE - 1)
    assert grace.has_ended("t", WITHOUT_URLS, 500.0 + URLS_GRACE)
    assert grace.has_ended("u", DONE, 0.0)
    assert grace.has_ended("u", FAILED, 0.0)


def test_nothing_is_stored_about_a_task_that_was_forgotten_or_needs_no_grace_period() -> None:
    grace = GracePeriods()
    grace.is_gone("t", 0.0)
    grace.has_ended("t", WITHOUT_URLS, 0.0)
    grace.has_ended("u", DONE, 0.0)
    grace.has_ended("v", PENDING, 0.0)
    grace.forget("t")
    assert grace == GracePeriods()
