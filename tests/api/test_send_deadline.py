"""Until when a claimed POST may be written, by two clocks."""

from __future__ import annotations

import time

import pytest

from aivideo._api import send_deadline
from aivideo._api.send_deadline import Instant, SendDeadline, elapsed


@pytest.mark.parametrize(
    ("boot", "wall", "seconds"),
    [
        (7.0, 7.0, 7.0),
        (7.0, -3600.0, 7.0),  # the wall clock was set back
        (7.0, 3600.0, 3600.0),  # it was set forward: other processes see the lease expire
        (3600.0, 3.0, 3600.0),
    ],
)
def test_the_clock_that_shows_more_time_counts(boot: float, wall: float, seconds: float) -> None:
    assert elapsed(Instant(50.0, 1e9), Instant(50.0 + boot, 1e9 + wall)) == seconds


def test_a_deadline_passes_after_its_seconds() -> None:
    times = iter([Instant(0.0, 0.0), Instant(84.9, 84.9), Instant(85.0, 84.9)])
    deadline = SendDeadline.after(85.0, times.__next__)
    assert not deadline.has_passed()
    assert deadline.has_passed()


def test_the_clocks_are_read_at_each_check(monkeypatch: pytest.MonkeyPatch) -> None:
    boot, wall = 100.0, 1e9
    monkeypatch.setattr(send_deadline, "boot_seconds", lambda: boot)
    monkeypatch.setattr(time, "time", lambda: wall)
    deadline = SendDeadline.after(10.0)
    assert not deadline.has_passed()
    boot = 110.0
    assert deadline.has_passed()
    boot, wall = 100.0, 1e9 + 10
    assert deadline.has_passed()


def test_the_clock_since_boot_goes_on() -> None:
    before = send_deadline.boot_seconds()
    assert send_deadline.boot_seconds() >= before > 0


def test_a_deadline_applies_within_its_block_only() -> None:
    deadline = SendDeadline.after(1.0)
    with send_deadline.applied(deadline):
        assert send_deadline.current() is deadline
        with send_deadline.applied(None):
            assert send_deadline.current() is None
        assert send_deadline.current() is deadline
    assert send_deadline.current() is None
