"""A short run of the fault simulation (`make simulate-faults SEEDS=10000` runs more)."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from aivideo.ledger import events
from tests.simulated.faults.__main__ import command, main
from tests.simulated.faults.disk import SECTOR, Snapshot, state_after_crash
from tests.simulated.faults.runner import run

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
