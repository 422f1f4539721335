"""A batch that is killed again and again, and what it has paid and made in the end.

    python -m tests.durable.kills [--kills 30] [--seed 1] [--prompts 200]

A real ``aivideo batch`` works against a real ``aivideo simulate``, through a wire that is watched.
At moments drawn from the seed it is killed (SIGKILL), and the same command is given again. Then
the unknown creates are settled as a person would, with the dashboard (here: the truth) beside
them, and a last run makes what is left.

What must hold: no prompt was ever taken twice; every task that was taken is known to the ledger,
after each kill; the unknowns of a kill are creates that were on their way then; in the end every
prompt is a whole file, and the credits agree to the last one.
"""

# ruff: noqa: T201  a program: what it finds, it prints

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.ledger.totals import CreditTotals
from tests.durable.processes import (
    PATIENCE,
    Said,
    how_often_taken,
    is_whole_film,
    jobs_of,
    prompt_of,
    run,
    small_pieces,
    stand_in,
    surroundings,
)
from tests.durable.proxy import Moment, Wire, watched

STAND_IN = (
    *("--speed", "600", "--task-seconds", "60-600", "--rate-limit", "token:40/s:10"),
    *("--latency", "0.05"),
)
MAX_IN_FLIGHT = 64
"""Requests that a session has under way at once."""

WEIGHTS: dict[Moment | None, int] = {
    None: 3,  # at a moment by the clock, from the start of the process
    Moment.POST_LEFT: 6,
    Moment.POST_ANSWERED: 5,
    Moment.POST_HEARD: 5,
    Moment.POLL_LEFT: 3,
    Moment.RESULT_BEGUN: 4,
    Moment.RESULT_HEARD: 4,
}
"""When a process is killed, and how often so."""


@frozen
class Plan:
    """When to kill.

    Attributes:
        moment: what to wait for; None: the clock.
        nth: the how-manieth of it.
        seconds: after the start of the process, or after the moment.
        lost: whether what was under way then never arrives.
    """

    moment: Moment | None
    nth: int
    seconds: float
    lost: bool

    def __str__(self) -> str:
        if self.moment is None:
            return f"{self.seconds * 1000:.0f} ms after its start"
        later = f", {self.seconds * 1000:.0f} ms later" if self.seconds else ""
        lost = " (lost)" if self.lost else ""
        return f"{self.moment}: no. {self.nth}{later}{lost}"


@define
class Kill:
    """One kill, and what it left.

    Attributes:
        plan: when it was to be.
        lived: seconds that the process did.
        unanswered: prompts of creates that had left the process, and whose answer had not come.
        answered: prompts of creates whose answer had come.
        open: prompts of creates that the ledger holds as under way: by this process, not by one
            that was killed before it.
        unknown: prompts of those that a later run called unknown.
    """

    plan: Plan
    lived: float
    unanswered: set[str]
    answered: set[str]
    open: set[str]
    unknown: set[str] = field(factory=set)

    @property
    def unwritten(self) -> set[str]:
        """Prompts of creates whose answer had come, and was not written down."""
        return (self.open & self.answered) - self.unanswered  # a 429, and it has left again

    @property
    def unsent(self) -> set[str]:
        """Prompts of creates that were claimed, and had not left."""
        return self.open - self.answered - self.unanswered


@define
class Story:
    """What happened, from the first kill to the last file."""

    kills: list[Kill] = field(factory=list)
    runs: int = 0
    settled: list[tuple[JobRecord, str]] = field(factory=list)
    audits: list[str] = field(factory=list)
    last: Said | None = None
    leftovers: list[str] = field(factory=list)
    truth: dict[str, Any] = field(factory=dict)
    jobs: list[JobRecord] = field(factory=list)
    totals: Any = None


def plans(count: int, seed: int) -> list[Plan]:
    """Draw when to kill."""
    draw = random.Random(seed)
    drawn = []
    for _ in range(count):
        moment = draw.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        if moment is None:
            drawn.append(Plan(None, 1, draw.uniform(0.05, 1.2), lost=False))
            continue
        later = draw.choice((0.0, 0.0, draw.uniform(0.0, 0.08)))
        drawn.append(Plan(moment, draw.randint(1, 8), later, lost=draw.random() < 0.4))
    return drawn


async def tell(
    folder: Path, *, kills: Sequence[Plan], prompts: int, seed: int, show: bool = False
) -> Story:
    """Kill a batch as planned, settle what is unknown, and let it end.

    Args:
        folder: an empty one.
        kills: when to kill.
        prompts: lines of the manifest.
        seed: of the service.
        show: print each kill as it happens.
    """
    story = Story()
    manifest, output = folder / "prompts.txt", folder / "out"
    lines = [f"Prompt {number} of the night" for number in range(prompts)]
    manifest.write_text("\n".join(lines), "utf-8")
    batch = (
        *("batch", manifest, "--output", output, "--duration", "4", "--aspect-ratio", "16:9"),
        *("--poll-interval", "0.2"),
    )
    async with stand_in(*STAND_IN, "--seed", str(seed)) as stand, watched(stand) as wire:
        for plan in kills:
            kill = await _kill(wire, plan, output, *batch)
            story.runs += 1
            if kill is None:
                break  # it had ended before
            # What a process that was killed early has left as it found it is another kill's.
            kill.open -= {prompt for each in story.kills for prompt in each.open}
            story.kills.append(kill)
            await _check_what_it_left(wire, output)
            if show:
                _show_kill(len(story.kills), kill)
        # What a kill left open is called unknown by whoever comes next: each kill's are told
        # apart by their prompts, and a prompt is POSTed once.
        said = await run(wire.url, *batch)
        story.runs += 1
        unknown = {
            prompt_of(job): job for job in await jobs_of(output / "aivideo.db") if job.doubts
        }
        for kill in story.kills:
            kill.unknown = kill.open & unknown.keys()
        assert said.code == (4 if unknown else 0), said
        story.audits.append((await run(wire.url, "jobs", "audit", "--ledger", output)).out)
        await _settle(wire, story, unknown.values(), output)
        story.last = await run(wire.url, *batch)
        story.runs += 1
        story.audits.append((await run(wire.url, "jobs", "audit", "--ledger", output)).out)
        story.truth = stand.truth()
        story.leftovers = [path.name for path in output.glob(".*")]
    ledger = SqliteLedger(output / "aivideo.db", read_only=True)
    story.totals = await ledger.totals()
    await ledger.aclose()
    story.jobs = await jobs_of(output / "aivideo.db")
    return story


async def _kill(wire: Wire, plan: Plan, output: Path, *batch: str | Path) -> Kill | None:
    """Run the batch until it is killed; None: it ended before."""
    wire.begin()
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *small_pieces(*batch),
        env=surroundings(wire.url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    died = 0.0
    unanswered: set[str] = set()
    answered: set[str] = set()
    left = plan.nth

    def shoot() -> None:
        nonlocal died, unanswered, answered
        if not died and process.returncode is None:
            process.kill()
            died = time.monotonic()
            unanswered = {post.prompt for post in wire.posts if not post.answered}
            answered = {post.prompt for post in wire.posts if post.answered}

    def on_moment(moment: Moment) -> bool:
        nonlocal left
        left -= moment is plan.moment
        if left or moment is not plan.moment:
            # Of what is on the wire when it dies, some arrives and some does not.
            return bool(died) and plan.lost
        if plan.seconds:
            asyncio.get_running_loop().call_later(plan.seconds, shoot)
            return False
        shoot()
        return plan.lost

    wire.on_moment = on_moment
    if plan.moment is None:
        asyncio.get_running_loop().call_later(plan.seconds, shoot)
    async with asyncio.timeout(PATIENCE):
        _, said = await process.communicate()
    wire.on_moment = lambda _: False
    assert b"Traceback" not in said, said.decode()
    if not died:
        return None
    jobs = await _jobs(output)
    under_way = {prompt_of(job) for job in jobs if job.status is JobStatus.SUBMITTING}
    return Kill(plan, died - began, unanswered, answered, under_way)


async def _check_what_it_left(wire: Wire, output: Path) -> None:
    truth = wire.stand.truth()
    jobs = {prompt_of(job): job for job in await _jobs(output)}
    for task in truth["tasks"]:
        job = jobs[task["prompt"]]
        known = job.task_id == task["id"] or job.status in (JobStatus.SUBMITTING, JobStatus.UNKNOWN)
        assert known, (task, job)
    assert max(how_often_taken(truth).values(), default=0) <= 1
    halves = [path.name for path in output.glob("*.mp4") if not is_whole_film(path)]
    assert not halves, "a file under its own name is whole, whenever one looks"


async def _jobs(output: Path) -> list[JobRecord]:
    ledger = output / "aivideo.db"
    return await jobs_of(ledger) if ledger.exists() and ledger.stat().st_size else []


async def _settle(wire: Wire, story: Story, jobs: Iterable[JobRecord], output: Path) -> None:
    """Settle what is unknown as a person would, with the list of tasks beside them."""
    tasks = {task["prompt"]: task["id"] for task in wire.stand.truth()["tasks"]}
    at_once = asyncio.Semaphore(4)

    async def settle(job: JobRecord) -> None:
        task_id = tasks.get(prompt_of(job))
        how = ("--not-taken",) if task_id is None else ("--task-id", task_id)
        async with at_once:
            said = await run(wire.url, "jobs", "settle", job.id, *how, "--ledger", output)
        assert said.code == 0, said
        story.settled.append((job, " ".join(how)))

    await asyncio.gather(*map(settle, jobs))


def complaints(story: Story, prompts: int) -> list[str]:
    """Say what is wrong with how it ended."""
    truth, taken = story.truth, how_often_taken(story.truth)
    found = []

    def expect(holds: bool, otherwise: object) -> None:
        if not holds:
            found.append(str(otherwise))

    doubled = [prompt for prompt, times in taken.items() if times > 1]
    expect(not doubled, f"taken twice: {doubled}")
    expect(len(taken) == prompts, f"{prompts - len(taken)} prompts were never taken")
    for task in truth["tasks"]:
        job = next(job for job in story.jobs if prompt_of(job) == task["prompt"])
        expect(job.task_id == task["id"], f"{task} was lost: {job}")
    for job in story.jobs:
        path = Path(job.path or "")
        whole = path.is_file() and is_whole_film(path) and path.stat().st_size == job.size
        expect(job.status is JobStatus.SAVED, f"{job.id} is {job.status}")
        expect(whole, f"{path} is not whole")
    charged = truth["credits_charged"]
    expect(story.totals == CreditTotals(charged=charged), f"{story.totals}, charged {charged}")
    for number, kill in enumerate(story.kills, 1):
        # Law 1: what is on the wire is on the disk. And what is unknown was on its way.
        expect(kill.unanswered <= kill.open, f"kill {number}: sent and not written: {kill}")
        expect(kill.unknown == kill.open, f"kill {number}: {kill}")
        expect(len(kill.open) <= MAX_IN_FLIGHT, f"kill {number}: {len(kill.open)} on their way")
    unknown = {prompt for kill in story.kills for prompt in kill.unknown}
    settled = {prompt_of(job) for job, _ in story.settled}
    expect(settled == unknown, f"unknown, and not by a kill: {settled - unknown}")
    expect(not story.leftovers, f"left in the folder: {story.leftovers}")
    expect(truth["keys_at_results"] == 0, "a key reached the results")
    if story.last is None or story.last.code != 0:
        expect(False, f"the last run said {story.last}")
    return found


# --- as a program -------------------------------------------------------------------------------


def _show_kill(number: int, kill: Kill) -> None:
    print(
        f"{number:4}  {kill.lived:5.2f}  {len(kill.unanswered):8}  {len(kill.unwritten):9}  "
        f"{len(kill.unsent):6}  {len(kill.open):11}  {kill.plan}",
        flush=True,
    )


def _show(story: Story, found: Sequence[str]) -> None:
    taken = sum("--task-id" in how for _, how in story.settled)
    print("\nThe audit while they were unknown:\n")
    print(story.audits[0])
    for number, kill in enumerate(story.kills, 1):
        for job, how in story.settled:
            if prompt_of(job) in kill.open:
                print(f"kill {number:3}: jobs settle {job.id} {how}")
    print("\nThe audit at the end:\n")
    print(story.audits[1])
    if story.last is not None:
        print(story.last.out)
    once = how_often_taken(story.truth)
    print(
        f"{len(story.kills)} kills, {story.runs} runs; {len(once)} prompts taken, "
        f"{sum(times > 1 for times in once.values())} of them twice; {len(story.jobs)} files; "
        f"{len(story.settled)} unknown, {taken} of them taken, {len(story.settled) - taken} not."
    )
    for each in found:
        print(f"WRONG: {each}")
    print("All that must hold does." if not found else f"{len(found)} things are wrong.")


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m tests.durable.kills")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=0, help="by default 16 a kill")
    given = parser.parse_args()
    prompts = given.prompts or 16 * given.kills
    print("kill  lived  no reply  unwritten  unsent  new unknown  when", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        kills = plans(given.kills, given.seed)
        story = asyncio.run(
            tell(Path(folder), kills=kills, prompts=prompts, seed=given.seed, show=True)
        )
        found = complaints(story, prompts)
    if len(story.kills) < given.kills:
        found.append(f"it had ended after {len(story.kills)} kills: say --prompts")
    _show(story, found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
