"""A session belongs to one event loop; calls from another loop are refused."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aivideo import ConfigurationError, Job, Session, Sora2
from aivideo.simulator import Scenario, Service
from aivideo.testing import DirectTransport

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def new_service() -> Service:
    return Service(Scenario(task_seconds=0.05, media="stub"))


def test_a_second_asyncio_run_is_refused_before_anything_is_recorded_or_sent() -> None:
    service = new_service()
    session = Session("sk-test", transport=DirectTransport(service))
    jobs: list[Job] = []

    async def submit() -> None:
        jobs.append(await session.submit(BOAT))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(submit())
    calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        submit,
        lambda: session.enqueue(BOAT),
        lambda: session.generate(BOAT),
        lambda: anext(session.generate_many([BOAT])),
        session.resume,
        session.credits,
        lambda: session.retrieve("t"),
        lambda: session.find(key="k"),
        lambda: session.receive_callback("t", b""),
        jobs[0].result,
        jobs[0].submitted,
        jobs[0].cancel,
        lambda: jobs[0].save("boat.mp4"),
        lambda: anext(jobs[0].updates()),  # type: ignore[arg-type]
        session.aclose,
    ]
    for call in calls:

        async def run(call: Callable[[], Coroutine[Any, Any, Any]] = call) -> None:
            with pytest.raises(ConfigurationError, match="event loop"):
                await call()

        asyncio.run(run())
    assert service.truth.creates_taken == 1
    assert session.statistics().credits.charged == 100


def test_a_call_from_another_threads_loop_is_refused() -> None:
    service = new_service()
    errors: list[BaseException] = []

    async def main() -> None:
        async with Session("sk-test", transport=DirectTransport(service)) as session:
            await session.submit(BOAT)

            def in_thread() -> None:
                try:
                    asyncio.run(session.submit(BOAT))
                except ConfigurationError as error:
                    errors.append(error)

            thread = threading.Thread(target=in_thread)
            thread.start()
            await asyncio.to_thread(thread.join)

    asyncio.run(main())
    assert len(errors) == 1
    assert service.truth.creates_taken == 1


def test_a_used_session_that_is_not_closed_emits_a_resource_warning() -> None:
    async def main() -> None:
        session = Session("sk-test", transport=DirectTransport(new_service()))
        await session.submit(BOAT)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert ResourceWarning in {warning.category for warning in caught}


def test_a_closed_or_unused_session_emits_no_warning() -> None:
    async def main() -> None:
        Session("sk-test", transport=DirectTransport(new_service()))
        async with Session("sk-test", transport=DirectTransport(new_service())) as session:
            await session.submit(BOAT)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [warning for warning in caught if "Session" in str(warning.message)] == []


def test_a_job_whose_loop_ended_during_its_post_is_logged_and_becomes_unknown(
    caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    service = Service(Scenario(task_seconds=60.0, media="stub", latency=60.0))
    path, jobs = tmp_path / "jobs.db", list[Job]()

    async def main() -> None:
        session = Session("sk-test", ledger=path, transport=DirectTransport(service))
        jobs.append(await session.enqueue(BOAT))
        await asyncio.sleep(0.5)

    async def later() -> list[str]:
        async with Session("sk-test", ledger=path, transport=DirectTransport(service)) as session:
            return [f"{job.id} {job.status}" for job in await session.resume()]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(main())
        gc.collect()
    assert jobs[0].id in caplog.text
    assert asyncio.run(later()) == [f"{jobs[0].id} unknown"]
    assert service.truth.creates_seen == 1
