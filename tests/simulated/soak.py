"""A soak test: many jobs over six virtual hours, with the whole stack and the simulated service.

    python tests/simulated/soak.py [JOBS]

Jobs are submitted evenly over two and a half hours. Tasks take one second, minutes or three hours.
2 % of the polls and 2 % of the tasks fail; callbacks are lost, repeated and reordered. At the end
every future has been resolved once, with the correct result, and no memory has leaked.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import Counter
from typing import Any

from attrs import frozen

from aivideo import Session, Sora2, TaskFailedError
from aivideo._api import wire
from aivideo.simulator import Faults, Lognormal, Mixture, Scenario, Service, TokenBucket
from aivideo.testing import DirectTransport, VirtualTimeLoop

SUBMIT_SECONDS = 9_000.0
HOURS = 6


@frozen
class SoakResult:
    """The results of a soak test: final statuses, and jobs that ended wrongly, twice or never."""

    jobs: int
    statuses: Counter[str]
    wrong: int
    twice: int
    pending: int
    failed_polls: int
    callbacks: int
    polls: int


def scenario(seed: int) -> Scenario:
    """Tasks that take one second, minutes or three hours."""
    minutes: Any = Lognormal(400.0, 0.6)
    extremes: Any = Mixture(Lognormal(1.0, 0.01), Lognormal(10_800.0, 0.01))
    return Scenario(
        rate_limit=TokenBucket(30, 30),
        task_seconds=Mixture(extremes, minutes, 0.1),
        queue_seconds=0.0,
        failure_rate=0.02,
        default_balance=10**9,
        latency=0.05,
        media="stub",
        seed=seed,
        faults=Faults(
            poll_html_502=0.01,
            poll_cut_before=0.005,
            poll_malformed=0.005,
            callback_lost=0.1,
            callback_doubled=0.1,
            callback_disordered=0.05,
        ),
    )


async def soak(count: int, seed: int = 7) -> SoakResult:
    """Run ``count`` jobs and return the results."""
    service = Service(scenario(seed))
    transport = DirectTransport(service)
    statuses: Counter[str] = Counter()
    wrong = twice = 0
    resolved: Counter[str] = Counter()
    async with Session("sk-x", transport=transport) as session:
        poller = session._parts.poller

        async def callbacks() -> None:
            while True:
                await asyncio.sleep(1.0)
                for callback in service.due_callbacks(transport.now()):
                    poller.deliver(wire.read_callback(callback.body))
                    service.callback_answered(callback, 200, transport.now())

        async def run_job() -> None:
            nonlocal wrong, twice
            job = await session.submit(
                Sora2("A boat", duration=4, aspect_ratio="16:9"),
                callback_url="http://127.0.0.1:1/hook",
            )
            try:
                status = (await job).status.value
            except TaskFailedError:
                status = "failed"
            assert job.task_id is not None
            resolved[job.task_id] += 1
            wrong += status != service.truth.tasks[job.task_id].outcome
            twice += resolved[job.task_id] > 1
            statuses[status] += 1

        delivering = asyncio.create_task(callbacks())
        running: set[asyncio.Task[None]] = set()
        for _ in range(count):
            task = asyncio.create_task(run_job())
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(SUBMIT_SECONDS / count)
        await asyncio.sleep(max(0.0, HOURS * 3600 - transport.now()))
        pending = len(running) + poller.statistics().watching
        delivering.cancel()
        statistics = poller.statistics()
    return SoakResult(
        jobs=count,
        statuses=statuses,
        wrong=wrong,
        twice=twice,
        pending=pending,
        failed_polls=statistics.failed_polls,
        callbacks=service.truth.callbacks_delivered,
        polls=service.truth.polls,
    )


def run(count: int) -> SoakResult:
    """Run a soak test on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(soak(count))


def memory() -> int:
    """Number of allocated memory blocks."""
    gc.collect()
    return sys.getallocatedblocks()


if __name__ == "__main__":
    run(200)  # warm-up: imports and caches
    start, before = time.perf_counter(), memory()
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))  # noqa: T201
    seconds = time.perf_counter() - start
    print(f"{seconds:.1f} s; memory {memory() / before:.3f} times the initial value")  # noqa: T201
