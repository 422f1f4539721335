"""Closing and waiting, as a user sees them."""

from __future__ import annotations

import asyncio

import pytest

from aivideo import (
    Session,
    SessionClosedError,
    Sora2,
    Succeeded,
    WaitTimeoutError,
)
from aivideo.simulator import (
    Faults,
    Scenario,
    serve,
)

pytestmark = pytest.mark.anyio


BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


async def test_closing_waits_for_the_verdict_of_a_post_under_way() -> None:
    async with serve(scenario(latency=10.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            job = await session.enqueue(BOAT)
            await asyncio.sleep(5)
        assert job.task_id in sim.truth.tasks
        with pytest.raises(SessionClosedError) as caught:
            await job
        assert caught.value.job is job


async def test_closing_goes_on_when_its_caller_is_cancelled() -> None:
    async with serve(scenario(latency=10.0)) as sim:
        before = asyncio.all_tasks()
        session = Session("sk-test", base_url=sim.url)
        job = await session.enqueue(BOAT)
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.aclose(), 2)
        await session.aclose()  # whoever asks again waits for the same
        assert job.task_id in sim.truth.tasks
        assert not {
            task for task in asyncio.all_tasks() - before if "aivideo/sim" not in repr(task)
        }


async def test_waiting_less_long_is_not_losing() -> None:
    async with serve(scenario()) as sim, Session("sk-test", base_url=sim.url) as session:
        job = await session.submit(BOAT)
        with pytest.raises(WaitTimeoutError) as caught:
            await job.result(wait_timeout=1)
        assert caught.value.job is job
        leaver, stayer = asyncio.create_task(job.result()), asyncio.create_task(job.result())
        await asyncio.sleep(1)
        leaver.cancel()
        assert (await stayer).id == job.task_id
        assert (await session.job(stayer.result().id)).id == job.task_id


async def test_blips_while_polling_never_lose_a_job() -> None:
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
