"""Kill a batch repeatedly, let it complete, and check what it bought and downloaded.

    python -m tests.durable.kills [--kills 30] [--seed 1] [--prompts 200]

A real ``aivideo batch`` runs against a real ``aivideo simulate`` through a proxy. It is killed
(SIGKILL) at random events drawn from the seed, and the same command is started again. Then the
unknown creates are settled with the list of tasks, as a user would do with the provider's
dashboard, and a last run completes the batch.

Checked: no prompt is bought twice; after each kill the ledger knows every task; a kill leaves only
those creates unknown that were in progress; in the end every prompt has a complete file, and the
credits in the ledger equal those charged.
"""

# ruff: noqa: T201  this program prints its results

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
    TIMEOUT,
    CommandResult,
    command_with_small_chunks,
    environment,
    is_complete_video,
    jobs_of,
    prompt_of,
    run,
    simulator_process,
    tasks_per_prompt,
)
from tests.durable.proxy import Proxy, WireEvent, proxy_for

SIMULATOR_OPTIONS = (
    *("--speed", "600", "--task-seconds", "60-600", "--rate-limit", "token:40/s:10"),
    *("--latency", "0.05"),
)
MAX_IN_FLIGHT = 64
"""Max. concurrent requests of a session."""

WEIGHTS: dict[WireEvent | None, int] = {
    None: 3,  # a certain time after the start of the process
    WireEvent.POST_SENT: 6,
    WireEvent.POST_ANSWERED: 5,
    WireEvent.POST_DELIVERED: 5,
    WireEvent.POLL_SENT: 3,
    WireEvent.RESULT_HALF: 4,
    WireEvent.RESULT_COMPLETE: 4,
}
"""Event at which a process is killed (None: after a time) -> relative frequency."""


@frozen
class Plan:
    """When to kill the process.

    Attributes:
        event: the event to wait for. None: only wait ``seconds``.
        nth: which occurrence of the event, from 1.
        seconds: time to wait after the event, or after the start of the process.
        lost: whether requests and answers in transit at that time are dropped.
    """

    event: WireEvent | None
    nth: int
    seconds: float
    lost: bool

    def __str__(self) -> str:
        if self.event is None:
            return f"{self.seconds * 1000:.0f} ms after the start"
        later = f", {self.seconds * 1000:.0f} ms later" if self.seconds else ""
        lost = " (lost)" if self.lost else ""
        return f"{self.event}: no. {self.nth}{later}{lost}"


@define
class Kill:
    """One kill and the state it left. Creates are identified by their prompts.

    Attributes:
        plan: when to kill.
        lived: lifetime of the process in seconds.
        unanswered: creates that were sent and whose answer was not forwarded.
        answered: creates whose answer was forwarded.
        open: creates that have status submitting in the ledger, without those of earlier kills.
        unknown: those of ``open`` that a later run changed to unknown.
    """

    plan: Plan
    lived: float
    unanswered: set[str]
    answered: set[str]
    open: set[str]
    unknown: set[str] = field(factory=set)

    @property
    def unwritten(self) -> set[str]:
        """Creates whose answer was forwarded but not recorded in the ledger."""
        return (self.open & self.answered) - self.unanswered  # sent again after a 429

    @property
    def unsent(self) -> set[str]:
        """Creates that were claimed but not sent."""
        return self.open - self.answered - self.unanswered


@define
class Outcome:
    """Everything that happened, from the first kill to the last run."""

    kills: list[Kill] = field(factory=list)
    runs: int = 0
    settled: list[tuple[JobRecord, str]] = field(factory=list)
    audits: list[str] = field(factory=list)
    last: CommandResult | None = None
    leftovers: list[str] = field(factory=list)
    truth: dict[str, Any] = field(factory=dict)
    jobs: list[JobRecord] = field(factory=list)
    totals: Any = None


def plans(count: int, seed: int) -> list[Plan]:
    """Draw random plans from a seed."""
    draw = random.Random(seed)
    drawn = []
    for _ in range(count):
        event = draw.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        if event is None:
            drawn.append(Plan(None, 1, draw.uniform(0.05, 1.2), lost=False))
            continue
        later = draw.choice((0.0, 0.0, draw.uniform(0.0, 0.08)))
        drawn.append(Plan(event, draw.randint(1, 8), later, lost=draw.random() < 0.4))
    return drawn


async def run_with_kills(
    folder: Path, *, kills: Sequence[Plan], prompts: int, seed: int, show: bool = False
) -> Outcome:
    """Kill a batch as planned, settle the unknown creates, and complete the batch.

    Args:
        folder: an empty folder.
        kills: when to kill.
        prompts: number of prompts in the manifest.
        seed: seed of the simulator.
        show: print each kill when it happens.
    """
    outcome = Outcome()
    manifest, output = folder / "prompts.txt", folder / "out"
    lines = [f"Prompt {number} of the night" for number in range(prompts)]
    manifest.write_text("\n".join(lines), "utf-8")
    batch = (
        *("batch", manifest, "--output", output, "--duration", "4", "--aspect-ratio", "16:9"),
        *("--poll-interval", "0.2"),
    )
    async with (
        simulator_process(*SIMULATOR_OPTIONS, "--seed", str(seed)) as simulator,
        proxy_for(simulator) as proxy,
    ):
        for plan in kills:
            kill = await _kill(proxy, plan, output, *batch)
            outcome.runs += 1
            if kill is None:
                break  # the batch completed before
            # Exclude creates that an earlier kill left open and this process did not get to.
            kill.open -= {prompt for each in outcome.kills for prompt in each.open}
            outcome.kills.append(kill)
            await _check_after_kill(proxy, output)
            if show:
                _show_kill(len(outcome.kills), kill)
        # The next run changes creates that a kill left open to unknown. Their prompts show which
        # kill it was, because each prompt is POSTed once.
        result = await run(proxy.url, *batch)
        outcome.runs += 1
        unknown = {
            prompt_of(job): job for job in await jobs_of(output / "aivideo.db") if job.doubts
        }
        for kill in outcome.kills:
            kill.unknown = kill.open & unknown.keys()
        assert result.code == (4 if unknown else 0), result
        outcome.audits.append((await run(proxy.url, "jobs", "audit", "--ledger", output)).out)
        await _settle(proxy, outcome, unknown.values(), output)
        outcome.last = await run(proxy.url, *batch)
        outcome.runs += 1
        outcome.audits.append((await run(proxy.url, "jobs", "audit", "--ledger", output)).out)
        outcome.truth = simulator.truth()
        outcome.leftovers = [path.name for path in output.glob(".*")]
    ledger = SqliteLedger(output / "aivideo.db", read_only=True)
    outcome.totals = await ledger.totals()
    await ledger.aclose()
    outcome.jobs = await jobs_of(output / "aivideo.db")
    return outcome


async def _kill(proxy: Proxy, plan: Plan, output: Path, *batch: str | Path) -> Kill | None:
    """Run the batch until it is killed. Returns None if it completed before."""
    proxy.begin()
    start = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command_with_small_chunks(*batch),
        env=environment(proxy.url),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    killed_at = 0.0
    unanswered: set[str] = set()
    answered: set[str] = set()
    left = plan.nth

    def kill_process() -> None:
        nonlocal killed_at, unanswered, answered
        if not killed_at and process.returncode is None:
            process.kill()
            killed_at = time.monotonic()
            unanswered = {post.prompt for post in proxy.posts if not post.answered}
            answered = {post.prompt for post in proxy.posts if post.answered}

    def on_event(event: WireEvent) -> bool:
        nonlocal left
        left -= event is plan.event
        if left or event is not plan.event:
            # After the kill, drop whatever is in transit if the plan says so.
            return bool(killed_at) and plan.lost
        if plan.seconds:
            asyncio.get_running_loop().call_later(plan.seconds, kill_process)
            return False
        kill_process()
        return plan.lost

    proxy.on_event = on_event
    if plan.event is None:
        asyncio.get_running_loop().call_later(plan.seconds, kill_process)
    async with asyncio.timeout(TIMEOUT):
        _, result = await process.communicate()
    proxy.on_event = lambda _: False
    assert b"Traceback" not in result, result.decode()
    if not killed_at:
        return None
    jobs = await _jobs(output)
    submitting = {prompt_of(job) for job in jobs if job.status is JobStatus.SUBMITTING}
    return Kill(plan, killed_at - start, unanswered, answered, submitting)


async def _check_after_kill(proxy: Proxy, output: Path) -> None:
    """Check that the ledger knows every task, no prompt is bought twice, and files are complete."""
    truth = proxy.simulator.truth()
    jobs = {prompt_of(job): job for job in await _jobs(output)}
    for task in truth["tasks"]:
        job = jobs[task["prompt"]]
        known = job.task_id == task["id"] or job.status in (JobStatus.SUBMITTING, JobStatus.UNKNOWN)
        assert known, (task, job)
    assert max(tasks_per_prompt(truth).values(), default=0) <= 1
    incomplete = [path.name for path in output.glob("*.mp4") if not is_complete_video(path)]
    assert not incomplete, "a file under its final name must always be complete"


async def _jobs(output: Path) -> list[JobRecord]:
    ledger = output / "aivideo.db"
    return await jobs_of(ledger) if ledger.exists() and ledger.stat().st_size else []


async def _settle(proxy: Proxy, outcome: Outcome, jobs: Iterable[JobRecord], output: Path) -> None:
    """Settle unknown creates with the list of tasks, as a user would."""
    tasks = {task["prompt"]: task["id"] for task in proxy.simulator.truth()["tasks"]}
    concurrency = asyncio.Semaphore(4)

    async def settle(job: JobRecord) -> None:
        task_id = tasks.get(prompt_of(job))
        how = ("--not-taken",) if task_id is None else ("--task-id", task_id)
        async with concurrency:
            result = await run(proxy.url, "jobs", "settle", job.id, *how, "--ledger", output)
        assert result.code == 0, result
        outcome.settled.append((job, " ".join(how)))

    await asyncio.gather(*map(settle, jobs))


def violations(outcome: Outcome, prompts: int) -> list[str]:
    """Check the outcome and return a message for each violation."""
    truth, taken = outcome.truth, tasks_per_prompt(outcome.truth)
    found = []

    def expect(condition: bool, message: object) -> None:
        if not condition:
            found.append(str(message))

    duplicates = [prompt for prompt, times in taken.items() if times > 1]
    expect(not duplicates, f"bought more than once: {duplicates}")
    expect(len(taken) == prompts, f"{prompts - len(taken)} prompts were never bought")
    for task in truth["tasks"]:
        job = next(job for job in outcome.jobs if prompt_of(job) == task["prompt"])
        expect(job.task_id == task["id"], f"the ledger does not know {task}: {job}")
    for job in outcome.jobs:
        path = Path(job.path or "")
        complete = path.is_file() and is_complete_video(path) and path.stat().st_size == job.size
        expect(job.status is JobStatus.SAVED, f"{job.id} is {job.status}")
        expect(complete, f"{path} is missing or incomplete")
    charged = truth["credits_charged"]
    expect(
        outcome.totals == CreditTotals(charged=charged),
        f"ledger totals {outcome.totals}, but {charged} credits were charged",
    )
    for number, kill in enumerate(outcome.kills, 1):
        # A create is recorded before it is sent, and only creates in progress become unknown.
        expect(kill.unanswered <= kill.open, f"kill {number}: sent but not recorded: {kill}")
        expect(kill.unknown == kill.open, f"kill {number}: open and unknown creates differ: {kill}")
        expect(len(kill.open) <= MAX_IN_FLIGHT, f"kill {number}: {len(kill.open)} in progress")
    unknown = {prompt for kill in outcome.kills for prompt in kill.unknown}
    settled = {prompt_of(job) for job, _ in outcome.settled}
    expect(settled == unknown, f"unknown, but not due to a kill: {settled - unknown}")
    expect(not outcome.leftovers, f"temporary files left: {outcome.leftovers}")
    expect(truth["keys_at_results"] == 0, "an API key was sent to the results")
    if outcome.last is None or outcome.last.code != 0:
        expect(False, f"the last run failed: {outcome.last}")
    return found


# --- command line -------------------------------------------------------------------------------


def _show_kill(number: int, kill: Kill) -> None:
    print(
        f"{number:4}  {kill.lived:5.2f}  {len(kill.unanswered):8}  {len(kill.unwritten):9}  "
        f"{len(kill.unsent):6}  {len(kill.open):11}  {kill.plan}",
        flush=True,
    )


def _show(outcome: Outcome, found: Sequence[str]) -> None:
    taken = sum("--task-id" in how for _, how in outcome.settled)
    print("\nAudit before the unknown creates were settled:\n")
    print(outcome.audits[0])
    for number, kill in enumerate(outcome.kills, 1):
        for job, how in outcome.settled:
            if prompt_of(job) in kill.open:
                print(f"kill {number:3}: jobs settle {job.id} {how}")
    print("\nAudit at the end:\n")
    print(outcome.audits[1])
    if outcome.last is not None:
        print(outcome.last.out)
    bought = tasks_per_prompt(outcome.truth)
    print(
        f"{len(outcome.kills)} kills, {outcome.runs} runs; {len(bought)} prompts bought, "
        f"{sum(times > 1 for times in bought.values())} of them more than once; "
        f"{len(outcome.jobs)} files; {len(outcome.settled)} unknown, {taken} of them taken, "
        f"{len(outcome.settled) - taken} not."
    )
    for each in found:
        print(f"VIOLATION: {each}")
    print("All checks passed." if not found else f"{len(found)} checks failed.")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.durable.kills")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=0, help="default: 16 per kill")
    given = parser.parse_args()
    prompts = given.prompts or 16 * given.kills
    print("kill  lived  no reply  unwritten  unsent  new unknown  when", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        kills = plans(given.kills, given.seed)
        outcome = asyncio.run(
            run_with_kills(Path(folder), kills=kills, prompts=prompts, seed=given.seed, show=True)
        )
        found = violations(outcome, prompts)
    if len(outcome.kills) < given.kills:
        found.append(f"the batch completed after {len(outcome.kills)} kills: increase --prompts")
    _show(outcome, found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
