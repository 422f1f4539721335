"""``aivideo jobs settle``: record what became of creates whose outcome is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from aivideo.cli import exits
from aivideo.cli.job_table import status_of
from aivideo.cli.ledgers import desk_for_changes, session_for_checks
from aivideo.cli.options import BaseURL, Flag, LedgerPath
from aivideo.errors import ConfigurationError
from aivideo.models import TaskId


def settle(
    *jobs: str,
    task_id: str | None = None,
    not_taken: Flag = False,
    ledger: LedgerPath = Path(),
    check: bool = True,
    base_url: BaseURL = None,
) -> int:
    """Record what became of a create whose outcome is unknown. Look at the dashboard first.

    Example: aivideo jobs settle 3f2a9c01d4e5b677 --task-id 7d89c51e-9430-410e-909e-df347131ebaa

    With --task-id the job becomes that task: the next `aivideo batch` polls and saves it. With
    --not-taken its credits are free again, and the next `aivideo batch` sends it.

    Parameters
    ----------
    jobs
        The job's id, as `aivideo jobs list --status unknown` shows it; several with --not-taken.
    task_id
        The task that it became.
    not_taken
        It became no task.
    check
        Ask the service for the task, and compare model, prompt and length.
    """
    if (task_id is None) is not not_taken:
        raise ConfigurationError("pass either --task-id TASK or --not-taken")
    if not jobs or (task_id is not None and len(jobs) > 1):
        raise ConfigurationError("name a job; several only with --not-taken")
    return asyncio.run(_settle(jobs, task_id, ledger, base_url, check=check))


async def _settle(
    names: Sequence[str], task_id: TaskId | None, path: Path, base_url: str | None, *, check: bool
) -> int:
    async with AsyncExitStack() as stack:
        client = None
        if task_id is not None and check:
            client = await stack.enter_async_context(session_for_checks(base_url))
        desk = await stack.enter_async_context(desk_for_changes(path, client=client))
        for job in await desk.settle(
            names, task_id=task_id, not_taken=task_id is None, check=check
        ):
            print(f"job {job.id} is {status_of(job)} now")
    print("The same `aivideo batch` command goes on from here.")
    return exits.OK
