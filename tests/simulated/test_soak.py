"""A short soak test (`make soak` runs 20,000 jobs)."""

from __future__ import annotations

from tests.simulated.soak import memory, run


def test_every_future_is_resolved_once_and_correctly_and_no_memory_leaks() -> None:
    run(100)
    before = memory()
    result = run(800)
    assert result.statuses.total() == 800
    assert (result.wrong, result.twice, result.pending) == (0, 0, 0)
    assert result.failed_polls > 0
    assert result.callbacks > 600
    assert 0.95 < memory() / before < 1.05
