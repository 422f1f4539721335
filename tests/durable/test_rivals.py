"""Short version of :mod:`tests.durable.rivals`: a few seconds. `make rivals` takes ten minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durable.rivals import run_rivals, violations

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_runs_with_different_versions_of_a_manifest_buy_no_line_twice(
    tmp_path: Path,
) -> None:
    outcome = await run_rivals(tmp_path, seconds=12, seed=3, freeze=(0.3, 3))
    assert violations(outcome) == []
    assert outcome.frozen, "nothing was frozen, so little was tested"
    assert outcome.versions > 3
    assert outcome.bought.total() > 20
