"""Keep to a rate limit that the user states, without being rejected.

This is harder than it looks: the server counts a request when it *arrives*, and only the times of
sending and of the answer are known here. Requests spaced exactly by the limit are rejected as soon
as two of them arrive closer together than they were sent. A window counted from the times of
sending lets the first request of the next window arrive too early.

So each request is counted as if it had arrived as late as possible, and a new one as if it arrived
as early as possible. The difference is what round trips vary. A request that was answered after
``d`` seconds arrived at the latest ::

    d - STEADY_SHARE × the shortest round trip

after it was sent, if the new request's way to the server counts as 0. For a request without an
answer, the longest of the recent round trips is assumed for ``d``. On a steady connection the
difference is almost 0, and the whole limit is used.

On an unsteady connection this jitter is the price of never being rejected. A bucket absorbs the
jitter of ``burst - 1`` requests at no cost. Beyond that the allowance is limited to half a request
interval (``MAX_JITTER_SHARE``): with 50/s, a burst of 10 and round trips of 0.4 to 1.5 s, a full
allowance would reduce the pace to 13/s, and one 429 per thousand requests is the smaller loss.

``max_requests_per_minute`` does not say which kind of limit it is. So both are kept: requests are
evenly spaced, as for a bucket without a burst, and never more than that in any 60 s, as for a
window. One hundredth of the interval is kept for jitter (``MIN_JITTER_SHARE``), until a rejection
shows that this is not enough. A user who knows that it is a window says so
(:meth:`RateLimit.window`), and requests may be sent in bursts.

Another client that uses the same key can cause 429s nevertheless; then the pace waits as asked.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import merge
from itertools import islice
from typing import Protocol

from attrs import define, field

from aivideo._pacing.protocol import LONGEST_HOLD, SentRequest
from aivideo.settings import RateLimit

STEADY_SHARE = 0.5
"""Fraction of the shortest round trip that is certainly not jitter."""

MAX_JITTER_SHARE = 0.5
"""Fraction of the interval between requests that jitter may cost a bucket without a burst."""

MIN_JITTER_SHARE = 0.01
"""The same until a rejection shows that the limit is a bucket without a burst."""

FLOAT_TOLERANCE = 1e-9
"""Seconds by which sums of floats may differ from the exact result."""

LONGEST_DECAY = 0.98
"""Factor by which the longest round trip decays per answer, so that one outlier is forgotten."""


@define
class _Traffic:
    """Requests in flight, and how late they may arrive. Times are seconds of the loop's clock."""

    in_flight: dict[int, float] = field(factory=dict)
    """When requests without an answer were sent, by serial, oldest first."""
    shortest: float | None = None
    longest: float = 0.0
    """Round trips: the shortest of all, and the longest of the recent ones."""

    @property
    def jitter(self) -> float:
        """Seconds after which a request in flight has arrived at the latest."""
        if self.shortest is None:
            return float("inf")
        return self.longest - STEADY_SHARE * self.shortest

    def answered(self, request: SentRequest, now: float) -> float:
        """Record an answer; return when the request had arrived at the latest."""
        self.in_flight.pop(request.serial, None)
        seconds = max(0.0, now - request.sent_at)
        self.shortest = seconds if self.shortest is None else min(self.shortest, seconds)
        self.longest = max(seconds, self.longest * LONGEST_DECAY)
        return request.sent_at + seconds - STEADY_SHARE * self.shortest


class _Limit(Protocol):
    def ready_at(self, now: float, traffic: _Traffic) -> float: ...
    def arrived(self, sent_at: float, at: float) -> None: ...
    def rejected(self) -> None: ...


@define
class _Window:
    """At most ``count`` arrivals in any ``seconds`` seconds."""

    count: int
    seconds: float
    _arrivals: deque[float] = field(factory=deque)

    def arrived(self, sent_at: float, at: float) -> None:
        # Answers arrive in any order. Keeping the queue sorted takes one or two steps.
        later: list[float] = []
        while self._arrivals and at < self._arrivals[-1]:
            later.append(self._arrivals.pop())
        self._arrivals.append(at)
        self._arrivals.extend(reversed(later))

    def rejected(self) -> None:
        """Do nothing: wider spacing does not help with a window."""

    def ready_at(self, now: float, traffic: _Traffic) -> float:
        while self._arrivals and self._arrivals[0] + self.seconds <= now:
            self._arrivals.popleft()
        # A request that has long been in flight arrived before others that were answered at once.
        latest = [sent_at + traffic.jitter for sent_at in traffic.in_flight.values()]
        counted = [at for at in latest if at + self.seconds > now]
        over = len(self._arrivals) + len(counted) - self.count
        if over < 0:
            return now
        return next(islice(merge(self._arrivals, counted), over, None)) + self.seconds


@define
class _Bucket:
    """A token bucket: ``rate`` tokens per second, at most ``burst`` of them."""

    rate: float
    burst: float
    jitter_share: float = MAX_JITTER_SHARE
    _full_at: float = float("-inf")
    """When it is full again, counting all arrivals that no older request can precede any more."""
    _later_arrivals: list[float] = field(factory=list)
    """The latest times of the other known arrivals, sorted. Answers come in any order, and a bucket
    that was full in between has lost tokens; so arrivals are counted in order of time."""

    def arrived(self, sent_at: float, at: float) -> None:
        insort(self._later_arrivals, min(at, sent_at + self._allowance))

    def rejected(self) -> None:
        """Keep a larger allowance: there is no burst that could absorb the jitter."""
        self.jitter_share = MAX_JITTER_SHARE

    def ready_at(self, now: float, traffic: _Traffic) -> float:
        in_flight, later = traffic.in_flight, self._later_arrivals
        oldest = min(now, next(iter(in_flight.values()), now))
        while later and later[0] <= oldest:
            self._full_at = self._full_after(later.pop(0), self._full_at)
        allowance = min(traffic.jitter, self._allowance)
        is_unknown = traffic.shortest is None
        arrivals = (
            later
            if is_unknown
            else merge(later, [sent_at + allowance for sent_at in in_flight.values()])
        )
        full_at, not_arrived = self._full_at, len(in_flight) + len(later)
        for arrival in arrivals:
            if arrival > now:
                break
            full_at = self._full_after(arrival, full_at)
            not_arrived -= 1
        # A request in flight may arrive together with the new one: reserve a token for it.
        full_at = max(full_at, now) + not_arrived / self.rate
        ready = full_at - (self.burst - 1) / self.rate
        if ready <= now + FLOAT_TOLERANCE:
            return now
        return float("inf") if not_arrived and is_unknown else ready

    @property
    def _allowance(self) -> float:
        """Seconds of jitter to allow for at most, so that it cannot cost most of the rate."""
        return (0.9 * (self.burst - 1) + self.jitter_share) / self.rate

    def _full_after(self, arrival: float, full_at: float) -> float:
        return max(arrival, full_at) + 1 / self.rate


class StatedPace:
    """Keeps to a limit that the user knows. The module's docstring explains how.

    Implements :class:`~aivideo._pacing.protocol.Pacing`. Pass one of the two arguments.

    Args:
        limit: the exact limit.
        per_minute: requests per minute, if the kind of limit is not known.
    """

    def __init__(self, limit: RateLimit | None = None, *, per_minute: float | None = None) -> None:
        self.held_until: float | None = None
        self._traffic = _Traffic()
        self._serial = 0
        self._limits: list[_Limit]
        if limit is None:
            assert per_minute is not None
            self._rate = per_minute / 60
            self._limits = [_Bucket(self._rate, 1.0, jitter_share=MIN_JITTER_SHARE)]
            if per_minute >= 1:
                self._limits.append(_Window(int(per_minute), 60.0))
        else:
            self._rate = limit.rate
            self._limits = [
                _Window(int(limit.count), limit.seconds)
                if limit.burst is None
                else _Bucket(limit.rate, float(limit.burst))
            ]

    @property
    def rate(self) -> float:
        """The stated limit, in requests per second."""
        return self._rate

    @property
    def is_on_hold(self) -> bool:
        """False: a known limit needs no probes."""
        return False

    def ready_at(self, now: float) -> float:
        """Return when the limit allows a request; ``inf``: only after an answer arrives."""
        ready = now if self.held_until is None else max(now, self.held_until)
        for limit in self._limits:
            ready = max(ready, limit.ready_at(now, self._traffic))
        return ready

    def sent(self, now: float) -> SentRequest:
        """Record that a request is being sent."""
        if self.held_until is not None and now >= self.held_until:
            self.held_until = None
        self._serial += 1
        self._traffic.in_flight[self._serial] = now
        return SentRequest(now, self._rate, self._serial)

    def accepted(self, request: SentRequest, now: float) -> None:
        """Record an acceptance."""
        self._arrived(request, self._traffic.answered(request, now))

    def rejected(
        self, request: SentRequest, now: float, retry_after: float | None, draw: float
    ) -> None:
        """Record a 429, which another client of the key caused. Wait as it asks."""
        self._arrived(request, self._traffic.answered(request, now))
        for limit in self._limits:
            limit.rejected()
        asked = min(LONGEST_HOLD, max(0.0, retry_after or 0.0))
        wait = asked if asked >= 2 else (1 + draw) / self._rate
        self.held_until = max(self.held_until or now, now + wait)

    def lost(self, request: SentRequest, now: float) -> None:
        """Record that no answer arrived: it may have arrived at any time until now."""
        self._traffic.in_flight.pop(request.serial, None)
        self._arrived(request, now)

    def unsent(self, request: SentRequest) -> None:
        """Undo :meth:`sent`: nothing left, so it does not count."""
        self._traffic.in_flight.pop(request.serial, None)

    def idle(self) -> None:
        """Do nothing: a stated limit does not grow."""

    def _arrived(self, request: SentRequest, at: float) -> None:
        for limit in self._limits:
            limit.arrived(request.sent_at, at)
