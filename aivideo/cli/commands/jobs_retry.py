"""``aivideo jobs retry``: have jobs sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aivideo.cli import exits
from aivideo.cli.console import confirmed, is_interactive, money
from aivideo.cli.ledgers import desk_for_changes
from aivideo.cli.options import Flag, LedgerPath
from aivideo.desk import Retry
from aivideo.errors import ConfigurationError


def retry(
    *jobs: str,
    failed: Annotated[bool, Parameter(name=("--failed", "--all-failed"), negative="")] = False,
    batch: str | None = None,
    pay_again: Flag = False,
    yes: Flag = False,
    ledger: LedgerPath = Path(),
) -> int:
    """Have jobs sent again that failed (and were refunded) or were refused.

    Example: aivideo jobs retry --failed --ledger clips

    The next `aivideo batch` sends them, as new creates of the same jobs. What may be paid twice is
    printed before anything is changed. On a terminal it must then be confirmed, unless --yes is
    passed; elsewhere --failed --pay-again needs --yes, and named jobs are marked at once.

    Parameters
    ----------
    jobs
        Ids of jobs.
    failed
        All jobs that failed or were refused.
    batch
        With --failed: only those of this batch.
    pay_again
        Allow to pay twice. --failed includes all jobs whose outcome is unknown; jobs that are named
        may also be running, completed or saved, where the result cannot be had any more.
    yes
        Do not ask for a confirmation.
    """
    if bool(jobs) is failed:
        raise ConfigurationError("name jobs, or pass --failed")
    if batch is not None and not failed:
        raise ConfigurationError("--batch goes with --failed")
    found = asyncio.run(_preview(jobs, batch, ledger, pay_again=pay_again))
    if pay_again and (found.at_risk or found.paid_before or found.unpriced_before):
        _print_what_is_paid_twice(found)
        asks = failed or is_interactive()
        if asks and not confirmed(
            f"Pay again for {_jobs(len(found.records))}?",
            yes=yes,
            otherwise="this may pay twice, and there is no terminal to confirm it on: pass --yes; "
            "nothing was changed",
        ):
            print("Nothing was changed.")
            return exits.FAILED
    marked = asyncio.run(_mark(found, ledger, pay_again=pay_again))
    _print_marked(found, marked)
    return exits.OK


async def _preview(
    names: Sequence[str], batch: str | None, path: Path, *, pay_again: bool
) -> Retry:
    async with desk_for_changes(path) as desk:
        return await desk.preview_retry(
            names, all_failed=not names, batch=batch, pay_again=pay_again
        )


async def _mark(found: Retry, path: Path, *, pay_again: bool) -> Retry:
    async with desk_for_changes(path) as desk:
        return await desk.mark(found, pay_again=pay_again)


def _print_what_is_paid_twice(found: Retry) -> None:
    print(f"Sending {_jobs(len(found.records))} again charges {_price(found)}.")
    if found.at_risk:
        print(f"You pay {money(found.at_risk)} more if their earlier creates were taken after all.")
    if found.paid_before:
        print(f"You have paid {money(found.paid_before)} for their earlier creates.")
    if found.unpriced_before:
        print(f"The price of {found.unpriced_before:,} of the earlier creates is not known.")


def _print_marked(found: Retry, marked: Retry) -> None:
    count = len(marked.records)
    price = f": {_price(marked)}" if count else ""
    print(f"{count:,} will be sent again by the next `aivideo batch`{price}")
    changed = len(found.records) - count
    if changed:
        print(f"{changed:,} changed meanwhile, and {'is' if changed == 1 else 'are'} left alone")


def _price(retry: Retry) -> str:
    priced = len(retry.records) > retry.unpriced
    parts = [money(retry.credits)] if priced else []
    if retry.unpriced:
        parts.append(f"{retry.unpriced:,} whose price is not known")
    return ", and ".join(parts)


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"
