"""Run one batch in four processes at once, edit its manifest meanwhile, and check what it bought.

    python -m tests.durable.rivals [--seconds 600] [--seed 1]

Four real ``aivideo batch`` processes share a manifest, an output folder and a ledger, against a
real ``aivideo simulate``. While they run, the manifest is edited at random: lines are added on top,
removed, moved and repeated, ids are added, removed and given to other requests. Processes are
frozen (SIGSTOP) for 1 to 90 seconds and continued, and interrupted (SIGINT) and started again, so
that at any time they work with different versions of the manifest. In the end a last run completes
the newest version.

Checked: no prompt was bought more often than the version of the manifest asked for that repeats it
most; the last run bought what was missing; no process died of an exception.
"""

# ruff: noqa: T201  this program prints its results

from __future__ import annotations

import argparse
import asyncio
import math
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from attrs import define, field

from aivideo.ledger.records import JobRecord
from tests.durable.processes import (
    TIMEOUT,
    RunningSimulator,
    command,
    environment,
    jobs_of,
    prompt_of,
    simulator_process,
    tasks_per_prompt,
)

RIVALS = 4
SIMULATOR_OPTIONS = (
    *("--speed", "600", "--task-seconds", "60-600", "--rate-limit", "token:15/s:5"),
    *("--latency", "0.05", "--failure-rate", "0.02", "--balance", "100000000"),
)
BACKLOG = 150
"""Lines are added only while fewer than this are left to be bought."""

HUNG = 300.0
"""Seconds after which an interrupted run is killed: it may wait for frozen runs one after another,
which have the ledger locked."""

FREEZE = (1.0, 90.0)
"""The shortest and the longest freeze, in seconds; short ones are drawn more often."""


# --- the manifest -------------------------------------------------------------------------------


@define(eq=False)
class Row:
    """A line of the manifest."""

    prompt: str
    id: str | None = None


@define
class Manifest:
    """A manifest that is edited at random.

    Attributes:
        path: the file; each version replaces it at once.
        draw: the source of all draws.
        rows: the newest version.
        most: for each prompt, the largest number of lines that any version has had for it.
        edits: how often each kind of edit was made.
    """

    path: Path
    draw: random.Random
    rows: list[Row] = field(factory=list)
    most: Counter[str] = field(factory=Counter)
    edits: Counter[str] = field(factory=Counter)
    _prompts: int = 0
    _ids: int = 0

    def edit(self, *, may_grow: bool) -> None:
        """Make one edit, and write the new version."""
        kinds = {
            "removed": 2,
            "moved": 3,
            "repeated": 1,
            "ids added": 3,
            "ids removed": 1,
            "ids given to other lines": 1,
            "prompts changed under an id": 1,
        }
        if may_grow or not self.rows:
            kinds = {"added on top": 8, **kinds} if self.rows else {"added on top": 1}
        kind = self.draw.choices([*kinds], [*kinds.values()])[0]
        self.edits[kind] += 1
        self._change(kind, self.draw.randint(1, 5))
        self.write()

    def _change(self, kind: str, count: int) -> None:
        rows, draw = self.rows, self.draw
        some = draw.sample(rows, min(count, len(rows)))
        match kind:
            case "added on top":
                rows[:0] = [Row(self._new_prompt()) for _ in range(6 * count)]
            case "removed":
                self.rows = [row for row in rows if row not in some]
            case "moved":
                for row in some:
                    rows.remove(row)
                    rows.insert(draw.randint(0, len(rows)), row)
            case "repeated":
                for row in some:
                    rows.insert(draw.randint(0, len(rows)), Row(row.prompt))
            case _:
                self._change_ids(kind, some)

    def _change_ids(self, kind: str, some: list[Row]) -> None:
        names = [row.id for row in some]
        match kind:
            case "ids added":
                names = [name or self._new_id() for name in names]
            case "ids removed":
                names = [None] * len(some)
            case "ids given to other lines":
                names = [*names[1:], *names[:1]]
            case _:
                for row in some:
                    row.prompt = row.prompt if row.id is None else self._new_prompt()
        for row, name in zip(some, names, strict=True):
            row.id = name

    def give_new_ids(self) -> None:
        """Do what a refused run asks for: an id that was bought for another request is replaced."""
        for row in self.rows:
            if row.id is not None:
                row.id = self._new_id()
        self.write()

    def write(self) -> None:
        """Count the version, then make it visible to runs that start from now on."""
        self.most |= Counter(row.prompt for row in self.rows)
        part = self.path.with_suffix(".part")
        part.write_bytes(b"\n".join(orjson.dumps(_fields(row)) for row in self.rows))
        part.replace(self.path)

    def _new_prompt(self) -> str:
        self._prompts += 1
        return f"Prompt {self._prompts} of the rivals"

    def _new_id(self) -> str:
        self._ids += 1
        return f"clip-{self._ids}"


def _fields(row: Row) -> Mapping[str, str]:
    return {"prompt": row.prompt} if row.id is None else {"prompt": row.prompt, "id": row.id}


# --- the processes ------------------------------------------------------------------------------


@define
class Outcome:
    """What happened.

    Attributes:
        seconds: how long the processes ran, without the last run.
        versions: how many versions the manifest has had.
        edits: how often each kind of edit was made.
        codes: how often a run ended with each exit code.
        frozen: seconds of each freeze.
        interrupts: how many runs were interrupted.
        refused: how many runs were refused because an id was bought for another request.
        hung: runs that were killed because they did not end after they were interrupted.
        errors: the errors of runs that died of an exception.
        most: for each prompt, the most lines that any version had for it.
        last: the prompts of the newest version.
        truth: what the service has seen.
        jobs: the jobs of the ledger.
    """

    seconds: float = 0.0
    versions: int = 0
    edits: Counter[str] = field(factory=Counter)
    codes: Counter[int] = field(factory=Counter)
    frozen: list[float] = field(factory=list)
    interrupts: int = 0
    refused: int = 0
    hung: int = 0
    errors: list[str] = field(factory=list)
    most: Counter[str] = field(factory=Counter)
    last: Counter[str] = field(factory=Counter)
    truth: dict[str, Any] = field(factory=dict)
    jobs: list[JobRecord] = field(factory=list)

    @property
    def bought(self) -> Counter[str]:
        """How often each prompt was bought."""
        return tasks_per_prompt(self.truth)


@define
class Campaign:
    """One campaign: a service, a folder, the manifest and its runs."""

    simulator: RunningSimulator
    folder: Path
    manifest: Manifest
    draw: random.Random
    freeze: tuple[float, float]
    ends: float
    outcome: Outcome = field(factory=Outcome)

    @property
    def arguments(self) -> tuple[str | Path, ...]:
        """The command of every run."""
        return (
            *("batch", self.manifest.path, "--output", self.folder / "out"),
            *("--duration", "4", "--aspect-ratio", "16:9", "--poll-interval", "0.5"),
        )

    def left(self) -> float:
        """Seconds until the campaign ends."""
        return self.ends - time.monotonic()

    async def edit(self) -> None:
        """Edit the manifest until the campaign ends."""
        while self.left() > 0:
            taken = (await asyncio.to_thread(self.simulator.truth))["creates_taken"]
            wanted = self.manifest.most.total()
            self.manifest.edit(may_grow=wanted - taken < BACKLOG)
            self.outcome.versions += 1
            await self._pause(0.2, 2.0)

    async def run_rival(self) -> None:
        """Start runs, one after the other, until the campaign ends."""
        while self.left() > 0:
            await self._run_once()
            await self._pause(0.0, 1.5)

    async def _pause(self, least: float, most: float) -> None:
        await asyncio.sleep(max(0.0, min(self.draw.uniform(least, most), self.left())))

    async def _run_once(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *command(*self.arguments),
            env=environment(self.simulator.url),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        ended = asyncio.create_task(process.communicate())
        try:
            is_interrupted = False
            while not (ended.done() or is_interrupted) and self.left() > 0:
                await asyncio.wait((ended,), timeout=min(self.draw.uniform(0.5, 5), self.left()))
                if not ended.done():
                    is_interrupted = await self._disturb(process)
            if not (ended.done() or is_interrupted):
                process.send_signal(signal.SIGINT)
            await asyncio.wait((ended,), timeout=HUNG)
        finally:
            if not ended.done():
                self.outcome.hung += 1
                process.kill()
        _, err = await ended
        self._note(process.returncode or 0, err.decode())

    async def _disturb(self, process: asyncio.subprocess.Process) -> bool:
        """Freeze the process for a while, interrupt it, or do nothing.

        Returns:
            Whether it was interrupted.
        """
        kind = self.draw.choices(("freeze", "interrupt", "nothing"), (3, 2, 5))[0]
        if kind == "freeze":
            least, most = self.freeze
            seconds = math.exp(self.draw.uniform(math.log(least), math.log(most)))
            seconds = max(0.0, min(seconds, self.left()))
            self.outcome.frozen.append(seconds)
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            process.send_signal(signal.SIGCONT)
        elif kind == "interrupt":
            self.outcome.interrupts += 1
            process.send_signal(signal.SIGINT)
        return kind == "interrupt"

    def _note(self, code: int, err: str) -> None:
        self.outcome.codes[code] += 1
        # An interrupt may arrive while modules are imported.
        if "Traceback" in err and "KeyboardInterrupt" not in err:
            self.outcome.errors.append(err)
        if code == 2:
            if "for another request" not in err:
                self.outcome.errors.append(err)
            self.outcome.refused += 1
            self.manifest.give_new_ids()

    async def complete(self) -> None:
        """Run the newest version to its end."""
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                *command(*self.arguments),
                env=environment(self.simulator.url),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                _, err = await asyncio.wait_for(process.communicate(), 3 * TIMEOUT)
            except TimeoutError:
                self.outcome.hung += 1
                process.kill()
                await process.communicate()
                return
            self._note(process.returncode or 0, err.decode())
            if process.returncode != 2:
                return


async def run_rivals(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    freeze: tuple[float, float] = FREEZE,
    show: bool = False,
) -> Outcome:
    """Run one campaign.

    Args:
        folder: an empty folder.
        seconds: how long the processes run; the last run comes after that.
        seed: what happens is drawn from it. When it happens depends on the machine.
        freeze: the shortest and the longest freeze, in seconds.
        show: print what has happened every ten seconds.
    """
    draw = random.Random(seed)
    manifest = Manifest(folder / "manifest.jsonl", draw)
    async with simulator_process(*SIMULATOR_OPTIONS, "--seed", str(seed)) as simulator:
        manifest.edit(may_grow=True)
        start = time.monotonic()
        campaign = Campaign(simulator, folder, manifest, draw, freeze, start + seconds)
        outcome = campaign.outcome
        showing = asyncio.create_task(_show_progress(campaign, start) if show else _nothing())
        async with asyncio.TaskGroup() as group:
            group.create_task(campaign.edit())
            for _ in range(RIVALS):
                group.create_task(campaign.run_rival())
        showing.cancel()
        outcome.seconds = time.monotonic() - start
        await campaign.complete()
        outcome.truth = simulator.truth()
    outcome.edits, outcome.most = manifest.edits, manifest.most
    outcome.last = Counter(row.prompt for row in manifest.rows)
    outcome.jobs = await jobs_of(folder / "out" / "aivideo.db")
    return outcome


async def _nothing() -> None:
    """Show nothing."""


def violations(outcome: Outcome) -> list[str]:
    """Check the outcome, and return a message for each violation."""
    found = []
    for prompt, times in outcome.bought.items():
        if times > outcome.most[prompt]:
            found.append(f"{prompt!r} was bought {times} times; at most {outcome.most[prompt]}")
    in_doubt = Counter(prompt_of(job) for job in outcome.jobs if job.doubts)
    for prompt, times in outcome.last.items():
        if outcome.bought[prompt] + in_doubt[prompt] < times:
            found.append(f"{prompt!r} was bought {outcome.bought[prompt]} times instead of {times}")
    found += [f"a run died: {error}" for error in outcome.errors]
    return found


# --- command line -------------------------------------------------------------------------------


async def _show_progress(campaign: Campaign, start: float) -> None:
    while True:
        await asyncio.sleep(10)
        outcome, manifest = campaign.outcome, campaign.manifest
        taken = (await asyncio.to_thread(campaign.simulator.truth))["creates_taken"]
        print(
            f"{time.monotonic() - start:6.0f} s  {outcome.versions:5} versions  "
            f"{len(manifest.rows):5} lines  {outcome.codes.total():4} runs ended  "
            f"{len(outcome.frozen):4} freezes  {outcome.interrupts:4} interrupts  "
            f"{taken:6} bought",
            flush=True,
        )


def _show(outcome: Outcome, found: Sequence[str]) -> None:
    bought = outcome.bought
    minutes = outcome.seconds / 60
    doubts = sum(1 for job in outcome.jobs if job.doubts)
    codes = ", ".join(f"{code}: {count}" for code, count in sorted(outcome.codes.items()))
    edits = ", ".join(f"{kind} {count}" for kind, count in outcome.edits.most_common())
    print(
        f"\n{outcome.seconds:.0f} s: {outcome.versions} versions ({edits}); "
        f"{outcome.codes.total()} runs (by exit code: {codes}), {outcome.refused} of them refused, "
        f"{outcome.hung} killed because they hung; {len(outcome.frozen)} freezes of up to "
        f"{max(outcome.frozen, default=0):.0f} s, {outcome.interrupts} interrupts.\n"
        f"{bought.total()} bought ({bought.total() / minutes:.0f} a minute) of "
        f"{outcome.most.total()} asked for; {doubts} jobs in doubt; "
        f"{sum(times > outcome.most[prompt] for prompt, times in bought.items())} prompts bought "
        "more often than any version asked for."
    )
    for each in found:
        print(f"VIOLATION: {each}")
    print("All checks passed." if not found else f"{len(found)} checks failed.")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.durable.rivals")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(
            run_rivals(Path(folder), seconds=given.seconds, seed=given.seed, show=True)
        )
    found = violations(outcome)
    if not (outcome.frozen and outcome.interrupts and outcome.versions > 1):
        found.append("no freeze, interrupt or edit: increase --seconds")
    _show(outcome, found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
