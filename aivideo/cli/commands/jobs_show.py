"""``aivideo jobs show``: one job, and each create that was sent for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console

from aivideo._redaction import scrub
from aivideo.cli import exits
from aivideo.cli.console import ledger_option, money, print_json, say
from aivideo.cli.job_table import status_of, time_of
from aivideo.cli.ledgers import desk_for_reading
from aivideo.cli.options import AsJSON, LedgerPath
from aivideo.ledger.records import PAID_AGAIN, Attempt, JobRecord
from aivideo.models import Sora2


def show_job(job: str, /, *, ledger: LedgerPath = Path(), as_json: AsJSON = False) -> int:
    """Show a job, and each create (POST) that was sent for it.

    Example: aivideo jobs show 3f2a9c01d4e5b677

    Parameters
    ----------
    job
        The id of a job, or of a task.
    """
    return asyncio.run(_show(job, ledger, as_json=as_json))


async def _show(name: str, path: Path, *, as_json: bool) -> int:
    async with desk_for_reading(path) as desk:
        found = await desk.show(name)
    if as_json:
        print_json(found)
    else:
        _print_job(found, ledger_option(path), Console())
    return exits.OK


def _print_job(job: JobRecord, option: str, console: Console) -> None:
    request = job.request
    rows = {
        "job": job.id,
        "status": status_of(job),
        "batch": job.batch,
        "key": job.key,
        "model": request.model,
        "prompt": request.prompt,
        "length": f"{request.duration} s" if isinstance(request, Sora2) else None,
        "shape": request.aspect_ratio if isinstance(request, Sora2) else None,
        "image": scrub(request.image) if isinstance(request, Sora2) and request.image else None,
        "credits": "not known" if job.credits is None else money(job.credits),
        "planned": time_of(job.planned_at),
        "file": job.path,
    }
    for name, value in rows.items():
        if value:
            say(console, f"{name:9}{value}")
    for attempt in job.attempts:
        details = "".join(f"\n{'':9}{line}" for line in _details(attempt))
        sent_at = time_of(attempt.sent_at)
        say(console, f"POST {attempt.number:<4}{sent_at}  {attempt.status}{details}")
    if not job.attempts:
        say(console, "never sent")
    if job.doubts:
        say(console, f"next     aivideo jobs settle {job.id}{option} --task-id TASK")
        say(console, f"     or  aivideo jobs settle {job.id}{option} --not-taken")


def _details(attempt: Attempt) -> list[str]:
    lines = []
    if attempt.task_id:
        lines.append(f"task {attempt.task_id}")
    if attempt.is_replaced:
        lines.append(PAID_AGAIN.message)
    elif attempt.reason is not None:
        status = f"HTTP {attempt.reason.status} " if attempt.reason.status else ""
        lines.append(f"{status}{attempt.reason.code or ''} {attempt.reason.message}".strip())
    return lines
