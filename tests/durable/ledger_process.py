"""Operations on a ledger in a separate process; used by test_ledger_processes.py.

Run as ``python -m tests.durable.ledger_process FUNCTION FILE [ARGUMENT ...]``. Results are
printed to stdout, one per line.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import sys
import time
from pathlib import Path

from aivideo.errors import LedgerError
from aivideo.ledger.records import JobStatus
from aivideo.ledger.sqlite import SqliteLedger, schema
from tests.ledger.jobs import job

FILES = 30


def report(*words: object) -> None:
    sys.stdout.write(f"{' '.join(map(str, words))}\n")
    sys.stdout.flush()


def wait_for_start() -> None:
    """Print that this process is ready, and wait until the test starts all processes."""
    report("ready")
    sys.stdin.readline()


async def claim(path: str) -> None:
    """Claim all jobs, several at a time: forwards or backwards, depending on the process id."""
    ledger = SqliteLedger(path)
    ids = [each.id async for each in ledger.jobs()]
    if os.getpid() % 2:
        ids.reverse()
    wait_for_start()
    for first in range(0, len(ids), 5):
        claims = [ledger.claim(job_id, lease=60.0) for job_id in ids[first : first + 5]]
        for won in await asyncio.gather(*claims):
            if won is not None:
                report("won", won.id)
        await asyncio.sleep(0.002)  # give the other processes a turn
    await ledger.aclose()


async def hold(path: str) -> None:
    """Claim one planned job, print that, and run until killed."""
    ledger = SqliteLedger(path)
    async for each in ledger.jobs(statuses=[JobStatus.PLANNED]):
        await ledger.claim(each.id, lease=3600.0)
        break
    report("claimed")
    await asyncio.Event().wait()


async def hold_elsewhere(path: str) -> None:
    """Like ``hold``, by a relative path, from another working directory than at the opening."""
    os.chdir(Path(path).parent)
    ledger = SqliteLedger(Path(path).name)
    os.chdir("/")
    async for each in ledger.jobs(statuses=[JobStatus.PLANNED]):
        await ledger.claim(each.id, lease=3600.0)
        break
    report("claimed")
    await asyncio.Event().wait()


async def look_elsewhere(path: str) -> None:
    """Let claims lapse, by a relative path, from another working directory than at the opening."""
    os.chdir(Path(path).parent)
    ledger = SqliteLedger(Path(path).name)
    os.chdir("/")
    report("lapsed", len(await ledger.lapse()))
    await ledger.aclose()


async def leave_a_claim(path: str) -> None:
    """Claim one planned job, and close without ending the claim."""
    ledger = SqliteLedger(path)
    async for each in ledger.jobs(statuses=[JobStatus.PLANNED]):
        await ledger.claim(each.id, lease=3600.0)
    await ledger.aclose()
    report("closed")


async def lock(path: str) -> None:
    """Lock the file when the test says so, and stop."""
    connection = sqlite3.connect(path, isolation_level=None)
    wait_for_start()
    connection.execute("BEGIN IMMEDIATE")
    report("locked")
    os.kill(os.getpid(), signal.SIGSTOP)


async def open_new(path: str) -> None:
    """Open a file at the same time as other processes, and write a job."""
    wait_for_start()
    ledger = SqliteLedger(path)
    await ledger.plan(job())
    await ledger.aclose()
    report("opened")


async def open_many(folder: str) -> None:
    """Create files, each at the same time as other processes, and write a job into each."""
    wait_for_start()
    began = time.monotonic()
    for number in range(FILES):
        time.sleep(max(0.0, began + number * 0.04 - time.monotonic()))  # noqa: ASYNC251  in step
        ledger = SqliteLedger(Path(folder) / f"{number}.db")
        await ledger.plan(job())
        await ledger.aclose()
    report("opened")


async def migrate(path: str) -> None:
    """Open a file with an older schema at the same time as other processes."""
    note = "ALTER TABLE jobs ADD COLUMN note TEXT; UPDATE jobs SET note = coalesce(note, '') || 'm'"
    schema.MIGRATIONS = (*schema.MIGRATIONS, note, "CREATE TABLE more (x)")
    await open_new(path)


async def fork(path: str) -> None:
    """Use a ledger in a forked child. Print the child's error and the state in the parent."""
    ledger = SqliteLedger(path)
    planned = await ledger.plan(job())
    await ledger.claim(planned.id, lease=3600.0)
    child = os.fork()
    if child == 0:
        try:
            call = ledger.find(planned.id)
            call.send(None)  # the call must fail before it needs an event loop
        except LedgerError as error:
            report("child", error)
        try:
            ledger.aclose().send(None)
        except StopIteration:
            report("child closed")
        os._exit(0)
    os.waitpid(child, 0)  # noqa: ASYNC222  the child exits at once; nothing else runs
    second = SqliteLedger(path)
    report("lapsed", len(await second.lapse()))
    await second.aclose()
    found = await ledger.find(planned.id)
    report("parent", found and found.status)
    await ledger.aclose()


async def fill(path: str, limit: str) -> None:
    """Write until files cannot grow any more, then remove the limit and continue."""
    ledger = SqliteLedger(path)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
    written: list[str] = []
    refused = None
    while refused is None:
        jobs = [job("x" * 3000) for _ in range(20)]
        for each, end in zip(
            jobs,
            await asyncio.gather(*(ledger.plan(each) for each in jobs), return_exceptions=True),
            strict=True,
        ):
            if isinstance(end, LedgerError):
                refused = end
            else:
                written.append(each.id)
    report("full", refused)
    found = [each.id async for each in ledger.jobs()]
    report("complete", found == written, len(written) > 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    added = await ledger.plan(job())
    await ledger.aclose()
    reopened = SqliteLedger(path)
    found = [each.id async for each in reopened.jobs()]
    await reopened.aclose()
    report("continues", found == [*written, added.id])


async def fill_at_once(path: str) -> None:
    """Create a ledger where there is no space for it, then remove the limit and retry."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        SqliteLedger(path)
    except LedgerError as error:
        report("refused", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    ledger = SqliteLedger(path)
    await ledger.plan(job())
    await ledger.aclose()
    report("continues", Path(path).stat().st_size > 4096)


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
