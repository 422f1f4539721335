"""Closing a session and waiting for its jobs."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest
from attrs import evolve

from aivideo import (
    BudgetExceededError,
    FileSaved,
    InvalidRequestError,
    JobChanged,
    Session,
    SessionClosedError,
    SessionEvent,
    SessionSettings,
    Sora2,
    Succeeded,
    WaitTimeoutError,
)
from aivideo.catalog import SORA_2, PerSecond, default_catalog
from aivideo.simulator import (
    Faults,
    Scenario,
    Service,
    TokenBucket,
    serve,
)
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio


BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


async def test_closing_waits_for_the_response_of_a_post_in_flight() -> None:
    async with serve(scenario(latency=10.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            job = await session.enqueue(BOAT)
            await asyncio.sleep(5)
        assert job.task_id in sim.truth.tasks
        with pytest.raises(SessionClosedError) as caught:
            await job
        assert caught.value.job is job


async def test_closing_continues_when_its_caller_is_cancelled() -> None:
    async with serve(scenario(latency=10.0)) as sim:
        before = asyncio.all_tasks()
        session = Session("sk-test", base_url=sim.url)
        job = await session.enqueue(BOAT)
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.aclose(), 2)
        await session.aclose()  # a second call waits for the same close
        assert job.task_id in sim.truth.tasks
        assert not {
            task for task in asyncio.all_tasks() - before if "aivideo/sim" not in repr(task)
        }


async def test_a_wait_timeout_does_not_lose_the_job() -> None:
    async with serve(scenario()) as sim, Session("sk-test", base_url=sim.url) as session:
        job = await session.submit(BOAT)
        with pytest.raises(WaitTimeoutError) as caught:
            await job.result(wait_timeout=1)
        assert caught.value.job is job
        cancelled, remaining = asyncio.create_task(job.result()), asyncio.create_task(job.result())
        await asyncio.sleep(1)
        cancelled.cancel()
        assert (await remaining).id == job.task_id
        assert (await session.job(remaining.result().id)).id == job.task_id


async def test_temporary_polling_errors_lose_no_job() -> None:
    faults = Faults(
        poll_reset=0.1,
        poll_malformed=0.1,
        poll_html_502=0.1,
        poll_internal_error=0.1,
        poll_truncated=0.1,
    )
    async with serve(scenario(faults=faults, not_found_for=5.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(40))]
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
        assert sim.truth.creates_seen == 40


def test_a_session_takes_every_setting_with_the_same_default() -> None:
    """Two signatures would drift apart: a setting that only one of them has, or another default."""

    def defaults(cls: type) -> dict[str, object]:
        return {
            name: parameter.default
            for name, parameter in inspect.signature(cls).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }

    assert defaults(Session) == defaults(SessionSettings)


async def test_settings_may_be_given_as_one_value() -> None:
    transport = DirectTransport(Service(scenario()))
    settings = SessionSettings(api_key="sk-test", transport=transport, max_credits="100")
    async with Session.of(settings) as session:
        await session.submit(BOAT)
        with pytest.raises(BudgetExceededError):
            await session.submit(BOAT)


async def test_a_request_whose_price_differs_from_the_sessions_catalogue_is_refused() -> None:
    dearer = default_catalog().with_models(evolve(SORA_2, price=PerSecond("30.5")))
    transport = DirectTransport(Service(scenario()))
    async with Session("sk-test", transport=transport, catalog=dearer) as session:
        with pytest.raises(InvalidRequestError, match="credits"):
            await session.submit(BOAT)
    assert transport.service.truth.creates_seen == 0


async def test_instrumentation_is_told_of_jobs_and_of_saved_files(tmp_path: Path) -> None:
    told: list[SessionEvent] = []
    transport = DirectTransport(Service(scenario()))
    async with Session("sk-test", transport=transport, instrumentation=told.append) as session:
        job = await session.submit(BOAT)
        await job.save(tmp_path / "boat.mp4")
    changes = [event.after for event in told if isinstance(event, JobChanged)]
    assert changes == ["submitting", "running", "completed", "saved"]
    (saved,) = (event for event in told if isinstance(event, FileSaved))
    assert (saved.job_id, saved.path) == (job.id, tmp_path / "boat.mp4")
    assert "?" not in repr(told), "no signed URL"


async def test_closing_releases_a_question_that_waits_for_its_turn() -> None:
    sold = Service(scenario(rate_limit=TokenBucket(0.001, 1), latency=1.0))
    async with Session("sk-test", transport=DirectTransport(sold)) as session:
        await session.credits()
        waiting = asyncio.create_task(session.credits())
        await asyncio.sleep(60)
        assert not waiting.done()
    with pytest.raises(SessionClosedError):
        await asyncio.wait_for(waiting, 60)
    with pytest.raises(SessionClosedError):
        await session.credits()
