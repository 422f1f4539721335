"""What a run looks like: bars on a terminal, lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aivideo import _amounts, catalog
from aivideo._session.session import Session, SessionStatistics
from aivideo.errors import AIVideoError, DownloadError
from aivideo.ledger.records import JobStatus
from aivideo.manifest import BatchReport, Estimate, Result
from aivideo.models import Sora2

LINE_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""

ALIKE = 2
"""Lines that may say the same reason; more are counted: an empty account fails thousands."""


def money(amount: int | Decimal) -> str:
    """Credits and dollars, as people read them."""
    return f"{amount:,} credits (${catalog.dollars(amount):,.2f})"


class RunDisplay:
    """Shows a run while it goes on. Use it as a context manager around the run.

    Args:
        total: lines of the manifest.
        statistics: asked for what the session is doing.
        as_json: write each result to stdout as JSON, and nothing else there.
    """

    def __init__(
        self, total: int, statistics: Callable[[], SessionStatistics], *, as_json: bool = False
    ) -> None:
        self.console = Console(stderr=True)
        self._total = total
        self._statistics = statistics
        self._as_json = as_json
        self._saved = self._failed = self._unknown = self._earlier = 0
        self._began = self._last_line = time.monotonic()
        self._note = ""
        self._reasons: Counter[str] = Counter()
        self._live = (
            Live(
                console=self.console,
                get_renderable=self._screen,
                refresh_per_second=8,
                transient=True,
            )
            if self.console.is_terminal and not as_json
            else None
        )

    def __enter__(self) -> RunDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()
        for reason, count in self._reasons.items():
            if count > ALIKE:
                self._say(f"… and {count - ALIKE:,} more: {reason}")

    def note(self, text: str) -> None:
        """Say something that stays on the screen."""
        self._note = text
        if self._live is None:
            self.console.print(text, highlight=False, markup=False)

    def result(self, result: Result) -> None:
        """Take in how a line ended."""
        self._earlier += result.earlier
        self._saved += result.status == "saved"
        self._failed += result.status == "failed"
        self._unknown += result.status == "unknown"
        if self._as_json:
            print(json.dumps(result.as_json(), ensure_ascii=False), flush=True)
        elif result.error is not None and not result.earlier:
            reason = _reason(result.error)
            self._reasons[reason] += 1
            if self._reasons[reason] <= ALIKE:
                self._say(f"{_where(result)}: {result.error}")
        if self._live is None and time.monotonic() - self._last_line >= LINE_EVERY:
            self.line()

    def _say(self, text: str) -> None:
        self.console.print(
            text,
            highlight=False,
            markup=False,
            soft_wrap=self._live is None,  # in a file, one line is one line
            style="yellow" if self._live else None,
        )

    def line(self) -> None:
        """Write where the run stands, as a line."""
        self._last_line = time.monotonic()
        self.console.print(self._status(), highlight=False, markup=False, soft_wrap=True)

    @property
    def _done(self) -> int:
        return self._saved + self._failed + self._unknown

    def _status(self) -> str:
        now = self._statistics()
        limiter, jobs = now.limiter, now.jobs
        parts = [
            f"{self._done:,}/{self._total:,}",
            f"{jobs.get(JobStatus.RUNNING, 0):,} running",
            f"{self._saved:,} saved",
            f"{self._failed:,} failed",
        ]
        if self._unknown:
            parts.append(f"{self._unknown:,} unknown")
        parts += [
            f"{now.credits.held:,} credits",
            f"{limiter.pace:.3g}/s",
            f"{limiter.in_flight} in flight",
            f"{limiter.rejected} × 429",
        ]
        left = self._eta()
        if left is not None:
            parts.append(f"{left} left")
        return " · ".join(parts)

    def _eta(self) -> str | None:
        if not 0 < self._done < self._total:
            return None
        done = self._done - self._earlier  # what earlier runs did says nothing of this one's speed
        if done <= 0:
            return None
        seconds = (time.monotonic() - self._began) / done * (self._total - self._done)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def _screen(self) -> Group:
        width = max(10, min(60, self.console.width - 10))
        bar = Table.grid(padding=(0, 1))
        share = 0 if not self._total else 100 * self._done // self._total
        bar.add_row(ProgressBar(total=self._total, completed=self._done, width=width), f"{share}%")
        rows: list[Any] = [bar, Text(self._status(), style="dim")]
        if self._note:
            rows.append(Text(self._note, style="bold yellow"))
        return Group(*rows)


def estimate_table(estimate: Estimate, console: Console) -> None:
    """Show what a manifest would cost."""
    table = Table(box=None, pad_edge=False)
    table.add_column("what")
    for title in ("clips", "credits", "dollars"):
        table.add_column(title, justify="right")
    for name, count, total in estimate.rows:
        known = ("?", "?") if total is None else (f"{total:,}", f"${catalog.dollars(total):,.2f}")
        table.add_row(name, f"{count:,}", *known)
    count = sum(row[1] for row in estimate.rows)
    table.add_row(
        "in all",
        f"{count:,}",
        f"{estimate.credits:,}",
        f"${catalog.dollars(estimate.credits):,.2f}",
    )
    console.print(table)
    if estimate.unpriced:
        console.print(f"The price of {estimate.unpriced} of them is not known; state `credits`.")


def results_table(report: BatchReport, console: Console) -> None:
    """Show what each line cost, and where its file lies.

    The file is what one wants to copy, so it is never cut: on a narrow terminal the prompt goes
    first (the file's name says it too), then length and shape.
    """
    widest = max((cell_len(str(each.path or each.status)) for each in report.results), default=4)
    room = console.width - widest - 2
    columns = ["credits", "cost"]
    if room >= 31:
        columns = ["length", "shape", *columns]
    if room >= 45:
        columns = ["prompt", *columns]
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(
            name,
            no_wrap=True,
            overflow="ellipsis",
            justify="left" if name in ("prompt", "shape") else "right",
            max_width=room - 33 if name == "prompt" else None,
        )
    table.add_column("file", overflow="fold")
    for result in report.results:
        request = result.line.request
        sora = request if isinstance(request, Sora2) else None
        amount = request.credits or 0 if result.status == "saved" else 0
        cells = {
            "prompt": request.model if sora is None else sora.prompt,
            "length": "" if sora is None else f"{sora.duration} s",
            "shape": "" if sora is None else sora.aspect_ratio,
            "credits": f"{amount:,}",
            "cost": f"${catalog.dollars(amount):,.2f}",
        }
        # Text: what a prompt says in brackets is no markup.
        table.add_row(
            *(Text(cells[name]) for name in columns), Text(str(result.path or result.status))
        )
    console.print(table)


def _reason(error: AIVideoError) -> str:
    """Say what is the same of errors that are alike."""
    if isinstance(error, DownloadError) and error.errno is not None:
        return os.strerror(error.errno)
    return str(error)


def _where(result: Result) -> str:
    number = result.line.number
    return f"line {number}" if number else f"{result.line.id} (no line asks for it any more)"


def unknown_lines(report: BatchReport, ledger: str, console: Console) -> None:
    """Say what to do about POSTs of unknown fate."""
    count = report.count("unknown")
    option = f" --ledger {ledger}" if ledger else ""
    console.print(
        f"{count:,} may have been taken, or not: never sent again by "
        f"{'itself' if count == 1 else 'themselves'}. Which:\n"
        f"  aivideo jobs list{option} --status unknown --status faulted",
        highlight=False,
        soft_wrap=True,
    )
    how_to_settle(option, console)


def how_to_settle(option: str, console: Console, *, audit: bool = True) -> None:
    """Give the commands that settle what is of unknown fate, to be copied."""
    lines = [
        "Tell it what became of each, as the dashboard shows:",
        f"  aivideo jobs settle JOB{option} --task-id TASK",
        f"  aivideo jobs settle JOB{option} --not-taken",
    ]
    if audit:
        lines = [
            "What the account's counter says of them:",
            f"  aivideo jobs audit{option}",
            *lines,
        ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def closing_lines(report: BatchReport, session: Session, console: Console) -> None:
    """Say how a batch ended, what it cost, and how to go on."""
    earlier = f" ({report.earlier:,} of them by earlier runs)" if report.earlier else ""
    console.print(
        f"{report.count('saved'):,} saved{earlier} · {report.count('failed'):,} failed"
        + "".join(
            f" · {report.count(status):,} {words}"
            for status, words in (
                ("unknown", "of unknown fate"),
                ("running", "still running"),
                ("unsent", "not sent"),
            )
            if report.count(status)
        ),
        highlight=False,
    )
    credits_ = report.credits
    charged = credits_.charged + credits_.refunded
    line = f"charged {money(charged)}"
    if credits_.refunded:
        line += f", of which refunded {money(credits_.refunded)}"
    console.print(line, highlight=False, soft_wrap=True)
    rest = []
    this_run = report.this_run.charged + report.this_run.refunded
    if this_run < charged:
        rest.append(f"by this run {money(this_run)}")
    if credits_.unknown + credits_.reserved:
        rest.append(f"of unknown fate {money(credits_.unknown + credits_.reserved)}")
    if rest:
        console.print(" · ".join(rest), highlight=False, soft_wrap=True)
    limiter = session.statistics().limiter
    console.print(
        f"{limiter.accepted + limiter.rejected:,} requests, {limiter.rejected:,} of them 429",
        highlight=False,
    )
    if report.refunded:
        console.print(
            f"{report.refunded:,} failed and {'was' if report.refunded == 1 else 'were'} refunded: "
            "--retry-failed sends them again",
            highlight=False,
            soft_wrap=True,
        )


def _as_json(value: object) -> object:
    return _amounts.as_json(value) if isinstance(value, Decimal) else str(value)


def out(document: object) -> None:
    """Write one JSON document to stdout."""
    json.dump(document, sys.stdout, ensure_ascii=False, default=_as_json)
    sys.stdout.write("\n")
    sys.stdout.flush()
