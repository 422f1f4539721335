"""The poller: what it hears, in whatever order, and who is told."""

from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aivideo._polling import lifecycle
from aivideo._polling.poller import MISSING_FOR, OVERTAKING, Poller
from aivideo.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    InternalServerError,
    ModelNotFoundError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ResponseError,
    SessionClosedError,
    SpendLimitError,
    TaskNotFoundError,
    UpstreamError,
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
from aivideo.testing import VirtualTimeLoop

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
    poller = Poller(Service(ends_at(100)))
    poller.watch("t")
    first, second, third = (poller.wait("t") for _ in range(3))
    first.cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(second, 5)
    assert poller.statistics().waiting == 1
    assert (await third).status == "completed"
    assert (await poller.wait("t")).status == "completed", "asked late, answered at once"
    await poller.aclose()


async def test_a_task_that_nobody_waits_for_is_watched_on_and_can_be_asked_for() -> None:
    poller = Poller(Service(ends_at(100)))
    poller.watch("t")
    poller.wait("t").cancel()
    await asyncio.sleep(300)
    assert poller.statistics().watching == 0
    assert (await poller.wait("t")).status == "completed"
    await poller.aclose()


async def test_thousands_of_waiters_of_one_task_that_come_and_go_leave_nothing() -> None:
    poller = Poller(Service(ends_at(1e6)))
    poller.watch("t")
    for _ in range(5000):
        poller.wait("t").cancel()
    held = poller._watched["t"].waiters
    assert not isinstance(held, list) or len(held) < 10
    await poller.aclose()


@pytest.mark.parametrize(
    "blip",
    [
        APIConnectionError("reset", written=True),
        APITimeoutError("no answer within 60 s", written=True),
        ResponseError("not JSON", status=200, body=b"{"),
        ResponseError("a gateway's", status=404, body=b"<html>"),
        ResponseError("a gateway's", status=403, body=b"<html>"),
        InternalServerError("oops", status=500, code="internal_error"),
        UpstreamError("busy", status=503, code="upstream_error"),
        RateLimitError("slow down", status=429, code="rate_limit_exceeded", retry_after=1.0),
        SpendLimitError("spent", status=429, code="spend_limit_exceeded"),
        APIStatusError("who knows", status=418, code="teapot"),
        not_found(),
        ValueError("a defect of somebody's transport"),
    ],
    ids=lambda blip: f"{type(blip).__name__}-{getattr(blip, 'status', '')}",
)
async def test_a_blip_never_ends_a_job(blip: Exception) -> None:
    service = Service(lambda name, now: blip if 30 < now < 100 else _before(name, now))
    poller = Poller(service)
    poller.watch("t")
    assert (await poller.wait("t")).status == "completed"
    assert 0 < poller.statistics().failed_polls < service.polls
    await poller.aclose()


def _before(name: str, now: float) -> Task:
    return completed(name) if now >= 150 else pending(name)


async def test_a_look_that_brought_nothing_is_made_again_later_each_time() -> None:
    times: list[float] = []

    def say(_name: str, now: float) -> Exception:
        times.append(now)
        return APIConnectionError("reset", written=True)

    poller = Poller(Service(say))
    poller.watch("t")
    await asyncio.sleep(1000)
    pauses = [round(after - before) for before, after in pairwise(times)]
    assert pauses[:8] == [2, 4, 8, 16, 32, 60, 60, 60]
    await poller.aclose()


async def test_an_outage_of_hours_ends_no_job() -> None:
    reset = APIConnectionError("reset", written=True)
    service = Service(lambda name, now: reset if now < 40_000 else completed(name))
    poller = Poller(service)
    for n in range(20):
        poller.watch(str(n))
    waiters = [poller.wait(str(n)) for n in range(20)]
    await asyncio.wait_for(asyncio.gather(*waiters), 40_100)
    await poller.aclose()


@pytest.mark.parametrize("code", ["task_not_found", "model_not_found", "not_found"])
async def test_a_404_that_stays_ends_the_watching_of_that_task_alone(code: str) -> None:
    gone = {"task_not_found": not_found(), "model_not_found": ModelNotFoundError("x", status=404)}
    error = gone.get(code, NotFoundError("no such thing", status=404, code=code))
    service = Service(lambda name, _: error if name == "gone" else pending(name))
    poller = Poller(service)
    poller.watch("gone")
    poller.watch("there")
    began = asyncio.get_running_loop().time()
    with pytest.raises(TaskNotFoundError):
        await poller.wait("gone")
    assert MISSING_FOR <= asyncio.get_running_loop().time() - began <= 2 * MISSING_FOR
    assert poller.statistics().watching == 1
    await poller.aclose()


async def test_a_404_in_between_begins_anew() -> None:
    said = iter([not_found(), pending(), not_found(), pending(), completed()])
    poller = Poller(Service(lambda *_: next(said)), poll_interval=MISSING_FOR - 1)
    poller.watch("t")
    assert (await poller.wait("t")).status == "completed"
    await poller.aclose()


@pytest.mark.parametrize(
    "denied",
    [unauthorized(), PermissionDeniedError("not from here", status=403, code="ip_not_allowed")],
)
async def test_a_401_or_403_stops_all_with_one_error_one_line_and_no_further_poll(
    caplog: pytest.LogCaptureFixture, denied: APIStatusError
) -> None:
    service = Service(lambda *_: denied)
    poller = Poller(service, max_polls_in_flight=4)
    for n in range(1000):
        poller.watch(str(n))
    waiters = [poller.wait(str(n)) for n in range(1000)]
    with caplog.at_level(logging.WARNING):
        results = await asyncio.gather(*waiters, return_exceptions=True)
    assert len({id(error) for error in results}) == 1
    assert results[0] is denied
    await asyncio.sleep(1000)
    assert service.polls <= 4, "what was under way, and not one more"
    assert len(caplog.records) == 1
    service.say = ends_at(0)
    poller.watch("0")
    assert (await poller.wait("0")).status == "completed", "who asks again is watched again"
    await poller.aclose()


async def test_an_end_that_overtakes_the_answer_naming_its_task_is_kept_for_it() -> None:
    told: list[str] = []
    service = Service(ends_at(1e9))
    poller = Poller(service, on_ended=lambda name, _: told.append(name))
    poller.deliver(processing("early"))
    poller.deliver(completed("early"))
    assert poller.known("early") is None
    poller.watch("early", callback=True)
    assert told == [], "not before whoever watches it has noted it"
    assert (await poller.wait("early")).status == "completed"
    assert (told, service.polls) == (["early"], 0)
    for n in range(5000):
        poller.deliver(completed(f"never asked for {n}"))
    assert len(poller._overtaking) == OVERTAKING
    await poller.aclose()


async def test_a_task_taken_up_again_is_looked_at_at_once() -> None:
    poller = Poller(Service(ends_at(0)))
    poller.watch("t", age=None)
    await asyncio.wait_for(poller.wait("t"), 0.1)
    await poller.aclose()


async def test_a_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Task) -> None:
        raise ValueError("of a user")

    poller = Poller(Service(ends_at(100)))
    poller.watch("t")
    poller.subscribe("t", broken)
    seen: list[Task] = []
    poller.subscribe("t", seen.append)
    assert (await poller.wait("t")).status == "completed"
    assert [task.status for task in seen] == ["pending", "completed"]
    assert "of a user" in caplog.text
    await poller.aclose()


async def test_a_loop_that_breaks_lets_nobody_wait_for_ever() -> None:
    async def broken() -> Any:
        raise ValueError("the pace broke")

    poller = Poller(broken)
    poller.watch("t")
    with pytest.raises(SessionClosedError, match="the pace broke"):
        await poller.wait("t")
    await poller.aclose()


async def test_a_look_under_way_when_the_end_is_delivered_changes_nothing() -> None:
    for late in (pending(), completed(), not_found(), unauthorized(), ValueError("x")):
        poller = Poller(Service(lambda *_, late=late: late))
        poller.watch("t", age=None)
        waiter = poller.wait("t")
        await asyncio.sleep(0.03)
        assert poller.statistics().polls_in_flight == 1
        poller.deliver(completed())
        await asyncio.sleep(1.0)
        assert waiter.result().status == "completed"
        assert (await poller.wait("t")).status == "completed"
        assert poller.statistics().contradictions == 0
        await poller.aclose()


async def test_what_has_ended_holds_nothing_while_it_lies_on_the_agenda() -> None:
    poller = Poller(Service(ends_at(1e9)), poll_interval=1e6)
    poller.watch("t")
    watched = poller._watched["t"]
    poller.subscribe("t", print)
    waiter = poller.wait("t")
    poller.deliver(completed())
    await waiter
    assert (watched.known, watched.waiters, watched.listeners) == (None, None, None)
    await poller.aclose()


@pytest.mark.parametrize("bare_ended", [False, True])
async def test_another_end_after_one_without_urls_is_a_contradiction(bare_ended: bool) -> None:
    done = completed()
    assert isinstance(done, CompletedTask)
    bare = attrs.evolve(done, urls=())
    poller = Poller(Service(lambda *_: bare))
    poller.watch("t")
    if bare_ended:
        await poller.wait("t")
    else:
        await asyncio.sleep(100)
    poller.deliver(failed())
    assert (await poller.wait("t")).status == ("completed" if bare_ended else "failed")
    assert poller.statistics().contradictions == bare_ended
    await poller.aclose()


async def test_of_what_has_ended_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aivideo._polling.poller.REMEMBERED", 10)
    poller = Poller(Service(ends_at(0)))
    for n in range(30):
        poller.watch(str(n))
        poller.deliver(completed(str(n)))
    assert len(poller._ends) == len(poller._oldest) == 10
    assert poller.known("29") is not None
    poller.watch("0", age=None)
    assert (await poller.wait("0")).status == "completed", "asked for again"
    await poller.aclose()


async def test_statistics_say_what_goes_on() -> None:
    blip = iter([APIConnectionError("reset", written=True)])
    poller = Poller(Service(lambda name, now: next(blip, None) or ends_at(100)(name, now)))
    poller.watch("a", age=None)
    poller.watch("b", age=None)
    waiters = [poller.wait("a"), poller.wait("a"), poller.wait("b")]
    await asyncio.sleep(0.03)
    said = poller.statistics()
    assert (said.watching, said.waiting, said.polls_in_flight, said.polls) == (2, 3, 2, 2)
    await asyncio.gather(*waiters)
    said = poller.statistics()
    assert (said.watching, said.waiting, said.polls_in_flight) == (0, 0, 0)
    assert (said.failed_polls, said.ended, said.contradictions) == (1, 2, 0)
    await poller.aclose()


async def test_what_was_put_off_for_creates_is_looked_at_once_they_have_gone() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    def say(name: str, now: float) -> Task:
        times.append(now)
        return pending(name)

    began = loop.time()
    poller = Poller(Service(say), contended=lambda: loop.time() < began + 40)
    poller.watch("t")
    await asyncio.sleep(90)
    assert 40 <= times[0] - began <= 41.5
    await poller.aclose()


async def test_an_end_makes_room_for_the_look_that_waits_for_it() -> None:
    poller = Poller(Service(ends_at(0)), max_polls_in_flight=1)
    for n in range(5):
        poller.watch(str(n), age=None)
    await asyncio.wait_for(asyncio.gather(*(poller.wait(str(n)) for n in range(5))), 1)
    await poller.aclose()


async def test_what_the_service_tells_of_how_far_it_is_reaches_the_agenda() -> None:
    def say(name: str, now: float) -> Task:
        return pending(name) if now < 60 else processing(name, None if now < 120 else 40)

    poller = Poller(Service(say))
    poller.watch("t")
    watched = poller._watched["t"]
    said = []
    for _ in range(3):
        await asyncio.sleep(59)
        said.append((watched.begun_at is not None, watched.progress is not None))
    assert said == [(False, False), (True, False), (True, True)]
    await poller.aclose()


async def test_no_more_polls_are_in_flight_than_was_said() -> None:
    poller = Poller(Service(ends_at(1e9)), max_polls_in_flight=3, poll_interval=0.01)
    for n in range(100):
        poller.watch(str(n))
    most = 0
    for _ in range(500):
        await asyncio.sleep(0.01)
        most = max(most, poller.statistics().polls_in_flight)
    assert most == 3
    await poller.aclose()


async def test_closing_tells_every_waiter_and_leaves_nothing_pending() -> None:
    before = asyncio.all_tasks()
    poller = Poller(Service(ends_at(1e9)))
    for n in range(3000):
        poller.watch(str(n))
    waiters = [poller.wait(str(n)) for n in range(3000)]
    await asyncio.sleep(30)
    await poller.aclose()
    assert all(isinstance(waiter.exception(), SessionClosedError) for waiter in waiters)
    with pytest.raises(SessionClosedError):
        await poller.wait("0")
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
    poller = Poller(Service(lambda name, now: bare if now < 200 else completed(name)))
    poller.watch("t")
    end = await poller.wait("t")
    assert isinstance(end, CompletedTask)
    assert end.urls
    await poller.aclose()
    poller = Poller(Service(lambda *_: bare))
    poller.watch("t")
    began = asyncio.get_running_loop().time()
    end = await poller.wait("t")
    assert isinstance(end, CompletedTask)
    assert not end.urls
    waited = asyncio.get_running_loop().time() - began
    assert lifecycle.URLS_WITHIN <= waited <= 2 * lifecycle.URLS_WITHIN
    await poller.aclose()


async def test_a_lost_callback_is_found_and_one_that_a_look_forestalled_was_not_lost() -> None:
    poller = Poller(Service(ends_at(60)))
    kind = poller._agenda.kind(("k",))
    before = kind.lost_share
    poller.watch("t", kind=("k",), callback=True)
    assert (await poller.wait("t")).status == "completed", "nobody called"
    assert kind.lost_share > before
    poller.deliver(completed())
    assert kind.lost_share < before
    await poller.aclose()


async def test_a_clock_that_is_years_off_moves_no_look() -> None:
    def skewed(name: str, now: float) -> Task:
        if now < 60:
            return PendingTask(id=name, model="m", created_at=BORN + timedelta(days=3000), raw={})
        return completed(name)

    poller = Poller(Service(skewed))
    poller.watch("t")
    await asyncio.wait_for(poller.wait("t"), 130)
    await poller.aclose()


async def test_updates_are_each_change_once_and_end_with_the_end() -> None:
    said = [pending(), processing(), pending(), processing(progress=40), completed(), failed()]
    poller = Poller(Service(lambda *_: pending()))
    poller.watch("t")

    async def follow() -> list[Task]:
        return [task async for task in poller.updates("t")]

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for task in said:
        poller.deliver(task)
        await asyncio.sleep(0)
    seen = await following
    assert [task.status for task in seen] == ["pending", "processing", "processing", "completed"]
    assert poller.statistics().contradictions == 1
    await poller.aclose()


async def test_who_leaves_the_updates_leaves_nothing_behind() -> None:
    poller = Poller(Service(ends_at(1000)))
    poller.watch("t")
    async with aclosing(poller.updates("t")) as updates:
        assert (await anext(updates)).status == "pending"
        assert poller.statistics().waiting == 1
    assert poller.statistics().waiting == 0
    assert poller._watched["t"].listeners == []
    await poller.aclose()


ODD = UnrecognizedTask(id="t", model="sora-2", created_at=BORN, status="paused", raw={})
TOLD = st.sampled_from(
    [pending(), processing(), processing(progress=30), ODD, completed(), failed(), completed()]
)
BLIPS = st.sampled_from([not_found(), APIConnectionError("reset", written=True), ValueError("x")])
BY_POLL = st.tuples(st.just(True), TOLD | BLIPS, st.just(0.0))
BY_CALLBACK = st.tuples(st.just(False), TOLD, st.floats(0, 40))


@given(
    st.lists(TOLD, max_size=3),
    st.lists(BY_POLL | BY_CALLBACK, max_size=12),
    st.sampled_from([completed(), failed()]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_heard_the_first_ending_wins_and_nothing_is_unresolved(
    before: list[Task],
    heard: list[tuple[bool, Task | Exception, float]],
    last: Task,
    taken_up: bool,
) -> None:
    """Polls and callbacks, early, late, doubled, contradictory, between blips: in any order."""
    polls = [isinstance(said, TaskNotFoundError) for by_poll, said, _ in heard if by_poll]
    # Seven 404s in a row take two minutes: then the task counts as gone, and that is the end.
    assume(not any(all(polls[at : at + 7]) for at in range(len(polls) - 6)))
    log = logging.getLogger("aivideo._polling.poller")
    log.setLevel(logging.CRITICAL)
    order: list[Task] = []

    async def main() -> None:
        polled = iter([said for by_poll, said, _ in heard if by_poll])

        def say(*_: object) -> Task | Exception:
            said = next(polled, last)
            if not isinstance(said, Exception):
                order.append(said)
            return said

        told: list[Task] = []
        seen: list[Task] = []
        poller = Poller(Service(say), on_ended=lambda _, task: told.append(task))
        for task in before:
            order.append(task)
            poller.deliver(task)
        poller.watch("t", callback=True, age=None if taken_up else 0.0)
        waiters = [poller.wait("t") for _ in range(3)]
        poller.subscribe("t", seen.append)
        for by_poll, told_now, pause in heard:
            if not by_poll:
                await asyncio.sleep(pause)
                assert not isinstance(told_now, Exception)
                order.append(told_now)
                poller.deliver(told_now)
        ends = await asyncio.wait_for(asyncio.gather(*waiters), 3600)
        await asyncio.sleep(1000)
        first = next(task for task in order if lifecycle.is_ended(task))
        assert all(end is first for end in ends)
        assert [*map(id, told)] == [id(first)], "told once"
        assert sum(bool(lifecycle.is_ended(task)) for task in seen) == 1
        assert seen[-1] is first, "the end is the last update"
        after = order[order.index(first) + 1 :]
        against = [t for t in after if lifecycle.is_ended(t) and t.status != first.status]
        assert poller.statistics().contradictions == len(against)
        assert poller.statistics().watching == poller.statistics().waiting == 0
        await poller.aclose()

    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())
    finally:
        log.setLevel(logging.NOTSET)


async def test_a_waiting_job_weighs_less_than_500_bytes() -> None:
    poller = Poller(Service(ends_at(1e9)))
    waiters: list[Any] = [None] * 5000
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(5000):
            poller.watch(f"{n:036}")
            waiters[n] = poller.wait(f"{n:036}")
        assert tracemalloc.get_traced_memory()[0] / 5000 <= 500
    finally:
        tracemalloc.stop()
    await poller.aclose()
