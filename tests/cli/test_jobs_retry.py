"""`aivideo jobs retry`."""

from __future__ import annotations

from aivideo.cli.app import run
from aivideo.ledger.events import Taken
from aivideo.ledger.records import JobStatus
from tests.cli.filled_ledger import (
    BROKE,
    CLAIM,
    DONE,
    LOST,
    NO,
    FilledLedger,
    Said,
    one_line,
    task_id,
)


def test_a_create_of_a_dead_process_is_unknown_to_retry_too(
    filled: FilledLedger, capsys: Said
) -> None:
    dead = filled.job("left in flight", CLAIM)
    assert run(["jobs", "retry", dead.id]) == 1
    assert "settle it first" in one_line(capsys)
    assert run(["jobs", "retry", dead.id, "--pay-again"]) == 0
    assert filled.find(dead).status is JobStatus.PLANNED


def test_retry_marks_failed_jobs_and_unknown_ones_only_with_pay_again(
    filled: FilledLedger, capsys: Said
) -> None:
    failed = filled.job("a", CLAIM, Taken(task_id(1)), BROKE)
    refused = filled.job("b", CLAIM, NO)
    elsewhere = filled.job("c", CLAIM, NO, batch="other")
    lost = filled.job("d", CLAIM, LOST)
    saved = filled.job("e", CLAIM, Taken(task_id(2)), *DONE)
    assert run(["jobs", "retry", failed.id, lost.id]) == 1
    assert "settle it first" in one_line(capsys)
    assert filled.find(failed).status is JobStatus.FAILED, "a mistake in one name changes no job"
    assert run(["jobs", "retry", "--failed", "--batch", "."]) == 0
    assert "2 will be sent again" in capsys.readouterr().out
    assert {filled.find(job).status for job in (failed, refused)} == {JobStatus.PLANNED}
    assert filled.find(elsewhere).status is JobStatus.REFUSED
    assert run(["jobs", "retry", lost.id, "--pay-again"]) == 0
    assert filled.find(lost).doubts == 1, "what it may have cost still counts"
    assert run(["jobs", "retry", saved.id, "--pay-again"]) == 1
