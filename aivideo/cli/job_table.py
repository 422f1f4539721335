"""How jobs look in a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table
from rich.text import Text

from aivideo.cli.console import number
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.manifest import text_of

_STYLES = {
    JobStatus.UNKNOWN: "bold yellow",
    JobStatus.FAULTED: "yellow",
    JobStatus.FAILED: "red",
    JobStatus.REFUSED: "red",
}
_GAP = 2  # blanks between two columns


def job_table(jobs: Sequence[JobRecord], width: int) -> Table:
    """Return a table that never cuts an id, because ids are copied: the prompt is cut instead."""
    table = Table(box=None, pad_edge=False)
    statuses = [status_of(job) for job in jobs]
    widths = {
        "job": 16,
        "status": max(len("status"), *map(len, statuses)),
        "credits": max(7, *(len(_credits(job)) for job in jobs)),
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
    for job, status in zip(jobs, statuses, strict=True):
        best = job.best
        cells: dict[str, str | Text] = {
            "job": job.id,
            "status": Text(status, style=_STYLES.get(job.status, "")),
            "credits": _credits(job),
            "sent (UTC)": "" if best is None else time_of(best.sent_at)[5:16],
            "task": job.task_id or "",
        }
        table.add_row(*(cells[name] for name in widths), Text(text_of(job.request)))
    return table


def _room(width: int, widths: dict[str, int]) -> int:
    return width - sum(widths.values()) - _GAP * len(widths)


def _credits(job: JobRecord) -> str:
    return "?" if job.credits is None else number(job.credits)


def status_of(job: JobRecord) -> str:
    """Return a job's status, and how many other creates of it have an unknown outcome."""
    hidden = job.doubts and not job.status.is_in_doubt
    return f"{job.status} (+{job.doubts} unknown)" if hidden else str(job.status)


def time_of(unix: float) -> str:
    """Return Unix seconds as a date and time in UTC; "" for 0."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if unix else ""
