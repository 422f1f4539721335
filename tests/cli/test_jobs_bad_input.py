"""`aivideo jobs`: refused commands print one line and change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from aivideo.cli.app import run
from aivideo.ledger.records import JobStatus
from tests.cli.filled_ledger import FilledLedger, Said, one_line


@pytest.mark.parametrize(
    ("command", "code", "expected"),
    [
        (["show", "0123456789abcdef"], 1, "has no job '0123456789abcdef'"),
        (["settle", "0123456789abcdef", "--not-taken"], 1, "jobs list --all"),
        (["retry", "0123456789abcdef"], 1, "has no job"),
        (["settle", "x"], 2, "--task-id TASK or --not-taken"),
        (["settle", "x", "--task-id", "t", "--not-taken"], 2, "--task-id TASK or --not-taken"),
        (["settle", "x", "y", "--task-id", "t"], 2, "several only with --not-taken"),
        (["settle", "--not-taken"], 2, "name a job"),
        (
            ["settle", "--not-taken", "--all-faulted-between", "2026-01-31T10:00", "yesterday"],
            2,
            "--all-faulted-between 'yesterday' must be an ISO 8601 date and time",
        ),
        (
            ["settle", "--not-taken", "--all-faulted-between", "2026-01-31", "2026-02-01"],
            2,
            "'2026-01-31' must be an ISO 8601 date and time",
        ),
        (
            ["settle", "--not-taken", "--all-faulted-between", "2026-01-31T10Z", "2026-01-31T09Z"],
            2,
            "there is no time from 2026-01-31 10:00:00 UTC to 2026-01-31 09:00:00 UTC",
        ),
        (
            ["settle", "--not-taken", "--all-faulted-between", "2026-01-31T09Z", "2026-01-31T10Z"],
            1,
            "no faulted job was sent from 2026-01-31 09:00:00 UTC",
        ),
        (["settle", "x", "--not-taken", "--all-faulted-between", "a", "b"], 2, "not with ids"),
        (["settle", "--task-id", "t", "--all-faulted-between", "a", "b"], 2, "goes with --not-"),
        (["settle", "--all-faulted-between", "a", "b"], 2, "--task-id TASK or --not-taken"),
        (["settle", "x", "--not-taken", "--batch", "b"], 2, "goes with --all-faulted-between"),
        (["retry"], 2, "name jobs, or pass --failed"),
        (["retry", "x", "--failed"], 2, "name jobs, or pass --failed"),
        (["list", "--ledger", "nowhere"], 1, "there is no ledger nowhere"),
        (["list", "--ledger", "notes.txt"], 1, "it is not a ledger: choose another file"),
        (["list", "--ledger", "other.db"], 1, "a database of something else"),
        (["list", "--status", "lost"], 2, "lost"),
        (
            ["audit"],
            1,
            "two readings of the account's counter, and 1 is stored; set AIVIDEO_API_KEY",
        ),
    ],
)
def test_a_refused_command_prints_one_line_and_changes_nothing(
    filled: FilledLedger, capsys: Said, command: list[str], code: int, expected: str
) -> None:
    import sqlite3

    filled.job("a")
    filled.reading(0)
    Path("notes.txt").write_text("milk, eggs " * 500, "utf-8")
    with sqlite3.connect("other.db") as other:
        other.execute("CREATE TABLE eggs (n)")
    other.close()
    assert run(["jobs", *command]) == code
    assert expected in one_line(capsys)
    assert filled.find(filled.job("a")).status is JobStatus.PLANNED


def test_no_command_creates_a_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["list"], ["show", "x"], ["settle", "x", "--not-taken"], ["audit"]):
        assert run(["jobs", *command]) == 1
        assert "there is no ledger" in one_line(capsys)
    assert [*tmp_path.iterdir()] == []
