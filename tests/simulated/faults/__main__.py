"""Run many seeds: `python -m tests.simulated.faults --seeds 10000`; one: `--seed N --trace`."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulated.faults.runner import apply, results, run
from tests.simulated.faults.world import Result


def command(seed: int) -> str:
    """The command that repeats a seed."""
    return f"python -m tests.simulated.faults --seed {seed} --trace"


def main(arguments: list[str] | None = None) -> int:
    """Run the requested seeds. Return 1 if a law was violated, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulated.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel processes")
    parser.add_argument("--stop", action="store_true", help="stop at the first seed that fails")
    parser.add_argument("--mutant", help="apply this mutant first; see tests/simulated/mutants.py")
    options = parser.parse_args(arguments)
    apply(options.mutant)
    if options.seed is not None:
        result = run(options.seed, tracing=options.trace)
        print("\n".join(result.trace))
        _report(result)
        return bool(result.violations)
    began = time.perf_counter()
    failed: list[int] = []
    number = deaths = tasks = unknowns = 0
    seeds = range(options.first, options.first + options.seeds)
    for result in results(seeds, options.jobs, options.mutant):
        number += 1
        deaths += result.deaths
        tasks += result.tasks
        unknowns += result.unknowns
        if number % 1000 == 0 and number < options.seeds:
            print(f"{number} seeds, {time.perf_counter() - began:.0f} s", flush=True)
        if result.violations:
            failed.append(result.seed)
            _report(result)
            if options.stop:
                break
    seconds = time.perf_counter() - began
    print(
        f"{number} seeds in {seconds:.0f} s ({number / seconds:.0f}/s): "
        f"{deaths} processes crashed, {tasks} tasks created, "
        f"{unknowns} jobs with an unknown outcome, {len(failed)} seeds failed"
    )
    return bool(failed)


def _report(result: Result) -> None:
    for line in result.violations[:5]:
        print(f"seed {result.seed}: {line}")
    if result.violations:
        print(f"    {command(result.seed)}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
