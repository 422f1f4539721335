"""What handles ask of their session: wait, follow, save, cancel, with and without limits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aivideo import (
    ConfigurationError,
    JobStatus,
    MemoryLedger,
    RateLimit,
    Session,
    SessionClosedError,
    Sora2,
    Task,
    TaskFailedError,
    WaitTimeoutError,
)
from aivideo._session.actions import LAST_UPDATES_TIMEOUT, check_wait_timeout
from aivideo.simulator import Scenario, Service
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")
SLOW = RateLimit.window(1, seconds=100)


def service(**settings: object) -> Service:
    scenario = {"task_seconds": 60.0, "media": "stub", "latency": 1.0, **settings}
    return Service(Scenario(**scenario))  # type: ignore[arg-type]


def session_of(sold: Service, **settings: Any) -> Session:
    return Session("sk-test", transport=DirectTransport(sold), **settings)


@pytest.mark.parametrize("value", [-1, float("nan"), "5", True, []])
def test_a_wait_timeout_that_is_no_number_of_seconds_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="wait_timeout"):
        check_wait_timeout(value)


@pytest.mark.parametrize("value", [None, 0, 0.5, float("inf")])
def test_seconds_or_none_are_a_wait_timeout(value: object) -> None:
    check_wait_timeout(value)


async def test_a_wait_that_times_out_leaves_the_job_running() -> None:
    async with session_of(service()) as session:
        job = await session.submit(BOAT)
        with pytest.raises(WaitTimeoutError, match="wait again") as caught:
            await job.result(wait_timeout=5)
        assert caught.value.job is job
        assert job.status is JobStatus.RUNNING
        assert (await job).id == job.task_id


async def test_a_timeout_of_the_caller_is_not_taken_for_a_wait_timeout() -> None:
    async with session_of(service()) as session:
        job = await session.submit(BOAT)
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(5):
                await job.result(wait_timeout=50)
        assert not isinstance(caught.value, WaitTimeoutError)


async def test_a_failed_task_is_raised_by_each_wait() -> None:
    async with session_of(service(failure_rate=1.0)) as session:
        job = await session.submit(BOAT)
        for _ in range(2):
            with pytest.raises(TaskFailedError):
                await job
        assert job.status is JobStatus.FAILED


async def test_updates_end_with_the_end_of_the_task() -> None:
    async with session_of(service()) as session:
        job = await session.submit(BOAT)
        states = [task.status async for task in job.updates()]
        assert states[-1] == "completed"
        assert len(set(states)) > 1


async def test_on_update_hears_each_change_and_may_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[str] = []

    async def on_update(task: Task) -> None:
        heard.append(task.status)
        raise RuntimeError("an error of the user's code")

    async with session_of(service()) as session:
        job = await session.submit(BOAT, on_update=on_update)
        await job
        await asyncio.sleep(1)
    assert heard[-1] == "completed"
    assert f"on_update of job {job.id} failed" in caplog.text


@pytest.mark.parametrize("awaits", [False, True])
@pytest.mark.parametrize(
    "raised",
    [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()],
    ids=lambda raised: type(raised).__name__,
)
async def test_an_exit_in_on_update_is_logged_while_posts_are_under_way_and_ends_its_calls(
    raised: BaseException, awaits: bool, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def on_update(task: Task) -> None:
        heard.append(task.status)
        raise raised

    async def later(task: Task) -> None:
        await asyncio.sleep(0.1)
        on_update(task)

    sold = service(latency=20.0)
    async with session_of(sold) as session:
        job = await session.submit(BOAT, on_update=later if awaits else on_update)
        others = [await session.enqueue(BOAT) for _ in range(3)]
        await job
        for other in others:
            await other
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 1, "the listener has ended"
    assert len(heard) == 1
    assert sold.truth.creates_taken == 4
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert all(text in record.getMessage() for text in (job.id, job.task_id or "", "not called"))


async def test_the_log_of_an_on_update_that_raises_shows_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_update(_: Task) -> None:
        raise RuntimeError(
            "cannot use https://bucket.example/a.mp4?X-Signature=1f2e with sk-live-1"
        )

    async with session_of(service()) as session:
        job = await session.submit(BOAT, on_update=on_update)
        await job
    assert "cannot use https://bucket.example/a.mp4" in caplog.text
    assert job.task_id is not None
    assert job.task_id in caplog.text
    assert "1f2e" not in caplog.text
    assert "sk-live-1" not in caplog.text


async def test_closing_waits_a_few_seconds_for_on_update_and_then_cancels_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def on_update(_: Task) -> None:
        await asyncio.sleep(3600)

    async with session_of(service()) as session:
        await (await session.submit(BOAT, on_update=on_update))
        began = asyncio.get_running_loop().time()
    took = asyncio.get_running_loop().time() - began
    assert took == pytest.approx(LAST_UPDATES_TIMEOUT, abs=1)
    assert "it is cancelled" in caplog.text


async def test_save_waits_for_the_result_and_fetches_it(tmp_path: Path) -> None:
    async with session_of(service()) as session:
        job = await session.submit(BOAT)
        path = await job.save(tmp_path / "boat.mp4")
        assert path.stat().st_size > 0


async def test_a_task_made_elsewhere_is_waited_for_by_its_id() -> None:
    sold = service()
    async with session_of(sold) as one:
        task_id = (await one.submit(BOAT)).task_id
        assert task_id is not None
        assert one.job(task_id) is one.job(task_id), "a known task has one handle"
        async with session_of(sold) as other:
            job = other.job(task_id)
            assert job.request is None
            assert (await job).id == task_id
            assert job.status is JobStatus.COMPLETED
    assert sold.truth.creates_seen == 1


async def test_a_job_that_runs_is_not_cancelled() -> None:
    async with session_of(service()) as session:
        job = await session.submit(BOAT)
        assert await job.cancel() is False
        assert await session.job("a-task-made-elsewhere").cancel() is False


async def test_a_planned_job_of_another_session_is_withdrawn_by_its_handle() -> None:
    sold, ledger = service(), MemoryLedger()
    async with session_of(sold, ledger=ledger, rate_limit=SLOW) as one:
        await one.submit(BOAT)
        queued = await one.enqueue(BOAT)
        async with session_of(sold, ledger=ledger.sharing("next")) as other:
            found = await other.find(id=queued.id)
            assert found is not None
            assert await found.cancel() is True
            assert found.status is JobStatus.WITHDRAWN
            assert await found.cancel() is False
        await asyncio.sleep(3600)
    assert sold.truth.creates_taken == 1


async def test_a_closed_session_lets_nobody_begin_to_wait() -> None:
    async with session_of(service()) as session:
        job = await session.submit(BOAT)
    with pytest.raises(SessionClosedError):
        await job
