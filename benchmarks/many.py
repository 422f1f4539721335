"""Memory, CPU and event-loop stalls with very many waiting jobs in one process.

    python benchmarks/many.py [JOBS …]

Two ways of waiting for 10,000 and 100,000 jobs that last for hours are compared on the real clock:
a `Poller` with a future per job, and an asyncio task per job that sleeps and polls, as other SDKs
do it. Then the whole stack is measured: as many jobs through one `Session.generate_many`, with its
ledger in memory and a transport that answers at once. Each measure runs in a process of its own.

memory: traced bytes per waiting job (`tracemalloc`), including what wakes its waiter.
stalls: the longest delay of a heartbeat that beats every 5 ms: while adding all jobs, during 30 s
        of 200 polls/s, and while closing.
CPU:    user + system seconds at a fixed interval: jobs are added evenly for 20 s, each is polled
        every 20 s, for 40 s, and each poll is answered after one iteration of the loop.
session: the same stalls for the whole stack, under a stated limit of 5,000 requests/s; the longest
        full garbage collection, which is what a long stall mostly is; and the objects per job that
        each of these collections has to visit.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from typing import Protocol

from aivideo import RateLimit, Session, SessionClosedError, Sora2
from aivideo._api.transport import Incoming
from aivideo._api.wire import Answer
from aivideo._polling.poller import Poller
from aivideo.models import PendingTask, Task

SECONDS = 30.0
"""Seconds of watching in a measure of stalls."""
RATE = 200.0
"""Polls per second in the measures of memory and stalls."""
PAUSE = 20.0
"""Seconds between two polls of a job in the measure of CPU."""
SESSION_RATE = 5000.0
"""Requests per second in the measure of the whole stack."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def task_id_of(n: int) -> str:
    """The ID of the n-th task."""
    return f"{n:08x}-0000-4000-8000-000000000000"


class Source(Protocol):
    """A `PollSource` that answers its polls itself and counts them."""

    polls: int

    @property
    def contended(self) -> bool:
        """Whether creates wait for the same limit."""
        ...

    async def admit(self) -> Source:
        """Wait until a poll may be sent."""
        ...

    async def fetch(self, task_id: str) -> Task:
        """Answer a poll."""
        ...

    def give_back(self) -> None:
        """Return an unused turn."""
        ...


class Limited:
    """Admits RATE polls per second and answers each after 10 ms."""

    contended = False

    def __init__(self) -> None:
        self.polls = 0
        self._next = 0.0

    async def admit(self) -> Limited:
        """Wait for the next turn."""
        loop = asyncio.get_running_loop()
        self._next = max(self._next, loop.time() - 0.02) + 1 / RATE
        await asyncio.sleep(self._next - loop.time())
        return self

    async def fetch(self, task_id: str) -> Task:
        """Answer after 10 ms."""
        self.polls += 1
        await asyncio.sleep(0.01)
        return PendingTask(id=task_id, model="sora-2", created_at=NOW, raw={})

    def give_back(self) -> None:
        """Return an unused turn."""


class Unlimited:
    """Admits and answers every poll at once: what is left is the cost of polling."""

    contended = False

    def __init__(self) -> None:
        self.polls = 0

    async def admit(self) -> Unlimited:
        """Wait for nothing."""
        return self

    async def fetch(self, task_id: str) -> Task:
        """Answer after one iteration of the loop."""
        self.polls += 1
        await asyncio.sleep(0)
        return PendingTask(id=task_id, model="sora-2", created_at=NOW, raw={})

    def give_back(self) -> None:
        """Return an unused turn."""


class Heartbeat:
    """Beats every 5 ms and keeps its longest delay."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.005
            await asyncio.sleep(0.005)
            self._longest = max(self._longest, loop.time() - due)

    async def longest(self) -> float:
        """Return the longest delay in seconds since the last call, and begin anew."""
        await asyncio.sleep(0.02)  # let a late beat be counted
        longest, self._longest = self._longest, 0.0
        return longest

    def stop(self) -> None:
        """Stop beating."""
        self._task.cancel()


async def add_all(count: int, add: Callable[[int], object]) -> None:
    """Add jobs in small groups, as submits do."""
    for n in range(count):
        add(n)
        if n % 100 == 99:
            await asyncio.sleep(0)


Way = tuple[Callable[[int], object], Callable[[], Awaitable[object]]]
"""A function that adds a job, and one that closes."""


def by_poller(count: int, source: Source, pause: float | None) -> Way:
    """One poller, and a future per job."""
    poller = Poller(source, poll_interval=pause)
    waiters: list[asyncio.Future[Task]] = [None] * count  # type: ignore[list-item]

    def add(n: int) -> None:
        poller.watch(task_id_of(n), kind=("sora-2", 4))
        waiters[n] = poller.wait(task_id_of(n))

    return add, poller.aclose


def by_task(count: int, source: Source, pause: float | None) -> Way:
    """An asyncio task per job."""
    tasks: list[asyncio.Task[None]] = [None] * count  # type: ignore[list-item]
    interval = pause or max(5.0, count / RATE)  # as short as the rate allows

    async def watch(task_id: str, first: float) -> None:
        await asyncio.sleep(first)
        while True:
            await (await source.admit()).fetch(task_id)
            await asyncio.sleep(interval)

    def add(n: int) -> None:
        tasks[n] = asyncio.create_task(watch(task_id_of(n), pause or interval * n / count))

    async def close() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    return add, close


WAYS = {"poller": by_poller, "by_task": by_task}


async def cpu(way: str, count: int) -> dict[str, float]:
    """Measure the CPU of adding and polling at a fixed interval."""
    source = Unlimited()
    add, close = WAYS[way](count, source, PAUSE)
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
    spent, polls = time.process_time() - began, source.polls
    await close()
    return {"cpu": spent, "polls": float(polls)}


async def memory(way: str, count: int) -> dict[str, float]:
    """Measure the traced bytes per waiting job."""
    add, _ = WAYS[way](count, Limited(), None)
    gc.collect()
    tracemalloc.start()
    await add_all(count, add)
    await asyncio.sleep(0.5)
    gc.collect()
    return {"bytes": tracemalloc.get_traced_memory()[0] / count}


async def stalls(way: str, count: int) -> dict[str, float]:
    """Measure the longest delays of a heartbeat."""
    add, close = WAYS[way](count, Limited(), None)
    heartbeat = Heartbeat()
    await heartbeat.longest()
    await add_all(count, add)
    await asyncio.sleep(0.5)
    adding = await heartbeat.longest()
    await asyncio.sleep(SECONDS)
    watching = await heartbeat.longest()
    await close()
    closing = await heartbeat.longest()
    heartbeat.stop()
    return {"adding": adding, "watching": watching, "closing": closing}


# --- the whole stack ----------------------------------------------------------------------------


class InstantTransport:
    """Takes every create and says of every task that it runs, at once."""

    def __init__(self, count: int) -> None:
        self.creates = 0
        self.polls = 0
        self.all_created = asyncio.Event()
        self._count = count

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],  # noqa: ARG002  part of the protocol, as are the next two
        body: bytes | None,  # noqa: ARG002
        timeout: float,  # noqa: ARG002
    ) -> Answer:
        """See `aivideo.Transport.send`."""
        if method == "POST":
            self.creates += 1
            if self.creates == self._count:
                self.all_created.set()
            data = {"taskId": task_id_of(self.creates)}
            answer: dict[str, object] = {"code": 200, "msg": "success", "data": data}
        else:
            self.polls += 1
            answer = {
                "id": url.rpartition("/")[2],
                "status": "pending",
                "model": "sora-2",
                "created_at": 1_767_225_600,
                "progress": None,
            }
        return Answer(200, json.dumps(answer).encode(), {})

    def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout: float,
    ) -> AbstractAsyncContextManager[Incoming]:
        """See `aivideo.Transport.stream`; no result is fetched here."""
        raise NotImplementedError(url)

    async def aclose(self) -> None:
        """Nothing to close."""


class FullCollections:
    """Keeps the longest pause for a full garbage collection, in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.longest = max(self.longest, time.perf_counter() - self._began)


async def session(_way: str, count: int) -> dict[str, float]:
    """Measure the stalls of the whole stack: submitting, watching and closing."""
    transport = InstantTransport(count)
    limit = RateLimit.bucket(SESSION_RATE, burst=50)
    house = Session("sk-benchmark", transport=transport, rate_limit=limit)
    boat = Sora2("A paper boat", duration=4, aspect_ratio="16:9")

    def requests() -> Iterator[Sora2]:
        for _ in range(count):
            yield boat

    async def consume() -> None:
        with suppress(SessionClosedError):
            async for _ in house.generate_many(requests()):
                pass

    gc.collect()
    objects_before = len(gc.get_objects())
    collections, heartbeat = FullCollections(), Heartbeat()
    began = time.perf_counter()
    consuming = asyncio.create_task(consume())
    await transport.all_created.wait()
    took = time.perf_counter() - began
    await asyncio.sleep(0.5)
    submitting = await heartbeat.longest()
    await asyncio.sleep(SECONDS)
    watching = await heartbeat.longest()
    heartbeat.stop()
    gc.collect()  # its pause is one that a growing program meets sooner or later
    objects = (len(gc.get_objects()) - objects_before) / count
    polls = transport.polls
    heartbeat = Heartbeat()
    await heartbeat.longest()
    await house.aclose()
    await consuming
    closing = await heartbeat.longest()
    heartbeat.stop()
    return {
        "submitting": submitting,
        "watching": watching,
        "closing": closing,
        "collection": collections.longest,
        "objects": objects,
        "creates_per_second": count / took,
        "polls": float(polls),
    }


MEASURES = {"cpu": cpu, "memory": memory, "stalls": stalls, "session": session}


def measured(measure: str, way: str, count: int) -> dict[str, float]:
    """Run one measure in a process of its own."""
    command = [sys.executable, __file__, "--child", measure, way, str(count)]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(child.stdout)
    return figures


def in_ms(figures: dict[str, float], names: tuple[str, ...]) -> str:
    """Show some figures in milliseconds."""
    return "  ".join(f"{name} {1e3 * figures[name]:4.0f} ms" for name in names)


def compare(count: int) -> None:
    """Print the two ways of waiting, and their ratios."""
    seen = {}
    for way in WAYS:
        figures = seen[way] = {
            name: figure
            for measure in ("cpu", "memory", "stalls")
            for name, figure in measured(measure, way, count).items()
        }
        print(
            f"  {way:8} {figures['bytes']:6.0f} B/job traced   CPU {figures['cpu']:5.2f} s for "
            f"{figures['polls']:7.0f} polls   longest stall "
            f"{in_ms(figures, ('adding', 'watching', 'closing'))}",
            flush=True,
        )
    poller, tasks = seen["poller"], seen["by_task"]
    print(
        f"  poller ÷ by_task: memory {poller['bytes'] / tasks['bytes']:.2f}, "
        f"CPU {poller['cpu'] / tasks['cpu']:.2f}"
    )


def whole_stack(count: int) -> None:
    """Print the measure of the whole stack."""
    figures = measured("session", "session", count)
    print(
        f"  session  longest stall {in_ms(figures, ('submitting', 'watching', 'closing'))}   "
        f"longest full garbage collection {1e3 * figures['collection']:.0f} ms over "
        f"{figures['objects']:.1f} objects/job   {figures['creates_per_second']:.0f} creates/s, "
        f"{figures['polls']:.0f} polls",
        flush=True,
    )


def main(counts: list[int]) -> None:
    """Print the figures for each number of jobs."""
    for count in counts:
        print(f"\n{count:,} waiting jobs")
        compare(count)
        whole_stack(count)


if __name__ == "__main__":
    if "--child" in sys.argv:
        _, _, asked, which, number = sys.argv
        print(json.dumps(asyncio.run(MEASURES[asked](which, int(number)))))
    else:
        main([int(each) for each in sys.argv[1:]] or [10_000, 100_000])
