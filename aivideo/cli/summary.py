"""How a batch ended: its results, its cost and how to continue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aivideo.cli.console import how_to_settle, in_dollars, money, number, say
from aivideo.manifest import BatchReport
from aivideo.models import Sora2

if TYPE_CHECKING:
    from aivideo._session.session import Session


def summary_document(report: BatchReport, session: Session) -> dict[str, Any]:
    """Return the summary that ``--json`` prints."""
    limiter = session.statistics().limiter
    return {
        "saved": report.count("saved"),
        "failed": report.count("failed"),
        "unknown": report.count("unknown"),
        "running": report.count("running"),
        "unsent": report.count("unsent"),
        "earlier": report.earlier,
        "charged": report.credits.charged + report.credits.refunded,
        "refunded": report.credits.refunded,
        "unknown_credits": report.credits.unknown + report.credits.reserved,
        "charged_this_run": report.this_run.charged + report.this_run.refunded,
        "requests": limiter.accepted + limiter.rejected,
        "rejected": limiter.rejected,
        "stopped": report.stopped,
        "trouble": report.trouble,
        "unfinished": report.unfinished,
    }


def results_table(report: BatchReport, console: Console) -> None:
    """Print what each line cost, and its file.

    The file is never cut, because it is copied: a narrow terminal omits the prompt first (the
    file's name is made from it), then length and shape.
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
            "credits": number(amount),
            "cost": in_dollars(amount),
        }
        # Text: brackets in a prompt are no markup.
        table.add_row(
            *(Text(cells[name]) for name in columns), Text(str(result.path or result.status))
        )
    console.print(table)


def print_unknown(report: BatchReport, option: str, console: Console) -> None:
    """Print what to do about jobs whose outcome is unknown."""
    say(
        console,
        f"{report.count('unknown'):,} may have been taken, or not, and will not be sent again "
        "automatically. List them:\n"
        f"  aivideo jobs list{option} --status unknown --status faulted",
    )
    how_to_settle(option, console)


def print_summary(report: BatchReport, session: Session, console: Console) -> None:
    """Print how a batch ended and what it cost."""
    earlier = f" ({report.earlier:,} of them by earlier runs)" if report.earlier else ""
    line = f"{report.count('saved'):,} saved{earlier} · {report.count('failed'):,} failed"
    for count, words in (
        (report.count("unknown"), "outcome unknown"),
        (report.count("running"), "still running"),
        (report.count("unsent"), "not sent"),
    ):
        if count:
            line += f" · {count:,} {words}"
    say(console, line)
    credits_ = report.credits
    charged = credits_.charged + credits_.refunded
    line = f"charged {money(charged)}"
    if credits_.refunded:
        line += f", of which refunded {money(credits_.refunded)}"
    say(console, line)
    rest = []
    this_run = report.this_run.charged + report.this_run.refunded
    if this_run < charged:
        rest.append(f"by this run {money(this_run)}")
    if credits_.unknown + credits_.reserved:
        rest.append(f"outcome unknown {money(credits_.unknown + credits_.reserved)}")
    if rest:
        say(console, " · ".join(rest))
    limiter = session.statistics().limiter
    requests = limiter.accepted + limiter.rejected
    say(console, f"{requests:,} requests, {limiter.rejected:,} of them 429")
    if report.refunded:
        say(
            console,
            f"{report.refunded:,} failed and {'was' if report.refunded == 1 else 'were'} refunded: "
            "--retry-failed sends them again",
        )
