"""``aivideo jobs settle``: record what became of creates whose outcome is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aivideo.cli import exits
from aivideo.cli.console import confirmed, money
from aivideo.cli.job_table import status_of, time_of
from aivideo.cli.ledgers import desk_for_changes, session_for_checks
from aivideo.cli.options import BaseURL, Flag, LedgerPath
from aivideo.desk import FaultedJobs
from aivideo.errors import ConfigurationError
from aivideo.models import TaskId


def settle(
    *jobs: str,
    task_id: str | None = None,
    not_taken: Flag = False,
    all_faulted_between: Annotated[tuple[str, str] | None, Parameter(negative="")] = None,
    batch: str | None = None,
    yes: Flag = False,
    ledger: LedgerPath = Path(),
    check: bool = True,
    base_url: BaseURL = None,
) -> int:
    """Record what became of a create whose outcome is unknown. Look at the dashboard first.

    Example: aivideo jobs settle 3f2a9c01d4e5b677 --task-id 7d89c51e-9430-410e-909e-df347131ebaa

    With --task-id the job becomes that task: the next `aivideo batch` polls and saves it. With
    --not-taken its credits are free again, and the next `aivideo batch` sends it.

    After an outage that answered many creates with 500 or 503, and whose time shows no task on the
    dashboard: aivideo jobs settle --not-taken --all-faulted-between 2026-01-31T09:30
    2026-01-31T10:15. It prints how many jobs that settles and how many credits it frees, and asks
    for a confirmation.

    Parameters
    ----------
    jobs
        The job's id, as `aivideo jobs list --status unknown` shows it; several with --not-taken.
    task_id
        The task that it became.
    not_taken
        It became no task.
    all_faulted_between
        With --not-taken, instead of ids: all jobs with status faulted (answered by 500 or 503) that
        were sent from the first to the second of these times. Times are ISO 8601; without an offset
        they are local. Jobs with status unknown are not included.
    batch
        With --all-faulted-between: only jobs of this batch.
    yes
        Do not ask for a confirmation. Needed where there is no terminal.
    check
        Ask the service for the task, and compare model, prompt and length.
    """
    if (task_id is None) is not not_taken:
        raise ConfigurationError("pass either --task-id TASK or --not-taken")
    if all_faulted_between is not None:
        if jobs or task_id is not None:
            raise ConfigurationError(
                "--all-faulted-between goes with --not-taken, and not with ids of jobs"
            )
        start, end = map(_moment, all_faulted_between)
        return _settle_all(start, end, batch, ledger, yes=yes)
    if batch is not None:
        raise ConfigurationError("--batch goes with --all-faulted-between")
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


# --- all that an outage left --------------------------------------------------------------------


def _moment(text: str) -> datetime:
    """Read a date and a time; without an offset they are local.

    Raises:
        ConfigurationError: it is neither.
    """
    if ":" in text or "T" in text.upper():  # a date alone would leave out, or include, a day
        with suppress(ValueError, OverflowError, OSError):
            moment = datetime.fromisoformat(text)
            moment.timestamp()
            return moment
    raise ConfigurationError(
        f"--all-faulted-between {text!r} must be an ISO 8601 date and time, such as "
        "2026-01-31T09:30 (local time) or 2026-01-31T09:30Z"
    )


def _settle_all(start: datetime, end: datetime, batch: str | None, path: Path, *, yes: bool) -> int:
    interval = f"from {time_of(start.timestamp())} to {time_of(end.timestamp())}"
    if end.timestamp() < start.timestamp():
        raise ConfigurationError(
            f"--all-faulted-between: there is no time {interval}; give the earlier time first"
        )
    found = asyncio.run(_find_faulted(start, end, batch, path))
    count = len(found.records)
    if found.unknown:
        print(
            f"{found.unknown:,} with status unknown, sent in that time, "
            f"{'is' if found.unknown == 1 else 'are'} not included: settle them by id"
        )
    if not count:
        within = "" if batch is None else f" in batch {batch!r}"
        exits.warn(f"no faulted job{within} was sent {interval}; nothing was changed")
        return exits.FAILED
    print(f"{count:,} faulted, sent {interval}: {_held(found)} will be free again.")
    if not confirmed(
        "Record that it was not taken?"
        if count == 1
        else f"Record that none of these {count:,} was taken?",
        yes=yes,
        otherwise=f"this settles {count:,} as not taken, and there is no terminal to confirm it "
        "on: pass --yes; nothing was changed",
    ):
        print("Nothing was changed.")
        return exits.FAILED
    settled = asyncio.run(_settle_found(found, path))
    print(f"{settled:,} settled as not taken; the same `aivideo batch` command sends them.")
    if settled < count:
        print(f"{count - settled:,} changed meanwhile, and are left alone")
    return exits.OK


async def _find_faulted(
    start: datetime, end: datetime, batch: str | None, path: Path
) -> FaultedJobs:
    async with desk_for_changes(path) as desk:
        return await desk.faulted(start, end, batch=batch)


async def _settle_found(found: FaultedJobs, path: Path) -> int:
    async with desk_for_changes(path) as desk:
        return len(await desk.settle_all(found))


def _held(found: FaultedJobs) -> str:
    unpriced = f", and {found.unpriced:,} creates of unknown price," if found.unpriced else ""
    return money(found.credits) + unpriced
