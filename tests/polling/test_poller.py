"""The polling loop: what answers do, in any order, and who is told."""

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
from aivideo._polling.poller import Poller
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
    """A source of polls that answers each by what ``answer`` returns, after 0.05 s."""

    def __init__(self, answer: Callable[[str, float], Task | Exception]) -> None:
        self.answer = answer
        self.polls = 0
        self.given_back = 0
        self.contended_until = 0.0

    @property
    def contended(self) -> bool:
        return asyncio.get_running_loop().time() < self.contended_until

    async def admit(self) -> Service:
        return self

    async def fetch(self, task_id: str) -> Task:
        self.polls += 1
        await asyncio.sleep(0.05)
        answer = self.answer(task_id, asyncio.get_running_loop().time())
        if isinstance(answer, Exception):
            raise answer
        return answer

    def give_back(self) -> None:
        self.given_back += 1


class Facts:
    """Keeps what the poller tells."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, Task]] = []
        self.lost: list[str] = []

    def task_ended(self, task_id: str, task: Task) -> None:
        self.ended.append((task_id, task))

    def task_lost(self, task_id: str) -> None:
        self.lost.append(task_id)


def ends_at(seconds: float) -> Callable[[str, float], Task]:
    return lambda name, now: completed(name) if now >= seconds else pending(name)


async def test_cancelling_one_waiter_affects_no_other() -> None:
    poller = Poller(Service(ends_at(100)))
    poller.watch("t")
    first, second, third = (poller.wait("t") for _ in range(3))
    first.cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(second, 5)
    assert poller.statistics().waiting == 1
    assert (await third).status == "completed"
    assert (await poller.wait("t")).status == "completed", "a late wait is answered at once"
    await poller.aclose()


async def test_a_task_without_waiters_is_still_watched_and_its_end_kept() -> None:
    poller = Poller(Service(ends_at(100)))
    poller.watch("t")
    poller.wait("t").cancel()
    await asyncio.sleep(300)
    assert poller.statistics().watching == 0
    assert (await poller.wait("t")).status == "completed"
    await poller.aclose()


async def test_cancelled_waiters_of_one_task_do_not_accumulate() -> None:
    poller = Poller(Service(ends_at(1e6)))
    poller.watch("t")
    for _ in range(5000):
        poller.wait("t").cancel()
    held = poller._watched["t"].waiters
    assert not isinstance(held, list) or len(held) < 10
    await poller.aclose()


@pytest.mark.parametrize(
    "failure",
    [
        APIConnectionError("reset", written=True),
        APITimeoutError("no answer within 60 s", written=True),
        ResponseError("not JSON", status=200, body=b"{"),
        ResponseError("from a gateway", status=404, body=b"<html>"),
        ResponseError("from a gateway", status=403, body=b"<html>"),
        InternalServerError("oops", status=500, code="internal_error"),
        UpstreamError("busy", status=503, code="upstream_error"),
        RateLimitError("slow down", status=429, code="rate_limit_exceeded", retry_after=1.0),
        SpendLimitError("spent", status=429, code="spend_limit_exceeded"),
        APIStatusError("who knows", status=418, code="teapot"),
        not_found(),
        ValueError("a defect in a transport"),
    ],
    ids=lambda failure: f"{type(failure).__name__}-{getattr(failure, 'status', '')}",
)
async def test_a_failed_poll_never_ends_a_job(failure: Exception) -> None:
    service = Service(lambda name, now: failure if 30 < now < 100 else ends_at(150)(name, now))
    poller = Poller(service)
    poller.watch("t")
    assert (await poller.wait("t")).status == "completed"
    assert 0 < poller.statistics().failed_polls < service.polls
    await poller.aclose()


async def test_failed_polls_back_off_exponentially_up_to_a_minute() -> None:
    times: list[float] = []

    def answer(_name: str, now: float) -> Exception:
        times.append(now)
        return APIConnectionError("reset", written=True)

    poller = Poller(Service(answer))
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
async def test_a_lasting_404_ends_the_watching_of_that_task_alone(code: str) -> None:
    gone = {"task_not_found": not_found(), "model_not_found": ModelNotFoundError("x", status=404)}
    error = gone.get(code, NotFoundError("no such thing", status=404, code=code))
    service = Service(lambda name, _: error if name == "gone" else pending(name))
    facts = Facts()
    poller = Poller(service, facts)
    poller.watch("gone")
    poller.watch("there")
    began = asyncio.get_running_loop().time()
    with pytest.raises(TaskNotFoundError):
        await poller.wait("gone")
    assert (
        lifecycle.NOT_FOUND_GRACE
        <= asyncio.get_running_loop().time() - began
        <= 2 * lifecycle.NOT_FOUND_GRACE
    )
    assert (poller.watches("gone"), poller.watches("there")) == (False, True)
    assert (facts.lost, facts.ended) == (["gone"], [])
    await poller.aclose()


async def test_an_answer_between_two_404s_restarts_the_grace_period() -> None:
    answers = iter([not_found(), pending(), not_found(), pending(), completed()])
    poller = Poller(Service(lambda *_: next(answers)), poll_interval=lifecycle.NOT_FOUND_GRACE - 1)
    poller.watch("t")
    assert (await poller.wait("t")).status == "completed"
    await poller.aclose()


@pytest.mark.parametrize(
    "denied",
    [unauthorized(), PermissionDeniedError("not from here", status=403, code="ip_not_allowed")],
)
async def test_a_401_or_403_stops_all_watching_with_one_error_one_line_and_no_further_poll(
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
    assert service.polls <= 4, "the polls in flight, and no further one"
    assert len(caplog.records) == 1
    service.answer = ends_at(0)
    poller.watch("0")
    assert (await poller.wait("0")).status == "completed", "a later wait watches its task again"
    await poller.aclose()


async def test_an_end_delivered_before_its_task_is_watched_is_kept_for_it() -> None:
    facts = Facts()
    service = Service(ends_at(1e9))
    poller = Poller(service, facts)
    poller.deliver(processing("early"))
    poller.deliver(completed("early"))
    assert poller.known("early") is None
    poller.watch("early", callback=True)
    assert facts.ended == [], "not before the caller of watch() has recorded the task"
    assert (await poller.wait("early")).status == "completed"
    assert [name for name, _ in facts.ended] == ["early"]
    assert service.polls == 0
    await poller.aclose()


async def test_a_resumed_task_is_polled_at_once() -> None:
    poller = Poller(Service(ends_at(0)))
    poller.watch("t", age=None)
    await asyncio.wait_for(poller.wait("t"), 0.1)
    await poller.aclose()


async def test_a_listener_that_raises_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Task) -> None:
        raise ValueError("in user code")

    poller = Poller(Service(ends_at(100)))
    poller.watch("t")
    poller.subscribe("t", broken)
    seen: list[Task] = []
    poller.subscribe("t", seen.append)
    assert (await poller.wait("t")).status == "completed"
    assert [task.status for task in seen] == ["pending", "completed"]
    assert "in user code" in caplog.text
    await poller.aclose()


async def test_a_crash_of_the_polling_loop_fails_all_waiters() -> None:
    class Broken(Service):
        async def admit(self) -> Service:
            raise ValueError("the limiter crashed")

    poller = Poller(Broken(ends_at(100)))
    poller.watch("t")
    with pytest.raises(SessionClosedError, match="the limiter crashed"):
        await poller.wait("t")
    await poller.aclose()


async def test_the_answer_of_a_poll_in_flight_when_the_end_is_delivered_changes_nothing() -> None:
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


async def test_an_ended_task_holds_no_references_while_its_entry_is_on_the_agenda() -> None:
    poller = Poller(Service(ends_at(1e9)), poll_interval=1e6)
    poller.watch("t")
    watched = poller._watched["t"]
    poller.subscribe("t", print)
    waiter = poller.wait("t")
    poller.deliver(completed())
    await waiter
    assert (watched.known, watched.waiters, len(poller._listeners)) == (None, None, 0)
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


async def test_a_task_whose_end_was_dropped_can_be_watched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aivideo._polling.ends.MAX_ENDS", 10)
    poller = Poller(Service(ends_at(0)))
    for n in range(30):
        poller.watch(str(n))
        poller.deliver(completed(str(n)))
    assert poller.known("29") is not None
    assert poller.end_of("0") is None
    poller.watch("0", age=None)
    assert (await poller.wait("0")).status == "completed", "polled again"
    await poller.aclose()


async def test_statistics_count_tasks_waiters_and_polls() -> None:
    failures = iter([APIConnectionError("reset", written=True)])
    poller = Poller(Service(lambda name, now: next(failures, None) or ends_at(100)(name, now)))
    poller.watch("a", age=None)
    poller.watch("b", age=None)
    waiters = [poller.wait("a"), poller.wait("a"), poller.wait("b")]
    await asyncio.sleep(0.03)
    now = poller.statistics()
    assert (now.watching, now.waiting, now.polls_in_flight, now.polls) == (2, 3, 2, 2)
    await asyncio.gather(*waiters)
    now = poller.statistics()
    assert (now.watching, now.waiting, now.polls_in_flight) == (0, 0, 0)
    assert (now.failed_polls, now.ended, now.contradictions) == (1, 2, 0)
    await poller.aclose()


async def test_polls_postponed_for_creates_are_sent_once_no_create_waits() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    def answer(name: str, now: float) -> Task:
        times.append(now)
        return pending(name)

    began = loop.time()
    service = Service(answer)
    service.contended_until = began + 40
    poller = Poller(service)
    poller.watch("t")
    await asyncio.sleep(90)
    assert 40 <= times[0] - began <= 41.5
    await poller.aclose()


async def test_an_answer_makes_room_for_the_next_poll() -> None:
    poller = Poller(Service(ends_at(0)), max_polls_in_flight=1)
    for n in range(5):
        poller.watch(str(n), age=None)
    await asyncio.wait_for(asyncio.gather(*(poller.wait(str(n)) for n in range(5))), 1)
    await poller.aclose()


async def test_processing_and_progress_reach_the_agenda() -> None:
    def answer(name: str, now: float) -> Task:
        return pending(name) if now < 60 else processing(name, None if now < 120 else 40)

    poller = Poller(Service(answer))
    poller.watch("t")
    watched = poller._watched["t"]
    noted = []
    for _ in range(3):
        await asyncio.sleep(59)
        noted.append((watched.processing_since is not None, watched.estimate is not None))
    assert noted == [(False, False), (True, False), (True, True)]
    await poller.aclose()


async def test_at_most_max_polls_in_flight_are_in_flight() -> None:
    poller = Poller(Service(ends_at(1e9)), max_polls_in_flight=3, poll_interval=0.01)
    for n in range(100):
        poller.watch(str(n))
    most = 0
    for _ in range(500):
        await asyncio.sleep(0.01)
        most = max(most, poller.statistics().polls_in_flight)
    assert most == 3
    await poller.aclose()


async def test_closing_fails_every_waiter_and_leaves_no_asyncio_task() -> None:
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


async def test_completed_without_urls_is_polled_again_until_the_grace_period_is_over() -> None:
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
    assert lifecycle.URLS_GRACE <= waited <= 2 * lifecycle.URLS_GRACE
    await poller.aclose()


async def test_a_lost_callback_is_counted_and_a_late_one_corrects_the_count() -> None:
    poller = Poller(Service(ends_at(60)))
    kind = poller._agenda.kind(("k",))
    before = kind.lost_callback_share
    poller.watch("t", kind=("k",), callback=True)
    assert (await poller.wait("t")).status == "completed", "no callback came"
    assert kind.lost_callback_share > before
    poller.deliver(completed())
    assert kind.lost_callback_share < before
    await poller.aclose()


async def test_a_service_clock_that_is_years_off_moves_no_poll() -> None:
    def skewed(name: str, now: float) -> Task:
        if now < 60:
            return PendingTask(id=name, model="m", created_at=BORN + timedelta(days=3000), raw={})
        return completed(name)

    poller = Poller(Service(skewed))
    poller.watch("t")
    await asyncio.wait_for(poller.wait("t"), 130)
    await poller.aclose()


async def test_updates_yield_each_change_once_and_end_with_the_end() -> None:
    answers = [pending(), processing(), pending(), processing(progress=40), completed(), failed()]
    poller = Poller(Service(lambda *_: pending()))
    poller.watch("t")

    async def follow() -> list[Task]:
        return [task async for task in poller.updates("t")]

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    for task in answers:
        poller.deliver(task)
        await asyncio.sleep(0)
    seen = await following
    assert [task.status for task in seen] == ["pending", "processing", "processing", "completed"]
    assert poller.statistics().contradictions == 1
    await poller.aclose()


async def test_leaving_the_updates_removes_the_waiter_and_the_listener() -> None:
    poller = Poller(Service(ends_at(1000)))
    poller.watch("t")
    async with aclosing(poller.updates("t")) as updates:
        assert (await anext(updates)).status == "pending"
        assert poller.statistics().waiting == 1
    assert poller.statistics().waiting == 0
    assert len(poller._listeners) == 0
    await poller.aclose()


UNRECOGNIZED = UnrecognizedTask(id="t", model="sora-2", created_at=BORN, status="paused", raw={})
ANSWERS = st.sampled_from(
    [
        pending(),
        processing(),
        processing(progress=30),
        UNRECOGNIZED,
        completed(),
        failed(),
        completed(),
    ]
)
FAILURES = st.sampled_from(
    [not_found(), APIConnectionError("reset", written=True), ValueError("x")]
)
BY_POLL = st.tuples(st.just(True), ANSWERS | FAILURES, st.just(0.0))
BY_CALLBACK = st.tuples(st.just(False), ANSWERS, st.floats(0, 40))


@given(
    st.lists(ANSWERS, max_size=3),
    st.lists(BY_POLL | BY_CALLBACK, max_size=12),
    st.sampled_from([completed(), failed()]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_in_any_order_of_answers_the_first_end_wins_and_every_waiter_is_resolved(
    before: list[Task],
    events: list[tuple[bool, Task | Exception, float]],
    last: Task,
    resumed: bool,
) -> None:
    """Polls and callbacks, early, late, duplicated, contradictory, between failures: in any order.

    Args:
        before: delivered by callbacks before the task is watched.
        events: answers, in order: whether by a poll, what, and seconds before a callback.
        last: the answer of every poll after ``events``.
        resumed: whether the task was created long before it is watched.
    """
    failed = [isinstance(answer, Exception) for by_poll, answer, _ in events if by_poll]
    # Seven failed polls in a row take two minutes. If the first and the last are 404s, the task
    # counts as gone, and there is no end.
    assume(not any(all(failed[at : at + 7]) for at in range(len(failed) - 6)))
    log = logging.getLogger("aivideo._polling.poller")
    log.setLevel(logging.CRITICAL)
    order: list[Task] = []

    async def main() -> None:
        polled = iter([answer for by_poll, answer, _ in events if by_poll])

        def respond(*_: object) -> Task | Exception:
            answer = next(polled, last)
            if not isinstance(answer, Exception):
                order.append(answer)
            return answer

        facts = Facts()
        seen: list[Task] = []
        poller = Poller(Service(respond), facts)
        for task in before:
            order.append(task)
            poller.deliver(task)
        poller.watch("t", callback=True, age=None if resumed else 0.0)
        waiters = [poller.wait("t") for _ in range(3)]
        poller.subscribe("t", seen.append)
        for by_poll, answer, pause in events:
            if not by_poll:
                await asyncio.sleep(pause)
                assert not isinstance(answer, Exception)
                order.append(answer)
                poller.deliver(answer)
        ends = await asyncio.wait_for(asyncio.gather(*waiters), 3600)
        await asyncio.sleep(1000)
        first = next(task for task in order if lifecycle.is_ended(task))
        assert all(end is first for end in ends)
        assert [id(task) for _, task in facts.ended] == [id(first)], "told once"
        assert sum(bool(lifecycle.is_ended(task)) for task in seen) == 1
        assert seen[-1] is first, "the end is the last update"
        after = order[order.index(first) + 1 :]
        contradicting = [t for t in after if lifecycle.is_ended(t) and t.status != first.status]
        assert poller.statistics().contradictions == len(contradicting)
        assert poller.statistics().watching == poller.statistics().waiting == 0
        await poller.aclose()

    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())
    finally:
        log.setLevel(logging.NOTSET)


async def test_a_waiting_job_takes_at_most_500_bytes() -> None:
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
