"""Ctrl-C, for real: what is under way finishes, the rest is not sent, the same command goes on."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import orjson
import pytest

from tests.durable.processes import (
    PATIENCE,
    command,
    how_often_taken,
    is_whole_film,
    run,
    stand_in,
    surroundings,
)
from tests.durable.proxy import Moment, watched

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

COUNT = 24


async def test_ctrl_c_finishes_what_is_under_way_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    manifest, output = tmp_path / "prompts.txt", tmp_path / "out"
    manifest.write_text("\n".join(f"Prompt {number}" for number in range(COUNT)), "utf-8")
    batch = (
        *("batch", manifest, "--output", output, "--duration", "4", "--aspect-ratio", "16:9"),
        *("--poll-interval", "0.2"),
    )
    options = ("--speed", "600", "--latency", "0.1", "--rate-limit", "token:30/s:8")
    async with stand_in(*options) as stand, watched(stand) as wire:
        process = await asyncio.create_subprocess_exec(
            *command(*batch),
            env=surroundings(wire.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

        def on_moment(moment: Moment) -> bool:
            if moment is Moment.POST_LEFT and len(wire.posts) == 6:
                process.send_signal(signal.SIGINT)
            return False

        wire.on_moment = on_moment
        async with asyncio.timeout(PATIENCE):
            out, err = (each.decode() for each in await process.communicate())
        assert process.returncode == 130, err
        assert "Traceback" not in err
        assert "Stopping: nothing more is submitted" in err
        assert "Go on with the same command" in out
        assert all(post.answered for post in wire.posts), "what was under way was waited for"
        taken = stand.truth()["creates_taken"]
        assert 6 <= taken < COUNT
        rows = [
            orjson.loads(row) for row in (output / "unfinished.jsonl").read_bytes().splitlines()
        ]
        assert not [row for row in rows if "unknown" in row]
        done = [path for path in output.glob("*.mp4") if is_whole_film(path)]
        assert len(rows) + len(done) == COUNT
        assert sum("task_id" in row for row in rows) + len(done) == taken
        again = await run(wire.url, *batch)
        assert again.code == 0, again
        assert how_often_taken(stand.truth()) == {f"Prompt {n}": 1 for n in range(COUNT)}
    assert not (output / "unfinished.jsonl").exists()
    assert len([path for path in output.glob("*.mp4") if is_whole_film(path)]) == COUNT
