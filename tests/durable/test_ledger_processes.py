"""Several processes on one ledger: races, kills, forks and full disks."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from aivideo.ledger.records import JobStatus
from aivideo.ledger.sqlite import SqliteLedger, schema
from tests.durable.ledger_process import FILES
from tests.ledger.jobs import job

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def start(function: str, path: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.durable.ledger_process"),
            *(function, str(path), *map(str, arguments)),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_together(function: str, path: Path, count: int) -> list[subprocess.Popen[str]]:
    """Start processes, wait until all are ready, then let them begin at the same time."""
    processes = [start(function, path) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return processes


def output_of(process: subprocess.Popen[str]) -> list[str]:
    """Wait for the end of a process and return its output lines."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.splitlines()


@asynccontextmanager
async def open_ledger(path: Path) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(path)
    try:
        yield ledger
    finally:
        await ledger.aclose()


async def plan_jobs(path: Path, count: int) -> list[str]:
    async with open_ledger(path) as ledger:
        jobs = await asyncio.gather(*(ledger.plan(job(f"boat {n}")) for n in range(count)))
        return [each.id for each in jobs]


async def test_each_of_500_jobs_is_claimed_by_one_of_three_processes(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    ids = await plan_jobs(path, 500)
    processes = start_together("claim", path, 3)
    claimed = [[line.split()[1] for line in output_of(process)] for process in processes]
    assert Counter(job_id for each in claimed for job_id in each) == Counter(ids)
    assert sum(bool(each) for each in claimed) > 1, "only one process claimed jobs"
    async with open_ledger(path) as ledger:
        # The processes ended without recording an outcome: all their claims lapse.
        assert len(await ledger.lapse()) == 500
        assert await ledger.counts() == {JobStatus.UNKNOWN: 500}
        assert (await ledger.totals()).unknown == 50_000


async def test_claim_lapses_when_its_process_is_killed_but_not_while_it_lives(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    await plan_jobs(path, 2)
    async with open_ledger(path) as ledger:
        killed = start("hold", path)
        assert killed.stdout is not None
        assert killed.stdout.readline() == "claimed\n"
        living = start("hold", path)
        assert living.stdout is not None
        assert living.stdout.readline() == "claimed\n"
        assert await ledger.lapse() == [], "both processes are alive, and their leases last an hour"
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        lapsed = await ledger.lapse()
        assert [each.status for each in lapsed] == [JobStatus.UNKNOWN]
        assert (await ledger.counts()) == {JobStatus.UNKNOWN: 1, JobStatus.SUBMITTING: 1}
        assert await ledger.lapse() == []
        living.kill()
        living.communicate()
        assert len(await ledger.lapse()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.db"], (
        "files of dead processes are removed"
    )


async def test_stopped_process_is_not_considered_dead(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    await plan_jobs(path, 1)
    stopped = start("hold", path)
    assert stopped.stdout is not None
    assert stopped.stdout.readline() == "claimed\n"
    stopped.send_signal(signal.SIGSTOP)
    async with open_ledger(path) as ledger:
        assert await ledger.lapse() == []
    stopped.kill()
    stopped.communicate()


@contextmanager
def claiming(function: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that claims one job and lives on; kill it at the end."""
    process = start(function, path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("of", ["the file", "its folder"])
async def test_owner_that_follows_a_symbolic_link_is_not_considered_dead(
    tmp_path: Path, of: str
) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    path = folder / "jobs.db"
    await plan_jobs(path, 2)
    link = tmp_path / "link"
    link.symlink_to(path if of == "the file" else folder)
    named = link if of == "the file" else link / "jobs.db"
    for owners, others in ((named, path), (path, named)):
        with claiming("hold", owners):
            async with open_ledger(others) as ledger:
                assert await ledger.lapse() == [], "its POST may be under way"
        async with open_ledger(others) as ledger:
            assert len(await ledger.lapse()) == 1, "now it is dead"
    assert {file.name for file in folder.iterdir()} == {"jobs.db"}
    assert {file.name for file in tmp_path.iterdir()} == {"real", "link"}


async def test_owner_in_another_working_directory_is_not_considered_dead(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    await plan_jobs(path, 1)
    with claiming("hold_elsewhere", path):
        async with open_ledger(path) as ledger:
            assert await ledger.lapse() == [], "its POST may be under way"
        assert output_of(start("look_elsewhere", path)) == ["lapsed 0"]
    assert output_of(start("look_elsewhere", path)) == ["lapsed 1"]


async def test_missing_lock_file_does_not_prove_that_an_owner_is_dead(tmp_path: Path) -> None:
    """Its process may see the ledger under another path, as in a container."""
    path = tmp_path / "jobs.db"
    await plan_jobs(path, 1)
    with claiming("hold", path):
        for lock in tmp_path.glob("jobs.db-owner-*"):
            lock.unlink()
        async with open_ledger(path) as ledger:
            assert await ledger.lapse() == [], "its POST may be under way"
    late = SqliteLedger(path, now=lambda: time.time() + 3601)
    assert len(await late.lapse()) == 1, "the lease decides"
    await late.aclose()


async def test_claim_of_an_owner_that_has_closed_lapses_at_once(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    await plan_jobs(path, 1)
    assert output_of(start("leave_a_claim", path)) == ["closed"]
    async with open_ledger(path) as ledger:
        assert [each.status for each in await ledger.lapse()] == [JobStatus.UNKNOWN]
    assert [file.name for file in tmp_path.iterdir()] == ["jobs.db"]


async def test_many_processes_may_create_a_ledger_at_the_same_time(tmp_path: Path) -> None:
    """SQLite does not wait when several processes create the WAL at once: 1 in 30 opens failed."""
    processes = start_together("open_many", tmp_path, 4)
    assert [output_of(process) for process in processes] == [["opened"]] * 4
    for number in range(FILES):
        async with open_ledger(tmp_path / f"{number}.db") as ledger:
            assert await ledger.counts() == {JobStatus.PLANNED: 4}


async def test_concurrent_processes_migrate_a_ledger_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.db"
    await plan_jobs(path, 3)
    processes = start_together("migrate", path, 3)
    assert [output_of(process) for process in processes] == [["opened"]] * 3
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "", ""))
    async with open_ledger(path) as ledger:
        assert ledger._file is not None
        notes = ledger._file.connection.execute("SELECT note, count(*) FROM jobs GROUP BY note")
        assert dict(notes.fetchall()) == {"m": 3, None: 3}


def test_forked_child_gets_an_error_and_does_not_affect_its_parent(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jobs.db"
    assert output_of(start("fork", path)) == [
        f"child ledger {path} was opened before a fork; open it anew in each process",
        "child closed",
        "lapsed 0",
        "parent submitting",
    ]


@pytest.mark.parametrize("limit", [200_000, 500_000])
def test_full_disk_rejects_whole_groups_and_writing_continues_when_space_is_free(
    tmp_path: Path, limit: int
) -> None:
    full, complete, continues = output_of(start("fill", tmp_path / "jobs.db", limit))
    assert full.startswith(f"full ledger {tmp_path / 'jobs.db'}: disk I/O error: check free")
    assert complete == "complete True True"
    assert continues == "continues True"


def test_ledger_can_be_created_after_a_first_attempt_on_a_full_disk(
    tmp_path: Path,
) -> None:
    refused, continues = output_of(start("fill_at_once", tmp_path / "jobs.db"))
    assert refused.startswith(f"refused ledger {tmp_path / 'jobs.db'}: disk I/O error: check")
    assert continues == "continues True"
