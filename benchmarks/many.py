"""Very many waiting jobs in one process: memory, CPU and stalls, against a task per job.

    python benchmarks/many.py [JOBS …]

10,000 and 100,000 jobs that last hours are watched on the real clock (a `Poller` with a future
per job, as `Session` uses it), and the same with an asyncio task per job that sleeps and polls, as
peers do it. Each measure is a process of its own.

memory: traced bytes per waiting job (`tracemalloc`), with what wakes its waiter.
stalls: 30 s at 200 polls/s with a heartbeat every 5 ms; the longest time that it was late.
CPU:    user + system seconds of both at the same interval: jobs come evenly for 20 s, each is
        looked at every 20 s, for 40 s, over a fetch that answers in one turn of the loop.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from aivideo._polling.poller import Poller
from aivideo.models import PendingTask, Task

SECONDS = 30.0
RATE = 200.0
PAUSE = 20.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def task_of(task_id: str) -> Task:
    """What the service says of every task: it runs."""
    return PendingTask(id=task_id, model="sora-2", created_at=NOW, raw={})


class Gate:
    """Lets RATE polls a second through."""

    def __init__(self) -> None:
        self.polls = 0
        self.contended = False
        self._next = 0.0

    async def admit(self) -> Gate:
        """Wait for one's turn."""
        loop = asyncio.get_running_loop()
        self._next = max(self._next, loop.time() - 0.02) + 1 / RATE
        await asyncio.sleep(self._next - loop.time())
        return self

    async def fetch(self, task_id: str) -> Task:
        """Answer in a moment."""
        self.polls += 1
        await asyncio.sleep(0.01)
        return task_of(task_id)

    def give_back(self) -> None:
        """Nothing was worth a poll."""


class Open:
    """Lets every poll through, and answers at once: what is left is the cost of watching."""

    def __init__(self) -> None:
        self.polls = 0
        self.contended = False

    async def admit(self) -> Open:
        """Wait for nothing."""
        return self

    async def fetch(self, task_id: str) -> Task:
        """Answer in one turn of the loop."""
        self.polls += 1
        await asyncio.sleep(0)
        return task_of(task_id)

    def give_back(self) -> None:
        """Nothing was worth a poll."""


class Heart:
    """Beats every 5 ms, and remembers its longest pause."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def beat(self) -> None:
        """Beat until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            self.worst = max(self.worst, loop.time() - due)


async def add_all(count: int, add: Callable[[int], object]) -> None:
    """Add jobs a few at a time, as submits would bring them."""
    for n in range(count):
        add(n)
        if n % 100 == 99:
            await asyncio.sleep(0)


Way = tuple[Callable[[int], object], Callable[[], Awaitable[object]]]
"""What adds a job, and what closes."""


def ours(count: int, gate: Gate | Open, pause: float | None) -> Way:
    """A poller, and a future per job."""
    poller = Poller(gate, poll_interval=pause)
    waiters: list[asyncio.Future[Task]] = [None] * count  # type: ignore[list-item]

    def add(n: int) -> None:
        task_id = f"{n:08x}-0000-4000-8000-000000000000"
        poller.watch(task_id, kind=("sora-2", 4))
        waiters[n] = poller.wait(task_id)

    return add, poller.aclose


def by_task(count: int, gate: Gate | Open, pause: float | None) -> Way:
    """An asyncio task per job."""
    tasks: list[asyncio.Task[None]] = [None] * count  # type: ignore[list-item]
    often = pause or max(5.0, count / RATE)  # as often as the rate allows

    async def watch(task_id: str, first: float) -> None:
        await asyncio.sleep(first)
        while True:
            await (await gate.admit()).fetch(task_id)
            await asyncio.sleep(often)

    def add(n: int) -> None:
        task_id = f"{n:08x}-0000-4000-8000-000000000000"
        tasks[n] = asyncio.create_task(watch(task_id, pause or often * n / count))

    async def close() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return add, close


WAYS = {"ours": ours, "by_task": by_task}


async def cpu(way: str, count: int) -> dict[str, float]:
    """CPU of adding and watching at a fixed interval."""
    gate = Open()
    add, close = WAYS[way](count, gate, PAUSE)
    began, loop = time.process_time(), asyncio.get_running_loop()
    start = loop.time()
    added = 0
    while added < count:
        await asyncio.sleep(0.01)
        due = min(count, int(count * (loop.time() - start) / PAUSE))
        for n in range(added, due):
            add(n)
        added = due
    await asyncio.sleep(PAUSE)
    spent, polls = time.process_time() - began, gate.polls
    await close()
    return {"cpu": spent, "polls": float(polls)}


async def memory(way: str, count: int) -> dict[str, float]:
    """Traced bytes per waiting job."""
    add, _ = WAYS[way](count, Gate(), None)
    gc.collect()
    tracemalloc.start()
    await add_all(count, add)
    await asyncio.sleep(0.5)
    gc.collect()
    return {"bytes": tracemalloc.get_traced_memory()[0] / count}


async def stalls(way: str, count: int) -> dict[str, float]:
    """The longest pauses of a heartbeat."""
    gate = Gate()
    add, close = WAYS[way](count, gate, None)
    heart = Heart()
    beating = asyncio.create_task(heart.beat())
    await asyncio.sleep(0.05)
    await add_all(count, add)
    await asyncio.sleep(0.5)
    adding, heart.worst = heart.worst, 0.0
    await asyncio.sleep(SECONDS)
    watching, heart.worst = heart.worst, 0.0
    await close()
    await asyncio.sleep(0.01)
    beating.cancel()
    return {"adding": adding, "watching": watching, "closing": heart.worst}


MEASURES = {"cpu": cpu, "memory": memory, "stalls": stalls}


def measured(way: str, count: int) -> dict[str, float]:
    """All measures of one way, each in a process of its own."""
    figures: dict[str, float] = {}
    for measure in MEASURES:
        command = [sys.executable, __file__, "--child", measure, way, str(count)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        figures |= json.loads(answer.stdout)
    return figures


def main(counts: list[int]) -> None:
    """Print a table for each number of jobs."""
    for count in counts:
        print(f"\n{count:,} waiting jobs")
        seen = {}
        for way in WAYS:
            figures = seen[way] = measured(way, count)
            longest = "  ".join(
                f"{when} {1e3 * figures[when]:4.0f} ms"
                for when in ("adding", "watching", "closing")
            )
            print(
                f"  {way:8} {figures['bytes']:6.0f} B/job traced   CPU {figures['cpu']:5.2f} s "
                f"for {figures['polls']:7.0f} polls   longest stall {longest}",
                flush=True,
            )
        mine, theirs = seen["ours"], seen["by_task"]
        print(
            f"  ours ÷ by_task: memory {mine['bytes'] / theirs['bytes']:.2f}, "
            f"CPU {mine['cpu'] / theirs['cpu']:.2f}"
        )


if __name__ == "__main__":
    if "--child" in sys.argv:
        _, _, asked, which, number = sys.argv
        print(json.dumps(asyncio.run(MEASURES[asked](which, int(number)))))
    else:
        main([int(each) for each in sys.argv[1:]] or [10_000, 100_000])
