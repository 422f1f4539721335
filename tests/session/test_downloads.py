"""Downloads of a session: files are complete, and a close ends them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aivideo import (
    Session,
    SessionClosedError,
    Sora2,
    Succeeded,
)
from aivideo.simulator import (
    Faults,
    Nth,
    Scenario,
    serve,
)

pytestmark = pytest.mark.anyio


BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


async def test_files_are_complete_and_the_api_key_is_sent_only_to_the_api(tmp_path: Path) -> None:
    faults = Faults(download_cut=Nth(1, 3), download_ignore_range=Nth(2), download_html_502=Nth(5))
    async with serve(scenario(media="mp4", faults=faults)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            outcomes = [o async for o in session.generate_many(boats(4), save_to=tmp_path)]
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
        files = sorted(tmp_path.iterdir())
        assert len(files) == 4
        assert all(file.read_bytes()[4:8] == b"ftyp" for file in files)
        assert all(file.read_bytes() for file in files)
        assert sim.truth.keys_at_results == 0


async def test_closing_ends_a_download_that_is_being_retried_and_raises_in_save(
    tmp_path: Path,
) -> None:
    faults = Faults(download_html_502=1.0)
    async with serve(scenario(faults=faults)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            job = await session.submit(BOAT)
            await job
            saving = asyncio.create_task(job.save(tmp_path / "boat.mp4"))
            await asyncio.sleep(1.0)  # one attempt has failed; the next one is waiting
        done, _ = await asyncio.wait([saving], timeout=0.5)
        assert done, "a closed session does not retry downloads"
        assert isinstance(saving.exception(), SessionClosedError)
        assert list(tmp_path.iterdir()) == []


async def test_a_cancelled_save_leaves_no_partial_file(
    tmp_path: Path,
) -> None:
    faults = Faults(download_html_502=1.0)
    async with (
        serve(scenario(faults=faults)) as sim,
        Session("sk-test", base_url=sim.url) as session,
    ):
        job = await session.submit(BOAT)
        await job
        saving = asyncio.create_task(job.save(tmp_path / "boat.mp4"))
        await asyncio.sleep(1.0)
        saving.cancel()
        await asyncio.wait([saving])
        assert saving.cancelled()
        assert not session._parts.downloads._under_way
        assert list(tmp_path.iterdir()) == []
