"""A ledger that tests fill by hand, and helpers for tests of the `jobs` commands."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import define

from aivideo import models
from aivideo.cli.app import run
from aivideo.ledger.events import Completed, Doubted, Event, Failed, Faulted, Refused, Saved, Taken
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.models import Credits, Request, Sora2

LOST = Doubted(Reason(message="no answer within 60 s"))
FAULT = Faulted(Reason(message="Internal server error", status=500, code="internal_error"))
NO = Refused(Reason(message="a rule was broken", status=400, code="invalid_request"))
BROKE = Failed(Reason(message="Video generation failed", code="upstream_error"))
DONE = (Completed(1.0, 2.0), Saved("clips/x.mp4", 10))
CLAIM = "claim"


Said = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """A terminal: what a person types, or what is shown."""

    def isatty(self) -> bool:
        return True


def answer(monkeypatch: pytest.MonkeyPatch, typed: str) -> Terminal:
    """Run commands on a terminal where ``typed`` is the next line; return what it shows."""
    shown = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(f"{typed}\n"))
    monkeypatch.setattr("sys.stderr", shown)
    return shown


def task_id(number: int) -> str:
    return f"7d89c51e-9430-410e-909e-df347131eb{number:02}"


@define
class FilledLedger:
    """A ledger file that tests fill by hand."""

    path: Path
    clock: float = 1_700_000_000.0

    async def _with(self, step: Any) -> Any:
        ledger = SqliteLedger(self.path, now=lambda: self.clock)
        try:
            return await step(ledger)
        finally:
            await ledger.aclose()

    def job(
        self,
        prompt: str,
        *events: Event | str,
        duration: Literal[4, 8, 12] = 4,
        batch: str = ".",
        request: Request | None = None,
    ) -> JobRecord:
        """Record a job, and what happened to it."""
        request = request or Sora2(prompt, duration=duration, aspect_ratio="16:9")
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
        """Store a reading of the account's counter."""
        self.clock += 10
        account = Credits(balance=0, total_purchased=0, total_consumed=consumed)
        asyncio.run(self._with(lambda ledger: ledger.note_credits(account)))

    def find(self, job: JobRecord) -> JobRecord:
        """Return a job as it is now."""
        found: JobRecord = asyncio.run(self._with(lambda ledger: ledger.find(job.id)))
        return found


def make_task(prompt: str, tmp_path: Path, *, duration: int = 4) -> str:
    """Make a task with another ledger, as it would appear on the dashboard; return its id."""
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


def one_of_each(filled: FilledLedger) -> dict[JobStatus, JobRecord]:
    return {
        JobStatus.SAVED: filled.job("saved boat", CLAIM, Taken(task_id(1)), *DONE),
        JobStatus.RUNNING: filled.job("running boat", CLAIM, Taken(task_id(2))),
        JobStatus.COMPLETED: filled.job("made boat", CLAIM, Taken(task_id(3)), Completed(1.0, 2.0)),
        JobStatus.FAILED: filled.job("failed boat", CLAIM, Taken(task_id(4)), BROKE),
        JobStatus.REFUSED: filled.job("refused boat", CLAIM, NO, duration=12),
        JobStatus.PLANNED: filled.job("planned boat", duration=8),
        JobStatus.FAULTED: filled.job("faulted boat", CLAIM, FAULT),
        JobStatus.UNKNOWN: filled.job("unknown boat " * 20, CLAIM, LOST),
        JobStatus.SUBMITTING: filled.job("sent boat", CLAIM),
    }
