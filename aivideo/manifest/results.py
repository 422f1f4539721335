"""How lines of a batch ended, and the files that say so: ``report.jsonl``, ``unfinished.jsonl``."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
from attrs import field, frozen

from aivideo.errors import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    InternalServerError,
    LedgerError,
    PermissionDeniedError,
    ResultExpiredError,
    SessionClosedError,
    SpendLimitError,
    SubmitUnknownError,
    TaskFailedError,
    TaskNotFoundError,
    UpstreamError,
)
from aivideo.ledger.totals import CreditTotals
from aivideo.manifest.reading import Line
from aivideo.models import Outcome, Sora2, Succeeded, TaskId

UNFINISHED = "unfinished.jsonl"
REPORT = "report.jsonl"


Status: TypeAlias = Literal["saved", "failed", "unknown", "running", "unsent"]


@frozen(kw_only=True)
class Result:
    """How one line ended: ``status`` is saved, failed, unknown, running or unsent.

    ``earlier``: it had ended so in an earlier run; this one did nothing for it.
    """

    line: Line
    status: Status
    task_id: TaskId | None = None
    path: Path | None = None
    error: AIVideoError | None = None
    earlier: bool = False

    def as_json(self) -> dict[str, Any]:
        """Make it a row of the report; no URL in it."""
        row: dict[str, Any] = {
            "id": self.line.id,
            "line": self.line.number or None,
            "status": self.status,
            "task_id": self.task_id,
            "credits": self.line.request.credits,
            "file": None if self.path is None else str(self.path),
        }
        if self.error is not None:
            row["error"] = type(self.error).__name__
            row["code"] = self.error.code if isinstance(self.error, APIStatusError) else None
            row["message"] = str(self.error)
        return row


@frozen(kw_only=True)
class BatchReport:
    """How a batch ended.

    Attributes:
        results: one a line, and one for each job of the batch that had lost its line.
        credits: what became of the batch's credits, over all its runs.
        this_run: what became of those that this run spent.
        stopped: whether it was stopped before its end.
        unfinished: the manifest of what is left, or None where nothing is.
        trouble: what the disk or the ledger said that stopped it, in one line, or None.
    """

    results: tuple[Result, ...]
    credits: CreditTotals
    this_run: CreditTotals
    stopped: bool
    unfinished: Path | None = field(default=None)
    trouble: str | None = None

    def count(self, status: str) -> int:
        """How many lines ended as ``status``."""
        return sum(result.status == status for result in self.results)

    @property
    def goes_on(self) -> bool:
        """Whether another run would do anything."""
        return any(each.status != "unknown" and _left_over(each) for each in self.results)

    @property
    def refunded(self) -> int:
        """How many failed at the service, and cost nothing: a retry would pay for them anew."""
        return sum(isinstance(result.error, TaskFailedError) for result in self.results)

    @property
    def earlier(self) -> int:
        """How many had been saved by earlier runs."""
        return sum(result.status == "saved" and result.earlier for result in self.results)


def result_of(line: Line, outcome: Outcome, *, earlier: bool) -> Result:
    """Make the result of a line's outcome."""
    if isinstance(outcome, Succeeded):
        # What an earlier run has saved has no URLs: they are signed, and not kept.
        return Result(
            line=line,
            status="saved",
            task_id=outcome.task.id,
            path=outcome.path,
            earlier=not outcome.task.urls,
        )
    error, task_id = outcome.error, outcome.task_id
    in_doubt = (SubmitUnknownError, InternalServerError, UpstreamError)
    status: Status = "failed"
    if isinstance(error, in_doubt) and task_id is None:
        # Of a create answered by 500 or 503 it is not documented whether it was charged either.
        status = "unknown"
    elif isinstance(error, SessionClosedError):
        status = "running" if task_id else "unsent"
    return Result(line=line, status=status, task_id=task_id, error=error, earlier=earlier)


def append(folder: Path, result: Result) -> None:
    """Add a result to ``report.jsonl``: a whole line, or nothing.

    Raises:
        OSError: it cannot be written.
    """
    row = orjson.dumps(result.as_json(), option=orjson.OPT_APPEND_NEWLINE)
    path = folder / REPORT
    with path.open("ab", buffering=0) as file:
        before, written = file.seek(0, os.SEEK_END), 0
        try:
            written = file.write(row)
        finally:
            if written != len(row):
                file.truncate(before)
    if written != len(row):  # a disk that was nearly full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def write_unfinished(folder: Path, results: Iterable[Result]) -> Path | None:
    """Write the manifest of what is left, whole or not at all; remove it where nothing is.

    Raises:
        OSError: it cannot be written.
    """
    target = folder / UNFINISHED
    rows = [row for result in results if (row := _left_over(result)) is not None]
    if not rows:
        target.unlink(missing_ok=True)
        return None
    part = target.with_name(f".{UNFINISHED}.{secrets.token_hex(4)}.tmp")
    try:
        with part.open("xb") as file:
            for row in rows:
                file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return target


def _left_over(result: Result) -> dict[str, Any] | None:
    """Make the manifest line that goes on with a line, or None where there is nothing to do."""
    if result.status == "saved" or (result.status == "failed" and _is_final(result)):
        return None
    request = result.line.request
    row: dict[str, Any] = {"id": result.line.id}
    if isinstance(request, Sora2):
        row |= {
            "prompt": request.prompt,
            "duration": request.duration,
            "aspect_ratio": request.aspect_ratio,
        }
        if request.image is not None:
            row["image"] = request.image
    else:
        row |= {"model": request.model, "input": request.input}
        if request.stated_credits is not None:
            row["credits"] = request.stated_credits
    if result.task_id is not None:
        row["task_id"] = result.task_id
    if result.status == "unknown":
        row["unknown"] = True
    return row


def _is_final(result: Result) -> bool:
    """Whether a failed line is over: it would fail again, or there is nothing left to fetch."""
    if result.task_id is not None:
        return isinstance(result.error, TaskFailedError | TaskNotFoundError | ResultExpiredError)
    # Without a task: no money, a ceiling, a bad key, no network or a full disk are no fault of
    # the line.
    waits = (
        *(InsufficientCreditsError, SpendLimitError, BudgetExceededError),
        *(AuthenticationError, PermissionDeniedError, APIConnectionError, LedgerError),
    )
    return not isinstance(result.error, waits)
