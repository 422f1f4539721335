"""The exit code of a batch."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from aivideo.cli.batch_run import _exit_code
from aivideo.errors import AIVideoError, BudgetExceededError
from aivideo.ledger.totals import CreditTotals
from aivideo.manifest import BatchReport, Line, Result
from aivideo.models import Sora2

LINE = Line(number=1, id="a", request=Sora2("a", duration=4, aspect_ratio="16:9"))
SAVED = Result(line=LINE, status="saved", path=Path("a.mp4"))

OVER_THE_CEILING = BudgetExceededError(
    "a ceiling", needed=Decimal(100), held=Decimal(0), ceiling=Decimal(50)
)


def failed(error: AIVideoError) -> Result:
    return Result(line=LINE, status="failed", error=error)


def report_of(*results: Result, stopped: bool = False, trouble: str | None = None) -> BatchReport:
    nothing = CreditTotals()
    return BatchReport(
        results=results, credits=nothing, this_run=nothing, stopped=stopped, trouble=trouble
    )


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (report_of(SAVED), 0),
        (report_of(SAVED, trouble="the report could not be written"), 1),
        (report_of(SAVED, stopped=True), 130),
        (report_of(SAVED, stopped=True, trouble="the disk is full"), 1),
        (report_of(SAVED, Result(line=LINE, status="unsent")), 1),
        (report_of(SAVED, Result(line=LINE, status="unknown")), 4),
        (
            report_of(failed(OVER_THE_CEILING), SAVED),
            3,
        ),
    ],
)
def test_the_exit_code_is_that_of_the_worst_result(report: BatchReport, code: int) -> None:
    assert _exit_code(report) == code
