"""Concurrent batches on one ledger: some are killed, and one is started twice by mistake."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from aivideo.ledger.records import JobStatus
from tests.durable.processes import (
    TIMEOUT,
    command,
    environment,
    is_complete_video,
    jobs_of,
    prompt_of,
    run,
    simulator_process,
    tasks_per_prompt,
)
from tests.durable.proxy import WireEvent, proxy_for

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

JOBS_PER_BATCH = 14
KILL_AT_POST = (6, 14)
"""Numbers of the POSTs at which the first and the second process are killed."""


async def test_concurrent_batches_on_one_ledger_pay_once_per_job_despite_kills(
    tmp_path: Path,
) -> None:
    ledger = tmp_path / "jobs.db"
    commands = []
    for name in ("one", "two"):
        manifest = tmp_path / f"{name}.txt"
        lines = [f"Prompt {number} of {name}" for number in range(JOBS_PER_BATCH)]
        manifest.write_text("\n".join(lines), "utf-8")
        options = ("--duration", "4", "--aspect-ratio", "16:9", "--poll-interval", "0.2")
        paths = ("--output", tmp_path / f"out-{name}", "--ledger", ledger)
        commands.append(("batch", manifest, *paths, *options))
    one, two = commands
    simulator_options = ("--speed", "600", "--latency", "0.05", "--rate-limit", "token:40/s:8")
    async with simulator_process(*simulator_options) as simulator, proxy_for(simulator) as proxy:
        # "one" is started twice, like by a user who forgot about the first terminal.
        processes = [
            await asyncio.create_subprocess_exec(
                *command(*each),
                env=environment(proxy.url),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            for each in (one, two, one)
        ]
        posts = 0

        def on_event(event: WireEvent) -> bool:
            nonlocal posts
            # Once each: a second kill of a dead child reaps it, and asyncio then reports 255.
            if event is WireEvent.POST_SENT:
                posts += 1
                if posts in KILL_AT_POST:
                    processes[KILL_AT_POST.index(posts)].kill()
            return False

        proxy.on_event = on_event
        async with asyncio.timeout(TIMEOUT):
            errors = [(await process.communicate())[1].decode() for process in processes]
        assert not [err for err in errors if "Traceback" in err]
        assert [process.returncode for process in processes[:2]] == [-9, -9]
        # Creates that a killed process had in progress become unknown and are never sent again.
        results = await asyncio.gather(*(run(proxy.url, *each) for each in (one, two, one)))
        assert {result.code for result in results} <= {0, 4}, results
        truth = simulator.truth()
    jobs = await jobs_of(ledger)
    assert len(jobs) == 2 * JOBS_PER_BATCH
    assert set(tasks_per_prompt(truth).values()) == {1}
    assert {job.status for job in jobs} <= {JobStatus.SAVED, JobStatus.UNKNOWN}
    for task in truth["tasks"]:
        [job] = [job for job in jobs if prompt_of(job) == task["prompt"]]
        assert job.status is JobStatus.UNKNOWN or job.task_id == task["id"]
    saved = [job for job in jobs if job.status is JobStatus.SAVED]
    assert all(is_complete_video(Path(str(job.path))) for job in saved)
    assert len(saved) >= 2 * JOBS_PER_BATCH - 2 * 8, "only creates in progress may be unknown"
