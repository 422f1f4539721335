"""Open the ledger that a ``jobs`` command names, and word a desk's refusals for its options."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aivideo.desk import AccountSource, Desk, DeskError, Refusal
from aivideo.errors import AIVideoError, LedgerError

if TYPE_CHECKING:
    from aivideo._session.session import Session
    from aivideo.ledger.sqlite import SqliteLedger

LEDGER = "aivideo.db"
"""The ledger's file name in a batch's folder."""

CHECK_TIMEOUT = 15.0
"""Seconds for one request that a person waits for at the terminal."""

_CURES = {
    Refusal.NO_SUCH_JOB: "`aivideo jobs list --all` lists them",
    Refusal.NO_SUCH_TASK: "copy its whole id, or pass --no-check",
    Refusal.TASK_DOES_NOT_MATCH: "look for another task, or pass --no-check",
    Refusal.MAY_PAY_AGAIN: "settle it first (`aivideo jobs settle`), or pass --pay-again",
    Refusal.PAID_ALREADY: (
        "if its result cannot be had any more, pass --pay-again to buy it again"
    ),
    Refusal.TOO_FEW_READINGS: "set AIVIDEO_API_KEY and run this again",
}


def _open(path: Path, *, read_only: bool) -> SqliteLedger:
    from aivideo.ledger.sqlite import SqliteLedger

    file = path / LEDGER if path.is_dir() else path
    if not file.exists():
        raise LedgerError(f"there is no ledger {file}; name one with --ledger")
    return SqliteLedger(file, read_only=read_only)


@asynccontextmanager
async def desk_for_changes(
    path: Path, *, client: AccountSource | None = None
) -> AsyncIterator[Desk]:
    """Open a ledger to change its jobs."""
    ledger = _open(path, read_only=False)
    async with _desk(ledger, client) as desk:
        yield desk


@asynccontextmanager
async def desk_for_reading(path: Path) -> AsyncIterator[Desk]:
    """Open a ledger to read it; one that cannot be written is opened read-only."""
    async with _desk(await _open_for_reading(path), None) as desk:
        yield desk


@asynccontextmanager
async def _desk(ledger: SqliteLedger, client: AccountSource | None) -> AsyncIterator[Desk]:
    try:
        yield Desk(ledger, client=client)
    except DeskError as error:
        cure = _CURES.get(error.refusal, error.cure)
        raise AIVideoError(f"{ledger.path}: {error.problem}; {cure}") from None
    finally:
        await ledger.aclose()


async def _open_for_reading(path: Path) -> SqliteLedger:
    ledger = _open(path, read_only=True)  # refuses other files before anything is written to them
    try:
        writable = _open(path, read_only=False)
    except LedgerError:
        return ledger
    await ledger.aclose()
    try:
        await writable.lapse()  # creates of dead processes are unknown from now on
    except LedgerError:
        await writable.aclose()
        return _open(path, read_only=True)
    return writable


def session_for_checks(base_url: str | None) -> Session:
    """Return a session for a few requests that a person waits for.

    Raises:
        ConfigurationError: there is no key, or a setting cannot work.
    """
    from aivideo._session.session import Session

    return Session(base_url=base_url, request_timeout=CHECK_TIMEOUT)
