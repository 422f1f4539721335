"""How lines of a batch ended, and the files about it: ``report.jsonl``, ``unfinished.jsonl``."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson
from attrs import field, frozen

from aivideo._amounts import as_json
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

if TYPE_CHECKING:
    from cattrs import Converter

UNFINISHED = "unfinished.jsonl"
REPORT = "report.jsonl"


Status: TypeAlias = Literal["saved", "failed", "unknown", "running", "unsent"]


@frozen(kw_only=True)
class Result:
    """How one line ended.

    Attributes:
        line: the line.
        status: saved, failed, unknown, running or unsent.
        task_id: its task, or None.
        path: its file, or None.
        error: why it was not saved, or None.
        earlier: it had ended so in an earlier run; this run did nothing for it.
    """

    line: Line
    status: Status
    task_id: TaskId | None = None
    path: Path | None = None
    error: AIVideoError | None = None
    earlier: bool = False


@frozen(kw_only=True)
class BatchReport:
    """How a batch ended.

    Attributes:
        results: one per line, and one per job of the batch that no line asks for any more.
        credits: what became of the batch's credits, in all its runs.
        this_run: what became of the credits that this run spent.
        stopped: whether the run was stopped early.
        unfinished: the manifest of what is left, or None if nothing is left.
        trouble: the disk or ledger error that stopped the run, in one line, or None.
    """

    results: tuple[Result, ...]
    credits: CreditTotals
    this_run: CreditTotals
    stopped: bool
    unfinished: Path | None = field(default=None)
    trouble: str | None = None

    def count(self, status: Status) -> int:
        """Return how many lines ended as ``status``."""
        return sum(result.status == status for result in self.results)

    @property
    def can_continue(self) -> bool:
        """Whether another run would do anything."""
        return any(each.status != "unknown" and not _is_finished(each) for each in self.results)

    @property
    def refunded(self) -> int:
        """How many tasks failed and were refunded; a retry pays for them again."""
        return sum(isinstance(result.error, TaskFailedError) for result in self.results)

    @property
    def earlier(self) -> int:
        """How many lines were saved by earlier runs."""
        return sum(result.status == "saved" and result.earlier for result in self.results)


def result_of(line: Line, outcome: Outcome, *, earlier: bool) -> Result:
    """Return the result of a line from its outcome."""
    if isinstance(outcome, Succeeded):
        # Results saved by an earlier run have no URLs: those are signed, and not stored.
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
        # It is not documented whether a create answered by 500 or 503 is charged.
        status = "unknown"
    elif isinstance(error, SessionClosedError):
        status = "running" if task_id else "unsent"
    return Result(line=line, status=status, task_id=task_id, error=error, earlier=earlier)


# --- files --------------------------------------------------------------------------------------


def configure_report(converter: Converter) -> None:
    """Teach a converter to unstructure a :class:`Result` as a row of ``report.jsonl``."""
    converter.register_unstructure_hook(Decimal, as_json)
    converter.register_unstructure_hook(Path, str)
    converter.register_unstructure_hook(Result, lambda each: converter.unstructure(_row(each)))


@cache
def _report_converter() -> Converter:
    from cattrs import Converter

    converter = Converter()
    configure_report(converter)
    return converter


def _row(result: Result) -> dict[str, Any]:
    """Return a row of the report; it holds no URL."""
    row: dict[str, Any] = {
        "id": result.line.id,
        "line": result.line.number or None,
        "status": result.status,
        "task_id": result.task_id,
        "credits": result.line.request.credits,
        "file": result.path,
    }
    if result.error is not None:
        row["error"] = type(result.error).__name__
        row["code"] = result.error.code if isinstance(result.error, APIStatusError) else None
        row["message"] = str(result.error)
    return row


def _encode(value: object) -> bytes:
    return orjson.dumps(_report_converter().unstructure(value), option=orjson.OPT_APPEND_NEWLINE)


def append(folder: Path, result: Result) -> None:
    """Append a result to ``report.jsonl``: a complete line, or nothing.

    Raises:
        OSError: it cannot be written.
    """
    row = _encode(result)
    path = folder / REPORT
    with path.open("ab", buffering=0) as file:
        before, written = file.seek(0, os.SEEK_END), 0
        try:
            written = file.write(row)
        finally:
            if written != len(row):
                file.truncate(before)
    if written != len(row):  # the disk was nearly full
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def write_unfinished(folder: Path, results: Iterable[Result]) -> Path | None:
    """Write the manifest of what is left, atomically; remove it if nothing is left.

    Raises:
        OSError: it cannot be written.
    """
    target = folder / UNFINISHED
    rows = [_manifest_row(result) for result in results if not _is_finished(result)]
    if not rows:
        target.unlink(missing_ok=True)
        return None
    part = target.with_name(f".{UNFINISHED}.{secrets.token_hex(4)}.tmp")
    try:
        with part.open("xb") as file:
            for row in rows:
                file.write(_encode(row))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return target


def _manifest_row(result: Result) -> dict[str, Any]:
    """Return the manifest row that continues a line."""
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


def _is_finished(result: Result) -> bool:
    """Whether another run has nothing to do for a line: it would fail again, or is saved."""
    if result.status != "failed":
        return result.status == "saved"
    if result.task_id is not None:
        return isinstance(result.error, TaskFailedError | TaskNotFoundError | ResultExpiredError)
    # These errors say nothing about the line itself: no money, a ceiling, a bad key, no network,
    # a full disk.
    not_final = (
        *(InsufficientCreditsError, SpendLimitError, BudgetExceededError),
        *(AuthenticationError, PermissionDeniedError, APIConnectionError, LedgerError),
    )
    return not isinstance(result.error, not_final)
