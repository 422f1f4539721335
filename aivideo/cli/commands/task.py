"""``aivideo task``: show a task, or save its result."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from aivideo.cli import exits
from aivideo.cli.commands.generate import check_target
from aivideo.cli.console import as_document, print_json
from aivideo.cli.options import AsJSON, BaseURL
from aivideo.models import FailedTask

if TYPE_CHECKING:
    from aivideo._session.job import Job
    from aivideo._session.session import Session


def task(
    task_id: str,
    /,
    *,
    save: Path | None = None,
    base_url: BaseURL = None,
    as_json: AsJSON = False,
) -> int:
    """Show a task by its id; with --save, wait for it and save its result.

    Example: aivideo task 7d89c51e-9430-410e-909e-df347131ebaa --save boat.mp4

    Parameters
    ----------
    task_id
        As `aivideo generate` and `unfinished.jsonl` show it.
    save
        The file to write.
    """
    from aivideo._session.session import Session

    session = Session(base_url=base_url)
    job = session.job(task_id)  # raises if that is no id
    if save is not None:
        check_target(save)
    return asyncio.run(_task(session, job, save, as_json=as_json))


async def _task(session: Session, job: Job, save: Path | None, *, as_json: bool) -> int:
    task_id = str(job.task_id)
    async with session:
        if save is not None:
            path = await job.save(save)
            if as_json:
                print_json({"task_id": task_id, "file": path})
            else:
                print(f"saved {path}")
            return exits.OK
        found = await session.retrieve(task_id)
    if as_json:
        print_json(found)
    else:
        for name, value in as_document(found).items():
            print(f"{name:13} {value}")
    return exits.FAILED if isinstance(found, FailedTask) else exits.OK
