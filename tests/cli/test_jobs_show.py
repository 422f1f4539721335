"""`aivideo jobs show`."""

from __future__ import annotations

import json

import pytest

from aivideo.cli.app import run
from aivideo.ledger.events import Retried, Taken
from aivideo.ledger.records import JobStatus
from tests.cli.filled_ledger import CLAIM, LOST, FilledLedger, Said, task_id


@pytest.mark.parametrize("width", [80, 130])
def test_show_prints_each_create_of_a_job(
    filled: FilledLedger, width: int, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    again = Retried(True)
    job = filled.job("A [red] boat", CLAIM, LOST, again, CLAIM, Taken(task_id(9)))
    for name in (job.id, task_id(9)):
        assert run(["jobs", "show", name]) == 0
        out = capsys.readouterr().out
        assert "prompt   A [red] boat" in out, "brackets are no markup"
        assert "status   running (+1 unknown)" in out
        assert "POST 1" in out
        assert "no answer within 60 s" in out
        assert f"task {task_id(9)}" in out
        assert f"aivideo jobs settle {job.id} --task-id TASK" in out
    assert run(["jobs", "show", job.id, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in shown["attempts"]] == ["unknown", "running"]


def test_show_says_that_a_job_was_never_sent(filled: FilledLedger, capsys: Said) -> None:
    job = filled.job("a")
    assert run(["jobs", "show", job.id]) == 0
    assert "never sent" in capsys.readouterr().out


def test_show_says_that_a_job_was_paid_for_again(filled: FilledLedger, capsys: Said) -> None:
    seen = Retried(pay_again=True, seen=(JobStatus.RUNNING, 1))
    job = filled.job("a", CLAIM, Taken(task_id(1)), seen, CLAIM, Taken(task_id(2)))
    assert run(["jobs", "show", job.id]) == 0
    out = capsys.readouterr().out
    for task in (task_id(1), task_id(2)):
        assert f"task {task}" in out
    assert out.count("the job was paid for again") == 1
