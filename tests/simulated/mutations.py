"""Proof that the simulation of faults can fail: each law of money is broken, and must be caught.

    python -m tests.simulated.mutations [NAME ...] [--seeds 2000] [--jobs 2]

Each mutant (:mod:`tests.simulated.mutants`) is tried in a process of its own, seed after seed,
until a seed fails. One that is not caught, or that cannot be applied any more, fails the run.
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

from tests.simulated.mutants import MUTANTS, Mutant

PROJECT = Path(__file__).resolve().parents[2]


@frozen
class Caught:
    """What became of a mutant; ``seed`` is None where nothing caught it."""

    mutant: Mutant
    seed: int | None
    said: str
    seconds: float


def tried(mutant: Mutant, seeds: int) -> Caught:
    """Apply a mutant in a process of its own, and run seeds until one fails."""
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
    said = found[2] if found else (run.stderr.strip().splitlines() or ["no law was broken"])[-1]
    seed = int(found[1]) if found else None
    return Caught(mutant, seed, said, time.perf_counter() - began)


def all_tried(mutants: list[Mutant], seeds: int, jobs: int) -> Iterator[Caught]:
    """Try many, some at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda mutant: tried(mutant, seeds), mutants)


def main() -> int:
    """Try what was asked for; 1 where a mutant was not caught."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulated.mutations", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants; by default all")
    parser.add_argument("--seeds", type=int, default=2000, help="seeds at most for each")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at once")
    said = parser.parse_args()
    unknown = [name for name in said.names if name not in MUTANTS]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}; there are {', '.join(MUTANTS)}")
    chosen = [each for each in MUTANTS.values() if not said.names or each.name in said.names]
    missed = 0
    print(f"{'law':8} {'mutant':24} {'seed':>5}  caught by")
    for caught in all_tried(chosen, said.seeds, said.jobs):
        missed += caught.seed is None
        seed = "NONE" if caught.seed is None else str(caught.seed)
        print(f"{caught.mutant.law:8} {caught.mutant.name:24} {seed:>5}  {caught.said[:110]}")
        sys.stdout.flush()
    print(f"{len(chosen) - missed} of {len(chosen)} were caught within {said.seeds} seeds")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
