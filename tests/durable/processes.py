"""Real processes: the stand-in service, the ``aivideo`` command, and what is left when one dies."""

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

PATIENCE = 120.0
"""Seconds after which a process that has not done what it should counts as hung; never a pace."""

KEY = "sk-durable-0123456789"


@frozen
class Stand:
    """A stand-in service that listens.

    Attributes:
        url: of its API.
        results_url: of its results.
    """

    url: str
    results_url: str

    def truth(self) -> dict[str, Any]:
        """Ask what has really happened, each task with it."""
        with urllib.request.urlopen(f"{self.url}/_sim/truth?tasks=1", timeout=PATIENCE) as answer:
            found: dict[str, Any] = orjson.loads(answer.read())
        return found


@asynccontextmanager
async def stand_in(*options: str) -> AsyncIterator[Stand]:
    """Run ``aivideo simulate`` on free ports while the block runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "aivideo", "simulate", "--port", "0", *options),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            line = (await process.stdout.readline()).decode()
        found = re.search(r"at (http\S+) \(results at (http[^)\s]+)\)", line)
        assert found, line
        yield Stand(*found.groups())
    finally:
        process.kill()
        await process.communicate()


def command(*arguments: str | Path) -> list[str]:
    """Say an ``aivideo`` command as a process is started with it."""
    return [sys.executable, "-m", "aivideo", *map(str, arguments)]


def small_pieces(*arguments: str | Path) -> list[str]:
    """Say the same command, but for results that are written in small pieces as they come.

    The stand-in's films are smaller than the piece in which a result is gathered before it is
    written: none would ever lie half on the disk.
    """
    program = (
        "from aivideo import cli; from aivideo.delivery import download; "
        "download.CHUNK = 1000; cli.main()"
    )
    return [sys.executable, "-c", program, *map(str, arguments)]


def surroundings(url: str) -> Mapping[str, str]:
    """Give an environment whose key and service are those of the test."""
    return {**os.environ, "AIVIDEO_API_KEY": KEY, "AIVIDEO_BASE_URL": url, "COLUMNS": "130"}


@frozen
class Said:
    """What a command said: its exit code, and its two streams."""

    code: int
    out: str
    err: str

    @property
    def one_line(self) -> str:
        """What it said to stderr, which must be one line and no traceback."""
        assert "Traceback" not in self.err, self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


async def run(url: str, *arguments: str | Path, prefix: tuple[str, ...] = ()) -> Said:
    """Run an ``aivideo`` command to its end; ``prefix`` is a command that starts it."""
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *command(*arguments),
        env=surroundings(url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def jobs_of(ledger: Path) -> list[JobRecord]:
    """Read a ledger that nobody may be writing any more."""
    book = SqliteLedger(ledger, read_only=True)
    try:
        return [job async for job in book.jobs()]
    finally:
        await book.aclose()


def prompt_of(job: JobRecord) -> str:
    """Tell jobs apart by their prompts."""
    assert isinstance(job.request, Sora2)
    return job.request.prompt


def how_often_taken(truth: Mapping[str, Any]) -> Counter[str]:
    """Count how often each prompt was taken and charged."""
    return Counter(task["prompt"] for task in truth["tasks"])


def is_whole_film(path: Path) -> bool:
    """Whether a file is an MP4 whose boxes end where it ends."""
    data = path.read_bytes()
    at, kinds = 0, []
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kinds.append(data[at + 4 : at + 8])
        if size < 8:
            return False
        at += size
    return at == len(data) and kinds[:1] == [b"ftyp"] and {b"moov", b"mdat"} <= {*kinds}
