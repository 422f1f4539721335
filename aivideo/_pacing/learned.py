"""How fast to send, when nobody says how fast one may.

**The problem.** The service limits requests and documents neither the rate nor the kind of limit
(a token bucket? a window, fixed or sliding?). All it says is 429, sometimes with ``Retry-After``.
A batch wants to be at the limit within seconds; a service that runs for hours wants to stay there
and be refused about once in a hundred requests; four processes on one key want a fair share each.

**The naive ways, and how they fail** (500 creates at 50/s with a burst of 10; time ÷ ideal). Retry
with backoff: every worker sleeps on its own while permits stand idle: 1.5 to 1.7, and clients that
give up after two retries lose most of a batch. Additive increase, halve on a 429: 0.79 of the
limit for ever. Slow, careful growth: 21 s and more until 50/s is known. Stop everybody for each
``Retry-After: 1``: 1.5, since the 1 is the rounding of anything up to a second.

**What refusals tell.** A limit is known exactly only *between two closures*: a bucket goes from
empty to empty, a window from end to end, and what was let through ÷ the time is the rate, to ± 1
request. So the pace makes such cycles quickly at first, and trusts each about twice as long as it
took to make. It is in one of four phases:

* **ramp**: from ``START``, times ``GROWTH`` per round trip (each acceptance allows that much more
  than its own request was sent at), until the first refusal. A ramp's burst is refused for one
  round trip at most, where sending everything at once would be refused by the dozen.
* **shut**: nobody sends but one probe at a time. What was still under way at the first refusal
  tells the kind of limit for free (:meth:`LearnedPace._flows`): through an empty bucket a steady
  part of it still passes, and that part ÷ the time *is* the rate; through a used-up window
  nothing does.
* **burst**: a window is used as soon as it opens, up to the quota that was counted, then left
  alone until it should open again (:mod:`aivideo._pacing.window`). A batch of a few windows loses
  nothing; after ``BURSTS`` openings and ``BURST_SECONDS`` it goes over to
* **cruise**: evenly at just under the limit (:mod:`aivideo._pacing.cruise`), where buckets arrive
  at once, and whoever shares the key gets a share.

**More than one limit, and others on the key.** A window that is shut for longer than anything known
explains is read from one such opening to the next: so a limit a second and another a minute are
both found (1.2 to 1.5). Fewer than ``ENOUGH`` requests are no reading of that kind: who comes to
a window that somebody else uses in bursts gets next to nothing at first, and must not believe it.

**Rules that hold in each phase.** A loss is counted once per round trip: what was sent before the
last cut says nothing new, and its acceptances never raise the pace. A ``Retry-After`` of 2 s and
more holds everybody that long (an hour at most), then one probe asks; a 1 is the refused
request's own wait. The pace grows by time in use only, never while nothing waits to be sent.

**What it comes to** (time ÷ ideal of batches at round trips of 0.15 s ± 25 %; 429s per request):
50/s 1.03 and 0.05, 200/s 1.09 and 0.04; windows of 20 per 10 s 1.06 and 0.24, 100 per 60 s 1.06
and 0.21, 600 per 60 s 1.15 and 0.05. In the long run 0.98 to 1.00 of these limits at 0.1 to 1.2 %
429s; four processes on one key use 0.96 to 1.00 of it, at a Jain's index of 0.91 to 0.99.

**Weak spots.** A fixed window that ends within the first burst costs a batch one more window (two
starts of twenty, 1.36 to 2.0; the medians are 1.02 to 1.05): a burst without a ramp would not, and
would be refused more everywhere else. Requests that arrive unevenly at a bucket that admits no
burst at all are refused whatever the pace: with round trips of 0.15 s ± 25 %, 5/s yields 0.78 of
the limit at the very best and 0.72 here (1.40 in a batch; 1.11 where round trips are steady), and
200/s a third. A first reading over long round trips (0.8 s) takes three of them, which a batch
of ten seconds feels (1.19). Quotas of ten a minute lose a tenth with each refusal. A service that
counts refused requests too makes each probe for the end of its window cost a place (2.0).

Derived from section F ("Pace") of a study of such policies, with its faults mended; the figures
are printed by ``benchmarks/pace_long.py``.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum

from attrs import define, field

from aivideo._pacing.cruise import ABOVE, CUT, DEEP, ENOUGH, HIGHEST, SLOWEST, Cruise
from aivideo._pacing.ticket import LONGEST_HOLD, Ticket
from aivideo._pacing.window import FINE, Window

START = 20.0
"""Requests a second to begin with: three in a usual round trip tell how long that is."""

GROWTH = 1.4
"""What one round trip may multiply the pace by; 1.5 costs a fifth more refusals and gains 0.3 %."""

USUAL_ROUND_TRIP = 0.15
"""Seconds. Over longer ones the ramp grows more per round trip, by the root of how much longer."""

UNEVEN = 0.5
"""Share of a round trip by which requests may overtake each other: what was sent that soon after
the first refused one may have arrived before it."""

FLOWS = 3
"""Acceptances after the first refusal that show a bucket."""

SLOW_BUCKET = START / 4
"""Requests a second: a closure that ends sooner than a bucket of that rate would need is a
bucket's; of a longer one only the next opening tells."""

LATER = 0.2
"""Probe again when this much longer than since the opening has passed: a tenth late on average."""

BURSTS, BURST_SECONDS = 5, 60.0
"""Openings, and seconds, for which a window is used in bursts."""

SMALL = 4
"""Places below which a window cannot be told from a bucket, or from a key that others use."""

TIMER = 0.0015
"""Seconds that a timer of the loop may be late by its resolution alone."""

TRIES = 4
"""Times that an opening is tried again a moment later before its places count as used up."""


class _Phase(Enum):
    RAMP = "ramp"
    BURST = "burst"
    SHUT = "shut"
    CRUISE = "cruise"


@define
class LearnedPace:
    """A pace learned from refusals; see the module's essay. Times are seconds of a steady clock."""

    _phase: _Phase = _Phase.RAMP
    _was: _Phase = _Phase.RAMP
    """The phase that a closure ended."""
    _rate: float = START
    _cruise: Cruise = field(factory=Cruise)
    _window: Window | None = None

    _next: float = float("-inf")
    """When the next may be sent, by spacing alone."""
    _probe_at: float = 0.0
    _probing: bool = False
    _asked_until: float = float("-inf")
    """Until when a ``Retry-After`` of 2 s or more holds everybody."""
    _cut_at: float = float("-inf")
    """What was sent until then brings no news."""

    _serial: int = 0
    _out: int = 0
    _round_trip: float | None = None
    _began_at: float | None = None
    """When the first request ever was sent."""

    # This opening: from the first request that passed to the first refusal.
    _opened_at: float = 0.0
    _last_sent: float = 0.0
    _sent: int = 0
    _passed: int = 0
    _quota: int | None = None
    _openings: int = 0
    _short: int = 0
    """Openings in a row that had fewer places than the quota."""
    _recent: deque[float] = field(factory=deque)
    """When those were sent that passed within the last length of the window."""

    # This closure.
    _shut_at: float = 0.0
    """When the first refused request was sent, or the last place used."""
    _first_shut_at: float = 0.0
    _known_shut: float = 0.0
    """The latest time at which the service surely was shut."""
    _refusals: int = 0
    _refused_rate: float = START
    _tail: int = 0
    """Requests under way at the first refusal that passed all the same."""
    _tail_last: float = 0.0
    _tries: int = 0
    _resuming: bool = False
    """The opening may go on after a moment."""
    _overdue: int = 0
    """Probes refused after the window should have ended."""
    _strikes: int = 0
    """Refusals in a row, while cruising, that came too soon to be readings."""
    _readings: int = 0
    """Since this cruise began."""
    _cycle: tuple[int, float] = (0, 0.0)
    """Of the cycle that this closure ended: let through, and since when."""

    # From one long closure to the next: what a window, or one above it, lets through.
    _total: int = 0
    _era: tuple[int, float] = (0, 0.0)
    """Let through before it, and when it began."""

    # --- what the limiter asks and tells ------------------------------------------------------

    @property
    def rate(self) -> float:
        """Requests a second, now."""
        return self._cruise.rate if self._phase is _Phase.CRUISE else self._rate

    @property
    def held_until(self) -> float | None:
        """When a hold for all ends, or None."""
        if self._phase is _Phase.SHUT:
            return max(self._probe_at, self._asked_until)
        return self._asked_until if self._asked_until > self._last_sent else None

    @property
    def is_shut(self) -> bool:
        """Whether only one probe at a time may go."""
        return self._phase is _Phase.SHUT

    def ready_at(self, now: float) -> float:
        """When the next may go; ``inf`` while the one probe of a hold is under way."""
        if self._phase is _Phase.SHUT:
            return float("inf") if self._probing else max(self._probe_at, self._asked_until)
        if self._next <= now and self._asked_until <= now:
            return now
        # A clock that was set back must not hold everybody until it has caught up.
        # (Nor be asked a million times a second until then, where the pace is that high.)
        return max(min(self._next, now + max(TIMER, 1 / self.rate)), self._asked_until)

    def sent(self, now: float) -> Ticket:
        """Note a sending."""
        if self._began_at is None:
            self._began_at = self._opened_at = self._shut_at = now
            self._era = (0, now)
        self._serial += 1
        self._out += 1
        self._sent += 1
        # A timer fires late by a little: that is made up for. A pause is not: no burst follows it.
        rate = self.rate
        late = max(TIMER, min(0.05, 0.5 / rate))
        self._next = max(self._next, now - late) + 1 / rate
        if self._phase is _Phase.SHUT:
            self._probing = True
            return Ticket(now, rate, self._serial, probe=True)
        ticket = Ticket(now, rate, self._serial)
        self._last_sent = now
        if self._phase is _Phase.BURST and self._quota is not None and self._sent >= self._quota:
            self._shut(now, now)  # its places are used: come back when it opens again
            self._refusals = 0
            self._probe_at = self._aim(now)
        return ticket

    def accepted(self, ticket: Ticket, now: float) -> None:
        """Note that it got through; only what was sent since the last cut may raise the pace."""
        self._answered(ticket, now)
        self._total += 1
        if ticket.probe and self._phase is _Phase.SHUT:
            self._probing = False
            self._open_again(ticket, now)
            return
        self._passed += 1
        self._remember(ticket)
        if self._phase is _Phase.SHUT:
            if ticket.sent_at > self._shut_at + UNEVEN * self._trip:
                self._tail += 1
                self._tail_last = max(self._tail_last, ticket.sent_at)
            self._judge(now)
        elif ticket.sent_at <= self._cut_at:
            return
        elif self._phase is _Phase.CRUISE:
            self._cruise.grow(now, self._trip, self._serial)
        elif self._rate < HIGHEST:
            growth = GROWTH ** max(1.0, math.sqrt(self._trip / USUAL_ROUND_TRIP))
            self._rate = min(HIGHEST, max(self._rate, ticket.rate * growth))
            self._next = min(self._next, now + 1 / self._rate)

    def rejected(self, ticket: Ticket, now: float, retry_after: float | None, draw: float) -> None:
        """Note a 429: cut once a round trip, and find out what kind of limit said it."""
        self._answered(ticket, now)
        self._cruise.refused()
        asked = min(LONGEST_HOLD, max(0.0, retry_after or 0.0))
        if asked >= 2:
            self._asked_until = max(self._asked_until, now + asked * (1 + 0.02 * draw))
        # A header is rounded up, so it is shut for a second less than that at least.
        shut = ticket.sent_at + max(0.0, asked - 1)
        if self._phase is _Phase.SHUT:
            self._known_shut = max(self._known_shut, shut)
            if ticket.probe:
                self._probing = False
                self._refused_probe(ticket, now, draw)
            else:
                self._refused_straggler(ticket, now)
        elif ticket.sent_at <= self._cut_at:
            return  # sent before the last cut: the same loss again
        elif self._phase is _Phase.CRUISE:
            self._refused_cruising(ticket, now, asked, draw)
        elif self._phase is _Phase.BURST:
            self._refused_in_burst(ticket, now, shut)
        else:
            self._first_shut_at = ticket.sent_at
            self._close(ticket, now, shut)
            if self._out:
                self._probe_at = now + 1.6 * self._trip  # first hear what is under way
            self._judge(now)

    def lost(self, ticket: Ticket, now: float) -> None:
        """Note that no answer came; a lost probe is sent again."""
        self._out -= 1
        if ticket.probe and self._phase is _Phase.SHUT:
            self._probing = False
            self._probe_at = max(self._probe_at, now + self._trip)

    def unsent(self, ticket: Ticket) -> None:
        """Take a sending back: nothing went out, and its place is the next one's."""
        self._out -= 1
        if ticket.probe:
            self._probing = False
        elif ticket.sent_at >= self._opened_at:
            self._sent -= 1
        self._next -= 1 / ticket.rate
        self._cruise.unsent()

    def idle(self) -> None:
        """Note that the pace is not what holds sending back: growth stands still."""
        if self._phase is not _Phase.RAMP:
            self._cruise.pause()

    # --- refusals -----------------------------------------------------------------------------

    def _refused_probe(self, ticket: Ticket, now: float, draw: float) -> None:
        if self._resuming:
            self._tries += 1
            self._probe_at = now + self._moment * 2.0 ** (self._tries - 1)
            if self._tries >= TRIES or self._probe_at - self._opened_at > self._reach():
                self._resuming = False
                if not self._ends_bursts(ticket, now):
                    self._probe_at = self._aim(now)
            return
        self._refusals += 1
        cruised = self._was is _Phase.CRUISE
        self._probe_at = self._pause(now, draw) if cruised else self._aim(now)

    def _refused_straggler(self, ticket: Ticket, now: float) -> None:
        """One that was under way when it shut."""
        first = self._refusals == 0
        self._shut_at = ticket.sent_at if first else min(self._shut_at, ticket.sent_at)
        self._refusals = max(1, self._refusals)
        again_at = now + self._moment * 2.0**self._tries
        if (
            self._was is _Phase.BURST
            and not self._resuming
            and self._tries < TRIES - 1
            and ticket.sent_at > self._opened_at
            and 2 * self._passed >= (self._quota or 0)
            and again_at + self._moment * 2.0**self._tries - self._opened_at < self._reach()
        ):
            self._resuming = True
            self._tries += 1
            self._probe_at = again_at
        self._judge(now)

    def _refused_in_burst(self, ticket: Ticket, now: float, shut: float) -> None:
        if ticket.sent_at < self._opened_at:
            return
        self._sent -= 1
        if self._quota is None:
            self._quota = max(1, self._passed)
        if self._is_few and self._tries < TRIES:
            # A window that slides frees its places one by one, as they were taken: we are a
            # little ahead of them. Go on with this opening after a moment.
            self._close(ticket, now, ticket.sent_at)
            self._resuming = True
            self._tries += 1
            self._probe_at = now + self._moment * 2.0 ** (self._tries - 1)
            return
        if not self._ends_bursts(ticket, now):
            self._close(ticket, now, shut)

    def _refused_cruising(self, ticket: Ticket, now: float, asked: float, draw: float) -> None:
        count = self._cruise.count(ticket)
        self._cycle = self._cruise.cycle(ticket)
        if asked >= 2 or (count < 3 and self._strikes):
            # Refused again although the pace was cut: it is shut, for a while.
            self._shut(now, ticket.sent_at)
            self._refusals = 1 + self._strikes
            self._refused_rate = ticket.rate * 0.9**self._strikes
            self._known_shut = ticket.sent_at
            self._probe_at = self._pause(now, draw)
            return
        self._strikes = self._strikes + 1 if count < 3 else 0
        self._readings += count >= 3
        self._refused_rate = ticket.rate
        seconds = max(ticket.sent_at - self._cruise.since, 1e-3)
        self._cruise.read(count, seconds, ticket.rate)
        self._cruise.begin_cycle(ticket.sent_at, ticket.serial)
        self._cut_at = now

    # --- closures -----------------------------------------------------------------------------

    def _shut(self, now: float, first: float) -> None:
        self._was, self._phase = self._phase, _Phase.SHUT
        self._shut_at, self._cut_at = first, now
        self._probing = False

    def _close(self, ticket: Ticket, now: float, shut: float) -> None:
        self._shut(now, ticket.sent_at)
        self._refusals, self._tail = 1, 0
        self._refused_rate = ticket.rate
        self._known_shut = max(self._known_shut, shut)
        self._probe_at = self._aim(now)

    def _judge(self, now: float) -> None:
        """Once all that was under way at the first refusal is answered: is it a bucket?"""
        if self._was is not _Phase.RAMP or self._out or self._probing:
            return
        if self._flows(now):
            self._cruise_by_tail(now)
        else:
            self._probe_at = self._aim(now)

    def _flows(self, now: float) -> bool:
        """Whether requests kept passing to the end of what was under way."""
        return (
            self._tail >= FLOWS
            and self._asked_until <= now
            and self._tail_last - self._shut_at > 0.6 * (self._last_sent - self._shut_at)
        )

    def _was_brief(self, closed: float) -> bool:
        """Whether a window would hardly have been shut for so few seconds."""
        opened = self._shut_at - self._opened_at
        return (self._tail + 1) / closed >= SLOW_BUCKET or closed < opened / 2

    def _aim(self, now: float) -> float:
        """When to send the next probe, or the first request of the next opening."""
        trip = self._trip
        earliest = now + trip / 2 if self._refusals else now
        end = None if self._window is None else self._window.next_end()
        if end is not None:
            assert self._window is not None
            longest = self._window.longest
            lo, hi = max(end[0], self._known_shut), end[1]
            if lo < hi:
                rough = hi - lo > max(2 * trip, FINE * longest)
                return max(earliest, (lo + hi) / 2 if rough else hi + trip / 3)
            # It should have opened: look again after a growing share of its length.
            self._overdue += 1
            growing = FINE * longest * 2.0 ** (self._overdue - 1)
            return now + max(trip, min(growing, LATER * (now - self._shut_at)))
        if self._refusals:
            since = now - self._opened_at
            # Who was let through by the hundred can afford more probes, and loses more by waiting.
            later = LATER / max(1.0, math.sqrt(self._passed / 100))
            if self._window is not None:  # it lasts a little longer than is known, most likely
                later = min(later, FINE * 2.0 ** (self._refusals - 1))
            return max(earliest, self._opened_at + since * (1 + later), now + trip)
        shortest = 0.0 if self._window is None else self._window.shortest
        return max(now + trip, self._opened_at + shortest)

    def _pause(self, now: float, draw: float) -> float:
        wait = min(SLOWEST, 2.0 ** (self._refusals - 1) / self._refused_rate)
        if self._refusals > 2:
            wait = min(wait, max(4 * self._trip, 2 * LATER * (now - self._shut_at)))
        return now + wait * (1 + 0.2 * draw)

    def _reach(self) -> float:
        """Seconds after an opening within which it may go on after a pause."""
        window = self._window
        return 0.4 * (window.length or window.shortest or 1.0) if window is not None else 0.4

    # --- openings -----------------------------------------------------------------------------

    def _open_again(self, probe: Ticket, now: float) -> None:
        """A probe passed: say what that closure was, and go on accordingly."""
        if self._resuming:
            if probe.sent_at - self._opened_at <= self._reach():
                self._resume_opening(probe, now)
                return
            self._resuming = False
            if self._ends_bursts(probe, now):
                return
        closed = max(probe.sent_at - self._shut_at, 1e-3)
        if self._was is _Phase.CRUISE:
            self._resume_cruise(probe, now, closed)
        elif not self._openings and self._flows(now):
            self._cruise_by_tail(now)
        elif not self._openings and self._passed >= SMALL and self._was_brief(closed):
            # A bucket, of which one probe at a time tells but a lower bound.
            reading = (self._tail + 1) / closed
            peak = max(reading, 0.7 * self._refused_rate)
            base = max(0.9 * reading, math.sqrt(reading * peak))
            self._go(now, peak, base, max(12 * self._trip, 6 / peak))
        else:
            if not self._openings:
                self._quota = max(1, self._passed)
            self._open_window(probe, now)

    def _resume_opening(self, probe: Ticket, now: float) -> None:
        self._resuming = False
        self._phase = _Phase.BURST
        self._passed += 1
        self._refusals = 0
        assert self._quota is not None
        self._sent = min(self._passed + self._out, self._quota - 1)
        self._rate, self._next = START, now
        self._cut_at = probe.sent_at - 1e-9

    def _resume_cruise(self, probe: Ticket, now: float, closed: float) -> None:
        count, since = self._cycle
        gap = 3 * (self._shut_at - since) / max(count, 1)
        whole = max(probe.sent_at - since, 1e-3)
        if closed > max(4 * self._trip, whole / 4, gap):
            if self._readings <= 1 and not self._openings and count >= 2:
                # Shut for long after all: a window, whose quota is not known.
                self._quota = None
                self._opened_at = since
                self._open_window(probe, now)
                return
            if self._cruise_by_era(probe, now):
                return
        self._cruise.read(count + 1, whole, self._refused_rate)
        self._cruise.begin_cycle(probe.sent_at, probe.serial)
        self._phase, self._cut_at, self._strikes = _Phase.CRUISE, now, 0
        self._next = now + 1 / self._cruise.rate

    def _cruise_by_era(self, probe: Ticket, now: float) -> bool:
        """Shut for longer than what is known explains: there is a window, or one above it.

        Not so if hardly anything passed: then others use the key, and that is no reading.
        """
        before, began = self._era
        count, seconds = self._total - before, max(probe.sent_at - began, 1e-3)
        if count < ENOUGH:
            return False
        self._era = (self._total - 1, probe.sent_at)
        reading = count / seconds
        self._go(now, (1 + ABOVE) * reading, (1 - CUT) * reading, SLOWEST)
        self._readings = 2  # bursts would meet the other limit: never again
        self._cruise.begin_cycle(probe.sent_at, probe.serial)
        return True

    def _open_window(self, probe: Ticket, now: float) -> None:
        if self._is_another_window(probe) and self._cruise_by_era(probe, now):
            return
        shut = min(self._known_shut, probe.sent_at)
        if self._window is None:
            self._window = Window.first(self._opened_at, max(shut, self._shut_at), probe.sent_at)
        else:
            if not self._refusals and self._window.is_bounded:
                # The first to try passed: it opened at some time since it could have.
                least = self._window.length or self._window.shortest
                shut = min(probe.sent_at, self._window.shut + least)
            self._window.ended(shut, probe.sent_at)
        self._openings += 1
        self._overdue = self._tries = 0
        self._cruise.at_least = 1.5 * self._window.longest if self._window.is_bounded else 0.0
        length = self._window.guess
        since = probe.sent_at - self._opened_at
        if self._quota is not None and self._quota < SMALL:
            others = 0 if self._passed else SMALL - 1  # they left nothing: that is no reading
            reading = (self._quota + others) / since
            self._go(now, 2 * reading, reading, 2 * since)
        elif (
            self._openings > 1
            and 2 * (probe.sent_at - self._shut_at) < self._shut_at - self._opened_at
        ):
            # Open for longer than shut: cruising is as quick, and a bucket looks like this too.
            reading = self._passed / since
            self._go(now, 1.1 * reading, reading, max(2 * since, 6 * self._trip))
        elif self._quota and length and self._has_burst_enough(now):
            self._cruise.young = False
            self._go(now, self._quota / length, (1 - CUT) * self._quota / length, SLOWEST)
        else:
            self._phase = _Phase.BURST
            self._opened_at = probe.sent_at
            self._sent = self._passed = 1
            self._refusals = self._tail = 0
            self._rate, self._next = START, now
            self._cut_at = probe.sent_at - 1e-9

    def _is_another_window(self, probe: Ticket) -> bool:
        """Whether it opened so late that this end cannot be that of the window that is known."""
        if self._window is None or self._openings < 2 or not self._overdue:
            return False
        return probe.sent_at - self._window.open > 2 * self._window.longest

    def _has_burst_enough(self, now: float) -> bool:
        assert self._began_at is not None
        return self._openings >= BURSTS and now - self._began_at >= BURST_SECONDS

    # --- cruising -----------------------------------------------------------------------------

    @property
    def _is_few(self) -> bool:
        """Whether this opening had far fewer places than the quota."""
        return self._quota is not None and self._passed < 0.8 * self._quota

    def _ends_bursts(self, ticket: Ticket, now: float) -> bool:
        """This opening is used up: count it, or go over to cruising where bursts do not fit."""
        if self._is_slow_bucket(ticket, now) or (self._is_few and self._is_uneven(ticket, now)):
            return True
        if not self._is_few:
            self._short = 0
            self._quota = max(1, self._passed)
        return False

    def _is_slow_bucket(self, ticket: Ticket, now: float) -> bool:
        """Far fewer passed than at first: no window, but a bucket that had been full."""
        if self._openings != 1 or self._quota is None or 2 * self._passed >= self._quota:
            return False
        count = self._passed + self._tail
        seconds = max(ticket.sent_at - self._first_shut_at, 1e-3)
        self._cruise_at(now, ticket, count / seconds, count, 2 * seconds)
        return True

    def _is_uneven(self, ticket: Ticket, now: float) -> bool:
        """Far fewer places than the quota: bursts do not fit here, so go evenly.

        Either we have used the window ourselves, but at other times than in this opening: one that
        slides frees its places as they were taken, and demand has come in pieces. Then the rate is
        known. Or, twice in a row, others use the key.
        """
        assert self._window is not None
        assert self._began_at is not None
        assert self._quota
        length = self._window.guess or now - self._began_at
        self._forget(ticket.sent_at - length)
        if len(self._recent) >= 0.8 * self._quota:
            self._resuming = False
            self._go(now, self._quota / length, (1 - CUT) * self._quota / length, SLOWEST)
            return True
        if self._openings == 1:
            # The first opening, of which the quota is, began in one window and ended in the next.
            self._quota = max(1, self._passed)
            return False
        self._short += 1
        if self._short < 2:
            return False
        climb = max(20.0, 2 * length)
        count = max(self._passed, len(self._recent))
        self._cruise_at(now, ticket, count / length, count, climb)
        return True

    def _remember(self, ticket: Ticket) -> None:
        if self._window is not None and self._phase is not _Phase.CRUISE:
            self._recent.append(ticket.sent_at)
            self._forget(ticket.sent_at - (self._window.guess or SLOWEST))

    def _forget(self, until: float) -> None:
        while self._recent and self._recent[0] <= until:
            self._recent.popleft()

    def _cruise_by_tail(self, now: float) -> None:
        seconds = max(self._last_sent - self._shut_at - UNEVEN * self._trip, 1e-3)
        rough = min(DEEP, max(CUT, 1 / self._tail))
        peak = min(self._refused_rate, (1 + rough) * self._tail / seconds)
        self._go(now, peak, peak * (1 - rough), max(4 * seconds, 12 * self._trip))

    def _cruise_at(
        self, now: float, ticket: Ticket, reading: float, count: int, climb: float
    ) -> None:
        rough = min(DEEP, max(CUT, 1 / max(count, 1)))
        peak = (1 + rough) * reading
        self._resuming = False
        self._go(now, peak, peak * (1 - rough), climb)
        self._cruise.begin_cycle(ticket.sent_at, ticket.serial)

    def _go(self, now: float, peak: float, base: float, climb: float) -> None:
        self._cruise.start(now, self._serial, peak=peak, base=base, climb=climb)
        self._readings = 0
        self._phase, self._cut_at, self._strikes = _Phase.CRUISE, now, 0
        if not now <= self._next <= now + 1 / self._cruise.rate:
            self._next = now + 1 / self._cruise.rate

    # --- the clock ----------------------------------------------------------------------------

    @property
    def _trip(self) -> float:
        return 0.1 if self._round_trip is None else self._round_trip

    @property
    def _moment(self) -> float:
        """In which a window that slides may free a place: no shorter than its first were apart."""
        return max(self._trip, 1 / START)

    def _answered(self, ticket: Ticket, now: float) -> None:
        self._out -= 1
        took = max(1e-3, now - ticket.sent_at)
        if self._round_trip is None:
            self._round_trip = took
        else:
            self._round_trip += (took - self._round_trip) / 8
