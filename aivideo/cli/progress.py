"""The progress of a batch: a bar on a terminal, lines elsewhere, JSON for machines."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aivideo.cli.console import in_dollars, number, print_json, say
from aivideo.cli.exits import describe
from aivideo.errors import AIVideoError, DownloadError
from aivideo.ledger.records import JobStatus
from aivideo.manifest import Estimate, Result

if TYPE_CHECKING:
    from aivideo._session.session import SessionStatistics

LINE_EVERY = 5.0
"""Seconds between two status lines where there is no terminal."""

SAME_REASON = 2
"""How often the same reason is printed; the rest is counted: thousands may fail alike."""


class RunDisplay:
    """Shows the progress of a run. Use it as a context manager around the run.

    Args:
        total: how many lines the manifest has.
        statistics: returns what the session is doing now.
        as_json: print each result to stdout as JSON, and nothing else there.
    """

    def __init__(
        self, total: int, statistics: Callable[[], SessionStatistics], *, as_json: bool = False
    ) -> None:
        self.console: Console = Console(stderr=True)
        self._total = total
        self._statistics = statistics
        self._as_json = as_json
        self._saved = self._failed = self._unknown = self._earlier = 0
        self._began = self._last_line = time.monotonic()
        self._note = ""
        self._reasons: Counter[str] = Counter()
        self._live = (
            Live(
                self,
                console=self.console,
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
            if count > SAME_REASON:
                self._say(f"… and {count - SAME_REASON:,} more: {reason}")

    def note(self, text: str) -> None:
        """Show a text that stays on the screen."""
        self._note = text
        if self._live is None:
            self.console.print(text, highlight=False, markup=False)

    def result(self, result: Result) -> None:
        """Count and show the result of a line."""
        self._earlier += result.earlier
        self._saved += result.status == "saved"
        self._failed += result.status == "failed"
        self._unknown += result.status == "unknown"
        if self._as_json:
            print_json(result)
        elif result.error is not None and not result.earlier:
            reason = _reason(result.error)
            self._reasons[reason] += 1
            if self._reasons[reason] <= SAME_REASON:
                self._say(f"{_where(result)}: {describe(result.error)}")
        if self._live is None and time.monotonic() - self._last_line >= LINE_EVERY:
            self.line()

    def _say(self, text: str) -> None:
        self.console.print(
            text,
            highlight=False,
            markup=False,
            soft_wrap=self._live is None,  # a message is one line in a file
            style="yellow" if self._live else None,
        )

    def line(self) -> None:
        """Print the status as a line."""
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
            f"{number(now.credits.held)} credits",
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
        done = self._done - self._earlier  # earlier runs say nothing about this run's speed
        if done <= 0:
            return None
        seconds = (time.monotonic() - self._began) / done * (self._total - self._done)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def __rich__(self) -> Group:
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
        known = ("?", "?") if total is None else (number(total), in_dollars(total))
        table.add_row(name, f"{count:,}", *known)
    count = sum(row[1] for row in estimate.rows)
    table.add_row(
        "in all",
        f"{count:,}",
        number(estimate.credits),
        in_dollars(estimate.credits),
    )
    console.print(table)
    if estimate.unpriced:
        say(console, f"The price of {estimate.unpriced:,} of them is unknown; state `credits`.")


def _reason(error: AIVideoError) -> str:
    """Return what is equal in errors that have the same cause."""
    if isinstance(error, DownloadError) and error.errno is not None:
        return os.strerror(error.errno)
    return describe(error)


def _where(result: Result) -> str:
    number = result.line.number
    return f"line {number}" if number else f"{result.line.id} (no longer in the manifest)"
