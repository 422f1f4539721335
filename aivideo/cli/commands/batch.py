"""``aivideo batch``: make a clip for each line of a file."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from aivideo import manifest as batches
from aivideo._amounts import dollars
from aivideo.cli import exits
from aivideo.cli.batch_run import cost_of_repeated, run_batch
from aivideo.cli.console import money, print_json, say
from aivideo.cli.ledgers import LEDGER, session_for_checks
from aivideo.cli.options import AsJSON, BaseURL, Ceiling, Flag, Pace, WholeOrNone
from aivideo.cli.progress import estimate_table
from aivideo.errors import AIVideoError, ConfigurationError
from aivideo.ledger import Ledger


def batch(
    file: Path,
    /,
    *,
    output: Path,
    duration: WholeOrNone = None,
    aspect_ratio: str | None = None,
    ledger: Path | None = None,
    batch: str | None = None,
    max_credits: Ceiling = None,
    on_spend_limit: Literal["stop", "wait"] = "stop",
    retry_failed: Flag = False,
    max_running_jobs: WholeOrNone = None,
    max_requests_per_minute: Pace = None,
    poll_interval: float | None = None,
    dry_run: Flag = False,
    overwrite: Flag = False,
    pay_again: Flag = False,
    base_url: BaseURL = None,
    as_json: AsJSON = False,
) -> int:
    """Make a clip for each line of a file, and save them in a folder.

    Example: aivideo batch prompts.txt --duration 4 --aspect-ratio 16:9 --output clips --dry-run

    FILE is plain text (a prompt a line), .csv or .jsonl (fields prompt, duration, aspect_ratio,
    image, id). The whole file is checked before anything is sent. Each step is recorded in the
    ledger first, so the same command continues where a run was stopped or killed, and sends
    nothing twice. Ctrl-C stops submitting and lets requests in flight finish; a second Ctrl-C
    exits at once. `aivideo jobs` shows what the ledger holds.

    Parameters
    ----------
    file
        The manifest.
    output
        The folder for the files, report.jsonl and unfinished.jsonl.
    duration
        Seconds, for lines that state none: 4, 8 or 12.
    aspect_ratio
        For lines that state none: 16:9 or 9:16.
    ledger
        The file where jobs are recorded; default: OUTPUT/aivideo.db.
    batch
        The batch's name in the ledger; default: OUTPUT relative to the ledger's folder.
    max_credits
        A ceiling on the credits that all runs of the batch were charged, have reserved or cannot
        account for. It is stored: left out, the stored ceiling stays; `none` removes it.
    on_spend_limit
        At the key's spend cap: stop, or wait until it resets.
    retry_failed
        Send lines again that failed (and were refunded) or were refused in earlier runs.
    max_running_jobs
        How many tasks may run at once.
    poll_interval
        Seconds between two polls of a task; default: learned, which needs fewer polls.
    dry_run
        Print what it would cost, and whether the balance covers it; send no create.
    overwrite
        Replace files that exist. What was bought is not bought again: see --pay-again.
    pay_again
        Buy again what may have been paid for: lines whose file exists although the ledger says
        that they were not sent, lines that were bought in another batch of the ledger, lines whose
        result cannot be had any more (expired, vanished, its file lost) and, with --retry-failed,
        lines whose outcome is unknown. What that costs is printed first, as far as it is known.
    """
    from aivideo._session.session import Session

    lines = batches.read_manifest(file, batches.Defaults(duration, aspect_ratio))
    ledger_path = output / LEDGER if ledger is None else ledger
    settings = batches.BatchSettings(
        name=batch_name(output, ledger_path) if batch is None else batch,
        max_credits=max_credits,
        retry_failed=retry_failed,
        wait_for_spend_limit=on_spend_limit == "wait",
        overwrite=overwrite,
        pay_again=pay_again,
    )
    if dry_run:
        return asyncio.run(
            _dry_run(lines, ledger_path, settings, base_url, output=output, as_json=as_json)
        )
    common: dict[str, Any] = {
        "base_url": base_url,
        "max_running_jobs": max_running_jobs,
        "max_requests_per_minute": max_requests_per_minute,
        "poll_interval": poll_interval,
    }
    Session(**common)  # refuse invalid settings before a folder is created
    batches.check_folder(output)
    session = Session(ledger=ledger_path, **common)
    return asyncio.run(
        run_batch(
            session,
            lines,
            output,
            settings,
            as_json=as_json,
            command=shlex.join(["aivideo", *sys.argv[1:]]),
            ledger=ledger_path,
        )
    )


def batch_name(output: Path, ledger: Path) -> str:
    """Return the folder relative to its ledger: both may be moved together."""
    return Path(os.path.relpath(output.resolve(), ledger.resolve().parent)).as_posix()


async def _examine(
    lines: list[batches.Line], output: Path, ledger: Path, settings: batches.BatchSettings
) -> batches.Plan:
    """Match the lines; the ledger, if it exists, is only read."""
    opened: Ledger
    if ledger.exists():
        from aivideo.ledger.sqlite import SqliteLedger

        opened = SqliteLedger(ledger, read_only=True)
    else:
        from aivideo.ledger.memory import MemoryLedger

        opened = MemoryLedger()
    try:
        return await batches.examine(opened, lines, output, settings)
    finally:
        await opened.aclose()


async def _dry_run(
    lines: list[batches.Line],
    ledger: Path,
    settings: batches.BatchSettings,
    base_url: str | None,
    *,
    output: Path,
    as_json: bool,
) -> int:
    plan = await _examine(lines, output, ledger, settings)
    sent = [each.line for each in batches.lines_to_send(plan, settings)]
    if plan.repeated:
        exits.warn(cost_of_repeated(plan.repeated))
    estimate = batches.estimate(sent)
    balance: Decimal | int | None = None
    why_not = "The balance was not read: AIVIDEO_API_KEY is not set."
    if os.environ.get("AIVIDEO_API_KEY"):
        try:
            async with session_for_checks(base_url) as session:
                balance = (await session.credits()).balance
        except AIVideoError as error:
            if isinstance(error, ConfigurationError):
                raise
            why_not = f"The balance could not be read: {exits.describe(error)}"
    covered = None if balance is None else balance >= estimate.credits
    if as_json:
        print_json(
            {
                "rows": [
                    {"what": what, "clips": count, "credits": total}
                    for what, count, total in estimate.rows
                ],
                "credits": estimate.credits,
                "dollars": str(dollars(estimate.credits)),
                "unpriced": estimate.unpriced,
                "taken": len(lines) - len(sent),
                "balance": balance,
                "covered": covered,
            }
        )
        return exits.MONEY if covered is False else exits.OK
    console = Console()
    estimate_table(estimate, console)
    if len(sent) < len(lines):
        say(
            console,
            f"{len(lines) - len(sent):,} of {len(lines):,} lines are not counted: the ledger "
            f"{ledger} has their jobs.",
        )
    if balance is None:
        say(console, why_not)
    elif covered:
        say(console, f"The balance covers it: {money(balance)}.")
    else:
        say(
            console,
            f"The balance does not cover it: {money(balance)}, "
            f"{money(estimate.credits - balance)} short. Top up under Dashboard > Billing.",
        )
    console.print("Nothing was sent.")
    return exits.MONEY if covered is False else exits.OK
