"""A short run of the fault simulation (`make simulate-faults SEEDS=10000` runs more)."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from aivideo.ledger import events
from tests.simulated.faults import __main__ as campaign
from tests.simulated.faults.__main__ import command, main
from tests.simulated.faults.disk import SECTOR, Snapshot, state_after_crash
from tests.simulated.faults.holds import MORE_DOUBTS, Hold
from tests.simulated.faults.loops import WorldLoop
from tests.simulated.faults.plan import Pause, fault_free_process
from tests.simulated.faults.process import Process, process_context
from tests.simulated.faults.runner import run

if TYPE_CHECKING:
    from tests.simulated.faults.boots import Boot

SEEDS = 240
SEEDS_PER_TEST = 20


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_no_job_is_paid_twice_or_lost_under_random_faults(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        result = run(seed)
        assert not result.violations, f"repeat with: {command(seed)}\n{result.violations}"


def test_a_violated_law_is_reported_with_the_command_that_repeats_the_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One mutant of many: `make mutations` tries them all."""
    monkeypatch.setattr(events, "ABANDONED", events.Released())
    assert main(["--seeds", "60", "--stop"]) == 1
    output = capsys.readouterr().out
    assert "paid twice" in output
    assert "python -m tests.simulated.faults --seed " in output


def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    traces = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulated.faults", "--seed", "7", "--trace"],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    (trace,) = traces
    assert trace.count(b"\n") > 100
    for word in (b"boot 1", b"POST /v1/videos", b"claimed", b"wrote Taken", b"***"):
        assert word in trace


def test_a_process_that_stands_still_runs_nothing_while_the_others_go_on() -> None:
    plan = fault_free_process()
    loop = WorldLoop(0.0)
    world = SimpleNamespace(reached=Counter(), now=loop.time, log=lambda *_: None)
    boot = SimpleNamespace(world=world, loop=loop)
    ran: list[tuple[str, float]] = []

    async def run(process: Process) -> None:
        for _ in range(3):
            await asyncio.sleep(1.0)
            ran.append((process.name, loop.time()))

    async def both() -> None:
        processes = [Process(name, plan, cast("Boot", boot)) for name in "ab"]
        tasks = [loop.create_task(run(each), context=process_context(each)) for each in processes]
        pause = Pause(at="time", number=0, seconds=10.0)
        loop.call_outside(1.5, processes[0].stand_still, pause)
        await asyncio.wait(tasks)
        assert processes[0].still_seconds == 10.0
        assert processes[0].own_time() == loop.time() - 10.0

    with closing(loop):
        loop.run_until_complete(both())
    assert ran == [("a", 1), ("b", 1), ("b", 2), ("b", 3), ("a", 11.5), ("a", 12.5)]


def test_a_campaign_that_never_reached_a_state_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "CAMPAIGN", 2)
    assert main(["--seeds", "2"]) == 1
    output = capsys.readouterr().out
    assert "0 seeds failed" in output
    assert "never reached: " in output


@pytest.mark.parametrize("count", [5, 30])
def test_creates_in_doubt_in_an_outage_are_bounded(count: int) -> None:
    hold = Hold()
    wrong = [hold.doubted_in_outage(in_flight=3) for _ in range(count)]
    allowed = min(count, 3 + MORE_DOUBTS)
    assert wrong[:allowed] == [None] * allowed
    assert all(wrong[allowed:])


def test_a_crash_keeps_or_loses_whole_sectors_and_only_written_ones() -> None:
    rng = random.Random(1)
    before = Snapshot(bytes(4 * SECTOR), b"h" * 32 + bytes(5 * SECTOR))
    after = Snapshot(before.file, before.wal[:SECTOR] + b"x" * 4 * SECTOR + b"y" * 3)
    seen = set()
    for _ in range(200):
        left, _ = state_after_crash(before, after, rng)
        assert left.file == before.file
        assert left.wal[:SECTOR] == before.wal[:SECTOR]
        sectors = [left.wal[at : at + SECTOR] for at in range(SECTOR, len(left.wal), SECTOR)]
        assert {bytes(sector[:1]) for sector in sectors} <= {b"x", b"y", b"\0"}
        assert all(len(set(sector)) == 1 for sector in sectors[:4])
        seen.add(left.wal)
    assert len(seen) > 10
    assert {before.wal, after.wal} <= seen


def test_a_checkpoint_is_incomplete_only_while_its_wal_is_complete() -> None:
    rng = random.Random(2)
    before = Snapshot(b"a" * 8 * SECTOR, b"log")
    after = Snapshot(b"b" * 8 * SECTOR, b"")  # the last connection has closed
    for _ in range(100):
        left, _ = state_after_crash(before, after, rng)
        assert left in (before, after) or left.wal == before.wal
