"""What is recorded, and what is refused, before a run sends anything."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from aivideo import _file_locks
from aivideo.errors import LedgerError
from aivideo.ledger import Ledger
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.manifest import BatchSettings, Line, ManifestError, content_name, examine, prepare
from aivideo.models import Sora2

pytestmark = pytest.mark.anyio

SETTINGS = BatchSettings(name="b")


def line(number: int, prompt: str, id: str | None = None) -> Line:  # noqa: A002  as in a manifest
    request = Sora2(prompt, duration=4, aspect_ratio="16:9")
    name = content_name(request, 1) if id is None else id
    return Line(number=number, id=name, request=request, named=id is not None)


async def jobs_of(ledger: Ledger) -> dict[str, JobRecord]:
    return {str(job.request.input["prompt"]): job async for job in ledger.jobs()}


async def test_all_lines_that_may_be_sent_are_recorded_as_planned(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    lines = [line(number, f"p{number}") for number in range(1, 2500)]
    stated = Line(number=9001, id="s", request=lines[0].request, named=True, task_id="t")
    doubtful = Line(number=9002, id="u", request=lines[0].request, named=True, unknown=True)
    plan = await prepare(ledger, [*lines, stated, doubtful], tmp_path, SETTINGS)
    jobs = await jobs_of(ledger)
    assert [*jobs] == [f"p{number}" for number in range(1, 2500)], "in the order of the manifest"
    assert {job.status for job in jobs.values()} == {JobStatus.PLANNED}
    assert {job.batch for job in jobs.values()} == {"b"}
    assert not any(job.resumable for job in jobs.values()), "only their batch sends them"
    assert [each.record and each.record.key for each in plan.matches] == [
        *(each.id for each in lines),
        None,
        None,
    ]
    again = await prepare(ledger, reversed(lines), tmp_path, SETTINGS)
    assert [each.record for each in again.matches] == [*reversed(jobs.values())]
    assert await jobs_of(ledger) == jobs


async def test_nothing_is_recorded_when_a_line_is_refused(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    (tmp_path / "boat.mp4").write_bytes(b"x")
    lines = [line(1, "a"), line(2, "b", id="boat")]
    with pytest.raises(ManifestError, match=r"boat\.mp4 already exists, and the ledger"):
        await prepare(ledger, lines, tmp_path, SETTINGS)
    assert await jobs_of(ledger) == {}


async def test_what_is_examined_is_not_recorded(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    plan = await examine(ledger, [line(1, "a")], tmp_path / "not yet", SETTINGS)
    assert [each.record for each in plan.matches] == [None]
    assert await jobs_of(ledger) == {}


async def test_the_repeated_lines_are_listed_where_paying_again_is_allowed(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    (tmp_path / "boat.mp4").write_bytes(b"x")
    settings = BatchSettings(name="b", pay_again=True, overwrite=True)
    plan = await prepare(ledger, [line(1, "a"), line(2, "b", id="boat")], tmp_path, settings)
    assert [each.number for each in plan.repeated] == [2]


async def test_an_id_that_is_used_by_another_run_meanwhile_is_refused(tmp_path: Path) -> None:
    class Rivals(MemoryLedger):
        """A ledger in which another process sends a job between the match and the record."""

        async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
            if job.request.input["prompt"] == "after":
                known = await self.find_key("b", "x")
                assert known is not None
                await self.claim(known.id, lease=60)
            return await super().plan(job, replace=replace)

    ledger = Rivals()
    await prepare(ledger, [line(1, "before", id="x")], tmp_path, SETTINGS)
    with pytest.raises(ManifestError, match="line 3: id 'x' was used for another request by"):
        await prepare(ledger, [line(3, "after", id="x")], tmp_path, SETTINGS)


async def test_a_ledger_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    class Full(MemoryLedger):
        async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
            raise LedgerError("the disk is full")

    with pytest.raises(LedgerError, match="the disk is full"):
        await prepare(Full(), [line(1, "a")], tmp_path, SETTINGS)


async def test_a_disk_without_locks_is_used_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")

    def take(_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(_file_locks, "take", take)
        await prepare(ledger, [line(1, "a")], tmp_path, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(_file_locks, "are_known", lambda: False)
        await prepare(ledger, [line(1, "b")], tmp_path, SETTINGS)
    assert [*await jobs_of(ledger)] == ["a", "b"]
    await ledger.aclose()


async def test_a_lock_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    (tmp_path / "jobs.db-planning").mkdir()
    with pytest.raises(LedgerError, match=r"jobs\.db-planning: Is a directory"):
        await prepare(ledger, [line(1, "a")], tmp_path, SETTINGS)
    await ledger.aclose()
