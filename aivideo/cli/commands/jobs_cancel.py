"""``aivideo jobs cancel``: withdraw jobs that were not sent yet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from aivideo.cli import exits
from aivideo.cli.ledgers import desk_for_changes
from aivideo.cli.options import LedgerPath
from aivideo.errors import ConfigurationError


def cancel(*jobs: str, batch: str | None = None, ledger: LedgerPath = Path()) -> int:
    """Withdraw jobs that are still planned: they are not sent and cost nothing.

    Example: aivideo jobs cancel --batch . --ledger clips

    What was sent already cannot be cancelled: the service has no call for it. A later
    `aivideo batch` over the same lines plans them again.

    Parameters
    ----------
    jobs
        Ids of jobs.
    batch
        All planned jobs of this batch.
    """
    if bool(jobs) is (batch is not None):
        raise ConfigurationError("name jobs, or pass --batch NAME")
    return asyncio.run(_cancel(jobs, batch, ledger))


async def _cancel(names: Sequence[str], batch: str | None, path: Path) -> int:
    async with desk_for_changes(path) as desk:
        done = await desk.cancel(names, batch=batch)
    print(f"{len(done.withdrawn):,} withdrawn: not sent, not charged")
    if done.too_late:
        statuses = Counter(str(job.status) for job in done.too_late)
        listed = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
        print(f"{len(done.too_late):,} too late to withdraw, unchanged: {listed}")
    return exits.FAILED if names and done.too_late else exits.OK
