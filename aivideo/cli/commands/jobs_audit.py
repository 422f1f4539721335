"""``aivideo jobs audit``: compare the ledger with the account's own counter."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from math import ceil
from pathlib import Path

from rich.console import Console

from aivideo.cli import exits
from aivideo.cli.console import how_to_settle, in_dollars, ledger_option, number, print_json, say
from aivideo.cli.job_table import job_table, time_of
from aivideo.cli.ledgers import desk_for_changes, session_for_checks
from aivideo.cli.options import AsJSON, BaseURL, LedgerPath
from aivideo.ledger.audit import Finding
from aivideo.ledger.records import JobRecord


def audit(*, ledger: LedgerPath = Path(), base_url: BaseURL = None, as_json: AsJSON = False) -> int:
    """Compare the ledger with the account's own counter, and print what can be concluded.

    Example: aivideo jobs audit --ledger clips

    `aivideo batch` reads the counter (`GET /v1/credits`) when it starts and when it ends; this
    reads it once more. Without a key it compares the readings that are stored. Nothing is concluded
    before the last POST of unknown outcome is 15 minutes old: the service may take it late. What is
    concluded holds if nobody else spends on, or is refunded on, the account.
    """
    return asyncio.run(_audit(ledger, base_url, as_json=as_json))


async def _audit(path: Path, base_url: str | None, *, as_json: bool) -> int:
    async with AsyncExitStack() as stack:
        client = None
        if os.environ.get("AIVIDEO_API_KEY"):
            client = await stack.enter_async_context(session_for_checks(base_url))
        desk = await stack.enter_async_context(desk_for_changes(path, client=client))
        audited = await desk.audit()
    if audited.error is not None:
        exits.warn(f"the counter could not be read now: {exits.describe(audited.error)}")
    if as_json:
        print_json(audited.finding)
        return exits.OK
    console = Console()
    _print_finding(audited.finding, audited.in_doubt, console)
    if audited.in_doubt:
        console.print()
        how_to_settle(ledger_option(path), console, audit=False)
    return exits.OK


def _print_finding(finding: Finding, in_doubt: Sequence[JobRecord], console: Console) -> None:
    since, now = finding.since, finding.now
    say(
        console,
        f"The account's counter (total_consumed) was {number(since.account.total_consumed)} at "
        f"{time_of(since.at)},\nand {number(now.account.total_consumed)} at {time_of(now.at)}.",
    )
    rows = [
        ("it grew by", finding.grown),
        ("this ledger bought", finding.bought),
        ("of that refunded", finding.refunded),
        ("outcome unknown", finding.unknown),
    ]
    width = max(len(number(amount)) for _, amount in rows)
    for name, amount in rows:
        if amount or name != "of that refunded":
            say(
                console, f"  {name:20}{number(amount):>{width}} credits ({in_dollars(abs(amount))})"
            )
    if finding.refunded:
        for each in finding.hypotheses:
            verb = "lowers" if each.refunds_lower else "does not lower"
            say(
                console,
                f"  if a refund {verb} the counter, {number(each.rest)} credits "
                "remain for the unknown",
            )
    console.print()
    for line in finding.lines:
        say(console, line)
    if finding.ask_again_at is not None:
        # Rounded up: a reading of a fraction of a second earlier would be too early again.
        say(console, f"That is after {time_of(ceil(finding.ask_again_at))}.")
    if in_doubt:
        console.print()
        console.print(job_table(in_doubt, console.width))
