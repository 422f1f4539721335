"""`aivideo jobs list`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from aivideo.cli.app import run
from aivideo.ledger.records import JobStatus
from aivideo.models import Generation
from tests.cli.filled_ledger import CLAIM, LOST, FilledLedger, Said, one_of_each, task_id


@pytest.mark.parametrize("width", [80, 130])
def test_the_list_shows_what_each_job_needs_and_the_urgent_ones_first(
    filled: FilledLedger, width: int, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    jobs = one_of_each(filled)
    assert run(["jobs", "list"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    rows = lines[1 : lines.index("")]
    assert [row.split()[1] for row in rows] == [
        *("unknown", "unknown", "faulted", "running"),
        *("completed", "failed", "refused", "planned"),
    ], "those that need a person come first, saved ones are left out"
    for status, job in jobs.items():
        assert (job.id in out) == (status is not JobStatus.SAVED), "an id is never cut"
    assert all(cell_len(row) <= width for row in rows)
    assert all(len(line) < 80 for line in lines[len(rows) + 2 : lines.index("9 in all")])
    assert (task_id(2) in out) == (width == 130), "the id of a task is shown whole or not at all"
    for words in ("2 unknown    may have been taken", "1 saved ", "9 in all"):
        assert words in out
    assert "outcome unknown 300 ($1.50)" in out
    assert "refunded 100 ($0.50)" in out
    for command in ("audit", "settle JOB --task-id TASK", "settle JOB --not-taken"):
        assert f"  aivideo jobs {command}" in lines


def test_posts_of_unknown_price_are_counted_below_the_list(
    filled: FilledLedger, capsys: Said
) -> None:
    filled.job("a", CLAIM, LOST)
    for name in ("x", "y"):
        filled.job(name, CLAIM, LOST, request=Generation("veo-3", {"prompt": name}))
    assert run(["jobs", "list"]) == 0
    assert "outcome unknown 100 ($0.50) · and 2 POSTs of unknown price" in capsys.readouterr().out


def test_jobs_without_a_command_lists_them(filled: FilledLedger, capsys: Said) -> None:
    filled.job("a")
    assert run(["jobs"]) == 0
    assert "1 planned" in capsys.readouterr().out


def test_jobs_that_need_a_person_are_shown_before_many_planned_ones(
    filled: FilledLedger, capsys: Said
) -> None:
    for number in range(24):
        filled.job(f"planned {number}")
    unknown = filled.job("unknown", CLAIM, LOST)
    assert run(["jobs", "list"]) == 0
    out = capsys.readouterr().out
    assert unknown.id in out
    assert "… and 5 more (--all shows them)" in out
    assert run(["jobs", "list", "--all"]) == 0
    assert "more (--all" not in capsys.readouterr().out


def test_the_list_filters_by_status_and_prints_json(filled: FilledLedger, capsys: Said) -> None:
    jobs = one_of_each(filled)
    filled.job("other", batch="other")
    assert run(["jobs", "list", "--status", "saved", "--status", "unknown", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["job"] for row in rows] == [
        jobs[status].id for status in (JobStatus.UNKNOWN, JobStatus.SUBMITTING, JobStatus.SAVED)
    ]
    assert rows[0]["attempts"][0]["reason"] == "no answer within 60 s"
    assert rows[2]["task_id"] == task_id(1)
    assert run(["jobs", "list", "--batch", "other"]) == 0
    assert "1 in all" in capsys.readouterr().out


def test_hints_are_commands_to_copy(
    filled: FilledLedger, capsys: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    filled.job("unknown", CLAIM, LOST)
    (tmp_path / "my clips").mkdir()
    for file in tmp_path.glob("aivideo.db*"):
        file.rename(tmp_path / "my clips" / file.name)
    assert run(["jobs", "list", "--ledger", "my clips"]) == 0
    assert "aivideo jobs settle JOB --ledger 'my clips' --not-taken" in capsys.readouterr().out
