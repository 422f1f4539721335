"""Runs seeds, in worker processes if asked."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from itertools import islice

from tests.simulated.faults.world import Result, World

CHUNK = 25
"""Seeds per task of a worker process."""

CHUNKS = 4
"""Tasks after which a worker is replaced: one that has run hundreds of seeds is slow, since each
garbage collection visits what its caches hold."""


def run(seed: int, *, tracing: bool = False) -> Result:
    """Simulate one seed."""
    return World(seed, tracing=tracing).run()


def _run_chunk(seeds: list[int]) -> list[Result]:
    return [run(seed) for seed in seeds]


def results(seeds: Iterable[int], jobs: int, mutant: str | None = None) -> Iterator[Result]:
    """Simulate many seeds, in chunks in other processes if ``jobs`` is above 1."""
    if jobs == 1:
        for seed in seeds:
            yield run(seed)
        return
    remaining = iter(seeds)
    chunks = iter(lambda: list(islice(remaining, CHUNK)), [])
    # Not ProcessPoolExecutor: in CPython 3.11 it stops for ever when it replaces its workers.
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, apply, (mutant,), maxtasksperchild=CHUNKS) as pool:
        for chunk in pool.imap(_run_chunk, chunks):
            yield from chunk


def apply(mutant: str | None) -> None:
    """Apply a mutant, if one is named."""
    if mutant is not None:
        from tests.simulated.more_mutants import all_mutants

        all_mutants()[mutant].apply()
