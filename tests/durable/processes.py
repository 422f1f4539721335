"""Helpers for tests with real processes: the simulator, the ``aivideo`` command, its files."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from attrs import frozen

from aivideo.ledger.records import JobRecord
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.models import Sora2

TIMEOUT = 120.0
"""Timeout in seconds: a process that takes longer counts as hung."""

KEY = "sk-durable-0123456789"


@frozen
class RunningSimulator:
    """A running simulator process.

    Attributes:
        url: origin of its API.
        results_url: origin of its results.
    """

    url: str
    results_url: str

    def truth(self) -> dict[str, Any]:
        """Return what really happened, including all tasks."""
        with urllib.request.urlopen(f"{self.url}/_sim/truth?tasks=1", timeout=TIMEOUT) as answer:
            found: dict[str, Any] = orjson.loads(answer.read())
        return found


@asynccontextmanager
async def simulator_process(*options: str) -> AsyncIterator[RunningSimulator]:
    """Run ``aivideo simulate`` on free ports inside an ``async with`` block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "aivideo", "simulate", "--port", "0", *options),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"at (http\S+) \(results at (http[^)\s]+)\)", line)
        assert found, line
        yield RunningSimulator(*found.groups())
    finally:
        process.kill()
        await process.communicate()


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of an ``aivideo`` command."""
    return [sys.executable, "-m", "aivideo", *map(str, arguments)]


def command_with_small_chunks(*arguments: str | Path) -> list[str]:
    """Return the same command line, with downloads written to disk in small chunks.

    The simulator's videos are smaller than the usual chunk: without this, no kill would ever find a
    partly written file.
    """
    program = (
        "from aivideo import cli; from aivideo.delivery import download; "
        "download.CHUNK = 1000; cli.main()"
    )
    return [sys.executable, "-c", program, *map(str, arguments)]


def environment(url: str) -> Mapping[str, str]:
    """Return environment variables with the API key and the base URL of the test."""
    return {**os.environ, "AIVIDEO_API_KEY": KEY, "AIVIDEO_BASE_URL": url, "COLUMNS": "130"}


@frozen
class CommandResult:
    """The result of a command: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def one_line(self) -> str:
        """Its stderr, which must be one line and not a traceback."""
        assert "Traceback" not in self.err, self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


async def run(url: str, *arguments: str | Path, prefix: tuple[str, ...] = ()) -> CommandResult:
    """Run an ``aivideo`` command to its end. ``prefix`` is put in front of its command line."""
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *command(*arguments),
        env=environment(url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode is not None
    return CommandResult(process.returncode, out.decode(), err.decode())


async def jobs_of(ledger: Path) -> list[JobRecord]:
    """Read all jobs of a ledger, without write access."""
    opened = SqliteLedger(ledger, read_only=True)
    try:
        return [job async for job in opened.jobs()]
    finally:
        await opened.aclose()


def prompt_of(job: JobRecord) -> str:
    """Return the prompt of a job."""
    assert isinstance(job.request, Sora2)
    return job.request.prompt


def tasks_per_prompt(truth: Mapping[str, Any]) -> Counter[str]:
    """Count how many tasks were created and charged for each prompt."""
    return Counter(task["prompt"] for task in truth["tasks"])


def is_complete_video(path: Path) -> bool:
    """Whether a file is a complete MP4: its last box ends at the end of the file."""
    data = path.read_bytes()
    at, kinds = 0, []
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kinds.append(data[at + 4 : at + 8])
        if size < 8:
            return False
        at += size
    return at == len(data) and kinds[:1] == [b"ftyp"] and {b"moov", b"mdat"} <= {*kinds}
