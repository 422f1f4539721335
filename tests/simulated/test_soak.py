"""A small share of the soak (`make soak` runs 20,000 jobs)."""

from __future__ import annotations

from tests.simulated.soak import memory, run


def test_every_future_is_resolved_once_with_the_truth_and_no_memory_stays() -> None:
    run(100)
    before = memory()
    seen = run(800)
    assert seen.ends.total() == 800
    assert (seen.wrong, seen.twice, seen.pending) == (0, 0, 0)
    assert seen.failed_polls > 0
    assert seen.callbacks > 600
    assert 0.95 < memory() / before < 1.05
