"""The long-term pace: steady, slightly below the last measured limit, growing with time.

Between two rejections a token bucket goes from empty to empty. So the number of requests accepted
in between, divided by the time between, *is* its rate, to ± 1 request. Over whole cycles the same
holds for a window. Each rejection is therefore a measurement, and needs no pause: an empty bucket
has a token again by the time of the next request, if that is sent at the measured rate.

After a measurement the pace restarts a fraction below it (``CUT``; more if the measurement is
imprecise). It then follows a cubic curve: back to the peak within ``climb`` seconds, then beyond
it, faster and faster. It is careful near the known limit and quick where the limit must have
risen::

    past = time in use / climb - 1
    rate = peak + (peak - base) * past³                              before the peak (past < 0)
    rate = peak + BEYOND_PEAK * peak * max(1, 1/√peak) * past³       after it

The pace grows with the time for which it was in use, not with successes: growth by successes lets
a fast process displace a slow one that shares the key. ``climb`` starts at a few round trips and
doubles per measurement until it takes about 100 requests. So a batch of a few seconds measures
quickly, and a service that runs for hours is rejected about once per hundred requests.
"""

from __future__ import annotations

from attrs import define

from aivideo._pacing.protocol import SentRequest

LOWEST_RATE, HIGHEST_RATE = 1 / 600, 1e6
"""Bounds of the pace, in requests per second."""

CUT, DEEPEST_CUT = 0.05, 0.30
"""Fraction below a measurement at which to restart: for a precise one; at most."""

PEAK_MARGIN = 0.02
"""Fraction by which the peak (the flat part of the curve) lies above a precise measurement. With
5 % a request is rejected every 60, with 2 % every 100. A smaller margin would give away more of
the limit than the rejections cost."""

BEYOND_PEAK = 0.20
"""Fraction of the peak that the curve adds after twice ``climb``. Below 1 request per second it
adds more, by ``1/√peak``; otherwise the share of a new client of a slow limit stays small for
hours."""

LIMIT_ROSE_RATIO = 1.3
"""If the pace exceeds the peak by this factor, the old limit no longer holds: start a new curve."""

SHORTEST_CLIMB, LONGEST_CLIMB, CLIMB_REQUESTS = 20.0, 60.0, 100
"""``climb`` in the long term: at least and at most so many seconds, and about so many requests."""

REJECTED_RATE_EXPONENT = 1 / 3
"""For an imprecise measurement: ``peak = measured × (rejected rate ÷ measured) ** exponent``. A
bucket without a burst rejects as soon as the pace exceeds its rate, so what it accepted until then
is only a lower bound; for a bucket with a burst the measurement itself is right."""

PRECISE_COUNT = 20
"""Requests that make a measurement precise to 5 %. A shorter cycle is added to the one before."""

Measurement = tuple[int, float]
"""Requests accepted, and the seconds in which they were."""


@define
class Cruise:
    """The pace once a limit has been found.

    Attributes:
        rate: requests per second.
        young: whether ``climb`` is still shorter than in the long term.
        min_climb: seconds that ``climb`` takes at least in the long term: 1.5 window lengths, so
            that the end of a window is seen before the pace has left the measurement far behind.
    """

    rate: float = 1.0
    young: bool = True
    _peak: float = 1.0
    _base: float = 1.0
    _climb: float = 2.0
    _time_in_use: float = 0.0
    _in_use_at: float | None = None
    """The last time known to be in use; None after a pause."""
    _since: float = 0.0
    _serial: int = 0
    """Of the request that began this cycle."""
    _not_accepted: int = 0
    _previous: Measurement | None = None
    min_climb: float = 0.0

    def start(self, now: float, serial: int, *, peak: float, base: float, climb: float) -> None:
        """Start at ``base`` requests per second, to reach ``peak`` after ``climb`` seconds."""
        self._peak = _clamp(peak)
        self.rate = self._base = _clamp(min(base, self._peak))
        self._climb, self._time_in_use, self._in_use_at = climb, 0.0, None
        self._previous = None
        self.begin_cycle(now, serial)

    @property
    def since(self) -> float:
        """When this cycle began. If a rejection began it, a bucket was empty then."""
        return self._since

    def begin_cycle(self, now: float, serial: int) -> None:
        """Count from the request numbered ``serial``, sent at ``now``."""
        self._since, self._serial, self._not_accepted = now, serial, 0

    def add_not_accepted(self) -> None:
        """Record that one request of this cycle was rejected, or was not sent after all."""
        self._not_accepted += 1

    def cycle(self, request: SentRequest) -> tuple[int, float]:
        """Return how many were accepted before the rejected ``request``, and since when.

        A cycle of fewer than three requests is combined with the one before it.
        """
        count = self.count(request)
        if count < 3 and self._previous is not None:
            return count + self._previous[0], self._since - self._previous[1]
        return count, self._since

    def count(self, request: SentRequest) -> int:
        """Return how many were accepted in this cycle before the rejected ``request``."""
        return request.serial - self._serial - self._not_accepted

    def measured(self, count: int, seconds: float, rejected_rate: float) -> None:
        """Restart below a measurement.

        Args:
            count: requests accepted …
            seconds: … within so many seconds.
            rejected_rate: the pace of the rejected request, in requests per second.
        """
        longest = self._longest_climb()
        if self._climb >= longest:
            self.young = False
        self._climb = min(longest, max(self._climb, 2 * seconds)) if self.young else longest
        total, duration = count, seconds
        if count < PRECISE_COUNT and self._previous is not None:
            total, duration = count + self._previous[0], seconds + self._previous[1]
        if count >= 3 or self._previous is None:
            self._previous = (count, seconds)
        else:
            self._previous = (total, duration)
        if self.young and total > 2:
            cut = relative_error(total)
            rate = min(rejected_rate, (1 + cut) * total / duration)
            peak = rate * (rejected_rate / rate) ** REJECTED_RATE_EXPONENT
        elif total >= PRECISE_COUNT:
            peak, cut = min(rejected_rate, (1 + PEAK_MARGIN) * total / duration), CUT
        else:
            peak, cut = rejected_rate, relative_error(total)
        self._peak = _clamp(peak)
        self.rate = self._base = _clamp(self._peak * (1 - cut))
        self._time_in_use, self._in_use_at = 0.0, None

    def grow(self, now: float, round_trip: float, serial: int) -> None:
        """Raise the pace by the time since the last call, if it was in use all that time.

        At most three request intervals are counted. So after a jump of the clock, or an hour
        without requests, the pace continues from where it was.
        """
        if self._in_use_at is not None:
            gap = max(0.0, now - self._in_use_at)
            self._time_in_use += min(gap, max(2 * round_trip, 3 / self.rate))
        self._in_use_at = now
        past = self._time_in_use / min(self._climb, self._longest_climb()) - 1
        if past < 0:
            self.rate = _clamp(self._peak + (self._peak - self._base) * past**3)
            return
        beyond = BEYOND_PEAK * self._peak * max(1.0, self._peak**-0.5)
        self.rate = _clamp(self._peak + beyond * past**3)
        if self.rate > LIMIT_ROSE_RATIO * self._peak:
            self._peak = self._base = self.rate
            self._climb = self._time_in_use = max(
                8 * round_trip, min(SHORTEST_CLIMB / 3, 20 / self.rate)
            )
            if not self.young:  # measurements from before the limit rose are obsolete
                self._previous = None
                self.begin_cycle(now, serial)

    def pause(self) -> None:
        """Stop growing: the pace is not what delays sending now."""
        self._in_use_at = None

    def _longest_climb(self) -> float:
        return max(
            min(LONGEST_CLIMB, max(SHORTEST_CLIMB, CLIMB_REQUESTS / self._peak)), self.min_climb
        )


def relative_error(count: int) -> float:
    """Return the relative error of a measurement of ``count`` requests, as a cut of the pace."""
    return min(DEEPEST_CUT, max(CUT, 1 / max(count, 1)))


def _clamp(rate: float) -> float:
    return min(HIGHEST_RATE, max(LOWEST_RATE, rate))
