"""`aivideo jobs retry`."""

from __future__ import annotations

import pytest

from aivideo.cli.app import run
from aivideo.ledger.events import Completed, Event, Taken
from aivideo.ledger.records import JobStatus
from tests.cli.filled_ledger import (
    BROKE,
    CLAIM,
    DONE,
    FAULT,
    LOST,
    NO,
    FilledLedger,
    Said,
    answer,
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
    assert run(["jobs", "retry", saved.id]) == 1
    assert "pass --pay-again to buy it again" in one_line(capsys)
    assert filled.find(saved).status is JobStatus.SAVED


def test_what_is_paid_twice_is_printed_before_anything_is_changed(
    filled: FilledLedger, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = filled.job("a", CLAIM, Taken(task_id(1)), BROKE)
    lost = filled.job("b", CLAIM, LOST)
    faulted = filled.job("c", CLAIM, FAULT, duration=8)
    everything = ["jobs", "retry", "--all-failed", "--pay-again"]
    assert run(everything) == 2
    said = capsys.readouterr()
    assert "Sending 3 jobs again charges 400 credits ($2.00)" in said.out
    assert "You pay 300 credits ($1.50) more if" in said.out
    assert "pass --yes; nothing was changed" in said.err
    shown = answer(monkeypatch, "n")
    assert run(everything) == 1
    assert "Pay again for 3 jobs? [y/N]" in shown.getvalue()
    assert "Nothing was changed" in capsys.readouterr().out
    before = {failed.id: JobStatus.FAILED, lost.id: JobStatus.UNKNOWN, faulted.id: "faulted"}
    assert {job.id: filled.find(job).status for job in (failed, lost, faulted)} == before
    answer(monkeypatch, "y")
    assert run(everything) == 0
    assert "3 will be sent again" in capsys.readouterr().out
    for job in (failed, lost, faulted):
        assert filled.find(job).status is JobStatus.PLANNED


def test_jobs_in_doubt_are_retried_without_a_terminal_only_with_yes(
    filled: FilledLedger, capsys: Said
) -> None:
    lost = filled.job("a", CLAIM, LOST)
    assert run(["jobs", "retry", "--failed"]) == 0
    assert filled.find(lost).status is JobStatus.UNKNOWN
    assert run(["jobs", "retry", "--failed", "--pay-again"]) == 2
    assert filled.find(lost).status is JobStatus.UNKNOWN
    assert run(["jobs", "retry", "--failed", "--pay-again", "--yes"]) == 0
    assert filled.find(lost).status is JobStatus.PLANNED
    assert run(["jobs", "retry", "--failed", "--pay-again"]) == 0, "nothing is paid twice"


@pytest.mark.parametrize("events", [(), (Completed(1.0, 2.0),), DONE])
def test_a_result_that_is_lost_is_bought_again_only_with_pay_again(
    filled: FilledLedger,
    capsys: Said,
    monkeypatch: pytest.MonkeyPatch,
    events: tuple[Event, ...],
) -> None:
    job = filled.job("a", CLAIM, Taken(task_id(1)), *events)
    again = ["jobs", "retry", job.id, "--pay-again"]
    answer(monkeypatch, "")
    assert run(again) == 1
    assert filled.find(job).status is job.status, "not confirmed"
    monkeypatch.undo()
    monkeypatch.chdir(filled.path.parent)
    capsys.readouterr()
    assert run(again) == 0, "a script that names the job has said so"
    said = capsys.readouterr().out
    assert "You have paid 100 credits ($0.50) for their earlier creates" in said
    found = filled.find(job)
    assert (found.status, found.attempt_of(task_id(1))) == (JobStatus.PLANNED, 1)
