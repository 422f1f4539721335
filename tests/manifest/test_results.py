"""Results of lines, and the files that a batch writes about them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from cattrs import Converter

from aivideo import (
    AIVideoError,
    APIConnectionError,
    BudgetExceededError,
    DownloadError,
    Failed,
    InvalidRequestError,
    LedgerError,
    SessionClosedError,
    SubmitUnknownError,
    UpstreamError,
)
from aivideo.manifest import Defaults, Line, Result, configure_report, read_manifest
from aivideo.manifest import results as files
from aivideo.manifest.results import result_of
from aivideo.models import Generation, Sora2

BOAT = Sora2("A boat", duration=4, aspect_ratio="16:9", image="https://example.com/boat.png")
LINE = Line(number=3, id="boat", request=BOAT)
JOB: Any = SimpleNamespace(id="j")
OVER_THE_CEILING = BudgetExceededError(
    "a ceiling", needed=Decimal(100), held=Decimal(0), ceiling=Decimal(50)
)
BAD_GATEWAY = UpstreamError("bad gateway", status=503, code="upstream_error")


@pytest.mark.parametrize(
    ("error", "task_id", "status"),
    [
        (SubmitUnknownError("no answer", job=JOB), None, "unknown"),
        (BAD_GATEWAY, None, "unknown"),
        (BAD_GATEWAY, "t", "failed"),
        (SessionClosedError("closed"), None, "unsent"),
        (SessionClosedError("closed"), "t", "running"),
        (InvalidRequestError("a rule"), None, "failed"),
    ],
)
def test_a_failed_outcome_becomes_a_result(
    error: AIVideoError, task_id: str | None, status: str
) -> None:
    result = result_of(LINE, Failed(BOAT, error, task_id=task_id), earlier=False)
    assert (result.status, result.task_id, result.error) == (status, task_id, error)


def test_a_row_of_the_report_is_plain_json(tmp_path: Path) -> None:
    files.append(tmp_path, Result(line=LINE, status="saved", task_id="t", path=Path("a/boat.mp4")))
    files.append(tmp_path, Result(line=LINE, status="failed", error=BAD_GATEWAY))
    first, second = (tmp_path / files.REPORT).read_bytes().splitlines()
    assert orjson.loads(first) == {
        "id": "boat",
        "line": 3,
        "status": "saved",
        "task_id": "t",
        "credits": 100,
        "file": "a/boat.mp4",
    }
    assert orjson.loads(second) == {
        "id": "boat",
        "line": 3,
        "status": "failed",
        "task_id": None,
        "credits": 100,
        "file": None,
        "error": "UpstreamError",
        "code": "upstream_error",
        "message": str(BAD_GATEWAY),
    }


def test_any_converter_can_be_configured_for_the_report() -> None:
    converter = Converter()
    configure_report(converter)
    row = converter.unstructure({"result": Result(line=LINE, status="unsent"), "sum": Decimal(100)})
    assert row["result"]["credits"] == 100
    assert type(row["sum"]) is int


def test_unfinished_lines_are_written_as_a_manifest(tmp_path: Path) -> None:
    other = Generation("veo-3", {"prompt": "A kite", "seed": 5}, credits=400)
    results = [
        Result(line=LINE, status="running", task_id="t"),
        Result(line=Line(number=4, id="kite", request=other), status="unknown"),
        Result(line=Line(number=5, id="done", request=BOAT), status="saved", task_id="u"),
    ]
    path = files.write_unfinished(tmp_path, results)
    assert path is not None
    boat, kite = read_manifest(path, Defaults())
    assert (boat.id, boat.request, boat.task_id, boat.unknown) == ("boat", BOAT, "t", False)
    assert (kite.id, kite.request, kite.task_id, kite.unknown) == ("kite", other, None, True)
    assert files.write_unfinished(tmp_path, results[2:]) is None
    assert [*tmp_path.iterdir()] == [], "an old file of unfinished lines is removed"


@pytest.mark.parametrize(
    ("error", "task_id", "is_unfinished"),
    [
        (InvalidRequestError("a rule"), None, False),
        (LedgerError("the disk is full"), None, True),
        (APIConnectionError("no connection", written=False), None, True),
        (OVER_THE_CEILING, None, True),
        (DownloadError("cannot write it", task=None), "t", True),
    ],
)
def test_a_failed_line_is_unfinished_unless_it_would_fail_again(
    error: AIVideoError, task_id: str | None, is_unfinished: bool, tmp_path: Path
) -> None:
    result = Result(line=LINE, status="failed", task_id=task_id, error=error)
    assert (files.write_unfinished(tmp_path, [result]) is not None) is is_unfinished
