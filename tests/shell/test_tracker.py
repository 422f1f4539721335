"""The tracker: what it hears, in whatever order, and who is told."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aivideo.errors import (
    APIConnectionError,
    AuthenticationError,
    ResponseError,
    SessionClosedError,
    TaskNotFoundError,
)
from aivideo.models import (
    CompletedTask,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Task,
    TaskFailure,
)
from aivideo.sansio import lifecycle
from aivideo.testing import VirtualTimeLoop
from aivideo.tracker import MISSING_FOR, TaskTracker

pytestmark = pytest.mark.anyio

BORN = datetime(2026, 1, 1, tzinfo=UTC)


def pending(name: str = "t") -> Task:
    return PendingTask(id=name, model="sora-2", created_at=BORN, raw={})


def processing(name: str = "t", progress: float | None = None) -> Task:
    return ProcessingTask(id=name, model="sora-2", created_at=BORN, raw={}, progress=progress)


def completed(name: str = "t", *urls: str, seconds: float = 60.0) -> Task:
    return CompletedTask(
        id=name,
        model="sora-2",
        created_at=BORN,
        completed_at=BORN + timedelta(seconds=seconds),
        urls=urls or ("https://store.example/a.mp4?sig=x",),
        metadata={},
        raw={},
    )


def failed(name: str = "t") -> Task:
    error = TaskFailure(code="upstream_error", message="no")
    return FailedTask(id=name, model="sora-2", created_at=BORN, raw={}, error=error)


def not_found() -> TaskNotFoundError:
    return TaskNotFoundError(
        "no such task", status=404, code="task_not_found", type="invalid_request_error"
    )


def unauthorized() -> AuthenticationError:
    return AuthenticationError(
        "the key is disabled", status=401, code="invalid_api_key", type="authentication_error"
    )


class Service:
    """Answers each look by what ``say`` returns or raises; one turn of the loop away."""

    def __init__(self, say: Callable[[str, float], Task | Exception]) -> None:
        self.say = say
        self.polls = 0
        self.given_back = 0

    async def __call__(self) -> Service:
        return self

    async def fetch(self, task_id: str) -> Task:
        self.polls += 1
        await asyncio.sleep(0.05)
        said = self.say(task_id, asyncio.get_running_loop().time())
        if isinstance(said, Exception):
            raise said
        return said

    def give_back(self) -> None:
        self.given_back += 1


def ends_at(seconds: float) -> Callable[[str, float], Task]:
    return lambda name, now: completed(name) if now >= seconds else pending(name)


async def test_each_waiter_may_leave_alone() -> None:
    tracker = TaskTracker(Service(ends_at(100)))
    tracker.watch("t")
    first, second, third = (tracker.wait("t") for _ in range(3))
    first.cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(second, 5)
    assert tracker.statistics().waiting == 1
    assert (await third).status == "completed"
    assert (await tracker.wait("t")).status == "completed", "asked late, answered at once"
    await tracker.aclose()


async def test_a_task_that_nobody_waits_for_is_watched_on_and_can_be_asked_for() -> None:
    tracker = TaskTracker(Service(ends_at(100)))
    tracker.watch("t")
    tracker.wait("t").cancel()
    await asyncio.sleep(300)
    assert tracker.statistics().watching == 0
    assert (await tracker.wait("t")).status == "completed"
    await tracker.aclose()


async def test_thousands_of_waiters_of_one_task_that_come_and_go_leave_nothing() -> None:
    tracker = TaskTracker(Service(ends_at(1e6)))
    tracker.watch("t")
    for _ in range(5000):
        tracker.wait("t").cancel()
    held = tracker._watched["t"].waiters
    assert held is None or isinstance(held, asyncio.Future) or len(held) < 10
    await tracker.aclose()


@pytest.mark.parametrize(
    "blip",
    [
        APIConnectionError("reset", written=True),
        ResponseError("not JSON", status=200, body=b"{"),
        not_found(),
    ],
)
async def test_a_blip_never_ends_a_job(blip: Exception) -> None:
    service = Service(lambda name, now: blip if now < 40 else completed(name))
    tracker = TaskTracker(service)
    tracker.watch("t")
    assert (await tracker.wait("t")).status == "completed"
    assert tracker.statistics().failed_polls == service.polls - 1 > 0
    await tracker.aclose()


async def test_a_404_that_stays_ends_the_watching_of_that_task_alone() -> None:
    service = Service(lambda name, _: not_found() if name == "gone" else pending(name))
    tracker = TaskTracker(service)
    tracker.watch("gone")
    tracker.watch("there")
    began = asyncio.get_running_loop().time()
    with pytest.raises(TaskNotFoundError):
        await tracker.wait("gone")
    assert asyncio.get_running_loop().time() - began >= MISSING_FOR
    assert tracker.statistics().watching == 1
    await tracker.aclose()


async def test_a_404_in_between_begins_anew() -> None:
    said = iter([not_found(), pending(), not_found(), pending(), completed()])
    tracker = TaskTracker(Service(lambda *_: next(said)), poll_interval=MISSING_FOR - 1)
    tracker.watch("t")
    assert (await tracker.wait("t")).status == "completed"
    await tracker.aclose()


async def test_a_401_stops_all_with_one_error_one_line_and_no_further_poll(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(lambda *_: unauthorized())
    tracker = TaskTracker(service, max_polls_in_flight=4)
    for n in range(1000):
        tracker.watch(str(n))
    waiters = [tracker.wait(str(n)) for n in range(1000)]
    with caplog.at_level(logging.WARNING):
        results = await asyncio.gather(*waiters, return_exceptions=True)
    assert len({id(error) for error in results}) == 1
    assert isinstance(results[0], AuthenticationError)
    await asyncio.sleep(1000)
    assert service.polls <= 4, "what was under way, and not one more"
    assert len(caplog.records) <= 4
    service.say = ends_at(0)
    tracker.watch("0")
    assert (await tracker.wait("0")).status == "completed", "who asks again is watched again"
    await tracker.aclose()


async def test_closing_tells_every_waiter_and_leaves_nothing_pending() -> None:
    before = asyncio.all_tasks()
    tracker = TaskTracker(Service(ends_at(1e9)))
    for n in range(3000):
        tracker.watch(str(n))
    waiters = [tracker.wait(str(n)) for n in range(3000)]
    await asyncio.sleep(30)
    await tracker.aclose()
    assert all(isinstance(waiter.exception(), SessionClosedError) for waiter in waiters)
    with pytest.raises(SessionClosedError):
        await tracker.wait("0")
    assert asyncio.all_tasks() == before


async def test_completed_without_urls_is_looked_at_again_and_then_taken_as_it_is() -> None:
    bare = CompletedTask(
        id="t",
        model="sora-2",
        created_at=BORN,
        completed_at=BORN + timedelta(seconds=60),
        urls=(),
        metadata={},
        raw={},
    )
    tracker = TaskTracker(Service(lambda name, now: bare if now < 200 else completed(name)))
    tracker.watch("t")
    end = await tracker.wait("t")
    assert isinstance(end, CompletedTask)
    assert end.urls
    await tracker.aclose()
    tracker = TaskTracker(Service(lambda *_: bare))
    tracker.watch("t")
    began = asyncio.get_running_loop().time()
    end = await tracker.wait("t")
    assert isinstance(end, CompletedTask)
    assert not end.urls
    waited = asyncio.get_running_loop().time() - began
    assert lifecycle.URLS_WITHIN <= waited <= 2 * lifecycle.URLS_WITHIN
    await tracker.aclose()


async def test_a_lost_callback_is_found_and_one_that_a_look_forestalled_was_not_lost() -> None:
    tracker = TaskTracker(Service(ends_at(60)))
    kind = tracker._agenda.kind(("k",))
    before = kind.lost_share
    tracker.watch("t", kind=("k",), callback=True)
    assert (await tracker.wait("t")).status == "completed", "nobody called"
    assert kind.lost_share > before
    tracker.deliver(completed())
    assert kind.lost_share < before
    await tracker.aclose()


async def test_a_clock_that_is_years_off_moves_no_look() -> None:
    def skewed(name: str, now: float) -> Task:
        if now < 60:
            return PendingTask(id=name, model="m", created_at=BORN + timedelta(days=3000), raw={})
        return completed(name)

    tracker = TaskTracker(Service(skewed))
    tracker.watch("t")
    await asyncio.wait_for(tracker.wait("t"), 130)
    await tracker.aclose()


async def test_updates_are_each_change_once_and_end_with_the_end() -> None:
    said = [pending(), processing(), pending(), processing(progress=40), completed(), failed()]
    tracker = TaskTracker(Service(lambda *_: pending()))
    tracker.watch("t")

    async def follow() -> list[Task]:
        return [task async for task in tracker.updates("t")]

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for task in said:
        tracker.deliver(task)
        await asyncio.sleep(0)
    seen = await following
    assert [task.status for task in seen] == ["pending", "processing", "processing", "completed"]
    assert tracker.statistics().contradictions == 1
    await tracker.aclose()


HEARD = st.sampled_from(
    [pending(), processing(), processing(progress=30), completed(), failed(), completed()]
)


@given(
    st.lists(st.tuples(st.booleans(), HEARD, st.floats(0, 40)), max_size=12),
    st.sampled_from([completed(), failed()]),
)
@settings(max_examples=150, deadline=None)
def test_whatever_is_heard_the_first_ending_wins_and_nothing_is_unresolved(
    heard: list[tuple[bool, Task, float]], last: Task
) -> None:
    """Polls and callbacks, late, doubled, contradictory: in any order."""
    log = logging.getLogger("aivideo.tracker")
    log.setLevel(logging.ERROR)
    order: list[Task] = []

    async def main() -> None:
        polled = iter([task for by_poll, task, _ in heard if by_poll])

        def say(*_: object) -> Task:
            task = next(polled, last)
            order.append(task)
            return task

        told: list[Task] = []
        tracker = TaskTracker(Service(say), on_ended=lambda _, task: told.append(task))
        tracker.watch("t", callback=True)
        waiters = [tracker.wait("t") for _ in range(3)]
        for by_poll, task, pause in heard:
            if not by_poll:
                await asyncio.sleep(pause)
                order.append(task)
                tracker.deliver(task)
        ends = await asyncio.wait_for(asyncio.gather(*waiters), 3600)
        await asyncio.sleep(1000)
        first = next(task for task in order if lifecycle.is_ended(task))
        assert all(end.status == first.status for end in ends)
        assert [task.status for task in told] == [first.status], "told once"
        after = order[order.index(first) + 1 :]
        against = [t for t in after if lifecycle.is_ended(t) and t.status != first.status]
        assert tracker.statistics().contradictions == len(against)
        await tracker.aclose()

    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())
    finally:
        log.setLevel(logging.NOTSET)


async def test_a_waiting_job_weighs_less_than_500_bytes() -> None:
    tracker = TaskTracker(Service(ends_at(1e9)))
    waiters: list[Any] = [None] * 5000
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(5000):
            tracker.watch(f"{n:036}")
            waiters[n] = tracker.wait(f"{n:036}")
        assert tracemalloc.get_traced_memory()[0] / 5000 <= 500
    finally:
        tracemalloc.stop()
    await tracker.aclose()
