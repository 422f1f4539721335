"""What one of several processes does with a ledger; see test_ledger_processes.py.

Run as ``python -m tests.durable.ledger_process ACTION FILE [ARGUMENT ...]``. It prints what
happened, a line each.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from pathlib import Path

from aivideo.errors import LedgerError
from aivideo.ledger.records import JobStatus
from aivideo.ledger.sqlite import SqliteLedger, schema
from tests.ledger.jobs import job

FILES = 30


def say(*words: object) -> None:
    sys.stdout.write(f"{' '.join(map(str, words))}\n")
    sys.stdout.flush()


def wait_for_the_others() -> None:
    """Report that this process is ready, and wait until all may begin."""
    say("ready")
    sys.stdin.readline()


async def claim(path: str) -> None:
    """Claim all jobs, five at once; odd process numbers begin with the last job."""
    ledger = SqliteLedger(path)
    ids = [each.id async for each in ledger.jobs()]
    if os.getpid() % 2:
        ids.reverse()
    wait_for_the_others()
    for first in range(0, len(ids), 5):
        tried = [ledger.claim(job_id, lease=60.0) for job_id in ids[first : first + 5]]
        for won in await asyncio.gather(*tried):
            if won is not None:
                say("won", won.id)
        await asyncio.sleep(0.002)  # let the others have a turn
    await ledger.aclose()


async def hold(path: str) -> None:
    """Claim a job, report it, and wait to be killed."""
    ledger = SqliteLedger(path)
    async for each in ledger.jobs(statuses=[JobStatus.PLANNED]):
        await ledger.claim(each.id, lease=3600.0)
        break
    say("held")
    await asyncio.Event().wait()


async def open_new(path: str) -> None:
    """Open a file at the same time as others, and write a job."""
    wait_for_the_others()
    ledger = SqliteLedger(path)
    await ledger.plan(job())
    await ledger.aclose()
    say("opened")


async def open_many(folder: str) -> None:
    """Open new files, each at the same moment as the others, and write a job into each."""
    wait_for_the_others()
    began = time.monotonic()
    for number in range(FILES):
        time.sleep(max(0.0, began + number * 0.04 - time.monotonic()))  # noqa: ASYNC251  in step
        ledger = SqliteLedger(Path(folder) / f"{number}.db")
        await ledger.plan(job())
        await ledger.aclose()
    say("opened")


async def migrate(path: str) -> None:
    """Open a file of an older schema at the same time as others."""
    note = "ALTER TABLE jobs ADD COLUMN note TEXT; UPDATE jobs SET note = coalesce(note, '') || 'm'"
    schema.MIGRATIONS = (*schema.MIGRATIONS, note, "CREATE TABLE more (x)")
    await open_new(path)


async def fork(path: str) -> None:
    """Use a ledger in a forked child; print what the child gets, and what the parent still has."""
    ledger = SqliteLedger(path)
    planned = await ledger.plan(job())
    await ledger.claim(planned.id, lease=3600.0)
    child = os.fork()
    if child == 0:
        try:
            ask = ledger.find(planned.id)
            ask.send(None)  # refused before an event loop is needed
        except LedgerError as error:
            say("child", error)
        try:
            ledger.aclose().send(None)
        except StopIteration:
            say("child closed")
        os._exit(0)
    os.waitpid(child, 0)  # noqa: ASYNC222  it ends at once, and nothing else is to be done
    other = SqliteLedger(path)
    say("lapsed", len(await other.lapse()))
    await other.aclose()
    found = await ledger.find(planned.id)
    say("parent", found and found.status)
    await ledger.aclose()


async def fill(path: str, limit: str) -> None:
    """Write until the file may not grow any more; then allow it to grow, and go on."""
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
    say("full", refused)
    found = [each.id async for each in ledger.jobs()]
    say("whole", found == written, len(written) > 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    more = await ledger.plan(job())
    await ledger.aclose()
    again = SqliteLedger(path)
    found = [each.id async for each in again.jobs()]
    await again.aclose()
    say("goes on", found == [*written, more.id])


async def fill_at_once(path: str) -> None:
    """Create a ledger where there is no room for one."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        SqliteLedger(path)
    except LedgerError as error:
        say("refused", error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    ledger = SqliteLedger(path)
    await ledger.plan(job())
    await ledger.aclose()
    say("goes on", Path(path).stat().st_size > 4096)


if __name__ == "__main__":
    asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
