"""``aivideo simulate``: run the stand-in service by itself."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from aivideo.cli import exits
from aivideo.cli.commands.demo import import_simulator
from aivideo.cli.options import Whole, WholeOrNone


def simulate(
    *,
    port: Whole = 8811,
    results_port: Whole = 0,
    host: str = "127.0.0.1",
    speed: float = 60.0,
    rate_limit: str | None = None,
    retry_after: Literal["none", "seconds", "date"] = "none",
    failure_rate: float = 0.0,
    task_seconds: str | None = None,
    max_running_jobs: WholeOrNone = None,
    spend_limit: WholeOrNone = None,
    balance: Whole = 1_000_000,
    progress: Literal["null", "percent"] = "null",
    latency: float = 0.0,
    seed: Whole = 0,
) -> int:
    """Run a local stand-in for the service until Ctrl-C. It accepts any key that starts with sk-.

    Example: aivideo simulate --speed 600 --rate-limit "token:50/s:10" --failure-rate 0.03 --seed 7

    Parameters
    ----------
    port
        The API's port; what the service has seen is at /_sim/truth.
    results_port
        The results' port: another origin, as with the real service. 0: any free port.
    speed
        How many times faster than real time tasks run.
    rate_limit
        token:50/s:10 (a bucket), fixed:20/10s or sliding:100/60s (windows), jobs:20 (running).
    retry_after
        Whether a 429 states when to retry.
    failure_rate
        Fraction of tasks that fail (and are refunded).
    task_seconds
        How many seconds tasks take, before --speed: 90, 60-180, or lognormal:100:0.5.
    max_running_jobs
        More running tasks than this get a 429.
    spend_limit
        Credits after which the key's spend cap refuses creates.
    balance
        Credits of each key.
    progress
        What running tasks report as their progress.
    latency
        Seconds before each answer.
    seed
        The same seed gives the same service.
    """
    settings: dict[str, Any] = {
        "speed": speed,
        "retry_after": retry_after,
        "failure_rate": failure_rate,
        "jobs_in_flight": max_running_jobs,
        "spend_limit": spend_limit,
        "default_balance": balance,
        "progress": progress,
        "latency": latency,
        "seed": seed,
    }
    return _run_simulator(
        settings, rate_limit, task_seconds, host=host, port=port, results_port=results_port
    )


def _run_simulator(
    settings: dict[str, Any],
    rate_limit: str | None,
    task_seconds: str | None,
    *,
    host: str,
    port: int,
    results_port: int,
) -> int:
    """Run the stand-in service until Ctrl-C, then print what it saw."""
    simulator = import_simulator()
    if rate_limit is not None:
        settings["rate_limit"] = simulator.parse_rate_limit(rate_limit)
    if task_seconds is not None:
        settings["task_seconds"] = simulator.parse_seconds(task_seconds)
    scenario = simulator.Scenario(**settings)

    def ready(sim: Any) -> None:
        print(f"The stand-in service listens at {sim.url} (results at {sim.results_url}).")
        print("In another terminal:")
        print(f"  export AIVIDEO_BASE_URL={sim.url} AIVIDEO_API_KEY=sk-demo")
        print('  aivideo generate "A paper boat in the rain"')
        print(f"What it has seen: {sim.url}/_sim/truth   Ctrl-C stops it.", flush=True)

    summary = asyncio.run(
        simulator.serve_forever(
            scenario, host=host, port=port, results_port=results_port, on_ready=ready
        )
    )
    print()
    for name, value in summary.items():
        print(f"{name:24} {value}")
    return exits.OK
