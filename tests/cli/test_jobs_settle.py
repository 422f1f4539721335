"""`aivideo jobs settle`."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aivideo.cli.app import run
from aivideo.ledger.events import Taken
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.simulator import Simulator
from tests.cli.filled_ledger import (
    CLAIM,
    DONE,
    FAULT,
    LOST,
    FilledLedger,
    Said,
    answer,
    make_task,
    one_line,
    task_id,
)


def test_settling_as_not_taken_plans_all_jobs_again_or_none(
    filled: FilledLedger, capsys: Said
) -> None:
    first, second = filled.job("a", CLAIM, LOST), filled.job("b", CLAIM, FAULT)
    saved = filled.job("c", CLAIM, Taken(task_id(1)), *DONE)
    assert run(["jobs", "settle", first.id, second.id, saved.id, "--not-taken"]) == 1
    assert f"job {saved.id} is saved and has nothing to settle" in one_line(capsys)
    assert filled.find(first).status is JobStatus.UNKNOWN, "a mistake in one name changes no job"
    assert run(["jobs", "settle", first.id, second.id, "--not-taken"]) == 0
    out = capsys.readouterr().out
    assert f"job {first.id} is planned now" in out
    assert "same `aivideo batch`" in out
    assert {filled.find(job).status for job in (first, second)} == {JobStatus.PLANNED}


def test_a_job_that_is_being_sent_cannot_be_settled(filled: FilledLedger, capsys: Said) -> None:
    async def while_it_lives() -> JobRecord:
        ledger = SqliteLedger(filled.path)
        [job] = [job async for job in ledger.jobs()]
        await ledger.claim(job.id, lease=90)
        loop = asyncio.get_running_loop()
        code = await loop.run_in_executor(None, run, ["jobs", "settle", job.id, "--not-taken"])
        assert code == 1
        found = await ledger.find(job.id)
        await ledger.aclose()
        assert found is not None
        return found

    filled.job("a")
    job = asyncio.run(while_it_lives())
    assert "another process is submitting it" in one_line(capsys)
    assert job.status is JobStatus.SUBMITTING
    assert run(["jobs", "settle", job.id, "--not-taken"]) == 0, (
        "its process is dead now, so it is unknown"
    )


def test_a_task_is_checked_before_it_is_recorded(
    filled: FilledLedger, asked: Simulator, tmp_path: Path, capsys: Said
) -> None:
    filled.clock = time.time() - 5
    lost = filled.job("A boat in the rain", CLAIM, LOST)
    filled.job("Another boat", CLAIM, LOST)
    right = make_task("A boat in the rain", tmp_path)
    wrong = make_task("Another boat", tmp_path)
    longer = make_task("A boat in the rain", tmp_path, duration=8)
    capsys.readouterr()
    for task, why in (
        (wrong, "prompt"),
        (longer, "duration"),
        ("00000000-0000-4000-8000-000000000000", "has no task"),
    ):
        assert run(["jobs", "settle", lost.id, "--task-id", task]) == 1
        line = one_line(capsys)
        assert why in line
        assert task in line
        assert filled.find(lost).status is JobStatus.UNKNOWN
    assert run(["jobs", "settle", lost.id, "--task-id", right]) == 0
    assert filled.find(lost).task_id == right


def test_a_task_of_another_job_is_refused_even_with_no_check(
    filled: FilledLedger, asked: Simulator, tmp_path: Path, capsys: Said
) -> None:
    other = filled.job("a", CLAIM, Taken(task_id(1)))
    lost = filled.job("b", CLAIM, LOST)
    for options in ([], ["--no-check"]):
        assert run(["jobs", "settle", lost.id, "--task-id", task_id(1), *options]) == 1
        assert f"already belongs to job {other.id}" in one_line(capsys)
    assert filled.find(lost).status is JobStatus.UNKNOWN


def test_without_a_key_a_task_is_recorded_only_with_no_check(
    filled: FilledLedger, capsys: Said
) -> None:
    lost = filled.job("a", CLAIM, LOST)
    assert run(["jobs", "settle", lost.id, "--task-id", task_id(1)]) == 2
    assert "no API key" in one_line(capsys)
    assert filled.find(lost).status is JobStatus.UNKNOWN
    assert run(["jobs", "settle", lost.id, "--task-id", task_id(1), "--no-check"]) == 0
    assert filled.find(lost).status is JobStatus.RUNNING


def at(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat()


def outage(filled: FilledLedger) -> tuple[list[JobRecord], list[str]]:
    """Record three jobs that an outage left in doubt, and others; return them and the options."""
    filled.job("before", CLAIM, FAULT)
    start = at(filled.clock + 1)
    faulted = [filled.job(f"boat {number}", CLAIM, FAULT) for number in range(2)]
    filled.job("no answer", CLAIM, LOST)
    filled.job("taken", CLAIM, Taken(task_id(1)))
    faulted.append(filled.job("of another batch", CLAIM, FAULT, batch="day"))
    end = at(filled.clock)
    filled.job("after", CLAIM, FAULT)
    return faulted, ["jobs", "settle", "--not-taken", "--all-faulted-between", start, end]


def test_what_an_outage_left_is_settled_once_it_is_confirmed(
    filled: FilledLedger, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulted, command = outage(filled)
    assert run(command) == 2
    said = capsys.readouterr()
    assert "3 faulted, sent from 2023-11-14 22:13:31 UTC to 2023-11-14 22:14:20 UTC" in said.out
    assert "300 credits ($1.50) will be free again" in said.out
    assert "1 with status unknown, sent in that time, is not included" in said.out
    assert "pass --yes; nothing was changed" in said.err
    shown = answer(monkeypatch, "no")
    assert run(command) == 1
    assert "Record that none of these 3 was taken? [y/N]" in shown.getvalue()
    assert {filled.find(job).status for job in faulted} == {JobStatus.FAULTED}
    answer(monkeypatch, "yes")
    assert run(command) == 0
    assert "3 settled as not taken" in capsys.readouterr().out
    assert {filled.find(job).status for job in faulted} == {JobStatus.PLANNED}
    assert run(["jobs", "list", "--json", "--status", "faulted", "--status", "unknown"]) == 0
    listed = [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()]
    assert listed == ["no answer", "before", "after"]


def test_an_outage_is_settled_without_a_terminal_with_yes_and_for_one_batch(
    filled: FilledLedger, capsys: Said
) -> None:
    faulted, command = outage(filled)
    assert run([*command, "--batch", "day", "--yes"]) == 0
    assert "1 settled as not taken" in capsys.readouterr().out
    assert [filled.find(job).status for job in faulted] == ["faulted", "faulted", "planned"]
    assert run([*command, "--batch", "day", "--yes"]) == 1
    assert "no faulted job in batch 'day' was sent from" in one_line(capsys)


def test_times_without_an_offset_are_local(
    filled: FilledLedger, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/Sao_Paulo")  # UTC-3
    time.tzset()
    try:
        job = filled.job("a", CLAIM, FAULT)  # at 22:13:30 UTC
        between = ["jobs", "settle", "--not-taken", "--yes", "--all-faulted-between"]
        assert run([*between, "2023-11-14T22:00", "2023-11-14T23:00"]) == 1
        assert filled.find(job).status is JobStatus.FAULTED
        assert run([*between, "2023-11-14 19:13:30", "2023-11-14 19:13:30"]) == 0
        assert filled.find(job).status is JobStatus.PLANNED
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
