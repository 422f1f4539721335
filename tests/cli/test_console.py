"""How commands print amounts and values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from aivideo.cli.console import ledger_option, money, number, print_json
from aivideo.ledger.records import JobStatus
from aivideo.models import CompletedTask, FailedTask, TaskFailure


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (200, "200 credits ($1.00)"),
        (Decimal("1030.50"), "1,030.5 credits ($5.15)"),
        (Decimal("1E+3"), "1,000 credits ($5.00)"),
        (Decimal("61.0"), "61 credits ($0.30)"),
    ],
)
def test_amounts_have_no_exponent_and_no_trailing_zeros(amount: Decimal | int, text: str) -> None:
    assert money(amount) == text
    assert text.startswith(number(amount))


def test_json_has_whole_numbers_where_amounts_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {
            "whole": Decimal(200),
            "part": Decimal("30.5"),
            "file": Path("clips/a.mp4"),
            "status": JobStatus.SAVED,
            "none": None,
            "list": [Decimal(1)],
            "text": "雨中的纸船",
        }
    )
    out = capsys.readouterr().out
    assert "雨中的纸船" in out, "text is not escaped"
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "whole": 200,
        "part": 30.5,
        "file": "clips/a.mp4",
        "status": "saved",
        "none": None,
        "list": [1],
        "text": "雨中的纸船",
    }
    assert '"whole":200,' in out.replace(" ", "")


def test_a_task_as_json_shows_no_signed_url(capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    print_json(
        CompletedTask(
            id="t", model="sora-2", created_at=now, completed_at=now, urls=("https://x/?sig=1",)
        )
    )
    out = capsys.readouterr().out
    assert "sig" not in out
    assert json.loads(out)["results"] == 1
    failure = TaskFailure("upstream_error", "no luck")
    print_json(FailedTask(id="t", model="sora-2", created_at=now, error=failure))
    assert json.loads(capsys.readouterr().out)["code"] == "upstream_error"


def test_the_ledger_option_can_be_copied() -> None:
    assert ledger_option(Path()) == ""
    assert ledger_option(Path("my clips")) == " --ledger 'my clips'"
