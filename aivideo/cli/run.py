"""A batch with its display, its Ctrl-C and its closing words."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from rich.console import Console

from aivideo import manifest as batches
from aivideo._session.session import Session
from aivideo.cli import exits, show


async def run_batch(
    session: Session,
    lines: list[batches.Line],
    output: Path,
    settings: batches.Settings,
    *,
    overwrite: bool = False,
    as_json: bool = False,
    table: bool = False,
    again: str = "",
    ledger: str = "",
) -> int:
    """Run a batch with its display, its Ctrl-C and its closing words; return the exit code.

    Args:
        session: what sends, with the ledger that knows what was sent; closed at the end.
        lines: the manifest.
        output: where the files go.
        settings: what the run may do.
        overwrite: make files again that are there, and that the ledger knows nothing of.
        as_json: results and summary as JSON on stdout.
        table: a table of what each cost, at the end.
        again: the command that goes on with what is left.
        ledger: the ledger's file, for commands to be copied.
    """
    async with session:
        plan = await batches.prepare(session.ledger, settings.name, lines)
        batches.check_files(output, plan, overwrite=overwrite)
        display = show.RunDisplay(
            len(plan.matches) + len(plan.orphans), session.statistics, as_json=as_json
        )
        run = batches.Batch(session, plan, output, settings, on_result=display.result)
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            if run.stopped:  # the second one means it: at once
                exits.say(
                    "left at once; what was under way may be of unknown fate. The ledger has it: "
                    f"go on with {again or 'the same command'}"
                )
                os._exit(exits.INTERRUPTED)
            display.note(
                "Stopping: nothing more is submitted; what is under way finishes. "
                "Ctrl-C again exits at once."
            )
            run.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, interrupt)
        heart = asyncio.create_task(_heartbeat(display))
        try:
            with display:
                report = await run.run()
        finally:
            heart.cancel()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        display.line() if not display.console.is_terminal else None
        if as_json:
            show.out({"summary": _summary(report, session)})
        else:
            console = Console()
            if table:
                show.results_table(report, console)
            show.closing_lines(report, session, console)
            if report.count("unknown"):
                show.unknown_lines(report, ledger, console)
            if report.trouble is not None:
                exits.say(f"stopped: {report.trouble}")
            if again and report.goes_on:
                console.print(
                    f"Go on with the same command (what was taken is not sent again):\n  {again}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
        return _exit_code(report)


async def _heartbeat(display: show.RunDisplay) -> None:
    """Where there is no terminal, say where the run stands now and then."""
    while not display.console.is_terminal:
        await asyncio.sleep(show.LINE_EVERY)
        display.line()


def _summary(report: batches.BatchReport, session: Session) -> dict[str, Any]:
    limiter = session.statistics().limiter
    counts = {
        name: report.count(name) for name in ("saved", "failed", "unknown", "running", "unsent")
    }
    return counts | {
        "earlier": report.earlier,
        "charged": report.credits.charged + report.credits.refunded,
        "refunded": report.credits.refunded,
        "unknown_credits": report.credits.unknown + report.credits.reserved,
        "charged_this_run": report.this_run.charged + report.this_run.refunded,
        "requests": limiter.accepted + limiter.rejected,
        "rejected": limiter.rejected,
        "stopped": report.stopped,
        "trouble": report.trouble,
        "unfinished": report.unfinished and str(report.unfinished),
    }


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
