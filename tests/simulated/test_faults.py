"""A small share of the simulation of faults (`make simulate-faults SEEDS=10000` runs more)."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from aivideo.ledger import events
from tests.simulated.faults.__main__ import command, main, run
from tests.simulated.faults.disk import SECTOR, Picture, torn

SEEDS = 240
AT_ONCE = 20


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_nothing_is_paid_twice_nothing_is_forgotten_whatever_goes_wrong(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        result = run(seed)
        assert not result.broken, f"replay it: {command(seed)}\n{result.broken}"


def test_a_law_that_is_broken_is_seen_and_the_command_that_replays_it_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One mutation of many: `make mutations` tries them all."""
    monkeypatch.setattr(events, "ABANDONED", events.Released())
    assert main(["--seeds", "60", "--stop"]) == 1
    told = capsys.readouterr().out
    assert "paid twice" in told
    assert "python -m tests.simulated.faults --seed " in told


def test_the_same_seed_is_the_same_story_in_every_process() -> None:
    stories = {
        subprocess.run(
            [sys.executable, "-m", "tests.simulated.faults", "--seed", "7", "--trace"],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    (story,) = stories
    assert story.count(b"\n") > 100
    for word in (b"boot 1", b"POST /v1/videos", b"claimed", b"wrote Taken", b"***"):
        assert word in story


def test_a_crash_keeps_or_loses_whole_sectors_and_only_those_that_were_written() -> None:
    draw = random.Random(1)
    before = Picture(bytes(4 * SECTOR), b"h" * 32 + bytes(5 * SECTOR))
    after = Picture(before.file, before.wal[:SECTOR] + b"x" * 4 * SECTOR + b"y" * 3)
    seen = set()
    for _ in range(200):
        left, _ = torn(before, after, draw)
        assert left.file == before.file
        assert left.wal[:SECTOR] == before.wal[:SECTOR]
        sectors = [left.wal[at : at + SECTOR] for at in range(SECTOR, len(left.wal), SECTOR)]
        assert {bytes(sector[:1]) for sector in sectors} <= {b"x", b"y", b"\0"}
        assert all(len(set(sector)) == 1 for sector in sectors[:4])
        seen.add(left.wal)
    assert len(seen) > 10
    assert {before.wal, after.wal} <= seen


def test_a_checkpoint_is_torn_only_while_its_log_is_whole() -> None:
    draw = random.Random(2)
    before = Picture(b"a" * 8 * SECTOR, b"log")
    after = Picture(b"b" * 8 * SECTOR, b"")  # the last connection has closed
    for _ in range(100):
        left, _ = torn(before, after, draw)
        assert left in (before, after) or left.wal == before.wal
