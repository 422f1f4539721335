"""What one of several processes does with a ledger; see test_ledger_processes.py.

Run as ``python -m tests.durable.ledger_process WHAT FILE [ARGUMENT ...]``; it says on stdout what
came of it, a line each.
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
    """Say that this one is ready, and wait for the word at which all begin."""
    say("ready")
    sys.stdin.readline()


async def claim(path: str) -> None:
    """Claim every job there is, many at once, from the end that the process's number says."""
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
        await asyncio.sleep(0.002)  # the others' turn
    await ledger.aclose()


async def hold(path: str) -> None:
    """Claim what there is, say so, and live until killed."""
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
    """Open new files, each at the same moment as others do, and write a job into each."""
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
    """Use a ledger in a forked child; say what the child was told, and what the parent has."""
    ledger = SqliteLedger(path)
    planned = await ledger.plan(job())
    await ledger.claim(planned.id, lease=3600.0)
    child = os.fork()
    if child == 0:
        try:
            ask = ledger.find(planned.id)
            ask.send(None)  # no loop of its own runs here, and none is needed to be refused
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
    """Write until no file may grow any more, then make room and go on."""
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
    """Make a ledger where nothing fits."""
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
