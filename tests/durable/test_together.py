"""Several batches at once on one ledger, some of them killed; the same one twice by mistake."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aivideo.ledger.records import JobStatus
from tests.durable.processes import (
    PATIENCE,
    command,
    how_often_taken,
    is_whole_film,
    jobs_of,
    prompt_of,
    run,
    stand_in,
    surroundings,
)
from tests.durable.proxy import Moment, watched

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EACH = 14
KILLED_AT = (6, 14)
"""The POSTs with which the first and the second process are killed."""


async def test_batches_on_one_ledger_pay_once_each_though_they_are_killed(tmp_path: Path) -> None:
    ledger = tmp_path / "jobs.db"
    commands = []
    for name in ("one", "two"):
        manifest = tmp_path / f"{name}.txt"
        lines = [f"Prompt {number} of {name}" for number in range(EACH)]
        manifest.write_text("\n".join(lines), "utf-8")
        options = ("--duration", "4", "--aspect-ratio", "16:9", "--poll-interval", "0.2")
        places = ("--output", tmp_path / f"out-{name}", "--ledger", ledger)
        commands.append(("batch", manifest, *places, *options))
    one, two = commands
    slow = ("--speed", "600", "--latency", "0.05", "--rate-limit", "token:40/s:8")
    async with stand_in(*slow) as stand, watched(stand) as wire:
        # "one" is started twice, as by somebody who has forgotten the other terminal.
        processes = [
            await asyncio.create_subprocess_exec(
                *command(*each),
                env=surroundings(wire.url),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            for each in (one, two, one)
        ]
        posts = 0

        def on_moment(moment: Moment) -> bool:
            nonlocal posts
            # Once each: a second kill of a dead child reaps it, and asyncio then reports 255.
            if moment is Moment.POST_LEFT:
                posts += 1
                if posts in KILLED_AT:
                    processes[KILLED_AT.index(posts)].kill()
            return False

        wire.on_moment = on_moment
        async with asyncio.timeout(PATIENCE):
            said = [(await process.communicate())[1].decode() for process in processes]
        assert not [err for err in said if "Traceback" in err]
        assert [process.returncode for process in processes[:2]] == [-9, -9]
        # What the killed ones left is found by whoever lives or comes next, and never sent again.
        ends = await asyncio.gather(*(run(wire.url, *each) for each in (one, two, one)))
        assert {end.code for end in ends} <= {0, 4}, ends
        truth = stand.truth()
    jobs = await jobs_of(ledger)
    assert len(jobs) == 2 * EACH
    assert set(how_often_taken(truth).values()) == {1}
    assert {job.status for job in jobs} <= {JobStatus.SAVED, JobStatus.UNKNOWN}
    for task in truth["tasks"]:
        [job] = [job for job in jobs if prompt_of(job) == task["prompt"]]
        assert job.status is JobStatus.UNKNOWN or job.task_id == task["id"]
    saved = [job for job in jobs if job.status is JobStatus.SAVED]
    assert all(is_whole_film(Path(str(job.path))) for job in saved)
    assert len(saved) >= 2 * EACH - 2 * 8, "unknown are those that were on their way"
