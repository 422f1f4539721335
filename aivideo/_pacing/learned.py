"""Learn how fast to send when the rate limit is unknown.

**The problem.** The service limits requests and documents neither the rate nor the kind of limit:
a token bucket, a fixed window or a sliding window. The only signal is a 429, sometimes with
``Retry-After``. A batch must reach the limit within seconds. A service that runs for hours must
stay there with about one 429 per hundred requests. Four processes that share a key must get a fair
share each.

**Simple approaches and how they fail** (500 creates at 50/s with a burst of 10; time ÷ ideal time):

* Retry with backoff: each worker sleeps on its own while the limit has room: 1.5 to 1.7. Clients
  that give up after two retries lose most of a batch.
* Additive increase, halved at a 429: 0.79 of the limit in the long term.
* Slow, careful growth: more than 21 s until 50/s is found.
* Hold all requests for each ``Retry-After: 1``: 1.5, since the header rounds up anything below a
  second to 1.

**What rejections tell.** A limit can be measured exactly only *between two closures*. A bucket
goes from empty to empty and a window from end to end, so ``requests accepted ÷ time`` is the rate,
to ± 1 request. The pace therefore makes short cycles first, and trusts each measurement for about
twice as long as it took. :mod:`aivideo._pacing.phases` has one class per phase:

* **Ramping up**: start at ``START_RATE`` and multiply by ``RAMP_GROWTH`` per round trip (each
  acceptance allows that much more than the pace at which its request was sent), until the first
  rejection. A ramp overshoots for one round trip at most; sending everything at once would be
  rejected by the dozen.
* **Identifying**: hold, with one probe at a time. What was in flight at the first rejection tells
  the kind of limit at no cost: an empty bucket still accepts a steady part of it, and that part ÷
  time *is* the rate; a used-up window accepts none of it (``estimates.is_bucket``).
* **Bursting**, **waiting**, **resuming**: use a window's quota as soon as it opens, then send
  nothing until it should open again (:mod:`aivideo._pacing.window`); after an early rejection,
  resume the opening a moment later. So a batch of a few windows loses no time. After
  ``MIN_BURSTS`` openings and ``MIN_BURST_SECONDS``, or where bursts do not fit
  (:mod:`aivideo._pacing.estimates`), follows
* **Cruising**: send evenly, slightly below the limit (:mod:`aivideo._pacing.cruise`). Buckets get
  there at once, and clients that share a key get their share. After a rejection that came too
  early to be a measurement it is **paused**, with one probe at a time.

**Several limits, and other users of the key.** A window that is closed for longer than everything
known explains is measured from one such end to the next. So a limit per second and another per
minute are both found (1.2 to 1.5). Fewer than ``PRECISE_COUNT`` requests are no such measurement:
a client that arrives at a window which another uses in bursts gets almost nothing at first, and
must not take that for its share.

**Rules of all phases.**

* A loss counts once per round trip: requests sent before the last cut are no new evidence, and
  their acceptances never raise the pace.
* A ``Retry-After`` of 2 s or more holds all requests for that long (an hour at most); then one
  probe is sent. A ``Retry-After: 1`` delays only the rejected request.
* The pace grows only with the time for which it was in use, never while nothing waits to be sent.

**Results.** Batches with round trips of 0.15 s ± 25 % (time ÷ ideal time; 429s per request)::

    bucket    50/s            1.03   0.05
    bucket   200/s            1.09   0.04
    window    20 per 10 s     1.06   0.24
    window   100 per 60 s     1.06   0.21
    window   600 per 60 s     1.15   0.05

In the long term: 0.98 to 1.00 of these limits with 0.1 to 1.2 % 429s. Four processes on one key
use 0.96 to 1.00 of it, with a Jain's fairness index of 0.91 to 0.99.

**Weaknesses.**

* If a fixed window ends within the first burst, a batch takes one window more: two of twenty start
  times, 1.36 to 2.0 (the medians are 1.02 to 1.05). A burst without a ramp would avoid it, and
  would be rejected more often everywhere else.
* A bucket without a burst rejects requests that arrive unevenly, whatever the pace. With round
  trips of 0.15 s ± 25 %, at most 0.78 of 5/s can be used and 0.72 is used here (1.40 for a batch;
  1.11 where round trips are steady); of 200/s, a third.
* With long round trips (0.8 s) the first measurement takes three of them, which costs a batch of
  ten seconds 1.19.
* A quota of ten per minute loses a tenth with each rejection.
* If the service counts rejected requests too, each probe for a window's end uses a place (2.0).

Derived from section F ("Pace") of a study of such policies, with its defects corrected;
``benchmarks/pace_long.py`` prints the figures.
"""

from __future__ import annotations

from aivideo._pacing.cruise import LONGEST_CLIMB
from aivideo._pacing.evidence import Evidence
from aivideo._pacing.phases import Hold, Phase, RampingUp
from aivideo._pacing.protocol import LONGEST_HOLD, SentRequest

TIMER_RESOLUTION = 0.0015
"""Seconds by which a timer of the event loop may be late because of its resolution alone."""


class LearnedPace:
    """A pace learned from 429s. The module's docstring explains how.

    Implements :class:`~aivideo._pacing.protocol.Pacing`. All times are seconds of one monotonic
    clock.
    """

    __slots__ = ("_evidence", "_phase")

    def __init__(self) -> None:
        self._evidence = Evidence()
        self._phase: Phase = RampingUp(self._evidence)

    @property
    def phase(self) -> type[Phase]:
        """The current phase, for tests and logs."""
        return type(self._phase)

    @property
    def rate(self) -> float:
        """The current pace, in requests per second."""
        return self._phase.rate

    @property
    def is_on_hold(self) -> bool:
        """Whether only one probe may be in flight at a time."""
        return self._phase.is_on_hold

    @property
    def held_until(self) -> float | None:
        """The time at which a hold on all requests ends, or None."""
        evidence = self._evidence
        if self._phase.is_on_hold:
            return max(evidence.closure.probe_at, evidence.asked_until)
        is_held = evidence.asked_until > evidence.traffic.last_sent_at
        return evidence.asked_until if is_held else None

    def ready_at(self, now: float) -> float:
        """Return when the next request may be sent; ``inf`` while a probe is in flight."""
        evidence = self._evidence
        if self._phase.is_on_hold:
            if evidence.closure.is_probing:
                return float("inf")
            return max(evidence.closure.probe_at, evidence.asked_until)
        if evidence.next_at <= now and evidence.asked_until <= now:
            return now
        # If the clock was set back, do not wait until it has caught up. The minimum of one timer
        # tick avoids a million calls per second at a very high pace.
        tick = max(TIMER_RESOLUTION, 1 / self._phase.rate)
        return max(min(evidence.next_at, now + tick), evidence.asked_until)

    def sent(self, now: float) -> SentRequest:
        """Record that a request is being sent."""
        evidence, phase = self._evidence, self._phase
        traffic = evidence.traffic
        if traffic.first_sent_at is None:
            evidence.begin(now)
        traffic.serial += 1
        traffic.in_flight += 1
        evidence.opening.sent += 1
        # Catch up on the small delay of a timer, but never send a burst after a pause.
        rate = phase.rate
        lateness = max(TIMER_RESOLUTION, min(0.05, 0.5 / rate))
        evidence.next_at = max(evidence.next_at, now - lateness) + 1 / rate
        if phase.is_on_hold:
            evidence.closure.is_probing = True
            return SentRequest(now, rate, traffic.serial, probe=True)
        traffic.last_sent_at = now
        self._phase = phase.sent(now)
        return SentRequest(now, rate, traffic.serial)

    def accepted(self, request: SentRequest, now: float) -> None:
        """Record an acceptance. Only requests sent since the last cut may raise the pace."""
        evidence, phase = self._evidence, self._phase
        evidence.traffic.answered(request, now)
        evidence.traffic.accepted += 1
        if request.probe and isinstance(phase, Hold):
            evidence.closure.is_probing = False
            self._phase = phase.probe_accepted(request, now)
            return
        evidence.opening.accepted += 1
        known = evidence.known
        if known.window is not None and phase.uses_quota:
            known.accepted_at.append(request.sent_at)
            known.forget_until(request.sent_at - (known.window.best_length or LONGEST_CLIMB))
        self._phase = phase.accepted(request, now)

    def rejected(
        self, request: SentRequest, now: float, retry_after: float | None, draw: float
    ) -> None:
        """Record a 429. Rejections of one round trip cut the pace only once."""
        evidence, phase = self._evidence, self._phase
        evidence.traffic.answered(request, now)
        evidence.cruise.add_not_accepted()
        asked = min(LONGEST_HOLD, max(0.0, retry_after or 0.0))
        if asked >= 2:
            evidence.asked_until = max(evidence.asked_until, now + asked * (1 + 0.02 * draw))
        if isinstance(phase, Hold):
            closure = evidence.closure
            # `Retry-After` is rounded up, so the service is closed for at least a second less.
            closed_until = request.sent_at + max(0.0, asked - 1)
            closure.closed_until = max(closure.closed_until, closed_until)
            if request.probe:
                closure.is_probing = False
                self._phase = phase.probe_rejected(request, now, draw)
                return
        elif request.sent_at <= evidence.decided_at:
            return  # sent before the last cut: not a new loss
        self._phase = phase.rejected(request, now, asked, draw)

    def lost(self, request: SentRequest, now: float) -> None:
        """Record that no answer arrived. A lost probe is sent again after a round trip."""
        evidence = self._evidence
        evidence.traffic.in_flight -= 1
        if request.probe and self._phase.is_on_hold:
            closure = evidence.closure
            closure.is_probing = False
            closure.probe_at = max(closure.probe_at, now + evidence.traffic.round_trip)

    def unsent(self, request: SentRequest) -> None:
        """Undo :meth:`sent`: nothing left, so the next request may use its place."""
        evidence = self._evidence
        evidence.traffic.in_flight -= 1
        if request.probe:
            evidence.closure.is_probing = False
        elif request.sent_at >= evidence.opening.began_at:
            evidence.opening.sent -= 1
        evidence.next_at -= 1 / request.rate
        evidence.cruise.add_not_accepted()

    def idle(self) -> None:
        """Record that something other than the pace delays sending: the pace must not grow."""
        self._evidence.cruise.pause()
