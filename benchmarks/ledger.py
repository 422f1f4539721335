"""The SQLite ledger: jobs per second, event loop stalls, CPU, a million jobs, two processes.

    python benchmarks/ledger.py [FOLDER]

FOLDER must be on the disk to be measured (default: the current folder; a tmpfs is no disk). An
intent is a job that is planned and claimed, both on disk (WAL, synchronous=FULL), before its POST
may leave.

intents: ours with 64 and 512 callers at once, beside a program that commits two statements for each
        intent, in a thread; and the disk's own fsyncs per second. Interleaved rounds, medians.
stalls: how late a heartbeat every 2 ms was meanwhile, on the event loop that asked; and on an idle
        one, which shows what this machine does to any program at present.
rows: CPU of reading a job of its row, as it is done and by a cattrs converter.
CPU: of the ledger for a job, from plan to claim to the task it became.
million: a ledger of 1,000,000 jobs, 10,000 of them unfinished: opening it, paging through the
        unfinished ones, finding one job by its key, its size.
two processes: claims per second on one file, each job won once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from attrs import evolve, resolve_types
from cattrs import Converter
from cattrs.gen import make_dict_structure_fn

from aivideo import models
from aivideo._amounts import of_millionths
from aivideo.ledger import records
from aivideo.ledger.events import Taken
from aivideo.ledger.records import Attempt, AttemptStatus, JobRecord, JobStatus, Reason
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.sqlite.file import LedgerFile
from aivideo.ledger.sqlite.rows import (
    ATTEMPT,
    JOB,
    attempt_values,
    job_of,
    job_values,
    request_of,
)
from aivideo.models import Sora2

ROUNDS = 5
INTENTS = 5_000
JOBS = 1_000_000
UNFINISHED = 10_000
CLAIMS = 10_000
CEILING = Decimal(10**9)


def a_job(number: int) -> JobRecord:
    """A planned job, its prompt as long as people write them."""
    prompt = f"A paper boat in the rain, number {number}, seen from the harbour wall at dawn"
    request = Sora2(prompt, duration=8, aspect_ratio="16:9")
    return JobRecord(
        id=secrets.token_hex(8),
        request=request,
        fingerprint=models.fingerprint(request),
        credits=request.credits,
        batch="boats",
        key=f"line-{number}",
        planned_at=1.8e9,
    )


# --- intents ------------------------------------------------------------------------------------


class Late:
    """How late a heartbeat every 2 ms was, in milliseconds."""

    def __init__(self) -> None:
        self.by: list[float] = []

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Beat until the block is left."""

        async def beat() -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(0.002)
                self.by.append((time.perf_counter() - began - 0.002) * 1000)

        task = asyncio.create_task(beat())
        try:
            yield
        finally:
            task.cancel()

    def __str__(self) -> str:
        by = sorted(self.by)
        return f"p99 {by[int(len(by) * 0.99)]:5.1f} ms, longest {by[-1]:5.1f} ms"


async def ours(path: Path, callers: int, late: Late) -> float:
    """Intents per second of so many callers at once."""
    ledger = SqliteLedger(path)
    await ledger.set_ceiling("boats", CEILING)
    jobs = iter([a_job(number) for number in range(INTENTS)])

    async def call() -> None:
        for job in jobs:
            await ledger.plan(job)
            claimed = await ledger.claim(job.id, lease=150.0)
            assert claimed is not None

    async with late.watching():
        began = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        took = time.perf_counter() - began
    await ledger.aclose()
    return INTENTS / took


async def naive(path: Path, late: Late) -> float:
    """Intents per second with a commit each, in a worker thread."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
        "CREATE TABLE jobs (id TEXT PRIMARY KEY, input BLOB, status TEXT)"
    )
    some = INTENTS // 10

    def intend(job: JobRecord) -> None:
        run = connection.execute
        run("BEGIN IMMEDIATE")
        content = orjson.dumps(job.request.input)
        run("INSERT INTO jobs VALUES (?, ?, 'planned')", (job.id, content))
        run("UPDATE jobs SET status = 'submitting' WHERE id = ? AND status = 'planned'", (job.id,))
        run("COMMIT")

    async with late.watching():
        began = time.perf_counter()
        for number in range(some):
            await asyncio.to_thread(intend, a_job(number))
        took = time.perf_counter() - began
    connection.close()
    return some / took


async def idle(late: Late) -> float:
    """Do nothing for a second."""
    async with late.watching():
        await asyncio.sleep(1.0)
    return 0.0


def fsyncs(path: Path) -> float:
    """Writes of 4 kB, each synced, per second."""
    with path.open("wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(300):
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
        return 300 / (time.perf_counter() - began)


def intents(folder: Path) -> None:
    """Print intents per second, and stalls."""
    names = itertools.count()

    def fresh() -> Path:
        return folder / f"{next(names)}.db"

    ways: dict[str, Callable[[Late], float]] = {
        "ours, 64 callers": lambda late: asyncio.run(ours(fresh(), 64, late)),
        "ours, 512 callers": lambda late: asyncio.run(ours(fresh(), 512, late)),
        "a commit each": lambda late: asyncio.run(naive(fresh(), late)),
        "nothing": lambda late: asyncio.run(idle(late)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    lates = {name: Late() for name in ways}
    disk = []
    for _ in range(ROUNDS):
        disk.append(fsyncs(fresh()))
        for name, way in ways.items():
            rates[name].append(way(lates[name]))
    base = statistics.median(rates["a commit each"])
    print(f"the disk: {statistics.median(disk):,.0f} writes of 4 kB and fsyncs a second")
    print(f"{'nothing at all':<18} {'':>28}  stalls {lates.pop('nothing')}")
    for name, late in lates.items():
        rate = statistics.median(rates[name])
        print(f"{name:<18} {rate:8,.0f} intents/s  × {rate / base:5.1f}   stalls {late}")


# --- a million ----------------------------------------------------------------------------------


def rows() -> Iterator[tuple[int, JobRecord]]:
    """A million jobs as a year of batches leaves them: saved, but for a few that are not."""
    every = JOBS // UNFINISHED
    open_ones = itertools.cycle([JobStatus.PLANNED, JobStatus.RUNNING, JobStatus.UNKNOWN])
    for number in range(JOBS):
        job = a_job(number)
        status = next(open_ones) if number % every == 0 else JobStatus.SAVED
        attempt = None
        if status is not JobStatus.PLANNED:
            saved = status is JobStatus.SAVED
            stands = AttemptStatus.COMPLETED if saved else AttemptStatus(status.value)
            task = None if status is JobStatus.UNKNOWN else secrets.token_hex(18)
            attempt = Attempt(
                number=1, status=stands, owner="a1b2c3d4e5f6", sent_at=1.8e9, task_id=task
            )
        yield (
            number + 1,
            JobRecord(
                id=job.id,
                request=job.request,
                fingerprint=job.fingerprint,
                credits=200,
                batch=f"batch-{number // 50_000}",
                key=job.key,
                status=status,
                waiting=attempt is None,
                attempts=() if attempt is None else (attempt,),
                path=f"clips/{number:07d}.mp4" if status is JobStatus.SAVED else None,
                size=5_000_000 if status is JobStatus.SAVED else None,
                planned_at=1.8e9,
            ),
        )


def fill(path: Path) -> None:
    """Write the million down, not by the front door: that would take minutes."""
    file = LedgerFile(path)
    connection = file.connection
    marks = ", ".join("?" * len(JOB))
    source = rows()
    while chunk := list(itertools.islice(source, 50_000)):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            f"INSERT INTO jobs ({', '.join(JOB)}) VALUES ({marks})",
            [(seq, *job_values(job)) for seq, job in chunk],
        )
        connection.executemany(
            f"INSERT INTO attempts (job, {', '.join(ATTEMPT)}) "
            f"VALUES (?, {', '.join('?' * len(ATTEMPT))})",
            [(seq, *attempt_values(each)) for seq, job in chunk for each in job.attempts],
        )
        connection.execute("COMMIT")
    file.close()


async def timed(name: str, call: Awaitable[object]) -> None:
    """Print how long a call took."""
    began = time.perf_counter()
    result = await call
    print(f"{name:<42} {(time.perf_counter() - began) * 1000:8.1f} ms  {result}")


async def walk(ledger: SqliteLedger, batch: str | None, late: Late) -> str:
    """Page through what has not ended."""
    open_ones = [JobStatus.PLANNED, JobStatus.SUBMITTING, JobStatus.RUNNING, JobStatus.UNKNOWN]
    count = 0
    async with late.watching():
        async for _ in ledger.jobs(batch=batch, statuses=open_ones):
            count += 1
    return f"{count:,} jobs, stalls {late}"


async def use(path: Path, new: int) -> None:
    """Open the million, and ask what a run asks."""
    began = time.perf_counter()
    ledger = SqliteLedger(path)
    await ledger.lapse()
    print(
        f"{'open it, and see what has lapsed':<42} {(time.perf_counter() - began) * 1000:8.1f} ms"
    )
    await timed("all unfinished ones, page by page", walk(ledger, None, Late()))
    await timed("those of one batch of 50,000", walk(ledger, "batch-7", Late()))

    async def by_key() -> str:
        found = await ledger.find_key("batch-7", "line-375000")
        return "found" if found else "not found"

    await timed("one job by its key", by_key())
    await timed("its totals", ledger.totals())

    async def counted() -> str:
        return f"{sum((await ledger.counts()).values()):,} jobs"

    await timed("counts of a status each (reads an index)", counted())
    job = await ledger.plan(a_job(new))

    async def claimed() -> str:
        return "won" if await ledger.claim(job.id, lease=150.0) else "not won"

    await timed("claim one more", claimed())
    await ledger.aclose()


def drop_caches() -> str:
    """Forget the file's pages, where we may: a machine that has just booted knows none."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return "warm: the page cache may not be dropped here"
    return "cold: the page cache was dropped"


def million(folder: Path) -> None:
    """Print what a ledger of a million jobs costs."""
    path = folder / "million.db"
    fill(path)
    size = path.stat().st_size
    print(f"\n{JOBS:,} jobs, {size / 1e6:,.0f} MB: {size / JOBS:.0f} bytes a job")
    for new, state in enumerate((drop_caches(), "warm"), JOBS):
        print(state)
        asyncio.run(use(path, new))


# --- rows ---------------------------------------------------------------------------------------


def configure_rows(converter: Converter) -> Callable[[tuple[Any, ...]], JobRecord]:
    """Teach a converter the rows of a ledger; return what makes a job of a joined row."""

    def amount(value: int | None, _: object) -> Decimal | None:
        return None if value is None else of_millionths(value)

    def reason(value: bytes | None, _: object) -> Reason | None:
        if value is None:
            return None
        message, status, code = orjson.loads(value)
        return Reason(message=message, status=status, code=code)

    def as_is(value: object, _: object) -> object:
        return value

    def is_type(wanted: object) -> Callable[[object], bool]:
        return lambda type_: type_ == wanted

    for plain in (str, int, float, str | None, int | None, float | None, models.Request):
        converter.register_structure_hook_func(is_type(plain), as_is)
    converter.register_structure_hook_func(is_type(bool), lambda value, _: bool(value))
    converter.register_structure_hook_func(is_type(Decimal | None), amount)
    converter.register_structure_hook_func(is_type(Reason | None), reason)
    for record in (Attempt, JobRecord):
        resolve_types(record, vars(records))
    attempt_of = make_dict_structure_fn(Attempt, converter)
    converter.register_structure_hook_func(
        is_type(tuple[Attempt, ...]),
        lambda rows, _: tuple([attempt_of(row, Attempt) for row in rows]),
    )
    of_fields = make_dict_structure_fn(JobRecord, converter)
    job_names = ["credits" if name == "credits_millionths" else name for name in JOB]
    attempt_names = ["credits" if name == "reserved_millionths" else name for name in ATTEMPT]
    width = len(JOB)

    def job_of_row(row: tuple[Any, ...]) -> JobRecord:
        fields = dict(zip(job_names, row[:width], strict=True))
        fields["batch"] = fields["batch"] or None
        price = amount(fields["credits"], None)
        fields["request"] = request_of(fields["model"], fields["input"], price)
        fields["attempts"] = [dict(zip(attempt_names, row[width:], strict=True))]
        return of_fields(fields, JobRecord)

    return job_of_row


def row_costs() -> None:
    """Print what reading a job of its row costs, as it is done and by a cattrs converter."""
    attempt = Attempt(
        number=1, status=AttemptStatus.RUNNING, owner="a1b2c3", task_id="t", credits=200
    )
    job = evolve(a_job(1), status=JobStatus.RUNNING, waiting=False, attempts=(attempt,))
    row = (1, *job_values(job), *attempt_values(attempt))
    by_cattrs = configure_rows(Converter(detailed_validation=False))
    assert by_cattrs(row) == job_of([row]) == job

    def cost(call: Callable[[], object]) -> float:
        return min(timeit.repeat(call, number=5_000, repeat=7)) / 5_000 * 1e6

    ways = [
        ("as it is done", lambda: job_of([row])),
        ("by a cattrs converter", lambda: by_cattrs(row)),
        ("of either, the request", lambda: request_of(row[4], row[5], job.credits)),
    ]
    print()
    for name, way in ways:
        print(f"read a job of its row, {name:<24} {cost(way):6.1f} µs")


# --- CPU ----------------------------------------------------------------------------------------


async def to_running(path: Path, callers: int) -> float:
    """CPU milliseconds of a job from its plan to its task: the ledger's part of a submit."""
    ledger = SqliteLedger(path)
    jobs = iter([evolve(a_job(number), batch=None, key=None) for number in range(INTENTS)])

    async def call() -> None:
        for job in jobs:
            await ledger.plan(job)
            await ledger.claim(job.id, lease=150.0)
            await ledger.record(job.id, Taken(f"task-{job.id}"), attempt=1)

    began = time.process_time()
    await asyncio.gather(*(call() for _ in range(callers)))
    took = time.process_time() - began
    await ledger.aclose()
    return took / INTENTS * 1000


def cpu(folder: Path) -> None:
    """Print CPU per job."""
    for callers in (64, 512):
        times = [
            asyncio.run(to_running(folder / f"cpu-{callers}-{number}.db", callers))
            for number in range(ROUNDS)
        ]
        print(f"{callers} callers: {statistics.median(times):.3f} ms of CPU a job, plan to task")


# --- two processes ------------------------------------------------------------------------------


async def race(path: Path, moment: float, number: int) -> None:
    """Claim what there is, 64 at a time, from one end or the other; print how many were won."""
    ledger = SqliteLedger(path)
    every = [job.id async for job in ledger.jobs()]
    ids = iter(every if number == 0 else every[::-1])
    time.sleep(max(0.0, moment - time.time()))  # noqa: ASYNC251  both begin together
    won = 0

    async def call() -> None:
        nonlocal won
        for job_id in ids:
            if await ledger.claim(job_id, lease=150.0) is not None:
                won += 1

    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(64)))
    print(won, time.perf_counter() - began)
    await ledger.aclose()


def two_processes(folder: Path) -> None:
    """Print claims per second of one process and of two on one file."""
    print()
    for count in (1, 2):
        path = folder / f"race-{count}.db"
        file = LedgerFile(path)
        file.group([lambda f: f.set_ceiling("boats", CEILING)])
        file.group([lambda f, n=n: f.plan(a_job(n), replace=False) for n in range(CLAIMS)])  # type: ignore[misc]
        file.close()
        moment = str(time.time() + 2.0)
        racers = [
            subprocess.Popen(
                [sys.executable, __file__, "--race", str(path), moment, str(number)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(count)
        ]
        told = [racer.communicate()[0].split() for racer in racers]
        won = [int(each[0]) for each in told]
        assert sum(won) == CLAIMS, "each job is won once"
        took = max(float(each[1]) for each in told)
        shares = " + ".join(f"{each:,}" for each in won)
        print(f"{count} process(es): {CLAIMS / took:8,.0f} claims/s, won {shares}")


def main() -> None:
    """Print all of it."""
    if sys.argv[1:2] == ["--race"]:
        asyncio.run(race(Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
        return
    parent = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd()
    folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=parent))
    try:
        intents(folder)
        row_costs()
        cpu(folder)
        million(folder)
        two_processes(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
