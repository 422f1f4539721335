"""`aivideo jobs audit`."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from aivideo.cli.app import run
from aivideo.cli.job_table import time_of
from aivideo.ledger.audit import SETTLING_TIME
from aivideo.ledger.events import ABANDONED, Taken
from aivideo.ledger.records import JobStatus
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.simulator import Simulator
from tests.cli.filled_ledger import BROKE, CLAIM, DONE, LOST, FilledLedger, Said, make_task, task_id


@pytest.mark.parametrize(
    ("grown", "conclusion", "expected"),
    [
        (100, "none charged", "No POST of unknown outcome is charged"),
        (199, "none charged", "if nobody else spends on, or is refunded on, this account"),
        (200, "some charged", "1 of the 3 POSTs of unknown outcome is charged, if nobody else"),
        (250, "some charged", "Some POSTs of unknown outcome were taken"),
        (400, "all charged", "All POSTs of unknown outcome were taken"),
        (500, "too much", "somebody else spends"),
        (0, "too little", "of another"),
    ],
)
def test_audit_concludes_what_the_counter_proves_and_no_more(
    filled: FilledLedger, capsys: Said, grown: int, conclusion: str, expected: str
) -> None:
    filled.reading(5000)
    filled.job("bought", CLAIM, Taken(task_id(1)), *DONE)
    for prompt in "abc":
        filled.job(prompt, CLAIM, LOST)
    filled.clock += SETTLING_TIME
    filled.reading(5000 + grown)
    assert run(["jobs", "audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conclusion"] == conclusion
    assert run(["jobs", "audit"]) == 0
    out = capsys.readouterr().out
    assert expected in out
    assert f"it grew by          {grown:,}".split() == out.splitlines()[2].split()[:4]
    assert out.count("unknown ") >= 3, "which they are"
    assert "safe" not in out


def test_audit_says_that_it_is_too_early_and_when_to_ask_again(
    filled: FilledLedger, capsys: Said
) -> None:
    filled.reading(5000)
    lost = filled.job("a", CLAIM, LOST)
    filled.reading(5000)
    assert run(["jobs", "audit", "--json"]) == 0
    finding = json.loads(capsys.readouterr().out)
    assert (finding["conclusion"], finding["assumption"]) == ("too early", None)
    assert finding["ask_again_at"] == lost.attempts[0].sent_at + 900
    assert run(["jobs", "audit"]) == 0
    out = capsys.readouterr().out
    assert "too early to conclude anything" in out
    assert f"That is after {time_of(finding['ask_again_at'])}." in out
    filled.clock = finding["ask_again_at"] - 10
    filled.reading(5000)
    assert run(["jobs", "audit", "--json"]) == 0
    finding = json.loads(capsys.readouterr().out)
    assert (finding["conclusion"], finding["ask_again_at"]) == ("none charged", None)
    assert finding["assumption"] == "if nobody else spends on, or is refunded on, this account"


def test_audit_starts_at_the_last_reading_before_the_first_unknown_create(
    filled: FilledLedger, capsys: Said
) -> None:
    # Other people's spending and refunds before the first unknown create do not matter.
    filled.reading(0)
    filled.job("failed", CLAIM, Taken(task_id(1)), BROKE)
    filled.reading(777)
    filled.job("lost", CLAIM, LOST)
    filled.clock += SETTLING_TIME
    filled.reading(777)
    assert run(["jobs", "audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conclusion"] == "none charged"


def test_audit_does_not_start_at_a_reading_taken_while_a_create_was_in_flight(
    filled: FilledLedger, capsys: Said
) -> None:
    filled.reading(0)
    # Read while it was in flight: the counter may include it already, or not.
    in_flight = filled.job("a", CLAIM)
    filled.reading(100)
    lost = filled.job("b", CLAIM, LOST)
    assert lost.status is JobStatus.UNKNOWN

    async def take(ledger: SqliteLedger) -> None:
        for event in (Taken(task_id(1)), *DONE):
            await ledger.record(in_flight.id, event)

    asyncio.run(filled._with(take))
    filled.clock += SETTLING_TIME
    filled.reading(200)
    assert run(["jobs", "audit", "--json"]) == 0
    finding = json.loads(capsys.readouterr().out)
    assert (finding["grown"], finding["conclusion"]) == (200, "all charged")


def test_audit_with_refunds_says_that_it_is_not_documented(
    filled: FilledLedger, capsys: Said
) -> None:
    filled.reading(0)
    filled.job("lost", CLAIM, LOST)
    filled.job("failed", CLAIM, Taken(task_id(1)), BROKE)
    filled.clock += SETTLING_TIME
    filled.reading(100)
    assert run(["jobs", "audit"]) == 0
    out = capsys.readouterr().out
    assert "it is not documented whether a refund lowers the counter" in out
    assert "if a refund lowers the counter, 100 credits remain for the unknown" in out


def test_audit_reads_the_counter_once_more(
    filled: FilledLedger,
    asked: Simulator,
    tmp_path: Path,
    capsys: Said,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled.clock = time.time() - SETTLING_TIME - 100
    before = asked.truth.charged - asked.truth.refunded
    filled.reading(before)
    lost = filled.job("A boat at night", CLAIM, ABANDONED)
    task = make_task("A boat at night", tmp_path)  # it was taken after all
    capsys.readouterr()
    assert run(["jobs", "audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conclusion"] == "all charged"
    assert run(["jobs", "settle", lost.id, "--task-id", task]) == 0
    capsys.readouterr()
    assert run(["jobs", "audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conclusion"] == "clean"
    # No service: stored readings are compared, and a warning is printed.
    monkeypatch.setenv("AIVIDEO_BASE_URL", "http://127.0.0.1:9")
    assert run(["jobs", "audit", "--json"]) == 0
    said = capsys.readouterr()
    assert "could not be read now" in said.err
    assert json.loads(said.out)["conclusion"] == "clean"
