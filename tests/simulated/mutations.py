"""Check that the simulation of faults can fail: break each law of money; a seed must notice.

    python -m tests.simulated.mutations [NAME ...] [--seeds 2000] [--jobs 2]

Each mutant (:mod:`tests.simulated.mutants`) is applied in its own process, which runs seeds until
one fails. Exit code 1: a mutant was not caught, or can no longer be applied.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

from tests.simulated.more_mutants import ABSENT, all_mutants
from tests.simulated.mutants import Mutant

PROJECT = Path(__file__).resolve().parents[2]


@frozen
class Caught:
    """Result of one mutant; ``seed`` is None if no seed caught it."""

    mutant: Mutant
    seed: int | None
    message: str
    seconds: float


def try_mutant(mutant: Mutant, seeds: int) -> Caught:
    """Apply a mutant in its own process, and run seeds until one fails."""
    began = time.perf_counter()
    run = subprocess.run(
        [
            *(sys.executable, "-m", "tests.simulated.faults", "--mutant", mutant.name),
            *("--seeds", str(seeds), "--stop"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^seed (\d+): (.*)$", run.stdout, re.MULTILINE)
    message = found[2] if found else (run.stderr.strip().splitlines() or ["no law was broken"])[-1]
    seed = int(found[1]) if found else None
    return Caught(mutant, seed, message, time.perf_counter() - began)


def try_all(mutants: list[Mutant], seeds: int, jobs: int) -> Iterator[Caught]:
    """Run many mutants, a few at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda mutant: try_mutant(mutant, seeds), mutants)


def main() -> int:
    """Run the requested mutants. Return 1 if one was not caught, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulated.mutations", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants; default: all")
    parser.add_argument("--seeds", type=int, default=2000, help="maximum number of seeds for each")
    parser.add_argument("--jobs", type=int, default=2, help="number of parallel processes")
    options = parser.parse_args()
    mutants = all_mutants()
    unknown = [name for name in options.names if name not in mutants]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}; there are {', '.join(mutants)}")
    chosen = [each for each in mutants.values() if not options.names or each.name in options.names]
    for name, target in () if options.names else ABSENT.items():
        print(f"{'':8} {name:24} not present: there is no {target}")
    missed = 0
    print(f"{'law':8} {'mutant':24} {'seed':>5}  caught by")
    for caught in try_all(chosen, options.seeds, options.jobs):
        missed += caught.seed is None
        seed = "NONE" if caught.seed is None else str(caught.seed)
        print(f"{caught.mutant.law:8} {caught.mutant.name:24} {seed:>5}  {caught.message[:110]}")
        sys.stdout.flush()
    print(f"{len(chosen) - missed} of {len(chosen)} were caught within {options.seeds} seeds")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
