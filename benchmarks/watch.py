"""How soon the end of a task is seen, and at how many polls: learned and usual schedules.

    python benchmarks/watch.py [JOBS]

The real stack runs on virtual time: a `Session` (or, for the usual schedules, a `Client` with an
asyncio task per job, as other SDKs do it) over the simulator's core. 100 jobs run at a time, and
each that ends is replaced, until JOBS (4,000, in two sessions) have ended. The first ones, of which
nothing was known, are included. No rate limit applies here.

`delay` is the mean time from a task's end to the poll that saw it. `÷ fixed` is that delay divided
by the delay of a fixed interval with as many polls per job, which is E[T] ÷ (2 × polls). The first
ten jobs of a kind (in a new session each time) are listed separately. The last table is of 1,000
jobs submitted at once at 5 requests/s.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections.abc import Awaitable, Callable
from itertools import islice

from attrs import frozen

from aivideo import Client, Session, Sora2, Succeeded
from aivideo._polling.lifecycle import is_ended
from aivideo.simulator import Lognormal, Mixture, Pareto, Scenario, Seconds, Service, TokenBucket
from aivideo.testing import DirectTransport, VirtualTimeLoop

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")
AT_ONCE = 100


@frozen
class Tripled:
    """A lognormal whose median triples at the time ``since``."""

    median: float
    since: float

    def draw(self, source: random.Random, now: float, /) -> float:
        """Draw the seconds that a task created at ``now`` takes."""
        longer = 3.0 if now >= self.since else 1.0
        return longer * self.median * source.lognormvariate(0.0, 0.5)


DURATIONS: dict[str, Seconds] = {
    "lognormal 150 s, sigma 0.5": Lognormal(150.0, 0.5),
    "narrow 150 s, sigma 0.2": Lognormal(150.0, 0.2),
    "two peaks 90 and 1800 s": Mixture(Lognormal(90.0, 0.25), Lognormal(1800.0, 0.25), 0.75),
    "Pareto from 60 s, 1.5": Pareto(60.0, 1.5),
    "drifting 150 to 450 s": Tripled(150.0, 2000.0),
    "as documented: 6300 s, sigma 0.3": Lognormal(6300.0, 0.3),
}


@frozen
class Seen:
    """The result of one run: each job's duration, and the delay until its end was seen."""

    lengths: list[float]
    delays: list[float]
    polls: int

    @property
    def polls_each(self) -> float:
        """Polls per job."""
        return self.polls / len(self.lengths)

    @property
    def against_fixed(self) -> float:
        """Mean delay ÷ that of a fixed interval with as many polls."""
        fixed = statistics.fmean(self.lengths) / (2 * self.polls_each)
        return statistics.fmean(self.delays) / fixed


Run = Callable[[Service, int, int], Awaitable[list[tuple[str, float]]]]
"""Runs a number of jobs, some at once; returns each task ID and when its end was seen."""


async def learned(service: Service, count: int, at_once: int) -> list[tuple[str, float]]:
    """The learned schedule of a session: one loop for all tasks."""
    transport = DirectTransport(service)
    async with Session("sk-x", transport=transport, max_running_jobs=at_once) as session:
        seen = []
        async for outcome in session.generate_many(BOAT for _ in range(count)):
            assert isinstance(outcome, Succeeded)
            seen.append((outcome.task.id, transport.now()))
        return seen


def every(seconds: float, factor: float = 1.0, cap: float = 0.0) -> Run:
    """A fixed interval, or one that grows by a factor up to a cap."""
    return by_task(lambda _, last: min(cap, last * factor) if last and cap else seconds)


def share_of_age(share: float) -> Run:
    """Each pause is a share of the task's age."""
    return by_task(lambda age, _: max(1.0, share * age))


def by_task(pause: Callable[[float, float], float]) -> Run:
    """An asyncio task per job that sleeps between its polls.

    Args:
        pause: returns the next pause from the age and the last pause, in seconds.
    """

    async def run(service: Service, count: int, at_once: int) -> list[tuple[str, float]]:
        transport = DirectTransport(service)
        seen = []
        left = iter(range(count))
        async with Client("sk-x", transport=transport) as client:

            async def worker() -> None:
                for _ in left:
                    task_id = await client.create(BOAT)
                    began, last = transport.now(), 0.0
                    while True:
                        last = pause(transport.now() - began, last)
                        await asyncio.sleep(last)
                        if is_ended(await client.retrieve(task_id)):
                            seen.append((task_id, transport.now()))
                            break

            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(worker())
        return seen

    return run


def watch(run: Run, seconds: Seconds, count: int, at_once: int, seed: int) -> Seen:
    """Run ``count`` jobs, ``at_once`` at a time, and return when their ends were seen."""
    scenario = Scenario(
        task_seconds=seconds, queue_seconds=0.0, media="stub", seed=seed, default_balance=10**9
    )
    service = Service(scenario)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        seen = runner.run(_ran(run, service, count, at_once))
    tasks = service.truth.tasks
    return Seen(
        [tasks[task_id].ends - tasks[task_id].created for task_id, _ in seen],
        [at - tasks[task_id].ends for task_id, at in seen],
        service.truth.polls,
    )


def pooled(runs: list[Seen]) -> Seen:
    """Merge several runs into one."""
    return Seen(
        [length for run in runs for length in run.lengths],
        [delay for run in runs for delay in run.delays],
        sum(run.polls for run in runs),
    )


async def _ran(run: Run, service: Service, count: int, at_once: int) -> list[tuple[str, float]]:
    return await run(service, count, at_once)


SCHEDULES: dict[str, Run] = {
    "every 1 s": every(1.0),
    "every 5 s": every(5.0),
    "every 10 s": every(10.0),
    "x 1.5 up to 60 s": every(1.0, 1.5, 60.0),
    "10 % of the age": share_of_age(0.1),
    "learned": learned,
}


def table(count: int) -> None:
    """Print delay and polls per job of each schedule for each distribution of durations."""
    for name, seconds in DURATIONS.items():
        print(f"\n{name}")
        for schedule, run in SCHEDULES.items():
            if "6300" in name and schedule == "every 1 s":
                continue  # twelve million polls, and nothing new
            seen = pooled([watch(run, seconds, count // 2, AT_ONCE, seed) for seed in (7, 8)])
            delays = sorted(seen.delays)
            print(
                f"  {schedule:18} polls/job {seen.polls_each:7.1f}   delay mean "
                f"{statistics.fmean(delays):7.2f}  p50 {delays[len(delays) // 2]:7.2f}  "
                f"p95 {delays[int(0.95 * len(delays))]:7.2f} s   ÷ fixed {seen.against_fixed:5.2f}"
            )


def first_ten(rounds: int = 40) -> None:
    """Print how the prior performs before anything is learned."""
    print(f"\nthe first ten jobs of a kind, {rounds} new sessions: ÷ fixed")
    for name, seconds in islice(DURATIONS.items(), 4):
        runs = [watch(learned, seconds, 10, 10, seed) for seed in range(rounds)]
        seen = pooled(runs)
        print(f"  {name:30} polls/job {seen.polls_each:5.1f}  {seen.against_fixed:5.2f}")


def thousand() -> None:
    """Print when results are seen while creates and polls share a small rate limit."""
    print("\n1,000 jobs (lognormal 150 s, sigma 0.5) submitted at once, 5 requests/s, burst 10")
    for seed in range(3):
        service = Service(
            Scenario(
                task_seconds=Lognormal(150.0, 0.5),
                queue_seconds=0.0,
                rate_limit=TokenBucket(5, 10),
                latency=0.05,
                media="stub",
                seed=seed,
            )
        )

        async def run(service: Service = service) -> list[float]:
            transport = DirectTransport(service)
            async with Session("sk-x", transport=transport) as session:
                return [
                    transport.now() async for _ in session.generate_many(BOAT for _ in range(1000))
                ]

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            ends = runner.run(run())
        print(
            f"  seed {seed}: makespan {ends[-1]:6.0f} s, first 10 % by {ends[99]:4.0f} s, "
            f"half by {ends[499]:4.0f} s; {service.truth.polls} polls, "
            f"{service.truth.rate_limited} × 429"
        )


if __name__ == "__main__":
    table(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
    first_ten()
    thousand()
