"""`aivideo jobs`: what a ledger knows, and what a person can tell it."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aivideo import catalog
from aivideo._api import callback_tokens as callbacks
from aivideo._session.session import Session
from aivideo.cli import exits, show
from aivideo.errors import (
    AIVideoError,
    ConfigurationError,
    LedgerError,
    TaskNotFoundError,
    scrub,
)
from aivideo.ledger import audit as audits
from aivideo.ledger import events, records, totals, transitions
from aivideo.ledger.audit import Finding, Reading
from aivideo.ledger.records import Attempt, JobRecord, JobStatus
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.totals import CreditTotals
from aivideo.manifest import text_of
from aivideo.models import Sora2, Task, TaskId

LEDGER = "aivideo.db"

SHOWN = 20
"""Jobs that a list shows unless it is told to show all."""

MEANING = {
    JobStatus.UNKNOWN: "may have been taken and charged, or not: yours to settle",
    JobStatus.FAULTED: "answered 500 or 503, may be charged: yours to settle",
    JobStatus.SUBMITTING: "on their way: a process is at work on this ledger",
    JobStatus.RUNNING: "taken; the same `aivideo batch` watches and saves them",
    JobStatus.COMPLETED: "made; the same `aivideo batch` fetches them (within 24 hours)",
    JobStatus.FAILED: "refunded; --retry-failed or `jobs retry` sends them again",
    JobStatus.REFUSED: "not charged; --retry-failed or `jobs retry` sends them again",
    JobStatus.PLANNED: "not sent yet; the same `aivideo batch` sends them",
    JobStatus.SAVED: "done; the files are on disk",
}
"""What a status asks of a person, the most urgent first."""

app = App(
    name="jobs",
    help="""What a ledger knows of the jobs of a batch, and what you can tell it.

After a crash: `aivideo jobs list` shows what needs you, the same `aivideo batch` command goes on,
and what is of unknown fate is settled by `aivideo jobs settle`.""",
)

LedgerPath = Annotated[
    Path, Parameter(name="--ledger", help="The ledger, or the folder that holds aivideo.db.")
]
AsJSON = Annotated[bool, Parameter(name="--json", negative="", help="JSON on stdout.")]
BaseURL = Annotated[
    str | None, Parameter(help="The service; by default AIVIDEO_BASE_URL, else the real one.")
]


def _open(path: Path, *, read_only: bool = True) -> SqliteLedger:
    file = path / LEDGER if path.is_dir() else path
    if not file.exists():
        raise LedgerError(f"there is no ledger {file}; name it with --ledger")
    return SqliteLedger(file, read_only=read_only)


async def _open_to_look(path: Path) -> SqliteLedger:
    """Open a ledger; where it may be written, POSTs of processes that died are unknown by then."""
    ledger = _open(path)  # refuses what is no ledger, before anything is written into it
    try:
        writable = _open(path, read_only=False)
    except LedgerError:
        return ledger
    await ledger.aclose()
    try:
        await writable.lapse()
    except LedgerError:
        await writable.aclose()
        return _open(path)
    return writable


# --- looking ------------------------------------------------------------------------------------


@app.command(name="list")
@app.default
def list_jobs(
    *,
    ledger: LedgerPath = Path(),
    status: list[JobStatus] | None = None,
    batch: str | None = None,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    as_json: AsJSON = False,
) -> int:
    """List the jobs that are not saved yet, and count them all.

    Example: aivideo jobs list --ledger clips --status unknown

    Parameters
    ----------
    status
        Only those that stand so: planned, submitting, running, completed, saved, failed, refused,
        faulted or unknown. May be given several times.
    batch
        Only those of this batch.
    every
        The saved ones too, and as many as there are.
    """
    return asyncio.run(_list(ledger, tuple(status or ()), batch, every=every, as_json=as_json))


async def _list(
    path: Path, statuses: Sequence[JobStatus], batch: str | None, *, every: bool, as_json: bool
) -> int:
    ledger = await _open_to_look(path)
    wanted = [
        status
        for status in MEANING
        if status in statuses or (not statuses and (every or status is not JobStatus.SAVED))
    ]
    most = None if every or as_json else SHOWN
    shown: list[JobRecord] = []
    try:
        for status in wanted:
            async with aclosing(_jobs(ledger, batch, status)) as jobs:
                async for job in jobs:
                    if as_json:
                        show.out(_job_as_json(job))
                        continue
                    if most is not None and len(shown) >= most:
                        break
                    shown.append(job)
        counts = await ledger.counts(batch=batch)
        totals = await ledger.totals(batch=batch)
    finally:
        await ledger.aclose()
    if as_json:
        return exits.OK
    console = Console()
    if shown:
        console.print(_table(shown, console.width))
        console.print()
    left = sum(counts.get(each, 0) for each in wanted) - len(shown)
    if left > 0:
        console.print(f"… and {left:,} more (--all shows them)\n", highlight=False)
    _say_sums(counts, totals, console)
    if counts.get(JobStatus.UNKNOWN) or counts.get(JobStatus.FAULTED):
        console.print()
        show.how_to_settle(_option(path), console)
    return exits.OK


async def _jobs(
    ledger: SqliteLedger, batch: str | None, status: JobStatus
) -> AsyncGenerator[JobRecord]:
    async for job in ledger.jobs(batch=batch, statuses=(status,)):
        yield job


def _option(path: Path) -> str:
    """Name the ledger in a command to be copied."""
    return "" if path == Path() else f" --ledger {shlex.quote(str(path))}"


def _table(jobs: Sequence[JobRecord], width: int) -> Table:
    """Make a table that never cuts an id, which one wants to copy: the prompt gives way."""
    table = Table(box=None, pad_edge=False)
    stands = [_stands(job) for job in jobs]
    widths = {
        "job": 16,
        "status": max(map(len, stands)),
        "credits": 7,
        "sent (UTC)": 11,
        "task": 36,
    }
    if _room(width, widths) < 20:
        del widths["task"]
    for name, columns in widths.items():
        table.add_column(
            name,
            no_wrap=True,
            width=columns,
            justify="right" if name == "credits" else "left",
        )
    room = max(10, _room(width, widths))
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", width=room)
    for job, words in zip(jobs, stands, strict=True):
        best = job.best
        cells: dict[str, str | Text] = {
            "job": job.id,
            "status": Text(words, style=_STYLES.get(job.status, "")),
            "credits": "?" if job.credits is None else f"{job.credits:,}",
            "sent (UTC)": "" if best is None else _when(best.sent_at)[5:16],
            "task": job.task_id or "",
        }
        table.add_row(*(cells[name] for name in widths), Text(text_of(job.request)))
    return table


def _room(width: int, widths: dict[str, int]) -> int:
    return width - sum(widths.values()) - 2 * len(widths)  # two blanks between columns


_STYLES = {
    JobStatus.UNKNOWN: "bold yellow",
    JobStatus.FAULTED: "yellow",
    JobStatus.FAILED: "red",
    JobStatus.REFUSED: "red",
}


def _stands(job: JobRecord) -> str:
    hidden = job.doubts and job.status not in (JobStatus.UNKNOWN, JobStatus.FAULTED)
    return f"{job.status} (+{job.doubts} unknown)" if hidden else str(job.status)


def _say_sums(counts: Mapping[JobStatus, int], totals: CreditTotals, console: Console) -> None:
    most = max(len(f"{sum(counts.values()):,}"), 1)
    for status, meaning in MEANING.items():
        if counts.get(status):
            console.print(
                f"{counts[status]:>{most},} {status:11}{meaning}", highlight=False, markup=False
            )
    console.print(f"{sum(counts.values()):>{most},} in all", highlight=False)
    line = f"charged {show.money(totals.charged + totals.refunded)}"
    for amount, words in (
        (totals.refunded, "refunded"),
        (totals.unknown, "of unknown fate"),
        (totals.reserved, "on their way"),
    ):
        if amount:
            line += f" · {words} {amount:,} (${catalog.dollars(amount):,.2f})"
    console.print(line, highlight=False, soft_wrap=True)


@app.command(name="show")
def show_job(job: str, /, *, ledger: LedgerPath = Path(), as_json: AsJSON = False) -> int:
    """Show a job, and each POST of it.

    Example: aivideo jobs show 3f2a9c01d4e5b677

    Parameters
    ----------
    job
        A job's id, or a task's.
    """

    async def look() -> int:
        book = await _open_to_look(ledger)
        try:
            found = await _find(book, job)
        finally:
            await book.aclose()
        if as_json:
            show.out(_job_as_json(found))
        else:
            _print_job(found, _option(ledger), Console())
        return exits.OK

    return asyncio.run(look())


async def _find(ledger: SqliteLedger, name: str) -> JobRecord:
    found = await ledger.find(name) or await ledger.find_task(name)
    if found is None:
        raise LedgerError(
            f"the ledger {ledger.path} has no job {name!r}; `aivideo jobs list --all` shows all"
        )
    return found


def _print_job(job: JobRecord, option: str, console: Console) -> None:
    request = job.request
    rows = {
        "job": job.id,
        "status": _stands(job),
        "batch": job.batch,
        "key": job.key,
        "model": request.model,
        "prompt": request.prompt,
        "length": f"{request.duration} s" if isinstance(request, Sora2) else None,
        "shape": request.aspect_ratio if isinstance(request, Sora2) else None,
        "image": scrub(request.image) if isinstance(request, Sora2) and request.image else None,
        "credits": "not known" if job.credits is None else show.money(job.credits),
        "written": _when(job.planned_at),
        "file": job.path,
    }
    for name, value in rows.items():
        if value:
            console.print(f"{name:9}{value}", highlight=False, markup=False, soft_wrap=True)
    for attempt in job.attempts:
        told = "\n".join(f"{'':9}{line}" for line in _told(attempt))
        console.print(
            f"POST {attempt.number:<4}{_when(attempt.sent_at)}  {attempt.status}"
            + (f"\n{told}" if told else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if not job.attempts:
        console.print("never sent", highlight=False)
    if job.doubts:
        next_step = f"aivideo jobs settle {job.id}{option} --task-id TASK | --not-taken"
        console.print(f"next     {next_step}", highlight=False, markup=False, soft_wrap=True)


def _told(attempt: Attempt) -> list[str]:
    lines = []
    if attempt.task_id:
        lines.append(f"task {attempt.task_id}")
    if attempt.reason is not None:
        status = f"HTTP {attempt.reason.status} " if attempt.reason.status else ""
        lines.append(f"{status}{attempt.reason.code or ''} {attempt.reason.message}".strip())
    return lines


def _when(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if unix else ""


def _job_as_json(job: JobRecord) -> dict[str, Any]:
    return {
        "job": job.id,
        "status": str(job.status),
        "batch": job.batch,
        "key": job.key,
        "model": job.request.model,
        "prompt": job.request.prompt,
        "credits": job.credits,
        "task_id": job.task_id,
        "file": job.path,
        "attempts": [
            {
                "number": attempt.number,
                "status": str(attempt.status),
                "sent_at": attempt.sent_at,
                "task_id": attempt.task_id,
                "reason": None if attempt.reason is None else attempt.reason.message,
            }
            for attempt in job.attempts
        ],
    }


# --- telling ------------------------------------------------------------------------------------


@app.command
def settle(
    *jobs: str,
    task_id: str | None = None,
    not_taken: Annotated[bool, Parameter(negative="")] = False,
    ledger: LedgerPath = Path(),
    check: bool = True,
    base_url: BaseURL = None,
) -> int:
    """Say what became of a POST of unknown fate. It is your word: look at the dashboard first.

    Example: aivideo jobs settle 3f2a9c01d4e5b677 --task-id 7d89c51e-9430-410e-909e-df347131ebaa

    With --task-id the job is that task's from now on: the next `aivideo batch` watches and saves
    it. With --not-taken its credits are free again, and the next `aivideo batch` sends it.

    Parameters
    ----------
    jobs
        The job's id, as `aivideo jobs list --status unknown` shows it; several with --not-taken.
    task_id
        The task it became.
    not_taken
        It became none.
    check
        Ask the service for the task, and compare model, prompt and length.
    """
    if (task_id is None) is not not_taken:
        raise ConfigurationError("say either --task-id TASK or --not-taken")
    if not jobs or (task_id is not None and len(jobs) > 1):
        raise ConfigurationError("name a job; several only with --not-taken")
    return asyncio.run(_settle(jobs, task_id, ledger, base_url, check=check))


async def _settle(
    names: Sequence[str], task_id: TaskId | None, path: Path, base_url: str | None, *, check: bool
) -> int:
    ledger = _open(path, read_only=False)
    try:
        await ledger.lapse()
        # All are looked at before one is told: a slip in the last name leaves nothing half done.
        found = [await _find(ledger, name) for name in names]
        numbers = [_doubtful(job) for job in found]
        event: events.AttemptEvent = events.Released()
        if task_id is not None:
            other = await ledger.find_task(task_id)
            if other is not None:
                raise LedgerError(f"task {task_id} is that of job {other.id} already")
            if check:
                await _check_task(task_id, found[0], numbers[0], base_url)
            event = events.Taken(task_id)
        for job, number in zip(found, numbers, strict=True):
            now = await ledger.record(job.id, event, attempt=number)
            print(f"job {now.id} is {_stands(now)} now")
    finally:
        await ledger.aclose()
    print("The same `aivideo batch` command goes on from here.")
    return exits.OK


async def _check_task(task_id: TaskId, job: JobRecord, number: int, base_url: str | None) -> None:
    """Ask for a task, and refuse it where it cannot be this job's."""
    try:
        task = await _ask_for(task_id, base_url)
    except TaskNotFoundError:
        raise LedgerError(
            f"the service knows no task {task_id}; copy its whole id (--no-check to insist)"
        ) from None
    why_not = callbacks.mismatch(job.request, task, sent_at=job.attempt(number).sent_at)
    if why_not is not None:
        raise LedgerError(
            f"task {task_id} is not that of job {job.id}: {why_not} (--no-check to insist)"
        )


def _doubtful(job: JobRecord) -> int:
    """Find the POST that a person can settle: the latest of unknown fate."""
    in_doubt = (records.AttemptStatus.UNKNOWN, records.AttemptStatus.FAULTED)
    for attempt in reversed(job.attempts):
        if attempt.status in in_doubt:
            return attempt.number
    more = ""
    if job.status is JobStatus.SUBMITTING:
        more = ": whoever sends it is alive, or its lease is not over yet"
    raise LedgerError(f"job {job.id} is {job.status}, and has nothing to settle{more}")


async def _ask_for(task_id: TaskId, base_url: str | None) -> Task:
    async with Session(base_url=base_url, request_timeout=15) as session:
        return await session.retrieve(task_id)


@app.command
def retry(
    *jobs: str,
    failed: Annotated[bool, Parameter(negative="")] = False,
    batch: str | None = None,
    may_pay_twice: Annotated[bool, Parameter(negative="")] = False,
    ledger: LedgerPath = Path(),
) -> int:
    """Have jobs sent again that failed (and were refunded) or were refused.

    Example: aivideo jobs retry --failed --ledger clips

    The next `aivideo batch` sends them, as new POSTs of the same jobs.

    Parameters
    ----------
    jobs
        Ids of jobs.
    failed
        All that failed or were refused.
    batch
        With --failed: only those of this batch.
    may_pay_twice
        Allow jobs of unknown fate too: if they were taken after all, you pay for both.
    """
    if bool(jobs) is failed:
        raise ConfigurationError("name jobs, or say --failed")
    return asyncio.run(_retry(jobs, batch, ledger, may_pay_twice=may_pay_twice))


async def _retry(
    names: Sequence[str], batch: str | None, path: Path, *, may_pay_twice: bool
) -> int:
    ledger = _open(path, read_only=False)
    try:
        await ledger.lapse()  # what a dead process sent is of unknown fate, and not on its way
        if names:
            found = [await _find(ledger, name) for name in names]
        else:
            over = (JobStatus.FAILED, JobStatus.REFUSED)
            found = [job async for job in ledger.jobs(batch=batch, statuses=over)]
        again = events.Retried(may_pay_twice=may_pay_twice)
        for job in found:
            transitions.apply(job, again)  # refuses; all are looked at before one is told
        for job in found:
            await ledger.record(job.id, again)
    finally:
        await ledger.aclose()
    print(f"{len(found):,} will be sent again by the next `aivideo batch`")
    return exits.OK


# --- auditing -----------------------------------------------------------------------------------


@app.command
def audit(*, ledger: LedgerPath = Path(), base_url: BaseURL = None, as_json: AsJSON = False) -> int:
    """Compare the ledger with the account's own counter, and say what can be concluded.

    Example: aivideo jobs audit --ledger clips

    `aivideo batch` reads the counter (`GET /v1/credits`) when it begins and when it ends; this
    reads it once more. With no key it compares what was read before.
    """
    return asyncio.run(_audit(ledger, base_url, as_json=as_json))


async def _audit(path: Path, base_url: str | None, *, as_json: bool) -> int:
    book = _open(path, read_only=False)
    try:
        await book.lapse()
        readings = list(await book.readings())
        if os.environ.get("AIVIDEO_API_KEY"):
            try:
                async with Session(base_url=base_url, request_timeout=15, ledger=book) as session:
                    await session.credits()
                readings = list(await book.readings())
            except ConfigurationError:
                raise
            except AIVideoError as error:
                exits.say(f"the counter could not be read now: {error}")
        states = (JobStatus.UNKNOWN, JobStatus.FAULTED)
        doubtful = [job async for job in book.jobs() if job.doubts or job.status in states]
    finally:
        await book.aclose()
    if len(readings) < 2:
        raise LedgerError(
            f"the ledger {book.path} has {len(readings)} reading of the account's counter, and it "
            "takes two: set AIVIDEO_API_KEY, and run this again"
        )
    finding = _conclude(readings, doubtful)
    if as_json:
        show.out(_finding_as_json(finding))
    else:
        console = Console()
        _print_finding(finding, doubtful, console)
        if doubtful:
            console.print()
            show.how_to_settle(_option(path), console, audit=False)
    return exits.OK


def _conclude(readings: Sequence[Reading], doubtful: Sequence[JobRecord]) -> Finding:
    """Compare the last reading with the one that says most about what is of unknown fate."""
    posts = [
        (attempt.sent_at, attempt.credits or Decimal(0))
        for job in doubtful
        for attempt in job.attempts
        if totals.holding(attempt.status) is totals.Holding.UNKNOWN
    ]
    # The last before the first of them: what others spent, and what failed, before is no matter.
    # One that was taken while a POST was on its way says less, for it may hold it or not.
    first = min((sent_at for sent_at, _ in posts), default=0.0)
    quiet = [each for each in readings[:-1] if each.at <= first and not each.ledger.reserved]
    since = quiet[-1] if quiet else readings[0]
    prices = [price for sent_at, price in posts if sent_at >= since.at]
    return audits.conclude(since, readings[-1], prices=prices)


def _print_finding(finding: Finding, doubtful: Sequence[JobRecord], console: Console) -> None:
    since, now = finding.since, finding.now
    console.print(
        f"The account's counter (total_consumed) was {since.account.total_consumed:,} at "
        f"{_when(since.at)},\nand {now.account.total_consumed:,} at {_when(now.at)}.",
        highlight=False,
        soft_wrap=True,
    )
    rows = [
        ("it grew by", finding.grown),
        ("this ledger bought", finding.bought),
        ("of that came back", finding.refunded),
        ("of unknown fate", finding.unknown),
    ]
    most = max(len(f"{amount:,}") for _, amount in rows)
    for name, amount in rows:
        if amount or name != "of that came back":
            dollars = f"${catalog.dollars(abs(amount)):,.2f}"
            console.print(f"  {name:20}{amount:>{most},} credits ({dollars})", highlight=False)
    if finding.refunded:
        for each in finding.hypotheses:
            does = "lowers" if each.refunds_lower else "does not lower"
            console.print(
                f"  if a refund {does} the counter, {each.rest:,} credits remain for the unknown",
                highlight=False,
            )
    console.print()
    for line in finding.lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if doubtful:
        console.print()
        console.print(_table(doubtful, console.width))


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    return {
        "conclusion": finding.conclusion,
        "grown": finding.grown,
        "bought": finding.bought,
        "refunded": finding.refunded,
        "unknown": finding.unknown,
        "hypotheses": [
            {"refunds_lower": each.refunds_lower, "rest": each.rest} for each in finding.hypotheses
        ],
        "lines": list(finding.lines),
    }
