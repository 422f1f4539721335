"""Full and read-only disks: a one-line error, and no purchase that is not in the ledger.

A small disk is a tmpfs if the tests may mount one, else a limit on file sizes (RLIMIT_FSIZE), which
makes the same system calls fail. Both fail in the middle of a run.
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
    CommandResult,
    RunningSimulator,
    is_complete_video,
    jobs_of,
    prompt_of,
    run,
    simulator_process,
    tasks_per_prompt,
)

pytestmark = pytest.mark.anyio

RUN_WITH_FILE_SIZE_LIMIT = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
os.execv(sys.argv[2], sys.argv[2:])
"""


@define
class SmallDisk:
    """A folder with little disk space, until :meth:`enlarge` is called.

    Attributes:
        folder: the folder.
        size: its disk space in bytes.
        prefix: to be put in front of a command line, so that the command sees a small disk.
        is_mounted: whether the folder is a tmpfs, not a limit on file sizes.
    """

    folder: Path
    size: int
    prefix: tuple[str, ...] = ()
    is_mounted: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.is_mounted = self._mount(f"size={self.size}")
        if not self.is_mounted:
            self.prefix = (sys.executable, "-c", RUN_WITH_FILE_SIZE_LIMIT, str(self.size // 2))

    def enlarge(self) -> None:
        """Provide enough disk space."""
        if self.is_mounted:
            assert self._mount("remount,size=64m")
        self.prefix = ()

    def make_read_only(self) -> None:
        """Forbid writing."""
        if self.is_mounted:
            assert self._mount("remount,ro")
        else:
            for path in (self.folder, *self.folder.iterdir()):
                path.chmod(0o500 if path.is_dir() else 0o400)

    def unmount(self) -> None:
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
    disk.unmount()


@pytest.fixture
async def simulator() -> AsyncIterator[RunningSimulator]:
    async with simulator_process("--speed", "600", "--latency", "0.02") as found:
        yield found


async def batch(
    simulator: RunningSimulator, folder: Path, *options: str | Path, disk: SmallDisk
) -> CommandResult:
    return await run(
        *(simulator.url, "batch", folder / "prompts.txt", "--duration", "4"),
        *("--aspect-ratio", "16:9", "--poll-interval", "0.3", *options),
        prefix=disk.prefix,
    )


def write_manifest(folder: Path, count: int) -> None:
    lines = [f"Prompt {number}: {'a long walk through the rain ' * 40}" for number in range(count)]
    (folder / "prompts.txt").write_text("\n".join(lines), "utf-8")


async def check_tasks(simulator: RunningSimulator, ledger: Path) -> None:
    """Check that no prompt was bought twice and that the ledger knows every task."""
    truth = simulator.truth()
    assert set(tasks_per_prompt(truth).values()) <= {1}
    jobs = {prompt_of(job): job for job in await jobs_of(ledger)}
    for task in truth["tasks"]:
        job = jobs[task["prompt"].strip()]
        in_doubt = job.status in (JobStatus.SUBMITTING, JobStatus.UNKNOWN)
        assert in_doubt or job.task_id == task["id"]


async def test_full_ledger_disk_stops_purchases_and_the_batch_continues_with_free_space(
    simulator: RunningSimulator, tmp_path: Path, small_disk: SmallDisk
) -> None:
    write_manifest(tmp_path, 40)
    ledger = small_disk.folder / "jobs.db"
    paths = ("--output", tmp_path / "out", "--ledger", ledger)
    result = await batch(simulator, tmp_path, *paths, disk=small_disk)
    assert result.code == 1, result
    assert "Traceback" not in result.err
    messages = [line for line in result.err.splitlines() if line.startswith("aivideo: ")]
    assert len(messages) == 1, result.err
    assert str(ledger) in messages[0]
    assert "full" in messages[0] or "disk" in messages[0], messages
    assert "Go on with the same command" in result.out
    await check_tasks(simulator, ledger)
    assert simulator.truth()["creates_taken"] < 40

    small_disk.enlarge()
    result = await batch(simulator, tmp_path, *paths, disk=small_disk)
    assert result.code in (0, 4), result
    await check_tasks(simulator, ledger)
    jobs = await jobs_of(ledger)
    assert len(jobs) == 40
    assert {job.status for job in jobs} <= {JobStatus.SAVED, JobStatus.UNKNOWN}
    unknown = [job for job in jobs if job.status is JobStatus.UNKNOWN]
    assert len(unknown) <= 64, "more than the requests in flight when the disk was full"


async def test_full_output_disk_stops_the_run_and_keeps_the_purchased_videos(
    simulator: RunningSimulator, tmp_path: Path, small_disk: SmallDisk
) -> None:
    write_manifest(tmp_path, 20)
    output, ledger = small_disk.folder / "out", tmp_path / "jobs.db"
    report = output / "report.jsonl"
    if not small_disk.is_mounted:  # then write the report to a full device
        small_disk.prefix = ()
        output.mkdir()
        report.symlink_to("/dev/full")
    paths = ("--output", output, "--ledger", ledger)
    result = await batch(simulator, tmp_path, *paths, disk=small_disk)
    assert result.code == 1, result
    assert "Traceback" not in result.err
    messages = [line for line in result.err.splitlines() if line.startswith("aivideo: ")]
    assert len(messages) == 1, result.err
    assert str(output) in messages[0]
    assert "No space left on device" in messages[0]
    if small_disk.is_mounted:
        assert "Go on with the same command" in result.out
    assert all(is_complete_video(path) for path in output.glob("*.mp4"))
    assert not [*output.glob(".*.part")]
    await check_tasks(simulator, ledger)

    small_disk.enlarge()
    if report.is_symlink():
        report.unlink()
    result = await batch(simulator, tmp_path, *paths, disk=small_disk)
    assert result.code == 0, result
    await check_tasks(simulator, ledger)
    assert len([path for path in output.glob("*.mp4") if is_complete_video(path)]) == 20


async def test_read_only_ledger_gives_a_one_line_error_and_nothing_is_sent(
    simulator: RunningSimulator, tmp_path: Path, small_disk: SmallDisk
) -> None:
    write_manifest(tmp_path, 2)
    small_disk.enlarge()
    ledger = small_disk.folder / "jobs.db"
    first = await batch(
        simulator, tmp_path, "--output", tmp_path / "out", "--ledger", ledger, disk=small_disk
    )
    assert first.code == 0, first
    write_manifest(tmp_path, 4)
    small_disk.make_read_only()
    for path in (ledger, small_disk.folder / "new.db"):
        result = await batch(
            simulator, tmp_path, "--output", tmp_path / "out2", "--ledger", path, disk=small_disk
        )
        if small_disk.is_mounted or os.geteuid():  # permission bits do not restrict root
            assert result.code == 1, result
            assert str(path) in result.one_line
            assert result.out == ""
    # Reading the ledger needs no write permission.
    shown = await run(simulator.url, "jobs", "list", "--ledger", ledger, "--all")
    assert shown.code == 0, shown
    assert "2 saved" in shown.out
    assert simulator.truth()["creates_seen"] == 2
