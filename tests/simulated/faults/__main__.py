"""Run seeds: `python -m tests.simulated.faults --seeds 10000`, or one: `--seed N --trace`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from tests.simulated.faults.world import Result, World

CHUNK = 25


def run(seed: int, *, tracing: bool = False) -> Result:
    """Live one seed."""
    return World(seed, tracing=tracing).live()


def command(seed: int) -> str:
    """The one command that replays a seed."""
    return f"python -m tests.simulated.faults --seed {seed} --trace"


def _run_some(seeds: list[int]) -> list[Result]:
    return [run(seed) for seed in seeds]


def results(seeds: Iterable[int], jobs: int) -> Iterator[Result]:
    """Live many, a few at a time."""
    if jobs == 1:
        for seed in seeds:
            yield run(seed)
        return
    left = iter(seeds)
    chunks = iter(lambda: list(islice(left, CHUNK)), [])
    with ProcessPoolExecutor(jobs) as pool:
        for some in pool.map(_run_some, chunks):
            yield from some


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 where a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulated.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--trace", action="store_true", help="tell what happened")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--stop", action="store_true", help="stop at the first that fails")
    parser.add_argument("--mutant", help="break a law first; see tests/simulated/mutants.py")
    said = parser.parse_args(arguments)
    if said.mutant is not None:
        from tests.simulated.mutants import MUTANTS

        MUTANTS[said.mutant].apply()
    if said.seed is not None:
        result = run(said.seed, tracing=said.trace)
        print("\n".join(result.story))
        _report(result)
        return bool(result.broken)
    began = time.perf_counter()
    failed: list[int] = []
    number = deaths = tasks = unknowns = 0
    for result in results(range(said.first, said.first + said.seeds), said.jobs):
        number += 1
        deaths += result.deaths
        tasks += result.tasks
        unknowns += result.unknowns
        if result.broken:
            failed.append(result.seed)
            _report(result)
            if said.stop:
                break
    took = time.perf_counter() - began
    print(
        f"{number} seeds in {took:.0f} s ({number / took:.0f}/s): {deaths} processes died, {tasks} "
        f"tasks were bought, {unknowns} jobs ended in doubt, {len(failed)} seeds failed"
    )
    return bool(failed)


def _report(result: Result) -> None:
    for line in result.broken[:5]:
        print(f"seed {result.seed}: {line}")
    if result.broken:
        print(f"    {command(result.seed)}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
