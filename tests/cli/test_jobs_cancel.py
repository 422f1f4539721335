"""`aivideo jobs cancel`."""

from __future__ import annotations

import json

from aivideo.cli.app import run
from aivideo.ledger.events import Taken
from aivideo.ledger.records import JobStatus
from tests.cli.filled_ledger import CLAIM, LOST, FilledLedger, Said, one_line, task_id


def test_cancel_withdraws_a_batch_and_says_how_many_were_too_late(
    filled: FilledLedger, capsys: Said
) -> None:
    first, second = filled.job("a"), filled.job("b")
    elsewhere = filled.job("c", batch="other")
    running = filled.job("d", CLAIM, Taken(task_id(1)))
    filled.job("e", CLAIM, LOST)
    assert run(["jobs", "cancel", "--batch", "."]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 withdrawn: not sent, not charged",
        "2 too late to withdraw, unchanged: 1 running, 1 unknown",
    ]
    assert {filled.find(job).status for job in (first, second)} == {JobStatus.WITHDRAWN}
    assert filled.find(elsewhere).status is JobStatus.PLANNED
    assert filled.find(running).status is JobStatus.RUNNING
    assert run(["jobs", "list"]) == 0
    out = capsys.readouterr().out
    assert first.id not in out, "withdrawn jobs are listed on request only"
    assert "2 withdrawn  cancelled before they were sent; not charged" in out
    assert run(["jobs", "list", "--status", "withdrawn", "--json"]) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert {row["job"] for row in rows} == {first.id, second.id}


def test_cancel_of_a_named_job_that_was_sent_is_a_failure(
    filled: FilledLedger, capsys: Said
) -> None:
    planned, running = filled.job("a"), filled.job("b", CLAIM, Taken(task_id(1)))
    assert run(["jobs", "cancel", planned.id, running.id]) == 1
    assert "1 too late to withdraw, unchanged: 1 running" in capsys.readouterr().out
    assert filled.find(planned).status is JobStatus.WITHDRAWN


def test_cancel_refuses_what_it_cannot_understand(filled: FilledLedger, capsys: Said) -> None:
    job = filled.job("a")
    for arguments, code, words in (
        ([], 2, "name jobs, or pass --batch NAME"),
        ([job.id, "--batch", "."], 2, "name jobs, or pass --batch NAME"),
        ([job.id, "x"], 1, "no job 'x'"),
    ):
        assert run(["jobs", "cancel", *arguments]) == code
        assert words in one_line(capsys)
    assert filled.find(job).status is JobStatus.PLANNED


def test_a_withdrawn_job_can_be_retried_only_by_its_batch(
    filled: FilledLedger, capsys: Said
) -> None:
    job = filled.job("a")
    assert run(["jobs", "cancel", job.id]) == 0
    capsys.readouterr()
    assert run(["jobs", "retry", job.id]) == 1
    assert "is withdrawn" in one_line(capsys)
