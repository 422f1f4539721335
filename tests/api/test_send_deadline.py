"""Until when a claimed POST may be written, by two clocks."""

from __future__ import annotations

import time

import pytest

from aivideo._api import send_deadline
from aivideo._api.send_deadline import SendDeadline


@pytest.mark.parametrize(
    ("boot", "wall", "passed"),
    [
        (84.0, 84.0, False),
        (85.0, 84.0, True),
        (84.0, 85.0, True),
        (90.0, -3600.0, True),  # the wall clock was set back
        (10.0, 3600.0, True),  # it was set forward: other processes see the lease expire
        (3600.0, 3.0, True),
        (10.0, -3600.0, False),
    ],
)
def test_a_deadline_passes_by_the_clock_that_shows_more_time(
    boot: float, wall: float, passed: bool
) -> None:
    times = iter([(50.0, 1e9), (50.0 + boot, 1e9 + wall)])
    deadline = SendDeadline.after(85.0, times.__next__)
    assert deadline.has_passed() is passed


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
