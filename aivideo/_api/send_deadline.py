"""Until when a claimed POST may be written: shortly before its claim lapses.

A process may be frozen between its claim and its POST: SIGSTOP, a suspended laptop, a paused
virtual machine. When the claim lapses meanwhile, the job is ``unknown`` to everybody else: a person
may settle it as not taken, and another process may buy it. So the time since the claim is checked
directly before the first byte of the POST is written; once the deadline has passed, nothing is
written, and the POST is proved unsent.

No single clock is right. The wall clock is what other processes compare the lease with, and it may
be set back; CPython's monotonic clock stops while Linux is suspended. So two clocks are read, and
the one by which more time has passed counts: the wall clock, and the clock since boot, which goes
on during a suspension. (In a virtual machine that was paused, both may stand still until its wall
clock is set again: that cannot be known from inside.)

The deadline reaches a transport by a context variable, so that the Protocol of transports stays as
it is. :class:`~aivideo._api.client.Client` checks it before it calls any transport;
:class:`~aivideo._api.transport.AiohttpTransport` checks it again before the first byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeAlias

from attrs import frozen

from aivideo.errors import APIConnectionError

_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)  # Linux


class ClaimLapsedError(APIConnectionError):
    """A request was not written since its deadline had passed; the service may well be there."""


Instant: TypeAlias = tuple[float, float]
"""One moment by two clocks: the seconds since boot, suspensions included where the system has such
a clock, and Unix seconds."""


def boot_seconds() -> float:
    """Return the seconds since boot, or of the monotonic clock where there is no such clock."""
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)


def now() -> Instant:
    """Read both clocks."""
    return boot_seconds(), time.time()


@frozen
class SendDeadline:
    """The deadline of one POST.

    Attributes:
        boot: the last moment by the clock since boot.
        wall: the last moment by the wall clock.
        clock: reads both clocks.
    """

    boot: float
    wall: float
    clock: Callable[[], Instant] = now

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], Instant] = now) -> SendDeadline:
        """Return the deadline that is ``seconds`` from now. Call it before the claim."""
        boot, wall = clock()
        return cls(boot + seconds, wall + seconds, clock)

    def has_passed(self) -> bool:
        """Return whether it is too late to write the first byte."""
        boot, wall = self.clock()
        return boot >= self.boot or wall >= self.wall


CURRENT: ContextVar[SendDeadline | None] = ContextVar("aivideo_send_deadline", default=None)
"""The deadline of the request that is being sent; None: it has none."""


def too_late() -> ClaimLapsedError:
    """Return the error of a request that was not written since its deadline had passed."""
    return ClaimLapsedError(
        "the request could not be written before its claim lapses (was the process suspended?); "
        "nothing was sent",
        written=False,
    )
