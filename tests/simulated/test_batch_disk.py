"""A disk that fills while a batch runs: no job is lost by it, and nothing is half a line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from aivideo import JobStatus, Session, Sora2
from aivideo.batch import Batch, Defaults, Line, Result, Settings, prepare, read_manifest, report
from aivideo.batch.report import ReportError
from aivideo.simulator import Endpoint, Fault, Occasion, Scenario, serve

pytestmark = pytest.mark.anyio


async def test_a_report_that_cannot_be_written_ends_no_job_and_the_ledger_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "m.txt"
    manifest.write_text("One\nTwo\nThree\n")
    lines = read_manifest(manifest, Defaults(4, "16:9"))

    def full(folder: Path, result: Result) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr(report, "append", full)
    scenario = Scenario(media="stub", task_seconds=60.0)
    async with serve(scenario) as sim, Session("sk-x", base_url=sim.url) as session:

        def refuse_one(occasion: Occasion) -> Fault:
            two = next((t.id for t in sim.truth.tasks.values() if t.prompt == "Two"), "?")
            gone = occasion.endpoint is Endpoint.DOWNLOAD and two in occasion.path
            return Fault.RESET if gone else Fault.NONE

        sim.hook = refuse_one
        plan = await prepare(session.ledger, "b", lines)
        with pytest.raises(ReportError, match="No space left"):
            await Batch(session, plan, tmp_path, Settings(name="b")).run()
        stands = {job.request.prompt: job.status async for job in session.ledger.jobs()}
    assert stands == {
        "One": JobStatus.SAVED,
        "Two": JobStatus.COMPLETED,
        "Three": JobStatus.SAVED,
    }
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == [
        "0001-one.mp4",
        "0003-three.mp4",
    ]


def test_a_line_of_the_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / report.REPORT
    boat = Sora2("A boat", duration=4, aspect_ratio="16:9")
    result = Result(line=Line(number=1, id="boat", request=boat), status="unsent")
    report.append(tmp_path, result)
    first = written.read_bytes()
    opened = Path.open

    class Nearly:
        """A file on a disk with room for three bytes."""

        def __init__(self, path: Path) -> None:
            self.file = opened(path, "ab", buffering=0)

        def __enter__(self) -> Nearly:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def seek(self, *args: int) -> int:
            return self.file.seek(*args)

        def write(self, row: bytes) -> int:
            return self.file.write(row[:3])

        def truncate(self, size: int) -> int:
            return self.file.truncate(size)

    monkeypatch.setattr(Path, "open", lambda path, *args, **kwargs: Nearly(path))
    with pytest.raises(OSError, match="No space left"):
        report.append(tmp_path, result)
    monkeypatch.undo()
    assert written.read_bytes() == first
