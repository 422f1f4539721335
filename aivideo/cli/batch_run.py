"""Run a batch at the terminal: progress, Ctrl-C and the summary."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from aivideo import manifest as batches
from aivideo.cli import exits
from aivideo.cli.console import ledger_option, money, print_json, say
from aivideo.cli.progress import LINE_EVERY, RunDisplay
from aivideo.cli.signals import termination_signals
from aivideo.cli.summary import print_summary, print_unknown, results_table, summary_document

if TYPE_CHECKING:
    from aivideo._session.session import Session


async def run_batch(
    session: Session,
    lines: list[batches.Line],
    output: Path,
    settings: batches.BatchSettings,
    *,
    as_json: bool = False,
    table: bool = False,
    command: str = "",
    ledger: Path = Path(),
) -> int:
    """Run a batch, show its progress and its summary, and return the exit code.

    Args:
        session: submits the jobs; it has the batch's ledger, and is closed at the end.
        lines: the manifest.
        output: the folder for the files.
        settings: what the run may do.
        as_json: print results and summary as JSON to stdout.
        table: print a table of all results at the end.
        command: the command that continues with what is left.
        ledger: the ledger's file, for commands to be copied.
    """
    async with session:
        plan = await batches.prepare(session.ledger, lines, output, settings)
        if plan.repeated:
            exits.warn(cost_of_repeated(plan.repeated))
        display = RunDisplay(
            len(plan.matches) + len(plan.orphans), session.statistics, as_json=as_json
        )
        run = batches.Batch(session, plan, output, settings, on_result=display.result)
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            if run.stopped:  # the second Ctrl-C
                exits.warn(
                    "exited at once; the outcome of requests in flight may be unknown. The ledger "
                    f"has them: go on with {command or 'the same command'}"
                )
                os._exit(exits.INTERRUPTED)
            run.stop()  # first: nothing can be written to a terminal that was closed
            display.note(
                "Stopping: nothing more is submitted; requests in flight finish. "
                "Ctrl-C again exits at once."
            )

        stop_signals = (signal.SIGINT, *termination_signals())
        for number in stop_signals:
            loop.add_signal_handler(number, interrupt)
        status_lines = asyncio.create_task(_print_status_lines(display))
        try:
            with display:
                report = await run.run()
        finally:
            status_lines.cancel()
            for number in stop_signals:
                loop.remove_signal_handler(number)
        if not display.console.is_terminal:
            display.line()
        if as_json:
            print_json({"summary": summary_document(report, session)})
        else:
            console = Console()
            if table:
                results_table(report, console)
            print_summary(report, session, console)
            if report.count("unknown"):
                print_unknown(report, ledger_option(ledger), console)
            if report.trouble is not None:
                exits.warn(f"stopped: {report.trouble}")
            if command and report.can_continue:
                say(
                    console,
                    f"Go on with the same command (it sends nothing twice):\n  {command}",
                )
        return _exit_code(report)


def cost_of_repeated(lines: Sequence[batches.Line]) -> str:
    """Return what it costs to buy lines again, in one line."""
    estimate = batches.estimate(lines)
    unknown = f", and {estimate.unpriced:,} of unknown price" if estimate.unpriced else ""
    return (
        f"--pay-again buys {len(lines):,} lines again that may have been paid for: "
        f"{money(estimate.credits)}{unknown}"
    )


async def _print_status_lines(display: RunDisplay) -> None:
    """Where there is no terminal, print a status line now and then."""
    while not display.console.is_terminal:
        await asyncio.sleep(LINE_EVERY)
        display.line()


def _exit_code(report: batches.BatchReport) -> int:
    if report.stopped and report.trouble is None:
        return exits.INTERRUPTED
    if report.count("unknown"):
        return exits.UNKNOWN
    codes = {exits.code_of(result.error) for result in report.results if result.error}
    if exits.MONEY in codes:
        return exits.MONEY
    short = report.trouble is not None or report.count("saved") < len(report.results)
    return exits.FAILED if codes or short else exits.OK
