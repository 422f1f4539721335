"""Prepare a run: match its lines, refuse what would be bought twice, record what will be sent.

All lines that a run may send are recorded before the first of them is sent. So another run that
starts later finds them, also if its manifest has other lines above them or states other ids; and a
run that was suspended and is continued finds what was bought meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from aivideo import _file_locks
from aivideo.errors import InvalidRequestError, LedgerError
from aivideo.ledger import Ledger
from aivideo.ledger.records import JobRecord
from aivideo.manifest.matching import Match, Plan, match
from aivideo.manifest.reading import Line, ManifestError
from aivideo.manifest.repeats import ExistingFile, OtherBatch, existing_files, other_batch
from aivideo.models import fingerprint

log: logging.Logger = logging.getLogger("aivideo.manifest")

LOCK_INTERVAL = 0.05
"""Seconds between two attempts to lock the ledger for matching and recording."""

LOCK_WARNING = 5.0
"""Seconds of waiting for that lock after which a warning says why nothing happens."""

_TOGETHER = 1000
"""How many jobs are given to the ledger at once: it writes them in a few transactions."""


@frozen(kw_only=True)
class BatchSettings:
    """What a run may do.

    Attributes:
        name: the batch's name in the ledger: the same name and line is the same job.
        max_credits: a ceiling on the credits that all runs of the batch were charged, have
            reserved or cannot account for. It is stored with the batch: None leaves the stored
            ceiling as it is, "none" removes it.
        retry_failed: send lines again that failed (and were refunded) or were refused.
        wait_for_spend_limit: at the key's spend cap, wait until it resets.
        overwrite: replace files that exist. This does not allow to buy anything again.
        pay_again: buy again what may have been paid for: lines whose file exists although the
            ledger says that they were not sent, lines that were bought in another batch, lines
            whose result cannot be had any more (expired, vanished, its file lost) and, with
            ``retry_failed``, lines whose outcome is unknown.
    """

    name: str
    max_credits: Decimal | Literal["none"] | None = None
    retry_failed: bool = False
    wait_for_spend_limit: bool = False
    overwrite: bool = False
    pay_again: bool = False


async def prepare(
    ledger: Ledger, lines: Iterable[Line], folder: Path, settings: BatchSettings
) -> Plan:
    """Match a manifest's lines with the jobs of their batch, and record those that are new.

    One process at a time does this with a ledger on disk; another one waits.

    Args:
        ledger: the ledger.
        lines: the manifest.
        folder: where the files are saved.
        settings: what the run may do.

    Raises:
        ManifestError: an ``id`` was bought for another request, or the run would buy lines again;
            nothing was recorded.
        LedgerError: the ledger cannot be read or written.
    """
    await ledger.lapse()
    async with _alone(ledger):
        return await _record(ledger, await examine(ledger, lines, folder, settings), settings.name)


async def examine(
    ledger: Ledger, lines: Iterable[Line], folder: Path, settings: BatchSettings
) -> Plan:
    """Do what :func:`prepare` does, without writing anything.

    Raises:
        ManifestError: an ``id`` was bought for another request, or the run would buy lines again.
        LedgerError: the ledger cannot be read.
    """
    files = _names_in(folder)  # before the ledger: another run may save files meanwhile
    records = [record async for record in ledger.jobs(batch=settings.name)]
    plan = match(lines, records)
    to_send = lines_to_send(plan, settings)
    existing = existing_files(to_send, files, records)
    bought = None
    if to_send and not records:  # a new name: the ledger, or the folder, may have been moved
        bought = other_batch(to_send, [record async for record in ledger.jobs()])
    problems = _problems(existing, bought, len(to_send), folder, settings)
    if problems:
        raise ManifestError(problems)
    again = {each.line.number: each.line for each in existing}
    again |= {each.line.number: each.line for each in to_send if each.is_in_doubt}
    again |= {line.number: line for line in (bought.lines if bought else ())}
    return evolve(plan, repeated=tuple(again.values()))


def lines_to_send(plan: Plan, settings: BatchSettings) -> list[Match]:
    """Return the lines for which a run would send a create."""
    retry_failed, pay_again = settings.retry_failed, settings.pay_again
    return [
        each
        for each in plan.matches
        if each.would_be_sent(retry_failed=retry_failed, pay_again=pay_again)
    ]


def _problems(
    existing: Sequence[ExistingFile],
    bought: OtherBatch | None,
    to_send: int,
    folder: Path,
    settings: BatchSettings,
) -> list[str]:
    problems = []
    replaced = [each for each in existing if each.is_replaced]
    if existing and not settings.pay_again:
        problems.append(
            f"{_first_of(existing, folder)}, and the ledger does not know that it was bought. To "
            "make it is to pay again: pass the --ledger that it was made with, choose another "
            "--output, or pass --pay-again to buy it again"
        )
    elif replaced and not settings.overwrite:
        problems.append(
            f"{_first_of(replaced, folder)}, and --pay-again would replace it: pass --overwrite as "
            "well, or choose another --output"
        )
    if bought is not None and not settings.pay_again:
        option = f"--batch {shlex.quote(bought.name)}"
        problems.append(
            f"the ledger has no batch {settings.name!r}, and {bought.count:,} of {to_send:,} lines "
            f"were bought, or may have been, in its batch {bought.name!r}: pass {option} to go on "
            "with that one, or --pay-again to buy them again"
        )
    return problems


def _first_of(existing: Sequence[ExistingFile], folder: Path) -> str:
    more = f", and {len(existing) - 1:,} more do" if len(existing) > 1 else ""
    return f"{folder / existing[0].name} already exists{more}"


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []  # it does not exist yet; check_folder says whether files can be written


async def _record(ledger: Ledger, plan: Plan, batch: str) -> Plan:
    """Record the jobs of all lines that may be sent; return the plan with their records."""
    new = [index for index, each in enumerate(plan.matches) if each.is_to_be_planned]
    matches = list(plan.matches)
    for start in range(0, len(new), _TOGETHER):
        part = new[start : start + _TOGETHER]
        recorded = await asyncio.gather(
            *(ledger.plan(_job_of(matches[index], batch), replace=True) for index in part),
            return_exceptions=True,
        )
        for index, record in zip(part, recorded, strict=True):
            line = matches[index].line
            if isinstance(record, InvalidRequestError):
                problem = (
                    f"line {line.number}: id {line.id!r} was used for another request by another "
                    "run meanwhile; give the changed line a new id"
                )
                raise ManifestError([problem]) from None
            if isinstance(record, BaseException):
                raise record
            matches[index] = Match(line, record)
    return evolve(plan, matches=tuple(matches))


def _job_of(each: Match, batch: str) -> JobRecord:
    request = each.line.request
    return JobRecord(
        id=secrets.token_hex(8),
        request=request,
        fingerprint=fingerprint(request),
        credits=request.credits,
        batch=batch,
        key=each.line.id,
        planned_at=time.time(),
    )


# --- one process at a time ----------------------------------------------------------------------


@asynccontextmanager
async def _alone(ledger: Ledger) -> AsyncIterator[None]:
    """Let one process at a time match lines with a ledger on disk and record them.

    Otherwise two runs that start at once and give one line different ids would both record it. On
    systems and disks without file locks, only lines without an id are protected from this, by
    their names.
    """
    from aivideo.ledger.sqlite import SqliteLedger

    if not isinstance(ledger, SqliteLedger) or not _file_locks.are_known():
        yield
        return
    path = ledger.path.resolve()
    lock = path.with_name(f"{path.name}-planning")
    handle = await _locked(lock)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                lock.unlink()  # before the lock is released, see _try_to_lock
            os.close(handle)


async def _locked(lock: Path) -> int | None:
    """Wait for a lock; return its file descriptor, or None where locks are not supported."""
    loop = asyncio.get_running_loop()
    start, warned = loop.time(), False
    while True:
        try:
            return _try_to_lock(lock)
        except BlockingIOError:
            if not warned and loop.time() - start > LOCK_WARNING:
                warned = True
                log.warning(
                    "waiting for another run to record its lines in the ledger; if that process "
                    "is suspended, continue it or end it"
                )
            await asyncio.sleep(LOCK_INTERVAL)


def _try_to_lock(lock: Path) -> int | None:
    """Lock a file; None where that is not supported.

    Raises:
        BlockingIOError: another process holds the lock.
        LedgerError: the file cannot be created.
    """
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LedgerError(f"{lock}: {error.strerror}") from None
    try:
        _file_locks.take(handle)
        # Its last owner removed the file before it released the lock: then this is not the file
        # that others lock.
        if os.fstat(handle).st_ino == lock.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(handle)
        return None
    os.close(handle)
    raise BlockingIOError
