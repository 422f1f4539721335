"""A disk that becomes full during a batch: no job is lost and no partial line is written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from aivideo import JobStatus, Session, Sora2
from aivideo.manifest import Batch, BatchSettings, Defaults, Line, Result, prepare, read_manifest
from aivideo.manifest import results as report
from aivideo.simulator import Scenario, serve

pytestmark = pytest.mark.anyio


async def test_an_unwritable_report_ends_the_run_and_the_ledger_has_all_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "m.txt"
    manifest.write_text("One\nTwo\nThree\n")
    lines = read_manifest(manifest, Defaults(4, "16:9"))

    def full(folder: Path, result: Result) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr(report, "append", full)
    scenario = Scenario(media="stub", task_seconds=(10.0, 60.0))
    async with serve(scenario) as sim, Session("sk-x", base_url=sim.url) as session:
        settings = BatchSettings(name="b")
        plan = await prepare(session.ledger, lines, tmp_path, settings)
        report_of_run = await Batch(session, plan, tmp_path, settings).run()
        recorded = {job.request.prompt: job async for job in session.ledger.jobs()}
        bought = {task.prompt: task.id for task in sim.truth.tasks.values()}
    assert report_of_run.trouble is not None
    assert "No space left" in report_of_run.trouble
    assert {name: job.task_id for name, job in recorded.items()} == bought
    assert {job.status for job in recorded.values()} <= {JobStatus.SAVED, JobStatus.RUNNING}


def test_a_report_line_is_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / report.REPORT
    boat = Sora2("A boat", duration=4, aspect_ratio="16:9")
    result = Result(line=Line(number=1, id="boat", request=boat), status="unsent")
    report.append(tmp_path, result)
    first = written.read_bytes()
    opened = Path.open

    class NearlyFull:
        """A file on a disk with room for three bytes."""

        def __init__(self, path: Path) -> None:
            self.file = opened(path, "ab", buffering=0)

        def __enter__(self) -> NearlyFull:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def seek(self, *args: int) -> int:
            return self.file.seek(*args)

        def write(self, row: bytes) -> int:
            return self.file.write(row[:3])

        def truncate(self, size: int) -> int:
            return self.file.truncate(size)

    monkeypatch.setattr(Path, "open", lambda path, *args, **kwargs: NearlyFull(path))
    with pytest.raises(OSError, match="No space left"):
        report.append(tmp_path, result)
    monkeypatch.undo()
    assert written.read_bytes() == first
