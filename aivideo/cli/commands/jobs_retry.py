"""``aivideo jobs retry``: have jobs sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from aivideo.cli import exits
from aivideo.cli.console import money
from aivideo.cli.ledgers import desk_for_changes
from aivideo.cli.options import Flag, LedgerPath
from aivideo.errors import ConfigurationError


def retry(
    *jobs: str,
    failed: Flag = False,
    batch: str | None = None,
    pay_again: Flag = False,
    ledger: LedgerPath = Path(),
) -> int:
    """Have jobs sent again that failed (and were refunded) or were refused.

    Example: aivideo jobs retry --failed --ledger clips

    The next `aivideo batch` sends them, as new creates of the same jobs.

    Parameters
    ----------
    jobs
        Ids of jobs.
    failed
        All jobs that failed or were refused.
    batch
        With --failed: only those of this batch.
    pay_again
        Allow jobs whose outcome is unknown too: if they were taken after all, you pay twice.
    """
    if bool(jobs) is failed:
        raise ConfigurationError("name jobs, or pass --failed")
    if batch is not None and not failed:
        raise ConfigurationError("--batch goes with --failed")
    return asyncio.run(_retry(jobs, batch, ledger, pay_again=pay_again))


async def _retry(names: Sequence[str], batch: str | None, path: Path, *, pay_again: bool) -> int:
    async with desk_for_changes(path) as desk:
        marked = await desk.retry(names, all_failed=not names, batch=batch, pay_again=pay_again)
    count = len(marked.records)
    price = f": {money(marked.credits)}" if count > marked.unpriced else ""
    unpriced = f", and {marked.unpriced:,} whose price is not known" if marked.unpriced else ""
    print(f"{count:,} will be sent again by the next `aivideo batch`{price}{unpriced}")
    if marked.at_risk:
        print(
            f"You pay {money(marked.at_risk)} more if their earlier creates were taken after all."
        )
    return exits.OK
