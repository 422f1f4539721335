from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aivideo._polling import ends as ends_module
from aivideo._polling.ends import Ends
from aivideo.models import CompletedTask, FailedTask, ProcessingTask, TaskFailure

AT = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = ProcessingTask(id="t", model="m", created_at=AT)
DONE = CompletedTask(id="t", model="m", created_at=AT, completed_at=AT, urls=("https://h/a",))
WITHOUT_URLS = CompletedTask(id="t", model="m", created_at=AT, completed_at=AT, urls=())
FAILED = FailedTask(id="t", model="m", created_at=AT, error=TaskFailure("e", "m"))


def test_the_oldest_ends_are_dropped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends_module, "MAX_ENDS", 10)
    ends = Ends()
    for n in range(30):
        ends.add(str(n), DONE)
    assert [n for n in range(30) if ends.get(str(n)) is DONE] == [*range(20, 30)]
    assert "29" in ends
    assert "19" not in ends


def test_an_early_end_is_kept_for_the_task_and_given_out_once() -> None:
    ends = Ends()
    assert ends.hear("t", RUNNING) is None
    assert ends.pop_early("t") is None, "it had not ended"
    assert ends.hear("t", DONE) is None
    assert ends.get("t") is None, "the task was never watched"
    assert "t" not in ends
    assert ends.pop_early("t") is DONE
    assert ends.pop_early("t") is None


def test_the_number_of_early_ends_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends_module, "MAX_EARLY_ENDS", 5)
    ends = Ends()
    for n in range(20):
        ends.hear(str(n), DONE)
    assert [n for n in range(20) if ends.pop_early(str(n)) is not None] == [*range(15, 20)]


@pytest.mark.parametrize("early", [False, True])
def test_a_contradiction_of_a_kept_end_is_reported_and_changes_nothing(early: bool) -> None:
    ends = Ends()
    if early:
        ends.hear("t", DONE)
    else:
        ends.add("t", DONE)
    assert ends.hear("t", RUNNING) is None
    assert ends.hear("t", DONE) is None
    assert ends.hear("t", WITHOUT_URLS) is None
    assert ends.hear("t", FAILED) is DONE
    assert (ends.pop_early("t") if early else ends.get("t")) is DONE
