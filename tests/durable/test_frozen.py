"""A real process that is stopped between its claim and its POST, until its claim has lapsed."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from aivideo import JobStatus, Session, SqliteLedger
from aivideo.ledger import events
from aivideo.simulator import Scenario, serve
from tests.durable.frozen_process import BOAT, KEY, LEASE_MARGIN, REQUEST_TIMEOUT
from tests.durable.processes import TIMEOUT

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


async def test_stopped_process_does_not_buy_what_was_bought_by_another_meanwhile(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    async with serve(Scenario(task_seconds=60.0, media="stub")) as sim:
        frozen = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.durable.frozen_process", str(path), sim.url),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert frozen.stdout is not None
        try:
            async with asyncio.timeout(TIMEOUT):
                assert await frozen.stdout.readline() == b"claimed\n"
                await asyncio.sleep(REQUEST_TIMEOUT + LEASE_MARGIN + 0.2)
                async with Session("sk-test", base_url=sim.url, ledger=path) as session:
                    (lapsed,) = await session.ledger.lapse()
                    assert lapsed.status is JobStatus.UNKNOWN
                    await session.ledger.record(lapsed.id, events.Released())  # by a person
                    bought = await session.submit(BOAT, key=KEY)
                assert sim.truth.creates_taken == 1
                frozen.send_signal(signal.SIGCONT)
                assert (await frozen.stdout.readline()).decode().strip() == bought.task_id
                assert await frozen.wait() == 0
        finally:
            if frozen.returncode is None:
                frozen.kill()
                await frozen.wait()
        assert sim.truth.creates_seen == 1, "bought twice"
    ledger = SqliteLedger(path)
    found = await ledger.find(lapsed.id)
    await ledger.aclose()
    assert found is not None
    assert (found.status, found.task_id) == (JobStatus.RUNNING, bought.task_id)
