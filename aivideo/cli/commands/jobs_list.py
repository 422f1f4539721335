"""``aivideo jobs list``: what each job needs, and the sums."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from aivideo.cli import exits
from aivideo.cli.console import (
    how_to_settle,
    in_dollars,
    ledger_option,
    money,
    number,
    print_json,
    say,
)
from aivideo.cli.job_table import job_table
from aivideo.cli.ledgers import desk_for_reading
from aivideo.cli.options import AsJSON, LedgerPath
from aivideo.desk import BY_URGENCY
from aivideo.ledger.records import JobStatus
from aivideo.ledger.totals import CreditTotals

SHOWN = 20
"""Jobs that are listed without ``--all``."""

_CLOSED = (JobStatus.SAVED, JobStatus.WITHDRAWN)
"""Statuses that are listed only on request: nothing is left to be done."""

_MEANING = {
    JobStatus.UNKNOWN: "may have been taken and charged, or not: settle them",
    JobStatus.FAULTED: "answered 500 or 503, may be charged: settle them",
    JobStatus.SUBMITTING: "being sent by a process that uses this ledger now",
    JobStatus.RUNNING: "taken; the same `aivideo batch` polls and saves them",
    JobStatus.COMPLETED: "made; the same `aivideo batch` saves them (within 24 hours)",
    JobStatus.FAILED: "refunded; --retry-failed or `jobs retry` sends them again",
    JobStatus.REFUSED: "not charged; --retry-failed or `jobs retry` sends them again",
    JobStatus.PLANNED: "not sent yet; the same `aivideo batch` sends them",
    JobStatus.SAVED: "done; the files are on disk",
    JobStatus.WITHDRAWN: "cancelled before they were sent; not charged",
}
"""What a status asks of a person."""


def list_jobs(
    *,
    ledger: LedgerPath = Path(),
    status: list[JobStatus] | None = None,
    batch: str | None = None,
    all_jobs: Annotated[bool, Parameter(name="--all", negative="")] = False,
    as_json: AsJSON = False,
) -> int:
    """List the jobs that still need something, and count all of them.

    Example: aivideo jobs list --ledger clips --status unknown

    Parameters
    ----------
    status
        Only jobs with this status: planned, submitting, running, completed, saved, failed,
        refused, faulted, unknown or withdrawn. May be given several times.
    batch
        Only jobs of this batch.
    all_jobs
        List saved and withdrawn jobs too, and do not cut the list off.
    """
    statuses = tuple(
        each
        for each in BY_URGENCY
        if each in (status or ()) or (not status and (all_jobs or each not in _CLOSED))
    )
    return asyncio.run(_list(ledger, statuses, batch, all_jobs=all_jobs, as_json=as_json))


async def _list(
    path: Path, statuses: tuple[JobStatus, ...], batch: str | None, *, all_jobs: bool, as_json: bool
) -> int:
    async with desk_for_reading(path) as desk:
        if as_json:
            async with aclosing(desk.jobs(statuses, batch=batch)) as jobs:
                async for job in jobs:
                    print_json(job)
            return exits.OK
        listed = await desk.list(statuses, batch=batch, limit=None if all_jobs else SHOWN)
    console = Console()
    if listed.records:
        console.print(job_table(listed.records, console.width))
        console.print()
    if listed.left:
        say(console, f"… and {listed.left:,} more (--all shows them)\n")
    _print_sums(listed.counts, listed.totals, console)
    if any(listed.counts.get(each) for each in JobStatus.in_doubt()):
        console.print()
        faulted = listed.counts.get(JobStatus.FAULTED, 0)
        how_to_settle(ledger_option(path), console, faulted=faulted)
    return exits.OK


def _print_sums(counts: Mapping[JobStatus, int], totals: CreditTotals, console: Console) -> None:
    width = max(len(f"{sum(counts.values()):,}"), 1)
    for status in BY_URGENCY:
        if counts.get(status):
            say(console, f"{counts[status]:>{width},} {status:11}{_MEANING[status]}")
    say(console, f"{sum(counts.values()):>{width},} in all")
    line = f"charged {money(totals.charged + totals.refunded)}"
    for amount, words in (
        (totals.refunded, "refunded"),
        (totals.unknown, "outcome unknown"),
        (totals.reserved, "being sent"),
    ):
        if amount:
            line += f" · {words} {number(amount)} ({in_dollars(amount)})"
    if totals.unpriced:
        line += f" · and {totals.unpriced:,} POSTs of unknown price"
    say(console, line)
