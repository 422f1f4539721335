"""Ctrl-C, or a closed terminal, on a real process: requests in progress finish.

The same command continues later.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import orjson
import pytest

from tests.durable.processes import (
    TIMEOUT,
    command,
    environment,
    is_complete_video,
    run,
    simulator_process,
    tasks_per_prompt,
)
from tests.durable.proxy import WireEvent, proxy_for

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

COUNT = 24


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
async def test_ctrl_c_finishes_requests_in_progress_and_the_same_command_continues(
    tmp_path: Path, number: signal.Signals
) -> None:
    manifest, output = tmp_path / "prompts.txt", tmp_path / "out"
    manifest.write_text("\n".join(f"Prompt {each}" for each in range(COUNT)), "utf-8")
    batch = (
        *("batch", manifest, "--output", output, "--duration", "4", "--aspect-ratio", "16:9"),
        *("--poll-interval", "0.2"),
    )
    options = ("--speed", "600", "--latency", "0.1", "--rate-limit", "token:30/s:8")
    async with simulator_process(*options) as simulator, proxy_for(simulator) as proxy:
        process = await asyncio.create_subprocess_exec(
            *command(*batch),
            env=environment(proxy.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

        def on_event(event: WireEvent) -> bool:
            if event is WireEvent.POST_SENT and len(proxy.posts) == 6:
                process.send_signal(number)
            return False

        proxy.on_event = on_event
        async with asyncio.timeout(TIMEOUT):
            out, err = (each.decode() for each in await process.communicate())
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert "Stopping: nothing more is submitted" in err
        assert "Go on with the same command" in out
        assert all(post.answered for post in proxy.posts), (
            "the process exited before all answers arrived"
        )
        taken = simulator.truth()["creates_taken"]
        assert 6 <= taken < COUNT
        rows = [
            orjson.loads(row) for row in (output / "unfinished.jsonl").read_bytes().splitlines()
        ]
        assert not [row for row in rows if "unknown" in row]
        done = [path for path in output.glob("*.mp4") if is_complete_video(path)]
        assert len(rows) + len(done) == COUNT
        assert sum("task_id" in row for row in rows) + len(done) == taken
        second_run = await run(proxy.url, *batch)
        assert second_run.code == 0, second_run
        assert tasks_per_prompt(simulator.truth()) == {f"Prompt {n}": 1 for n in range(COUNT)}
    assert not (output / "unfinished.jsonl").exists()
    assert len([path for path in output.glob("*.mp4") if is_complete_video(path)]) == COUNT
