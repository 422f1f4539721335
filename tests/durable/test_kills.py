"""A few of the kills of :mod:`tests.durable.kills`, at each kind of moment; `make kills` has 30."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.durable.kills import Plan, complaints, tell
from tests.durable.proxy import Moment

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KILLS = [
    Plan(Moment.POST_LEFT, 3, 0.0, lost=True),
    Plan(Moment.POST_ANSWERED, 2, 0.0, lost=False),
    Plan(Moment.RESULT_BEGUN, 2, 0.0, lost=True),
    Plan(None, 1, 0.3, lost=False),
]


async def test_a_batch_that_is_killed_at_any_moment_pays_once_and_makes_all(
    tmp_path: Path,
) -> None:
    story = await tell(tmp_path, kills=KILLS, prompts=24, seed=5)
    assert complaints(story, 24) == []
    assert len(story.kills) == len(KILLS)
    assert story.settled, "no kill hit a create: this shows nothing"
