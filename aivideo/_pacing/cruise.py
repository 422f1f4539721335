"""The long run of a pace: evenly, a little under what was last read, and up again by time.

Between two refusals a bucket goes from empty to empty, so what was let through in between ÷ the
time it took *is* its rate, to ± 1 request. Over whole cycles the same holds for a window. So every
refusal is a reading, and costs no pause: a bucket that is empty has a token again by the time of
the next request, if that comes at the rate that was read.

After a reading the pace restarts a share below it (``CUT``, or more when the reading is rough),
climbs back along a cubic within ``climb`` seconds and then beyond it, ever faster: careful where
the limit was seen, quick where it must have risen. It climbs by the time in which the pace was in
use, not by successes: those would let a fast process push out a slow one. ``climb`` starts at a
few round trips and doubles from reading to reading until it takes about 100 requests: a batch of a
few seconds sees readings quickly, a service that runs for hours is refused about once in a
hundred.
"""

from __future__ import annotations

from attrs import define

from aivideo._pacing.ticket import Ticket

LOWEST, HIGHEST = 1 / 600, 1e6
"""Requests a second."""

CUT, DEEP = 0.05, 0.30
"""Share below a reading to restart at: of a good one, of a rough one."""

ABOVE = 0.02
"""How far above a good reading the cubic's flat part lies. 5 % would be refused every 60 requests,
2 % every hundred; less is given away than refusals cost others."""

BEYOND = 0.20
"""What the cubic adds past the reading after twice ``climb``. Slow paces add more, by the root of
what they lack to one a second, or a newcomer's share of a slow limit would stay small for hours."""

AGAIN = 1.3
"""Times the reading at which the old limit is taken to be gone: climb on from there."""

QUICKEST, SLOWEST, WANTED = 20.0, 60.0, 100
"""``climb`` in the long run: so many seconds at least and at most, and about so many requests."""

REFUSED = 1 / 3
"""Of a rough reading: how far above it the limit is looked for, as a power of what the refused pace
was above it. A bucket without burst refuses as soon as the pace passes its rate, and what it let
through until then is a lower bound; of a bucket with burst the reading is the truth."""

ENOUGH = 20
"""Requests that make a reading good to 5 %; a shorter cycle is read with the one before it."""

Reading = tuple[int, float]
"""So many requests let through, within so many seconds."""


@define
class Cruise:
    """The pace once a limit has been met; ``rate`` is requests a second."""

    rate: float = 1.0
    young: bool = True
    _peak: float = 1.0
    _base: float = 1.0
    _climb: float = 2.0
    _grown: float = 0.0
    _grown_at: float | None = None
    _since: float = 0.0
    """When this cycle began: the bucket was empty, if a refusal began it."""
    _serial: int = 0
    _refused: int = 0
    _before: Reading | None = None
    at_least: float = 0.0
    """Seconds that ``climb`` has at least in the long run: a window's length, so that its end is
    seen before the pace has left the reading far behind."""

    def start(self, now: float, serial: int, *, peak: float, base: float, climb: float) -> None:
        """Begin from ``base``, to be back at ``peak`` after ``climb`` seconds."""
        self._peak = _within(peak)
        self.rate = self._base = _within(min(base, self._peak))
        self._climb, self._grown, self._grown_at = climb, 0.0, None
        self._before = None
        self.begin_cycle(now, serial)

    @property
    def since(self) -> float:
        """When this cycle began."""
        return self._since

    def begin_cycle(self, now: float, serial: int) -> None:
        """Count from the request numbered ``serial``, sent at ``now``."""
        self._since, self._serial, self._refused = now, serial, 0

    def refused(self) -> None:
        """Note a refusal of this cycle."""
        self._refused += 1

    def unsent(self) -> None:
        """Note that a request which was counted did not go out: it was not let through either."""
        self._refused += 1

    def cycle(self, ticket: Ticket) -> tuple[int, float]:
        """Say how many were let through before ``ticket`` in this cycle, and when that began.

        A cycle of one or two is no cycle; it is told together with the one before.
        """
        count = ticket.serial - self._serial - 1 - (self._refused - 1)
        if count < 3 and self._before is not None:
            return count + self._before[0], self._since - self._before[1]
        return count, self._since

    def count(self, ticket: Ticket) -> int:
        """Say how many were let through before ``ticket``, which was refused, in this cycle."""
        return ticket.serial - self._serial - self._refused

    def read(self, count: int, seconds: float, refused_at: float) -> None:
        """Take a reading: ``count`` let through in ``seconds``; refused at the pace given."""
        longest = self._longest()
        if self._climb >= longest:
            self.young = False
        self._climb = min(longest, max(self._climb, 2 * seconds)) if self.young else longest
        whole, taken = count, seconds
        if count < ENOUGH and self._before is not None:
            whole, taken = count + self._before[0], seconds + self._before[1]
        if count >= 3 or self._before is None:
            self._before = (count, seconds)
        else:
            self._before = (whole, taken)
        if self.young and whole > 2:
            rough = min(DEEP, max(CUT, 1 / whole))
            reading = min(refused_at, (1 + rough) * whole / taken)
            peak = reading * (refused_at / reading) ** REFUSED
            cut = rough
        elif whole >= ENOUGH:
            peak, cut = min(refused_at, (1 + ABOVE) * whole / taken), CUT
        else:
            peak, cut = refused_at, min(DEEP, max(CUT, 1 / max(whole, 1)))
        self._peak = _within(peak)
        self.rate = self._base = _within(self._peak * (1 - cut))
        self._grown, self._grown_at = 0.0, None

    def grow(self, now: float, round_trip: float, serial: int) -> None:
        """Climb by the time since the last call, if the pace was in use all of it.

        A gap counts for three requests' time at most: after a jump of the clock, or an hour in
        which nothing was sent, the pace goes on from where it was.
        """
        if self._grown_at is not None:
            gap = max(0.0, now - self._grown_at)
            self._grown += min(gap, max(2 * round_trip, 3 / self.rate))
        self._grown_at = now
        past = self._grown / min(self._climb, self._longest()) - 1
        if past < 0:
            self.rate = _within(self._peak + (self._peak - self._base) * past**3)
            return
        beyond = BEYOND * self._peak * max(1.0, self._peak**-0.5)
        self.rate = _within(self._peak + beyond * past**3)
        if self.rate > AGAIN * self._peak:
            self._peak = self._base = self.rate
            self._climb = self._grown = max(8 * round_trip, min(QUICKEST / 3, 20 / self.rate))
            if not self.young:  # what was read before the limit rose says nothing any more
                self._before = None
                self.begin_cycle(now, serial)

    def pause(self) -> None:
        """Stop growing: the pace is not what holds sending back now."""
        self._grown_at = None

    def _longest(self) -> float:
        return max(min(SLOWEST, max(QUICKEST, WANTED / self._peak)), self.at_least)


def _within(rate: float) -> float:
    return min(HIGHEST, max(LOWEST, rate))
