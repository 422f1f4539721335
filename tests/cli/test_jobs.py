"""`aivideo jobs` for somebody who has just lost a machine: what it shows, refuses and concludes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from rich.cells import cell_len

from aivideo import models
from aivideo.cli.app import run
from aivideo.ledger.events import (
    ABANDONED,
    Completed,
    Doubted,
    Event,
    Failed,
    Faulted,
    Refused,
    Retried,
    Saved,
    Taken,
)
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.models import Credits, Sora2
from aivideo.simulator import Scenario, Simulator, serve

LOST = Doubted(Reason(message="no answer within 60 s"))
FAULT = Faulted(Reason(message="Internal server error", status=500, code="internal_error"))
NO = Refused(Reason(message="a rule was broken", status=400, code="invalid_request"))
BROKE = Failed(Reason(message="Video generation failed", code="upstream_error"))
DONE = (Completed(1.0, 2.0), Saved("clips/x.mp4", 10))
CLAIM = "claim"

Said = pytest.CaptureFixture[str]


def task_id(number: int) -> str:
    return f"7d89c51e-9430-410e-909e-df347131eb{number:02}"


@define
class Book:
    """A ledger that is written by hand."""

    path: Path
    clock: float = 1_700_000_000.0

    async def _with(self, step: Any) -> Any:
        ledger = SqliteLedger(self.path, now=lambda: self.clock)
        try:
            return await step(ledger)
        finally:
            await ledger.aclose()

    def job(
        self, prompt: str, *events: Event | str, duration: int = 4, batch: str = "."
    ) -> JobRecord:
        """Write down a job, and what happened to it."""
        request = Sora2(prompt, duration=duration, aspect_ratio="16:9")
        self.clock += 10
        record = JobRecord(
            id=f"{abs(hash(prompt)):016x}"[:16],
            request=request,
            fingerprint=models.fingerprint(request),
            credits=request.credits,
            batch=batch,
            key=prompt,
            planned_at=self.clock,
        )

        async def write(ledger: SqliteLedger) -> JobRecord:
            now = await ledger.plan(record)
            for event in events:
                if isinstance(event, str):
                    claimed = await ledger.claim(record.id, lease=90)
                    assert claimed is not None
                    now = claimed
                else:
                    now = await ledger.record(record.id, event)
            return now

        written: JobRecord = asyncio.run(self._with(write))
        return written

    def reading(self, consumed: int) -> None:
        """Write down what the account's counter said."""
        self.clock += 10
        account = Credits(balance=0, total_purchased=0, total_consumed=consumed)
        asyncio.run(self._with(lambda ledger: ledger.note_credits(account)))

    def find(self, job: JobRecord) -> JobRecord:
        """Read a job again."""
        found: JobRecord = asyncio.run(self._with(lambda ledger: ledger.find(job.id)))
        return found


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.chdir(tmp_path)
    return Book(tmp_path / "aivideo.db")


@pytest.fixture(scope="module")
def service() -> Iterator[Simulator]:
    """A service in a thread of its own, on the real clock; a short task ends in a second."""
    ready = threading.Event()
    found: list[tuple[Simulator, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def stand() -> None:
        scenario = Scenario(task_seconds=0.05, queue_seconds=0.0, media="stub", seed=3)
        async with serve(scenario) as sim:
            over = asyncio.Event()
            found.append((sim, asyncio.get_running_loop(), over))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(stand()))
    thread.start()
    assert ready.wait(30)
    [(sim, loop, over)] = found
    yield sim
    loop.call_soon_threadsafe(over.set)
    thread.join()


@pytest.fixture
def asked(service: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """Have commands ask the service, with a key."""
    monkeypatch.setenv("AIVIDEO_API_KEY", "sk-test")
    monkeypatch.setenv("AIVIDEO_BASE_URL", service.url)
    return service


def make_task(prompt: str, tmp_path: Path, *, duration: int = 4) -> str:
    """Have a task made by another ledger, as one finds it on the dashboard."""
    manifest = tmp_path / "elsewhere.txt"
    manifest.write_text(prompt, "utf-8")
    output = tmp_path / f"elsewhere-{duration}"
    options = ["--duration", str(duration), "--aspect-ratio", "16:9", "--poll-interval", "0.1"]
    assert run(["batch", str(manifest), "--output", str(output), *options]) == 0
    report = (output / "report.jsonl").read_text("utf-8").splitlines()
    made: str = json.loads(report[-1])["task_id"]
    return made


def one_line(said: Said) -> str:
    err = said.readouterr().err
    assert "Traceback" not in err
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    return lines[0]


def one_of_each(book: Book) -> dict[JobStatus, JobRecord]:
    return {
        JobStatus.SAVED: book.job("saved boat", CLAIM, Taken(task_id(1)), *DONE),
        JobStatus.RUNNING: book.job("running boat", CLAIM, Taken(task_id(2))),
        JobStatus.COMPLETED: book.job("made boat", CLAIM, Taken(task_id(3)), Completed(1.0, 2.0)),
        JobStatus.FAILED: book.job("failed boat", CLAIM, Taken(task_id(4)), BROKE),
        JobStatus.REFUSED: book.job("refused boat", CLAIM, NO, duration=12),
        JobStatus.PLANNED: book.job("planned boat", duration=8),
        JobStatus.FAULTED: book.job("faulted boat", CLAIM, FAULT),
        JobStatus.UNKNOWN: book.job("unknown boat " * 20, CLAIM, LOST),
        JobStatus.SUBMITTING: book.job("sent boat", CLAIM),
    }


# --- list and show --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 130])
def test_a_list_says_what_each_job_needs_and_the_urgent_first(
    book: Book, width: int, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    jobs = one_of_each(book)
    assert run(["jobs", "list"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    rows = lines[1 : lines.index("")]
    assert [row.split()[1] for row in rows] == [
        *("unknown", "unknown", "faulted", "running"),
        *("completed", "failed", "refused", "planned"),
    ], "what needs a person is on top, and what is saved is not in it"
    for status, job in jobs.items():
        assert (job.id in out) == (status is not JobStatus.SAVED), "an id is never cut"
    assert all(cell_len(row) <= width for row in rows)
    assert all(len(line) < 80 for line in lines[len(rows) + 2 : lines.index("9 in all")])
    assert (task_id(2) in out) == (width == 130), "a task's id is whole, or not there"
    for words in ("2 unknown    may have been taken", "1 saved ", "9 in all"):
        assert words in out
    assert "of unknown fate 300 ($1.50)" in out
    assert "refunded 100 ($0.50)" in out
    for command in ("audit", "settle JOB --task-id TASK", "settle JOB --not-taken"):
        assert f"  aivideo jobs {command}" in lines


def test_bare_jobs_lists_them(book: Book, capsys: Said) -> None:
    book.job("a")
    assert run(["jobs"]) == 0
    assert "1 planned" in capsys.readouterr().out


def test_what_needs_a_person_is_shown_however_much_is_planned(book: Book, capsys: Said) -> None:
    for number in range(24):
        book.job(f"planned {number}")
    unknown = book.job("unknown", CLAIM, LOST)
    assert run(["jobs", "list"]) == 0
    out = capsys.readouterr().out
    assert unknown.id in out
    assert "… and 5 more (--all shows them)" in out
    assert run(["jobs", "list", "--all"]) == 0
    assert "more (--all" not in capsys.readouterr().out


def test_a_list_can_be_of_some_and_for_machines(book: Book, capsys: Said) -> None:
    jobs = one_of_each(book)
    book.job("other", batch="other")
    assert run(["jobs", "list", "--status", "saved", "--status", "unknown", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["job"] for row in rows] == [
        jobs[status].id for status in (JobStatus.UNKNOWN, JobStatus.SUBMITTING, JobStatus.SAVED)
    ]
    assert rows[0]["attempts"][0]["reason"] == "no answer within 60 s"
    assert rows[2]["task_id"] == task_id(1)
    assert run(["jobs", "list", "--batch", "other"]) == 0
    assert "1 in all" in capsys.readouterr().out


def test_hints_are_commands_that_can_be_copied(
    book: Book, capsys: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    book.job("unknown", CLAIM, LOST)
    (tmp_path / "my clips").mkdir()
    for file in tmp_path.glob("aivideo.db*"):
        file.rename(tmp_path / "my clips" / file.name)
    assert run(["jobs", "list", "--ledger", "my clips"]) == 0
    assert "aivideo jobs settle JOB --ledger 'my clips' --not-taken" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 130])
def test_a_job_shows_each_of_its_posts(
    book: Book, width: int, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    again = Retried(may_pay_twice=True)
    job = book.job("A [red] boat", CLAIM, LOST, again, CLAIM, Taken(task_id(9)))
    for name in (job.id, task_id(9)):
        assert run(["jobs", "show", name]) == 0
        out = capsys.readouterr().out
        assert "prompt   A [red] boat" in out, "what is in brackets is no markup"
        assert "status   running (+1 unknown)" in out
        assert "POST 1" in out
        assert "no answer within 60 s" in out
        assert f"task {task_id(9)}" in out
        assert f"aivideo jobs settle {job.id} --task-id TASK | --not-taken" in out
    assert run(["jobs", "show", job.id, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["status"] for each in shown["attempts"]] == ["unknown", "running"]


def test_a_job_that_was_never_sent_says_so(book: Book, capsys: Said) -> None:
    job = book.job("a")
    assert run(["jobs", "show", job.id]) == 0
    assert "never sent" in capsys.readouterr().out


# --- what is refused ------------------------------------------------------------------------------


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
        (["retry"], 2, "name jobs, or say --failed"),
        (["retry", "x", "--failed"], 2, "name jobs, or say --failed"),
        (["list", "--ledger", "nowhere"], 1, "there is no ledger nowhere"),
        (["list", "--ledger", "notes.txt"], 1, "not a ledger: choose another file"),
        (["list", "--ledger", "other.db"], 1, "a database of something else"),
        (["list", "--status", "lost"], 2, "lost"),
        (["audit"], 1, "1 reading of the account's counter, and it takes two"),
    ],
)
def test_what_cannot_be_is_one_line(
    book: Book, capsys: Said, command: list[str], code: int, expected: str
) -> None:
    import sqlite3

    book.job("a")
    book.reading(0)
    Path("notes.txt").write_text("milk, eggs " * 500, "utf-8")
    with sqlite3.connect("other.db") as other:
        other.execute("CREATE TABLE eggs (n)")
    other.close()
    assert run(["jobs", *command]) == code
    assert expected in one_line(capsys)
    assert book.find(book.job("a")).status is JobStatus.PLANNED


def test_looking_makes_no_ledger_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["list"], ["show", "x"], ["settle", "x", "--not-taken"], ["audit"]):
        assert run(["jobs", *command]) == 1
        assert "there is no ledger" in one_line(capsys)
    assert [*tmp_path.iterdir()] == []


# --- settle and retry -----------------------------------------------------------------------------


def test_settled_as_not_taken_they_are_planned_again_all_or_none(book: Book, capsys: Said) -> None:
    first, second = book.job("a", CLAIM, LOST), book.job("b", CLAIM, FAULT)
    saved = book.job("c", CLAIM, Taken(task_id(1)), *DONE)
    assert run(["jobs", "settle", first.id, second.id, saved.id, "--not-taken"]) == 1
    assert f"job {saved.id} is saved, and has nothing to settle" in one_line(capsys)
    assert book.find(first).status is JobStatus.UNKNOWN, "a slip leaves nothing half done"
    assert run(["jobs", "settle", first.id, second.id, "--not-taken"]) == 0
    out = capsys.readouterr().out
    assert f"job {first.id} is planned now" in out
    assert "same `aivideo batch`" in out
    assert {book.find(job).status for job in (first, second)} == {JobStatus.PLANNED}


def test_a_claim_whose_owner_lives_cannot_be_settled(book: Book, capsys: Said) -> None:
    async def while_it_lives() -> JobRecord:
        ledger = SqliteLedger(book.path)
        [job] = [job async for job in ledger.jobs()]
        await ledger.claim(job.id, lease=90)
        loop = asyncio.get_running_loop()
        code = await loop.run_in_executor(None, run, ["jobs", "settle", job.id, "--not-taken"])
        assert code == 1
        found = await ledger.find(job.id)
        await ledger.aclose()
        assert found is not None
        return found

    book.job("a")
    job = asyncio.run(while_it_lives())
    assert "is alive" in one_line(capsys)
    assert job.status is JobStatus.SUBMITTING
    assert run(["jobs", "settle", job.id, "--not-taken"]) == 0, "now it is dead, and it is unknown"


def test_a_task_is_checked_before_it_is_believed(
    book: Book, asked: Simulator, tmp_path: Path, capsys: Said
) -> None:
    book.clock = time.time() - 5
    lost = book.job("A boat in the rain", CLAIM, LOST)
    book.job("Another boat", CLAIM, LOST)
    right = make_task("A boat in the rain", tmp_path)
    wrong = make_task("Another boat", tmp_path)
    longer = make_task("A boat in the rain", tmp_path, duration=8)
    capsys.readouterr()
    for task, why in (
        (wrong, "prompt"),
        (longer, "duration"),
        ("00000000-0000-4000-8000-000000000000", "knows no task"),
    ):
        assert run(["jobs", "settle", lost.id, "--task-id", task]) == 1
        line = one_line(capsys)
        assert why in line
        assert task in line
        assert book.find(lost).status is JobStatus.UNKNOWN
    assert run(["jobs", "settle", lost.id, "--task-id", right]) == 0
    assert book.find(lost).task_id == right


def test_a_task_of_another_job_is_refused_even_if_one_insists(
    book: Book, asked: Simulator, tmp_path: Path, capsys: Said
) -> None:
    other = book.job("a", CLAIM, Taken(task_id(1)))
    lost = book.job("b", CLAIM, LOST)
    for options in ([], ["--no-check"]):
        assert run(["jobs", "settle", lost.id, "--task-id", task_id(1), *options]) == 1
        assert f"is that of job {other.id} already" in one_line(capsys)
    assert book.find(lost).status is JobStatus.UNKNOWN


def test_without_a_key_a_task_is_believed_only_if_one_insists(book: Book, capsys: Said) -> None:
    lost = book.job("a", CLAIM, LOST)
    assert run(["jobs", "settle", lost.id, "--task-id", task_id(1)]) == 2
    assert "no API key" in one_line(capsys)
    assert book.find(lost).status is JobStatus.UNKNOWN
    assert run(["jobs", "settle", lost.id, "--task-id", task_id(1), "--no-check"]) == 0
    assert book.find(lost).status is JobStatus.RUNNING


def test_what_a_dead_process_sent_is_of_unknown_fate_to_retry_too(book: Book, capsys: Said) -> None:
    dead = book.job("left on its way", CLAIM)
    assert run(["jobs", "retry", dead.id]) == 1
    assert "settle it first" in one_line(capsys)
    assert run(["jobs", "retry", dead.id, "--may-pay-twice"]) == 0
    assert book.find(dead).status is JobStatus.PLANNED


def test_retry_sends_what_failed_and_of_the_unknown_only_what_one_insists_on(
    book: Book, capsys: Said
) -> None:
    failed = book.job("a", CLAIM, Taken(task_id(1)), BROKE)
    refused = book.job("b", CLAIM, NO)
    elsewhere = book.job("c", CLAIM, NO, batch="other")
    lost = book.job("d", CLAIM, LOST)
    saved = book.job("e", CLAIM, Taken(task_id(2)), *DONE)
    assert run(["jobs", "retry", failed.id, lost.id]) == 1
    assert "settle it first" in one_line(capsys)
    assert book.find(failed).status is JobStatus.FAILED, "a slip leaves nothing half done"
    assert run(["jobs", "retry", "--failed", "--batch", "."]) == 0
    assert "2 will be sent again" in capsys.readouterr().out
    assert {book.find(job).status for job in (failed, refused)} == {JobStatus.PLANNED}
    assert book.find(elsewhere).status is JobStatus.REFUSED
    assert run(["jobs", "retry", lost.id, "--may-pay-twice"]) == 0
    assert book.find(lost).doubts == 1, "what it may have cost is still counted"
    assert run(["jobs", "retry", saved.id, "--may-pay-twice"]) == 1


# --- audit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grown", "conclusion", "expected"),
    [
        (100, "none charged", "No POST of unknown fate is charged"),
        (199, "none charged", "safe to say"),
        (200, "some charged", "1 of the 3 POSTs of unknown fate is charged, if nobody else"),
        (250, "some charged", "some were taken"),
        (400, "all charged", "All POSTs of unknown fate were taken"),
        (500, "too much", "somebody else spends"),
        (0, "too little", "of another"),
    ],
)
def test_an_audit_says_what_the_counter_proves_and_no_more(
    book: Book, capsys: Said, grown: int, conclusion: str, expected: str
) -> None:
    book.reading(5000)
    book.job("bought", CLAIM, Taken(task_id(1)))
    for prompt in "abc":
        book.job(prompt, CLAIM, LOST)
    book.reading(5000 + grown)
    assert run(["jobs", "audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conclusion"] == conclusion
    assert run(["jobs", "audit"]) == 0
    out = capsys.readouterr().out
    assert expected in out
    assert f"it grew by          {grown:,}".split() == out.splitlines()[2].split()[:4]
    assert out.count("unknown ") >= 3, "which they are"


def test_an_audit_begins_where_the_unknown_begins(book: Book, capsys: Said) -> None:
    # What others spent, and what failed, before the first unknown is no matter.
    book.reading(0)
    book.job("failed", CLAIM, Taken(task_id(1)), BROKE)
    book.reading(777)
    book.job("lost", CLAIM, LOST)
    book.reading(777)
    assert run(["jobs", "audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conclusion"] == "none charged"


def test_an_audit_does_not_begin_while_a_post_is_on_its_way(book: Book, capsys: Said) -> None:
    book.reading(0)
    # Read while it was on its way: the counter may hold it already, or not.
    on_its_way = book.job("a", CLAIM)
    book.reading(100)
    lost = book.job("b", CLAIM, LOST)
    assert lost.status is JobStatus.UNKNOWN

    async def take(ledger: SqliteLedger) -> None:
        await ledger.record(on_its_way.id, Taken(task_id(1)))

    asyncio.run(book._with(take))
    book.reading(200)
    assert run(["jobs", "audit", "--json"]) == 0
    finding = json.loads(capsys.readouterr().out)
    assert (finding["grown"], finding["conclusion"]) == (200, "all charged")


def test_an_audit_with_refunds_says_that_nobody_knows(book: Book, capsys: Said) -> None:
    book.reading(0)
    book.job("lost", CLAIM, LOST)
    book.job("failed", CLAIM, Taken(task_id(1)), BROKE)
    book.reading(100)
    assert run(["jobs", "audit"]) == 0
    out = capsys.readouterr().out
    assert "it is not documented whether a refund lowers the counter" in out
    assert "if a refund lowers the counter, 100 credits remain for the unknown" in out


def test_an_audit_reads_the_counter_once_more_and_finds_the_truth(
    book: Book, asked: Simulator, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.clock = time.time() - 100
    before = asked.truth.charged - asked.truth.refunded
    book.reading(before)
    lost = book.job("A boat at night", CLAIM, ABANDONED)
    task = make_task("A boat at night", tmp_path)  # it had been taken, as it turns out
    capsys.readouterr()
    assert run(["jobs", "audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conclusion"] == "all charged"
    assert run(["jobs", "settle", lost.id, "--task-id", task]) == 0
    capsys.readouterr()
    assert run(["jobs", "audit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conclusion"] == "clean"
    # No service: what was read before is compared, and it says so.
    monkeypatch.setenv("AIVIDEO_BASE_URL", "http://127.0.0.1:9")
    assert run(["jobs", "audit", "--json"]) == 0
    said = capsys.readouterr()
    assert "could not be read now" in said.err
    assert json.loads(said.out)["conclusion"] == "clean"


# --- batch beside it ------------------------------------------------------------------------------


def test_a_dry_run_prices_what_was_never_taken(book: Book, capsys: Said) -> None:
    Path("m.jsonl").write_text(
        "\n".join(
            json.dumps({"prompt": prompt, "id": prompt, "duration": 4, "aspect_ratio": "16:9"})
            for prompt in ("planned", "running", "saved", "lost", "failed", "new")
        ),
        "utf-8",
    )
    book.job("planned")
    book.job("running", CLAIM, Taken(task_id(1)))
    book.job("saved", CLAIM, Taken(task_id(2)), *DONE)
    book.job("lost", CLAIM, LOST)
    book.job("failed", CLAIM, Taken(task_id(3)), BROKE)
    before = book.path.read_bytes()
    for options, clips in (([], 2), (["--retry-failed"], 3)):
        command = ["batch", "m.jsonl", "--output", ".", "--dry-run", *options]
        assert run([*command, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["credits"], told["taken"]) == (100 * clips, 6 - clips)
        assert run(command) == 0
        assert f"{6 - clips} of 6 lines are not in it" in capsys.readouterr().out
    assert book.path.read_bytes() == before
