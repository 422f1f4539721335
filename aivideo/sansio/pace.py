"""How fast to send, when nobody says how fast one may.

**The problem.** The service limits requests and documents neither the rate nor the kind of limit
(a token bucket? a window?). All it says is 429, sometimes with ``Retry-After``. Sleeping after a
429 and going on as before wastes half of the rate; every request its own backoff leaves slots
idle; a fixed pace is either too slow or refused all day.

**What a refusal tells.** Between two refusals a bucket goes from empty to empty, so what was
accepted in between ÷ the time it took *is* its rate, to ± 1 request. For a window the same holds
over whole cycles. So each closure gives a reading, and the pace follows the readings:

* ``ramp``: start at ``START`` requests/s and grow by half per round trip (each acceptance allows
  1.5 × the pace its request was sent at) until the first refusal.
* ``shut``: after a refusal nobody sends but one probe at a time, until one is accepted. A
  ``Retry-After`` of 2 s or more closes for that long. A 1 is the rounding of anything up to a
  second, so it is the refused request's own wait, and the others go on at the pace.
* ``cruise``: evenly at a little under the reading, growing again by *time* (not by successes,
  which would let a fast process push out a slow one) back to the reading and then past it.

Only one loss is counted per round trip: refusals of requests sent before the last cut say nothing
new, and neither do their acceptances: they never raise the pace. While nothing waits to be sent
the growth stands still, for an unused pace proves nothing.

A limit that the user states is kept exactly instead, so that no refusal occurs at all.
"""

from __future__ import annotations

from typing import Protocol, Self

from attrs import define, field, frozen

from aivideo.errors import ConfigurationError

START = 20.0
"""Requests a second to begin with."""

GROWTH = 1.5
"""What one round trip may multiply the pace by while ramping."""

LOWEST, HIGHEST = 1 / 600, 10_000.0
LONGEST_HOLD = 3600.0
"""Seconds: an absurd ``Retry-After`` is cut to an hour, after which one probe asks again."""


@frozen
class RateLimit:
    """A limit that the user knows: then no 429 occurs. See :meth:`bucket` and :meth:`window`.

    Attributes:
        count: requests …
        seconds: … per so many seconds.
        burst: requests that a bucket lets through at once; None for a window.
    """

    count: float
    seconds: float
    burst: int | None = None

    def __attrs_post_init__(self) -> None:
        for name, value in (
            ("count", self.count),
            ("seconds", self.seconds),
            ("burst", self.burst),
        ):
            if value is None and name == "burst":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
                raise ConfigurationError(f"RateLimit {name}={value!r} must be a number above 0")
        if self.burst is None and self.count < 1:
            raise ConfigurationError(f"RateLimit count={self.count!r}: a window admits 1 or more")

    @classmethod
    def bucket(cls, rate: float, *, burst: int = 1) -> Self:
        """``rate`` requests a second, and up to ``burst`` at once after a pause."""
        return cls(rate, 1.0, burst)

    @classmethod
    def window(cls, count: int, *, seconds: float) -> Self:
        """At most ``count`` requests in any ``seconds`` seconds."""
        return cls(count, seconds)

    @property
    def rate(self) -> float:
        """Requests a second in the long run."""
        return self.count / self.seconds


@frozen
class Ticket:
    """One sending: when, at which pace, and whether it was the one probe of a hold."""

    sent_at: float
    rate: float
    probe: bool = False


class Pacing(Protocol):
    """What the limiter asks: when the next request may go, and what came of the earlier ones."""

    @property
    def rate(self) -> float:
        """Requests a second, now."""
        ...

    @property
    def held_until(self) -> float | None:
        """When a hold for all ends, or None."""
        ...

    def ready_at(self, now: float) -> float:
        """When the next request may be sent; ``inf`` while an answer must be awaited first."""
        ...

    def sent(self, now: float) -> Ticket:
        """Note a sending."""
        ...

    def accepted(self, ticket: Ticket, now: float) -> None:
        """Note that the limit let it through."""
        ...

    def rejected(self, ticket: Ticket, now: float, retry_after: float | None, draw: float) -> None:
        """Note a 429. ``retry_after`` in seconds; ``draw`` from 0 to 1 for jitter."""
        ...

    def lost(self, ticket: Ticket, now: float) -> None:
        """Note that no answer came: it says nothing about the limit."""
        ...

    def idle(self, now: float) -> None:
        """Note that nothing waits to be sent."""
        ...


@define
class LearnedPace:
    """A pace learned from refusals; see the module's essay."""

    rate: float = START
    held_until: float | None = None
    _next: float = float("-inf")
    _ramping: bool = True
    _probing: bool = False
    _hold: float = 0.0
    _cut_at: float = float("-inf")
    _cycle_began: float | None = None
    _cycle_accepted: int = 0
    _closed_at: float = 0.0
    _peak: float = START
    _base: float = START
    _grow_from: float = 0.0
    _climb: float = 2.0
    _idle_since: float | None = None

    def ready_at(self, now: float) -> float:
        """When the next may go; ``inf`` while the one probe of a hold is under way."""
        if self.held_until is not None:
            return float("inf") if self._probing else self.held_until
        # After a jump of the clock there is no debt to make up for: `sent` counts from `now`. A
        # clock that was set back must not hold everybody until it has caught up.
        return min(self._next, now + 1 / self.rate)

    def sent(self, now: float) -> Ticket:
        """Note a sending."""
        if self._idle_since is not None:
            self._grow_from += max(0.0, now - self._idle_since)
            self._idle_since = None
        if self._cycle_began is None:
            self._cycle_began = now
        self._next = max(self._next, now) + 1 / self.rate
        if self.held_until is not None:
            self._probing = True
            return Ticket(now, self.rate, probe=True)
        return Ticket(now, self.rate)

    def accepted(self, ticket: Ticket, now: float) -> None:
        """Note that it got through; only what was sent since the last cut may raise the pace."""
        self._cycle_accepted += 1
        if ticket.probe and self.held_until is not None:
            self._reopen(now)
        elif self.held_until is None and ticket.sent_at > self._cut_at:
            self._grow(ticket, now)

    def rejected(self, ticket: Ticket, now: float, retry_after: float | None, draw: float) -> None:
        """Note a 429: cut once a round trip, hold, and probe."""
        asked = min(LONGEST_HOLD, max(0.0, retry_after or 0.0))
        if self.held_until is not None:
            if ticket.probe:
                self._probing = False
                self._hold = min(60.0, self._hold * 2)
            elif ticket.sent_at <= self._cut_at and asked < 2:
                return
            wait = asked if asked >= 2 else self._hold * (1 + 0.2 * draw)
            self.held_until = max(self.held_until, now + wait)
            return
        if ticket.sent_at <= self._cut_at:
            return  # sent before the last cut: the same loss again
        self._cut(now, asked, draw)

    def lost(self, ticket: Ticket, now: float) -> None:
        """Note that no answer came; a lost probe is asked again after the hold."""
        if ticket.probe:
            self._probing = False
            if self.held_until is not None:
                self.held_until = max(self.held_until, now + self._hold)

    def idle(self, now: float) -> None:
        """Note that nothing waits: growth stands still."""
        if self._idle_since is None:
            self._idle_since = now

    def _cut(self, now: float, asked: float, draw: float) -> None:
        began = now if self._cycle_began is None else self._cycle_began
        elapsed = max(now - began, 1e-3)
        reading = self._cycle_accepted / elapsed
        self._peak = min(self.rate, reading) if self._cycle_accepted >= 4 else self.rate * 0.7
        self._peak = min(HIGHEST, max(LOWEST, self._peak))
        self._climb = min(60.0, max(2.0, 2 * elapsed, self._climb if not self._ramping else 0.0))
        self._ramping = False
        self.rate = self._base = 0.95 * self._peak
        self._cut_at = self._closed_at = self._grow_from = now
        self._hold = min(1.0, 2 / self._peak)
        self.held_until = now + (asked if asked >= 2 else self._hold * (1 + 0.2 * draw))
        self._probing = False

    def _reopen(self, now: float) -> None:
        began = self._closed_at if self._cycle_began is None else self._cycle_began
        closed, open_ = now - self._closed_at, max(self._closed_at - began, 1e-3)
        if closed > max(1.0, 0.25 * open_) and self._cycle_accepted >= 2:
            # Closed for long: a window was used up, so the whole cycle is what it is worth.
            self._peak = min(self._peak, self._cycle_accepted / (now - began))
            self._climb = max(self._climb, min(120.0, 2 * (now - began)))
            self.rate = self._base = 0.95 * self._peak
        self.held_until = None
        self._probing = False
        self._cut_at = self._grow_from = self._cycle_began = now
        self._cycle_accepted = 0
        self._next = now + 1 / self.rate

    def _grow(self, ticket: Ticket, now: float) -> None:
        if self._ramping:
            self.rate = min(HIGHEST, max(self.rate, ticket.rate * GROWTH))
            self._next = min(self._next, now + 1 / self.rate)
            return
        share = (now - self._grow_from) / self._climb
        if share < 1:
            self.rate = self._peak + (self._base - self._peak) * (1 - share) ** 3
        else:
            self.rate = min(HIGHEST, self._peak * (1 + 0.2 * (share - 1) ** 3))
            if self.rate > 1.3 * self._peak:
                self._peak = self._base = self.rate
                self._grow_from = self._cycle_began = now
                self._cycle_accepted = 0


@define
class StatedPace:
    """A limit that the user states, kept so that no refusal occurs.

    A window counts a request from its sending until ``seconds`` after its *answer*: when it
    reached the service is not known, but it was between the two. A bucket is kept one request
    below its burst, since two requests may arrive closer together than they were sent.
    """

    limit: RateLimit
    held_until: float | None = None
    _tokens: float = field(default=0.0)
    _at: float = field(default=float("-inf"))
    _out: int = 0
    _spent: list[float] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._tokens = self._capacity

    @property
    def rate(self) -> float:
        """Requests a second: as stated."""
        return self.limit.rate

    @property
    def _capacity(self) -> float:
        return float(max(1, (self.limit.burst or 1) - 1))

    def ready_at(self, now: float) -> float:
        """When the limit has room; ``inf`` while only an answer can make some."""
        held = now if self.held_until is None else self.held_until
        if self.limit.burst is None:
            self._spent = [end for end in self._spent if end > now]
            if self._out + len(self._spent) < self.limit.count:
                return held
            return max(held, min(self._spent)) if self._spent else float("inf")
        self._refill(now)
        return max(held, now + max(0.0, 1 - self._tokens) / self.rate)

    def sent(self, now: float) -> Ticket:
        """Note a sending."""
        if self.held_until is not None and now >= self.held_until:
            self.held_until = None
        self._out += 1
        if self.limit.burst is not None:
            self._refill(now)
            self._tokens -= 1
        return Ticket(now, self.rate)

    def accepted(self, ticket: Ticket, now: float) -> None:
        """Note that it got through."""
        self._answered(now)

    def rejected(self, ticket: Ticket, now: float, retry_after: float | None, draw: float) -> None:
        """Note a 429: somebody else uses the key too. Wait what it asks."""
        self._answered(now)
        asked = min(LONGEST_HOLD, max(0.0, retry_after or 0.0))
        wait = asked if asked >= 2 else (1 + draw) / self.rate
        self.held_until = max(self.held_until or now, now + wait)

    def lost(self, ticket: Ticket, now: float) -> None:
        """Note that no answer came: it may have counted."""
        self._answered(now)

    def idle(self, now: float) -> None:
        """Nothing to do: an unused limit stays what it is."""

    def _answered(self, now: float) -> None:
        self._out -= 1
        if self.limit.burst is None:
            self._spent.append(now + self.limit.seconds)

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._capacity, self._tokens + (now - self._at) * self.rate)
            self._at = now
