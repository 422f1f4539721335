"""Short version of :mod:`tests.durable.kills`: four kills. `make kills` runs 30."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durable.kills import Plan, run_with_kills, violations
from tests.durable.proxy import WireEvent

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KILLS = [
    Plan(WireEvent.POST_SENT, 3, 0.0, lost=True),
    Plan(WireEvent.POST_ANSWERED, 2, 0.0, lost=False),
    Plan(WireEvent.RESULT_HALF, 2, 0.0, lost=True),
    Plan(None, 1, 0.3, lost=False),
]


async def test_batch_pays_once_and_completes_after_kills_at_several_events(
    tmp_path: Path,
) -> None:
    outcome = await run_with_kills(tmp_path, kills=KILLS, prompts=24, seed=5)
    assert violations(outcome, 24) == []
    assert len(outcome.kills) == len(KILLS)
    assert outcome.settled, "no kill interrupted a create, so nothing was tested"
