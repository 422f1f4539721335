"""Several real processes on one ledger: races, kills, forks, a full disk."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from aivideo.ledger.records import JobStatus
from aivideo.ledger.sqlite import SqliteLedger, schema
from tests.durable.ledger_process import FILES
from tests.ledger.jobs import job

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def start(what: str, path: Path, *more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.durable.ledger_process", what, str(path), *map(str, more)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def race(what: str, path: Path, count: int) -> list[subprocess.Popen[str]]:
    """Start processes, wait until all are ready, and let them begin together."""
    racers = [start(what, path) for _ in range(count)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    return racers


def told(process: subprocess.Popen[str]) -> list[str]:
    """Wait for a process to end; return the lines that it printed."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.splitlines()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(path)
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def planned(path: Path, count: int) -> list[str]:
    async with opened(path) as ledger:
        jobs = await asyncio.gather(*(ledger.plan(job(f"boat {n}")) for n in range(count)))
        return [each.id for each in jobs]


async def test_of_three_processes_one_wins_each_of_500_jobs(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    ids = await planned(path, 500)
    racers = race("claim", path, 3)
    won = [[line.split()[1] for line in told(racer)] for racer in racers]
    assert Counter(job_id for each in won for job_id in each) == Counter(ids)
    assert sum(bool(each) for each in won) > 1, "there was a race"
    async with opened(path) as ledger:
        # Each process closed its ledger without an answer: nobody will end those claims.
        assert len(await ledger.lapse()) == 500
        assert await ledger.counts() == {JobStatus.UNKNOWN: 500}
        assert (await ledger.totals()).unknown == 50_000


async def test_the_claim_of_a_killed_process_lapses_at_once_and_a_living_ones_does_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    await planned(path, 2)
    async with opened(path) as ledger:
        doomed = start("hold", path)
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == "held\n"
        living = start("hold", path)
        assert living.stdout is not None
        assert living.stdout.readline() == "held\n"
        assert await ledger.lapse() == [], "both processes live, and their leases last an hour"
        doomed.send_signal(signal.SIGKILL)
        doomed.communicate()
        lapsed = await ledger.lapse()
        assert [each.status for each in lapsed] == [JobStatus.UNKNOWN]
        assert (await ledger.counts()) == {JobStatus.UNKNOWN: 1, JobStatus.SUBMITTING: 1}
        assert await ledger.lapse() == []
        living.kill()
        living.communicate()
        assert len(await ledger.lapse()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.db"], (
        "the locks of dead processes are removed"
    )


async def test_a_stopped_process_does_not_count_as_dead(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    await planned(path, 1)
    stopped = start("hold", path)
    assert stopped.stdout is not None
    assert stopped.stdout.readline() == "held\n"
    stopped.send_signal(signal.SIGSTOP)
    async with opened(path) as ledger:
        assert await ledger.lapse() == []
    stopped.kill()
    stopped.communicate()


async def test_many_processes_may_create_a_file_at_the_same_moment(tmp_path: Path) -> None:
    """SQLite does not wait when several processes create a log at once: one in thirty failed."""
    makers = race("open_many", tmp_path, 4)
    assert [told(maker) for maker in makers] == [["opened"]] * 4
    for number in range(FILES):
        async with opened(tmp_path / f"{number}.db") as ledger:
            assert await ledger.counts() == {JobStatus.PLANNED: 4}


async def test_two_processes_that_migrate_at_once_do_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.db"
    await planned(path, 3)
    movers = race("migrate", path, 3)
    assert [told(mover) for mover in movers] == [["opened"]] * 3
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "", ""))
    async with opened(path) as ledger:
        assert ledger._file is not None
        notes = ledger._file.connection.execute("SELECT note, count(*) FROM jobs GROUP BY note")
        assert dict(notes.fetchall()) == {"m": 3, None: 3}


def test_a_forked_child_is_refused_and_its_parent_keeps_its_claims(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    assert told(start("fork", path)) == [
        f"child ledger {path} was opened before a fork; open it anew in each process",
        "child closed",
        "lapsed 0",
        "parent submitting",
    ]


@pytest.mark.parametrize("limit", [200_000, 500_000])
def test_a_disk_that_fills_up_refuses_whole_groups_and_goes_on_when_there_is_room(
    tmp_path: Path, limit: int
) -> None:
    full, whole, goes_on = told(start("fill", tmp_path / "jobs.db", limit))
    assert full.startswith(f"full ledger {tmp_path / 'jobs.db'}: disk I/O error: check free")
    assert whole == "whole True True"
    assert goes_on == "goes on True"


def test_a_disk_that_is_full_from_the_start_is_told_and_a_later_try_makes_the_ledger(
    tmp_path: Path,
) -> None:
    refused, goes_on = told(start("fill_at_once", tmp_path / "jobs.db"))
    assert refused.startswith(f"refused ledger {tmp_path / 'jobs.db'}: disk I/O error: check")
    assert goes_on == "goes on True"
