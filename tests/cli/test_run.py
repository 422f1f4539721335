"""What a batch's exit code says."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from aivideo.cli.run import _exit_code
from aivideo.errors import AIVideoError, BudgetExceededError
from aivideo.ledger.totals import CreditTotals
from aivideo.manifest import BatchReport, Line, Result
from aivideo.models import Sora2

LINE = Line(number=1, id="a", request=Sora2("a", duration=4, aspect_ratio="16:9"))
SAVED = Result(line=LINE, status="saved", path=Path("a.mp4"))


def failed(error: AIVideoError) -> Result:
    return Result(line=LINE, status="failed", error=error)


def report(*results: Result, stopped: bool = False, trouble: str | None = None) -> BatchReport:
    nothing = CreditTotals()
    return BatchReport(
        results=results, credits=nothing, this_run=nothing, stopped=stopped, trouble=trouble
    )


OVER_THE_CEILING = BudgetExceededError(
    "a ceiling", needed=Decimal(100), held=Decimal(0), ceiling=Decimal(50)
)


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (report(SAVED), 0),
        (report(SAVED, trouble="the report could not be written"), 1),
        (report(SAVED, stopped=True), 130),
        (report(SAVED, stopped=True, trouble="the disk is full"), 1),
        (report(SAVED, Result(line=LINE, status="unsent")), 1),
        (report(SAVED, Result(line=LINE, status="unknown")), 4),
        (
            report(
                failed(OVER_THE_CEILING),
                SAVED,
            ),
            3,
        ),
    ],
)
def test_an_exit_code_says_the_worst_that_came_of_it(told: BatchReport, code: int) -> None:
    assert _exit_code(told) == code
