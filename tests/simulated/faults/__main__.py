"""Run many seeds: `python -m tests.simulated.faults --seeds 10000`; one: `--seed N --trace`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulated.faults.runner import apply, results, run
from tests.simulated.faults.states import STATES
from tests.simulated.faults.world import Result

PROGRESS_EVERY = 500
CAMPAIGN = 1000
"""Seeds from which on a run fails that has not reached every state of :data:`STATES`."""


def command(seed: int) -> str:
    """The command that repeats a seed."""
    return f"python -m tests.simulated.faults --seed {seed} --trace"


def main(arguments: list[str] | None = None) -> int:
    """Run the requested seeds. Return 1 if a law was violated or a state never reached, else 0."""
    options = _parser().parse_args(arguments)
    apply(options.mutant)
    if options.seed is not None:
        result = run(options.seed, tracing=options.trace)
        print("\n".join(result.trace))
        _report(result)
        return bool(result.violations)
    began = time.perf_counter()
    failed: list[int] = []
    number = deaths = tasks = unknowns = 0
    reached: Counter[str] = Counter()
    seeds = range(options.first, options.first + options.seeds)
    for result in results(seeds, options.jobs, options.mutant):
        number += 1
        deaths += result.deaths
        tasks += result.tasks
        unknowns += result.unknowns
        reached += result.reached
        if result.violations:
            failed.append(result.seed)
            _report(result)
            if options.stop:
                break
        if number % PROGRESS_EVERY == 0 and number < options.seeds:
            seconds = time.perf_counter() - began
            print(f"{number} seeds, {seconds:.0f} s, {len(failed)} failed", flush=True)
    seconds = time.perf_counter() - began
    print(
        f"{number} seeds in {seconds:.0f} s ({number / seconds:.0f}/s): "
        f"{deaths} processes crashed, {tasks} tasks created, "
        f"{unknowns} jobs with an unknown outcome, {len(failed)} seeds failed"
    )
    never = never_reached(reached)
    for state in sorted({*reached, *never}):
        print(f"{reached[state]:8} {state}")
    is_campaign = number >= CAMPAIGN and options.mutant is None
    if never and is_campaign:
        print(f"never reached: {'; '.join(never)}")
    return bool(failed or (never and is_campaign))


def never_reached(reached: Counter[str]) -> list[str]:
    """Return the interesting states that no seed has reached."""
    return [state for state in STATES if not reached[state]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulated.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="run only this seed")
    parser.add_argument("--trace", action="store_true", help="print what happened")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel processes")
    parser.add_argument("--stop", action="store_true", help="stop at the first seed that fails")
    parser.add_argument("--mutant", help="apply this mutant first; see tests/simulated/mutants.py")
    return parser


def _report(result: Result) -> None:
    for line in result.violations[:5]:
        print(f"seed {result.seed}: {line}")
    if result.violations:
        print(f"    {command(result.seed)}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
