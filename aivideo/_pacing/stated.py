"""A rate limit that the user states, kept so that no refusal occurs.

Keeping a known limit sounds trivial and is not: what counts is when a request *arrives*, and all
we know is when it was sent and when it was answered. Even spacing at exactly the limit is refused
as soon as two requests arrive closer together than they were sent, and a window that is counted
from our sending lets the first request of the next one arrive too early.

So each request is counted as late as it can have arrived, and a new one as early as it can. The
two differ by what round trips vary: a request answered after ``d`` seconds arrived no later than
``d - MARGIN × the quickest round trip`` after it was sent, when the new one's way there is taken
as 0. Of a request that is not answered yet, the slowest of the latest round trips is assumed. On a
steady connection both are nearly nothing, and the limit is used whole.

On a jittery one the jitter is what it costs never to be refused. A bucket takes the jitter of
``burst - 1`` requests for free; beyond that, the allowance is cut to half a request's distance
(``MOST``): with 50/s, a burst of 10 and round trips of 0.4 to 1.5 s, keeping all of it would mean
13/s, so there a 429 in a thousand requests is the lesser evil.

``max_requests_per_minute`` does not say what kind of limit it is, so both are kept: evenly spaced,
as a bucket without burst wants it, and never more than that in any 60 s, as a window does. A
hundredth of the distance is kept for jitter (``LEAST``), until a refusal tells that this is not
enough. Who knows that it is a window says so (:meth:`aivideo.RateLimit.window`) and may
use it in bursts.

Somebody else who uses the same key makes refusals all the same; then what they ask is waited for.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import merge
from itertools import islice
from typing import Protocol

from attrs import define, field

from aivideo._pacing.ticket import LONGEST_HOLD, Ticket
from aivideo.settings import RateLimit

MARGIN = 0.5
"""Share of the quickest round trip that surely is not jitter."""

MOST = 0.5
"""Share of the distance of two requests that jitter may cost a bucket without burst."""

HAIR = 1e-9
"""Seconds by which sums of floats may differ from what they should be."""

LEAST = 0.01
"""The same while it is not known to be a bucket without burst: a refusal tells."""

FORGET = 0.98
"""What is left of the slowest round trip with each answer, so that one outlier is forgotten."""


@define
class _Traffic:
    """What is under way, and how late it may arrive; seconds of the loop's clock."""

    out: dict[int, float] = field(factory=dict)
    """When requests without an answer were sent, by serial, oldest first."""
    quickest: float | None = None
    slowest: float = 0.0

    @property
    def jitter(self) -> float:
        """How long after its sending a request without an answer arrives, at the latest."""
        if self.quickest is None:
            return float("inf")
        return self.slowest - MARGIN * self.quickest

    def answered(self, ticket: Ticket, now: float) -> float:
        """Note an answer; return when the request arrived, at the latest."""
        self.out.pop(ticket.serial, None)
        took = max(0.0, now - ticket.sent_at)
        self.quickest = took if self.quickest is None else min(self.quickest, took)
        self.slowest = max(took, self.slowest * FORGET)
        return ticket.sent_at + took - MARGIN * self.quickest


class _Keeper(Protocol):
    def ready_at(self, now: float, traffic: _Traffic) -> float: ...
    def arrived(self, sent_at: float, at: float) -> None: ...
    def refused(self) -> None: ...


@define
class _Window:
    """At most ``count`` arrivals in any ``seconds``."""

    count: int
    seconds: float
    _arrivals: deque[float] = field(factory=deque)

    def arrived(self, sent_at: float, at: float) -> None:
        # Answers come in any order: the queue is kept sorted, which takes a step or two.
        later: list[float] = []
        while self._arrivals and at < self._arrivals[-1]:
            later.append(self._arrivals.pop())
        self._arrivals.append(at)
        self._arrivals.extend(reversed(later))

    def refused(self) -> None:
        """Nothing to do: a window has no use for more distance."""

    def ready_at(self, now: float, traffic: _Traffic) -> float:
        while self._arrivals and self._arrivals[0] + self.seconds <= now:
            self._arrivals.popleft()
        # One that is long under way has arrived before others that were answered at once.
        under_way = [sent_at + traffic.jitter for sent_at in traffic.out.values()]
        counted = [at for at in under_way if at + self.seconds > now]
        over = len(self._arrivals) + len(counted) - self.count
        if over < 0:
            return now
        return next(islice(merge(self._arrivals, counted), over, None)) + self.seconds


@define
class _Bucket:
    """``rate`` tokens a second into a bucket that holds ``burst``."""

    rate: float
    burst: float
    most: float = MOST
    _full_at: float = float("-inf")
    """When it is full again, by the arrivals that nothing older can overtake any more."""
    _early: list[float] = field(factory=list)
    """When later ones arrived, at the latest; sorted. Answers come in any order, and a bucket that
    was full in between has lost tokens: arrivals count in the order of their times."""

    def arrived(self, sent_at: float, at: float) -> None:
        insort(self._early, min(at, sent_at + self._allowance))

    def refused(self) -> None:
        """Keep more distance from now on: there is no burst that jitter could be taken from."""
        self.most = MOST

    def ready_at(self, now: float, traffic: _Traffic) -> float:
        out, early = traffic.out, self._early
        oldest = min(now, next(iter(out.values()), now))
        while early and early[0] <= oldest:
            self._full_at = self._taken(early.pop(0), self._full_at)
        allowance = min(traffic.jitter, self._allowance)
        unknown = traffic.quickest is None
        arrivals = (
            early if unknown else merge(early, [sent_at + allowance for sent_at in out.values()])
        )
        full_at, spoken_for = self._full_at, len(out) + len(early)
        for arrival in arrivals:
            if arrival > now:
                break
            full_at = self._taken(arrival, full_at)
            spoken_for -= 1
        # What is still on its way may arrive together with the new one: its token is spoken for.
        full_at = max(full_at, now) + spoken_for / self.rate
        ready = full_at - (self.burst - 1) / self.rate
        if ready <= now + HAIR:
            return now
        return float("inf") if spoken_for and unknown else ready

    @property
    def _allowance(self) -> float:
        """Seconds of jitter that are kept at most, so that it cannot cost most of the rate."""
        return (0.9 * (self.burst - 1) + self.most) / self.rate

    def _taken(self, arrival: float, full_at: float) -> float:
        return max(arrival, full_at) + 1 / self.rate


class StatedPace:
    """Keeps a limit that the user knows; see the module.

    Args:
        limit: the limit, said exactly; or
        per_minute: requests a minute.
    """

    def __init__(self, limit: RateLimit | None = None, *, per_minute: float | None = None) -> None:
        self.held_until: float | None = None
        self._traffic = _Traffic()
        self._serial = 0
        self._keepers: list[_Keeper]
        if limit is None:
            assert per_minute is not None
            self._rate = per_minute / 60
            self._keepers = [_Bucket(self._rate, 1.0, most=LEAST)]
            if per_minute >= 1:
                self._keepers.append(_Window(int(per_minute), 60.0))
        else:
            self._rate = limit.rate
            self._keepers = [
                _Window(int(limit.count), limit.seconds)
                if limit.burst is None
                else _Bucket(limit.rate, float(limit.burst))
            ]

    @property
    def rate(self) -> float:
        """Requests a second: as stated."""
        return self._rate

    @property
    def is_shut(self) -> bool:
        """Never: what is known needs no probe."""
        return False

    def ready_at(self, now: float) -> float:
        """When the limit has room; ``inf`` while only an answer can tell."""
        ready = now if self.held_until is None else max(now, self.held_until)
        for keeper in self._keepers:
            ready = max(ready, keeper.ready_at(now, self._traffic))
        return ready

    def sent(self, now: float) -> Ticket:
        """Note a sending."""
        if self.held_until is not None and now >= self.held_until:
            self.held_until = None
        self._serial += 1
        self._traffic.out[self._serial] = now
        return Ticket(now, self._rate, self._serial)

    def accepted(self, ticket: Ticket, now: float) -> None:
        """Note that it got through."""
        self._arrived(ticket, self._traffic.answered(ticket, now))

    def rejected(self, ticket: Ticket, now: float, retry_after: float | None, draw: float) -> None:
        """Note a 429: somebody else uses the key too. Wait what it asks."""
        self._arrived(ticket, self._traffic.answered(ticket, now))
        for keeper in self._keepers:
            keeper.refused()
        asked = min(LONGEST_HOLD, max(0.0, retry_after or 0.0))
        wait = asked if asked >= 2 else (1 + draw) / self._rate
        self.held_until = max(self.held_until or now, now + wait)

    def lost(self, ticket: Ticket, now: float) -> None:
        """Note that no answer came: it may have counted, at any time until now."""
        self._traffic.out.pop(ticket.serial, None)
        self._arrived(ticket, now)

    def unsent(self, ticket: Ticket) -> None:
        """Take a sending back: it cannot have counted."""
        self._traffic.out.pop(ticket.serial, None)

    def idle(self) -> None:
        """Nothing to do: an unused limit stays what it is."""

    def _arrived(self, ticket: Ticket, at: float) -> None:
        for keeper in self._keepers:
            keeper.arrived(ticket.sent_at, at)
