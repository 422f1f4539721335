"""Polling with the whole stack on virtual time: session, limiter, poller, simulated service."""

from __future__ import annotations

import asyncio
import json
import logging
import tracemalloc
from collections.abc import Mapping
from statistics import fmean

import pytest

from aivideo import (
    AuthenticationError,
    Job,
    Session,
    SessionClosedError,
    Sora2,
    Succeeded,
    Task,
    TaskNotFoundError,
    WaitTimeoutError,
)
from aivideo._api import wire
from aivideo.simulator import Faults, Lognormal, Scenario, Seconds, Service, TokenBucket
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def service_of(seconds: Seconds = 100.0, **settings: object) -> Service:
    defaults = {"queue_seconds": 0.0, "media": "stub", "latency": 0.05, "default_balance": 10**9}
    return Service(Scenario(task_seconds=seconds, **(defaults | settings)))  # type: ignore[arg-type]


def session_of(service: Service, **settings: object) -> Session:
    return Session("sk-x", transport=DirectTransport(service), **settings)  # type: ignore[arg-type]


class KeyDisabling(DirectTransport):
    """A service that can disable the API key."""

    disabled = False
    denied = 0

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> wire.Answer:
        answer = await super().send(method, url, headers, body, timeout)
        if not self.disabled:
            return answer
        self.denied += 1
        denial = {"code": "invalid_api_key", "message": "disabled", "type": "authentication_error"}
        return wire.Answer(401, json.dumps({"error": denial}).encode(), {})


@pytest.mark.parametrize("sigma", [0.5, 0.2])
async def test_completions_are_detected_earlier_than_with_as_many_polls_at_a_fixed_interval(
    sigma: float,
) -> None:
    service = service_of(Lognormal(200.0, sigma), latency=0.0, seed=3)
    transport = DirectTransport(service)
    delays, lengths = [], []
    async with Session("sk-x", transport=transport, max_running_jobs=50) as session:
        async for outcome in session.generate_many(BOAT for _ in range(600)):
            assert isinstance(outcome, Succeeded)
            task = service.truth.tasks[outcome.task.id]
            delays.append(transport.now() - task.ends)
            lengths.append(task.ends - task.created)
    fixed = fmean(lengths) / 2 / (service.truth.polls / 600)
    assert fmean(delays) / fixed < (0.85 if sigma == 0.5 else 0.48), (
        "including the first tasks, before anything is learned"
    )


@pytest.mark.parametrize("seed", [11, 12])
async def test_a_thousand_jobs_at_five_requests_a_second(seed: int) -> None:
    service = service_of(Lognormal(150.0, 0.5), rate_limit=TokenBucket(5, 10), seed=seed)
    transport = DirectTransport(service)
    async with Session("sk-x", transport=transport) as session:
        seen = [transport.now() async for _ in session.generate_many(BOAT for _ in range(1000))]
    last = max(task.ends for task in service.truth.tasks.values())
    assert seen[99] <= 250
    assert seen[-1] <= max(1060, last + 30)


async def test_an_ended_task_of_an_earlier_session_is_detected_immediately() -> None:
    service = service_of()
    transport = DirectTransport(service)
    async with Session("sk-x", transport=transport) as session:
        task_id = (await session.submit(BOAT)).task_id
    assert task_id is not None
    await asyncio.sleep(5000)
    async with Session("sk-x", transport=transport) as session:
        start = transport.now()
        assert (await session.job(task_id)).id == task_id
        assert transport.now() - start < 1.0
        assert [task.status async for task in session.job(task_id).updates()] == ["completed"]


async def test_closing_raises_an_error_with_the_job_in_every_waiter() -> None:
    session = session_of(service_of(1e6))
    job = await session.submit(BOAT)

    async def follow() -> None:
        async for _ in job.updates():
            pass

    waiting = [asyncio.create_task(follow()), asyncio.ensure_future(job.result())]
    await asyncio.sleep(100)
    await session.aclose()
    for error in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(error, SessionClosedError)
        assert error.job is job
    with pytest.raises(SessionClosedError) as late:
        await job
    assert late.value.job is job


async def test_each_waiter_of_a_job_has_its_own_timeout_and_cancellation() -> None:
    async with session_of(service_of(100.0)) as session:
        job = await session.submit(BOAT)
        patient = asyncio.ensure_future(job.result())
        cancelled = asyncio.ensure_future(job.result())
        with pytest.raises(WaitTimeoutError) as timed_out:
            await job.result(wait_timeout=5)
        assert timed_out.value.job is job
        cancelled.cancel()
        assert (await patient).status == "completed"
        assert (await job).status == "completed"


@pytest.mark.parametrize("awaits", [False, True])
async def test_on_update_is_called_for_each_change_and_for_the_end(awaits: bool) -> None:
    updates: list[Task] = []

    async def later(task: Task) -> None:
        await asyncio.sleep(0.01)
        updates.append(task)

    service = service_of(100.0, queue_seconds=30.0, progress="percent")
    async with session_of(service, poll_interval=20.0) as session:
        await session.generate(BOAT, on_update=later if awaits else updates.append)
    statuses = [task.status for task in updates]
    assert statuses[0] == "pending"
    assert statuses[-1] == "completed"
    assert statuses.count("processing") == 5, "each progress value is a change"


async def test_an_on_update_that_raises_does_not_affect_the_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(_: Task) -> None:
        raise ValueError("an error of the caller")

    async with session_of(service_of(100.0)) as session:
        assert (await session.generate(BOAT, on_update=broken)).status == "completed"
    assert "an error of the caller" in caplog.text


async def test_a_disabled_key_ends_all_polling_with_one_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = service_of(500.0)
    transport = KeyDisabling(service)
    async with Session("sk-x", transport=transport) as session:
        jobs = [await session.submit(BOAT) for _ in range(200)]
        waiting = [asyncio.ensure_future(job.result()) for job in jobs]
        await asyncio.sleep(50)
        transport.disabled = True
        with caplog.at_level(logging.WARNING):
            errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in errors} == {AuthenticationError}
        assert transport.denied <= 32, "only requests in flight"
        before = transport.denied
        await asyncio.sleep(1000)
        assert transport.denied == before
        assert len(caplog.records) == 1


async def test_running_jobs_are_polled_again_after_the_key_is_enabled() -> None:
    transport = KeyDisabling(service_of(500.0))
    async with Session("sk-x", transport=transport, max_running_jobs=1) as session:
        job = await session.submit(BOAT)
        transport.disabled = True
        with pytest.raises(AuthenticationError):
            await job
        transport.disabled = False
        waiting = await session.enqueue(BOAT)
        session.resume_submits()
        assert (await waiting.result(wait_timeout=3600)).status == "completed"
        assert job.status == "completed", "it was polled although nobody waited"


async def test_a_task_lost_by_the_service_no_longer_counts_as_running() -> None:
    class TaskLosing(DirectTransport):
        lost: str | None = None

        async def send(
            self,
            method: str,
            url: str,
            headers: Mapping[str, str],
            body: bytes | None,
            timeout: float,
        ) -> wire.Answer:
            if self.lost is not None and url.endswith(self.lost):
                missing = {"code": "task_not_found", "message": "no", "type": "x"}
                return wire.Answer(404, json.dumps({"error": missing}).encode(), {})
            return await super().send(method, url, headers, body, timeout)

    transport = TaskLosing(service_of())
    async with Session("sk-x", transport=transport, max_running_jobs=1) as session:
        job = await session.submit(BOAT)
        transport.lost = job.task_id
        other = await session.enqueue(BOAT)
        with pytest.raises(TaskNotFoundError):
            await job
        assert (await other.result(wait_timeout=3600)).status == "completed"
        transport.lost = None
        assert (await job).status == "completed", "a new waiter starts polling again"
        assert session.statistics().limiter.running_jobs == 0
        await session.submit(BOAT)
        assert session.statistics().limiter.running_jobs == 1, "the task was counted once"


async def test_a_task_not_found_at_first_is_polled_again_and_an_unknown_id_raises() -> None:
    async with session_of(service_of(100.0, not_found_for=60.0)) as session:
        assert (await session.generate(BOAT)).status == "completed"
        with pytest.raises(TaskNotFoundError):
            await session.job("00000000-0000-4000-8000-000000000000")


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0])
async def test_a_skewed_clock_does_not_delay_completions(skew: float) -> None:
    service = service_of(Lognormal(100.0, 0.2), clock_skew=skew, seed=4)
    transport = DirectTransport(service)
    async with Session("sk-x", transport=transport, max_running_jobs=20) as session:
        delays = [
            transport.now() - service.truth.tasks[outcome.task.id].ends
            async for outcome in session.generate_many(BOAT for _ in range(200))
            if isinstance(outcome, Succeeded)
        ]
    assert len(delays) == 200
    assert fmean(delays) < 5.0


@pytest.mark.parametrize("lost", [0.0, 0.5, 1.0])
async def test_with_callbacks_polls_are_rare_and_lost_callbacks_are_replaced_by_polls(
    lost: float,
) -> None:
    service = service_of(Lognormal(150.0, 0.5), seed=5, faults=Faults(callback_lost=lost))
    transport = DirectTransport(service)
    async with Session("sk-x", transport=transport) as session:

        async def callbacks() -> None:
            while True:
                await asyncio.sleep(0.5)
                for callback in service.due_callbacks(transport.now()):
                    session._parts.poller.deliver(wire.read_callback(callback.body))
                    service.callback_answered(callback, 200, transport.now())

        delivering = asyncio.create_task(callbacks())
        for _ in range(10):
            jobs: list[Job] = [
                await session.submit(BOAT, callback_url="http://127.0.0.1:1/hook")
                for _ in range(40)
            ]
            await asyncio.gather(*jobs)
        delivering.cancel()
    assert all(task.outcome == "completed" for task in service.truth.tasks.values())
    assert service.truth.polls / 400 < {0.0: 5, 0.5: 16, 1.0: 22}[lost]


async def test_closing_with_many_waiters_fails_them_in_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aivideo._polling.poller.CLOSE_CHUNK", 20)
    session = session_of(service_of(1e6))

    async def consume() -> None:
        async for _ in session.generate_many(BOAT for _ in range(300)):
            pass

    consuming = asyncio.create_task(consume())
    await asyncio.sleep(60)
    assert session.statistics().poller.waiting == 300
    maximum = 0

    async def count() -> None:
        nonlocal maximum
        before = 300
        while before:
            await asyncio.sleep(0)
            waiting = session.statistics().poller.waiting
            before, maximum = waiting, max(maximum, before - waiting)

    counting = asyncio.create_task(count())
    await session.aclose()
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    await asyncio.wait_for(counting, 10)
    assert maximum <= 40


async def test_leaving_generate_many_removes_its_waiters() -> None:
    async with session_of(service_of(1e6)) as session:
        outcomes = session.generate_many(BOAT for _ in range(300))
        waiting = asyncio.ensure_future(anext(outcomes))
        await asyncio.sleep(60)
        assert session.statistics().poller.waiting == 300
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await outcomes.aclose()
        seen = session.statistics().poller
        assert (seen.waiting, seen.watching) == (0, 300), "taken tasks are still polled"


async def test_a_waiting_job_of_generate_many_needs_little_memory() -> None:
    """Counts the memory of session and poller, without the request and the ledger."""
    async with session_of(service_of(1e6)) as session:

        async def consume(count: int) -> None:
            async for _ in session.generate_many(BOAT for _ in range(count)):
                pass

        runs = [asyncio.create_task(consume(200))]
        await asyncio.sleep(30)
        tracemalloc.start(1)
        try:
            runs.append(asyncio.create_task(consume(1500)))
            await asyncio.sleep(30)
            snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        assert session.statistics().poller.waiting == 1700
        for run in runs:
            run.cancel()
        await asyncio.gather(*runs, return_exceptions=True)
    files = ["poller.py", "watched.py", "kind.py", "agenda.py", "many.py", "live.py", "job.py"]
    sizes = dict.fromkeys(files, 0.0)
    for stat in snapshot.statistics("filename"):
        name = stat.traceback[0].filename.rpartition("/")[2]
        if name in sizes:
            sizes[name] += stat.size / 1500
    assert sum(sizes.values()) <= 550, sizes
