from __future__ import annotations

from datetime import UTC, datetime

from aivideo._polling.watched import Watched
from aivideo.errors import AIVideoError, SessionClosedError
from aivideo.models import FailedTask, Task, TaskFailure

END = FailedTask(
    id="t", model="m", created_at=datetime(2026, 1, 1, tzinfo=UTC), error=TaskFailure("e", "m")
)


class FakeWaiter:
    """Keeps what it receives; ``left`` waiters count as done."""

    def __init__(self, *, left: bool = False) -> None:
        self.left = left
        self.result: Task | None = None
        self.error: AIVideoError | None = None
        self.retrieved = False

    def done(self) -> bool:
        return self.left

    def set_result(self, result: Task, /) -> None:
        self.result = result

    def set_exception(self, exception: AIVideoError, /) -> None:
        self.error = exception

    def exception(self) -> BaseException | None:
        self.retrieved = True
        return self.error


def test_a_single_waiter_needs_no_list() -> None:
    watched = Watched("t")
    waiter = FakeWaiter()
    assert (watched.waiting(), watched.waiting_count) == ([], 0)
    watched.add_waiter(waiter)
    assert watched.waiters is waiter
    assert (watched.waiting(), watched.waiting_count) == ([waiter], 1)
    waiter.left = True
    assert (watched.waiting(), watched.waiting_count) == ([], 0)


def test_waiters_that_have_left_are_dropped_as_new_ones_come() -> None:
    watched = Watched("t")
    stays = FakeWaiter()
    watched.add_waiter(stays)
    for _ in range(1000):
        waiter = FakeWaiter()
        watched.add_waiter(waiter)
        waiter.left = True
    assert isinstance(watched.waiters, list)
    assert len(watched.waiters) < 10
    assert watched.waiting() == [stays]
    assert watched.waiting_count == 1


def test_the_end_goes_to_all_who_wait_and_nothing_is_held_afterwards() -> None:
    watched = Watched("t")
    watched.known = END
    stay, left = [FakeWaiter() for _ in range(3)], FakeWaiter(left=True)
    for waiter in (stay[0], left, *stay[1:]):
        watched.add_waiter(waiter)
    watched.resolve(END)
    assert [waiter.result for waiter in stay] == [END] * 3
    assert left.result is None
    assert [watched.known, watched.waiters] == [None, None]


def test_a_failure_goes_to_all_who_wait_and_counts_as_retrieved() -> None:
    """Otherwise asyncio logs "exception was never retrieved" for each abandoned waiter."""
    watched = Watched("t")
    waiters = [FakeWaiter() for _ in range(3)]
    for waiter in waiters:
        watched.add_waiter(waiter)
    error = SessionClosedError("closed")
    watched.fail(error)
    assert all(waiter.error is error and waiter.retrieved for waiter in waiters)
    assert watched.waiters is None
