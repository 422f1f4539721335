"""Disks that are full, or cannot be written: one clear line, and nothing paid that is not written.

A small disk is a tmpfs where this machine lets us mount one; elsewhere a limit on the size of
files (RLIMIT_FSIZE), which the kernel answers in the same place. Both fail in the middle of things.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from attrs import define, field

from aivideo.ledger.records import JobStatus
from tests.durable.processes import (
    Said,
    Stand,
    how_often_taken,
    is_whole_film,
    jobs_of,
    prompt_of,
    run,
    stand_in,
)

pytestmark = pytest.mark.anyio

LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
os.execv(sys.argv[2], sys.argv[2:])
"""


@define
class SmallDisk:
    """A folder in which little can be written, until it is :meth:`enlarge`-d.

    Attributes:
        folder: where it is.
        prefix: what a command is started with, so that it finds the disk small.
    """

    folder: Path
    size: int
    prefix: tuple[str, ...] = ()
    is_mounted: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.is_mounted = self._mount(f"size={self.size}")
        if not self.is_mounted:
            self.prefix = (sys.executable, "-c", LIMITED, str(self.size // 2))

    def enlarge(self) -> None:
        """Let there be room."""
        if self.is_mounted:
            assert self._mount("remount,size=64m")
        self.prefix = ()

    def forbid_writing(self) -> None:
        """Let nobody write any more."""
        if self.is_mounted:
            assert self._mount("remount,ro")
        else:
            for path in (self.folder, *self.folder.iterdir()):
                path.chmod(0o500 if path.is_dir() else 0o400)

    def leave(self) -> None:
        if self.is_mounted:
            subprocess.run(["umount", self.folder], check=True)

    def _mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = SmallDisk(folder, 256 * 1024)
    yield disk
    disk.leave()


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with stand_in("--speed", "600", "--latency", "0.02") as found:
        yield found


async def batch(stand: Stand, folder: Path, *options: str | Path, disk: SmallDisk) -> Said:
    return await run(
        *(stand.url, "batch", folder / "prompts.txt", "--duration", "4"),
        *("--aspect-ratio", "16:9", "--poll-interval", "0.3", *options),
        prefix=disk.prefix,
    )


def write_manifest(folder: Path, count: int) -> None:
    lines = [f"Prompt {number}: {'a long walk through the rain ' * 40}" for number in range(count)]
    (folder / "prompts.txt").write_text("\n".join(lines), "utf-8")


async def check(stand: Stand, ledger: Path) -> None:
    """Nothing is taken twice, and nothing is taken that the ledger does not know of."""
    truth = stand.truth()
    assert set(how_often_taken(truth).values()) <= {1}
    jobs = {prompt_of(job): job for job in await jobs_of(ledger)}
    for task in truth["tasks"]:
        job = jobs[task["prompt"].strip()]
        doubtful = job.status in (JobStatus.SUBMITTING, JobStatus.UNKNOWN)
        assert doubtful or job.task_id == task["id"]


async def test_a_ledger_whose_disk_is_full_buys_nothing_more_and_goes_on_when_it_is_not(
    stand: Stand, tmp_path: Path, small_disk: SmallDisk
) -> None:
    write_manifest(tmp_path, 40)
    ledger = small_disk.folder / "jobs.db"
    paths = ("--output", tmp_path / "out", "--ledger", ledger)
    said = await batch(stand, tmp_path, *paths, disk=small_disk)
    assert said.code == 1, said
    assert "Traceback" not in said.err
    told = [line for line in said.err.splitlines() if line.startswith("aivideo: ")]
    assert len(told) == 1, said.err
    assert str(ledger) in told[0]
    assert "full" in told[0] or "disk" in told[0], told
    assert "Go on with the same command" in said.out
    await check(stand, ledger)
    assert stand.truth()["creates_taken"] < 40

    small_disk.enlarge()
    said = await batch(stand, tmp_path, *paths, disk=small_disk)
    assert said.code in (0, 4), said
    await check(stand, ledger)
    jobs = await jobs_of(ledger)
    assert len(jobs) == 40
    assert {job.status for job in jobs} <= {JobStatus.SAVED, JobStatus.UNKNOWN}
    unknown = [job for job in jobs if job.status is JobStatus.UNKNOWN]
    assert len(unknown) <= 64, "at most what was in flight when the disk was full"


async def test_an_output_whose_disk_is_full_stops_the_run_and_keeps_what_was_bought(
    stand: Stand, tmp_path: Path, small_disk: SmallDisk
) -> None:
    write_manifest(tmp_path, 20)
    output, ledger = small_disk.folder / "out", tmp_path / "jobs.db"
    report = output / "report.jsonl"
    if not small_disk.is_mounted:  # then the kernel's own full device is where the report goes
        small_disk.prefix = ()
        output.mkdir()
        report.symlink_to("/dev/full")
    paths = ("--output", output, "--ledger", ledger)
    said = await batch(stand, tmp_path, *paths, disk=small_disk)
    assert said.code == 1, said
    assert "Traceback" not in said.err
    told = [line for line in said.err.splitlines() if line.startswith("aivideo: ")]
    assert len(told) == 1, said.err
    assert str(output) in told[0]
    assert "No space left on device" in told[0]
    if small_disk.is_mounted:
        assert "Go on with the same command" in said.out
    assert all(is_whole_film(path) for path in output.glob("*.mp4"))
    assert not [*output.glob(".*.part")]
    await check(stand, ledger)

    small_disk.enlarge()
    if report.is_symlink():
        report.unlink()
    said = await batch(stand, tmp_path, *paths, disk=small_disk)
    assert said.code == 0, said
    await check(stand, ledger)
    assert len([path for path in output.glob("*.mp4") if is_whole_film(path)]) == 20


async def test_a_ledger_that_cannot_be_written_is_one_line_and_nothing_is_sent(
    stand: Stand, tmp_path: Path, small_disk: SmallDisk
) -> None:
    write_manifest(tmp_path, 2)
    small_disk.enlarge()
    ledger = small_disk.folder / "jobs.db"
    made = await batch(
        stand, tmp_path, "--output", tmp_path / "out", "--ledger", ledger, disk=small_disk
    )
    assert made.code == 0, made
    write_manifest(tmp_path, 4)
    small_disk.forbid_writing()
    for path in (ledger, small_disk.folder / "new.db"):
        said = await batch(
            stand, tmp_path, "--output", tmp_path / "out2", "--ledger", path, disk=small_disk
        )
        if small_disk.is_mounted or os.geteuid():  # to root, permission bits say nothing
            assert said.code == 1, said
            assert str(path) in said.one_line
            assert said.out == ""
    # Looking at it needs no leave to write.
    shown = await run(stand.url, "jobs", "list", "--ledger", ledger, "--all")
    assert shown.code == 0, shown
    assert "2 saved" in shown.out
    assert stand.truth()["creates_seen"] == 2
