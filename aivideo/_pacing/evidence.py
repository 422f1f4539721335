"""What a learned pace has observed, and what follows from it.

Five records, which differ in how long they are valid:

* :class:`Traffic`: requests in flight and round trips, for as long as the pace exists;
* :class:`Opening`: the current period in which requests are accepted, from the first accepted
  request until the quota is used or a request is rejected;
* :class:`Closure`: the current period in which requests are rejected, from the first rejected
  request until a probe is accepted;
* :class:`WindowEvidence`: length and quota of a window, for as long as the pace exists;
* :class:`Evidence`: all of these, and the pace that follows from them.

Times are seconds of one monotonic clock, rates are requests per second.
"""

from __future__ import annotations

import math
from collections import deque

from attrs import define, field, frozen

from aivideo._pacing.cruise import Cruise
from aivideo._pacing.protocol import SentRequest
from aivideo._pacing.window import PRECISION, Window

NEVER = float("-inf")

START_RATE = 20.0
"""Requests per second at the start: three per typical round trip, enough to measure one."""

PROBE_INTERVAL_GROWTH = 0.2
"""Each probe waits 20 % longer since the opening than the one before, so that a reopening is seen
10 % late on average."""

MIN_BURSTS, MIN_BURST_SECONDS = 5, 60.0
"""A window is used in bursts for at least so many openings and seconds."""

LOW_ACCEPTANCE = 0.8
"""An opening that accepted less than this fraction of the quota fell short of it."""

RESUME_SHARE = 0.4
"""Fraction of a window's length within which an opening may be resumed after a rejection."""


REORDERING = 0.5
"""Fraction of a round trip by which requests may overtake each other. A request sent that soon
after the first rejected one may have arrived before it."""


@frozen
class RateEstimate:
    """An estimate of the limit, as instructions for :class:`~aivideo._pacing.cruise.Cruise`.

    Attributes:
        peak: requests per second that the limit is taken to allow.
        base: requests per second to start at.
        climb: seconds from ``base`` to ``peak``.
        measurements: how many precise measurements it is worth.
        cycle_from: the request from which the next measurement counts; None: from the latest.
    """

    peak: float
    base: float
    climb: float
    measurements: int = 0
    cycle_from: SentRequest | None = None


@define
class Traffic:
    """Requests in flight, and how long they take."""

    serial: int = 0
    in_flight: int = 0
    accepted: int = 0
    first_sent_at: float | None = None
    last_sent_at: float = 0.0
    """When the latest request was sent that was not a probe."""
    round_trip: float = 0.1
    """Seconds: a moving average over about eight answers."""
    _has_measured: bool = False

    def answered(self, request: SentRequest, now: float) -> None:
        """Record an answer, whatever it says."""
        self.in_flight -= 1
        seconds = max(1e-3, now - request.sent_at)
        if self._has_measured:
            self.round_trip += (seconds - self.round_trip) / 8
        else:
            self.round_trip, self._has_measured = seconds, True


@define
class Opening:
    """The current or latest period in which requests were accepted."""

    began_at: float = 0.0
    sent: int = 0
    accepted: int = 0
    resume_attempts: int = 0
    """How often it was tried to continue this opening after a rejection."""


@define
class Closure:
    """The current or latest period in which requests were rejected."""

    began_at: float = 0.0
    """When the first rejected request was sent, or the last one of the quota."""
    closed_until: float = 0.0
    """The latest time at which the service is known to have been closed."""
    rejections: int = 0
    rejected_rate: float = START_RATE
    """The pace at which the first rejected request was sent."""
    late_acceptances: int = 0
    """Requests that were sent after the first rejected one and accepted all the same."""
    last_late_acceptance: float = 0.0
    """When the latest of them was sent."""
    probe_at: float = 0.0
    """When to send the next probe."""
    is_probing: bool = False
    """Whether a probe is in flight."""
    overdue_probes: int = 0
    """Probes rejected after the window should have ended."""


@define
class WindowEvidence:
    """What is known about a window: its length, and how many requests it admits."""

    window: Window | None = None
    quota: int | None = None
    openings: int = 0
    short_openings: int = 0
    """Consecutive openings that accepted far less than the quota."""
    accepted_at: deque[float] = field(factory=deque)
    """When requests were sent that were accepted within the latest window length."""
    first_rejected_at: float = 0.0
    """When the request was sent whose rejection ended the ramp."""
    long_cycle: tuple[int, float] = (0, 0.0)
    """The total number of accepted requests when the latest long closure ended, and when."""

    def forget_until(self, time: float) -> None:
        """Forget the acceptances of requests sent until ``time``."""
        times = self.accepted_at
        while times and times[0] <= time:
            times.popleft()


@define
class Evidence:
    """All observations of one learned pace, and the pace that follows."""

    traffic: Traffic = field(factory=Traffic)
    opening: Opening = field(factory=Opening)
    closure: Closure = field(factory=Closure)
    known: WindowEvidence = field(factory=WindowEvidence)
    cruise: Cruise = field(factory=Cruise)
    open_rate: float = START_RATE
    """The pace while ramping up or bursting."""
    next_at: float = NEVER
    """When the next request may be sent, as far as spacing is concerned."""
    asked_until: float = NEVER
    """Until when a ``Retry-After`` of 2 s or more holds all requests."""
    decided_at: float = NEVER
    """When the pace was last cut. Requests sent until then are no new evidence."""

    def begin(self, now: float) -> None:
        """Record the first request."""
        self.traffic.first_sent_at = self.opening.began_at = self.closure.began_at = now
        self.known.long_cycle = (0, now)

    def start_cruise(self, estimate: RateEstimate, now: float) -> None:
        """Go on at an estimated rate."""
        cruise = self.cruise
        cruise.start(
            now,
            self.traffic.serial,
            peak=estimate.peak,
            base=estimate.base,
            climb=estimate.climb,
        )
        self.decided_at = now
        if not now <= self.next_at <= now + 1 / cruise.rate:
            self.next_at = now + 1 / cruise.rate
        if estimate.cycle_from is not None:
            cruise.begin_cycle(estimate.cycle_from.sent_at, estimate.cycle_from.serial)

    @property
    def is_short_opening(self) -> bool:
        """Whether this opening accepted far less than the quota."""
        quota = self.known.quota
        return quota is not None and self.opening.accepted < LOW_ACCEPTANCE * quota

    @property
    def resume_delay(self) -> float:
        """Seconds in which a sliding window may free one place.

        The first requests were this far apart, or one round trip.
        """
        return max(self.traffic.round_trip, 1 / START_RATE)

    @property
    def resume_limit(self) -> float:
        """Seconds after the start of an opening within which it may be resumed."""
        window = self.known.window
        if window is None:
            return RESUME_SHARE
        return RESUME_SHARE * (window.length or window.shortest or 1.0)

    def has_burst_long_enough(self, now: float) -> bool:
        """Return whether it is time to replace bursts by a steady pace."""
        first = self.traffic.first_sent_at
        assert first is not None
        return self.known.openings >= MIN_BURSTS and now - first >= MIN_BURST_SECONDS

    def is_other_window(self, probe: SentRequest) -> bool:
        """Return whether the known window must have ended long before ``probe`` was accepted."""
        known = self.known
        if known.window is None or known.openings < 2 or not self.closure.overdue_probes:
            return False
        return probe.sent_at - known.window.first_open_at > 2 * known.window.longest

    def schedule_probe(self, now: float) -> None:
        """Set when to send the next probe, or the first request of the next opening."""
        self.closure.probe_at = self._next_probe_at(now)

    def _next_probe_at(self, now: float) -> float:
        closure, window, trip = self.closure, self.known.window, self.traffic.round_trip
        earliest = now + trip / 2 if closure.rejections else now
        end = None if window is None else window.next_end()
        if window is not None and end is not None:
            first, last = max(end[0], closure.closed_until), end[1]
            if first < last:
                is_uncertain = last - first > max(2 * trip, PRECISION * window.longest)
                return max(earliest, (first + last) / 2 if is_uncertain else last + trip / 3)
            # It should be open: probe again after a growing fraction of the window's length.
            closure.overdue_probes += 1
            wait = PRECISION * window.longest * 2.0 ** (closure.overdue_probes - 1)
            return now + max(trip, min(wait, PROBE_INTERVAL_GROWTH * (now - closure.began_at)))
        began_at = self.opening.began_at
        if closure.rejections:
            # Where hundreds are accepted, more probes are affordable and waiting costs more.
            growth = PROBE_INTERVAL_GROWTH / max(1.0, math.sqrt(self.opening.accepted / 100))
            if window is not None:  # most likely, it is only a little longer than known
                growth = min(growth, PRECISION * 2.0 ** (closure.rejections - 1))
            return max(earliest, began_at + (now - began_at) * (1 + growth), now + trip)
        return max(now + trip, began_at + (0.0 if window is None else window.shortest))
