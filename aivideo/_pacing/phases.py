"""The phases of a learned pace, one class each.

:mod:`aivideo._pacing.learned` explains the algorithm. A phase receives events, updates the
:class:`~aivideo._pacing.evidence.Evidence` and returns the phase that follows, mostly itself::

    RampingUp ── rejected ──► Identifying ── a bucket ──► Cruising ◄────► Paused
                                   │                         ▲               │
                                   │ a window                │ bursts        │ a window
                                   ▼                         │ do not fit    │ after all
               ┌──────────────► Bursting ────────────────────┤               │
               │                 │    ▲ ◄────────────────────┼───────────────┘
         probe │      rejected   │    │ probe                │
      accepted │      too early  ▼    │ accepted             │
               │               Resuming ─────────────────────┤
               │     quota used  │    ▲  rejected            │
               │     or rejected ▼    │  too early           │
               └─────────────── Waiting ─────────────────────┘

(Bursting also goes directly to Waiting.) ``TRANSITIONS`` lists the allowed transitions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from aivideo._pacing.cruise import HIGHEST_RATE, LONGEST_CLIMB
from aivideo._pacing.estimates import (
    after_long_closure,
    after_opening,
    at_window_end,
    is_bucket,
    of_brief_closure,
    of_late_acceptances,
)
from aivideo._pacing.evidence import (
    PROBE_INTERVAL_GROWTH,
    REORDERING,
    START_RATE,
    Evidence,
    RateEstimate,
)
from aivideo._pacing.protocol import SentRequest

RAMP_GROWTH = 1.4
"""Factor by which the pace may grow per round trip. 1.5 costs a fifth more rejections and saves
0.3 % of the time."""

TYPICAL_ROUND_TRIP = 0.15
"""Seconds. Over longer ones the growth per trip has the exponent ``√(round trip / typical)``."""

MAX_RESUME_ATTEMPTS = 4
"""How often an opening is resumed before its quota counts as used."""

MIN_MEASUREMENT = 3
"""Requests. A cycle that accepted fewer is no measurement."""

FULL_ROUND_TRIPS = 1.6
"""After this many round trips without a further answer, a probe is sent all the same."""


class Phase:
    """The behaviour common to all phases. Each event method returns the next phase."""

    __slots__ = ("evidence",)

    is_on_hold: ClassVar[bool] = False
    """Whether only one probe may be in flight at a time."""
    uses_quota: ClassVar[bool] = True
    """Whether acceptances are counted against the quota of a window."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    @property
    def rate(self) -> float:
        """The pace, in requests per second."""
        return self.evidence.open_rate

    def sent(self, now: float) -> Phase:
        """Handle that a request was sent, other than a probe."""
        return self

    def accepted(self, request: SentRequest, now: float) -> Phase:
        """Handle that a request was accepted, other than the probe of a hold."""
        raise NotImplementedError

    def rejected(self, request: SentRequest, now: float, asked: float, draw: float) -> Phase:
        """Handle a 429 that asked to wait ``asked`` seconds, other than to a hold's probe."""
        raise NotImplementedError

    # --- transitions that several phases share ------------------------------------------------

    def _close(self, now: float, began_at: float) -> None:
        evidence = self.evidence
        evidence.closure.began_at, evidence.decided_at = began_at, now
        evidence.closure.is_probing = False

    def _close_rejected(self, request: SentRequest, now: float, closed_until: float) -> None:
        self._close(now, request.sent_at)
        closure = self.evidence.closure
        closure.rejections, closure.late_acceptances = 1, 0
        closure.rejected_rate = request.rate
        closure.closed_until = max(closure.closed_until, closed_until)
        self.evidence.schedule_probe(now)

    def _cruise(self, estimate: RateEstimate, now: float) -> Cruising:
        evidence = self.evidence
        evidence.start_cruise(estimate, now)
        return Cruising(evidence, measurements=estimate.measurements)

    def _open_window(self, probe: SentRequest, now: float) -> Phase:
        """Handle the end of a window: burst, unless cruising is at least as good."""
        estimate = at_window_end(self.evidence, probe, now)
        if estimate is not None:
            return self._cruise(estimate, now)
        evidence = self.evidence
        evidence.opening.began_at = probe.sent_at
        evidence.opening.sent = evidence.opening.accepted = 1
        evidence.closure.rejections = evidence.closure.late_acceptances = 0
        return self._burst(probe, now)

    def _burst(self, probe: SentRequest, now: float) -> Bursting:
        evidence = self.evidence
        evidence.open_rate, evidence.next_at = START_RATE, now
        evidence.decided_at = probe.sent_at - 1e-9
        return Bursting(evidence)


class GrowingPhase(Phase):
    """A phase whose pace grows with each acceptance, exponentially in round trips."""

    __slots__ = ()

    def accepted(self, request: SentRequest, now: float) -> Phase:
        """Raise the pace above the one at which the accepted request was sent."""
        evidence = self.evidence
        if request.sent_at > evidence.decided_at and evidence.open_rate < HIGHEST_RATE:
            trips = evidence.traffic.round_trip / TYPICAL_ROUND_TRIP
            grown = request.rate * RAMP_GROWTH ** max(1.0, math.sqrt(trips))
            evidence.open_rate = min(HIGHEST_RATE, max(evidence.open_rate, grown))
            evidence.next_at = min(evidence.next_at, now + 1 / evidence.open_rate)
        return self


class RampingUp(GrowingPhase):
    """From ``START_RATE``, growing by ``RAMP_GROWTH`` per round trip, until the first rejection."""

    __slots__ = ()

    def rejected(self, request: SentRequest, now: float, asked: float, draw: float) -> Phase:
        evidence = self.evidence
        evidence.known.first_rejected_at = request.sent_at
        self._close_rejected(request, now, request.sent_at + max(0.0, asked - 1))
        if evidence.traffic.in_flight:  # their answers come first
            evidence.closure.probe_at = now + FULL_ROUND_TRIPS * evidence.traffic.round_trip
        return Identifying(evidence).decide(now)


class Bursting(GrowingPhase):
    """A window is open: use its quota as soon as possible."""

    __slots__ = ()

    def sent(self, now: float) -> Phase:
        evidence = self.evidence
        quota = evidence.known.quota
        if quota is None or evidence.opening.sent < quota:
            return self
        self._close(now, now)  # the quota is used: wait for the next opening
        evidence.closure.rejections = 0
        evidence.schedule_probe(now)
        return Waiting(evidence)

    def rejected(self, request: SentRequest, now: float, asked: float, draw: float) -> Phase:
        evidence = self.evidence
        known, opening = evidence.known, evidence.opening
        if request.sent_at < opening.began_at:
            return self
        opening.sent -= 1
        if known.quota is None:
            known.quota = max(1, opening.accepted)
        if evidence.is_short_opening and opening.resume_attempts < MAX_RESUME_ATTEMPTS:
            # A sliding window frees its places one by one, as they were taken, and the pace is
            # slightly ahead of them: continue this opening after a short delay.
            self._close_rejected(request, now, request.sent_at)
            opening.resume_attempts += 1
            delay = evidence.resume_delay * 2.0 ** (opening.resume_attempts - 1)
            evidence.closure.probe_at = now + delay
            return Resuming(evidence)
        estimate = after_opening(evidence, request, now)
        if estimate is not None:
            return self._cruise(estimate, now)
        self._close_rejected(request, now, request.sent_at + max(0.0, asked - 1))
        return Waiting(evidence)


class Cruising(Phase):
    """Send evenly, slightly below the limit; see :mod:`aivideo._pacing.cruise`.

    Args:
        evidence: what is known.
        measurements: of the limit, since cruising began.
    """

    __slots__ = ("_early_rejections", "_measurements")

    uses_quota = False

    def __init__(self, evidence: Evidence, *, measurements: int) -> None:
        super().__init__(evidence)
        self._measurements = measurements
        self._early_rejections = 0  # consecutive ones that came too soon to be measurements

    @property
    def rate(self) -> float:
        return self.evidence.cruise.rate

    def accepted(self, request: SentRequest, now: float) -> Phase:
        evidence = self.evidence
        if request.sent_at > evidence.decided_at:
            evidence.cruise.grow(now, evidence.traffic.round_trip, evidence.traffic.serial)
        return self

    def rejected(self, request: SentRequest, now: float, asked: float, draw: float) -> Phase:
        evidence = self.evidence
        cruise, closure = evidence.cruise, evidence.closure
        count = cruise.count(request)
        is_early = count < MIN_MEASUREMENT
        if asked >= 2 or (is_early and self._early_rejections):
            # Rejected again although the pace was cut: the service is closed for a while.
            self._close(now, request.sent_at)
            closure.rejections = 1 + self._early_rejections
            closure.rejected_rate = request.rate * 0.9**self._early_rejections
            closure.closed_until = request.sent_at
            paused = Paused(evidence, measurements=self._measurements, cycle=cruise.cycle(request))
            paused.schedule_probe(now, draw)
            return paused
        self._early_rejections = self._early_rejections + 1 if is_early else 0
        self._measurements += not is_early
        closure.rejected_rate = request.rate
        cruise.measured(count, max(request.sent_at - cruise.since, 1e-3), request.rate)
        cruise.begin_cycle(request.sent_at, request.serial)
        evidence.decided_at = now
        return self


class Hold(Phase):
    """A phase in which only one probe may be in flight at a time."""

    __slots__ = ()

    is_on_hold = True

    def probe_accepted(self, probe: SentRequest, now: float) -> Phase:
        """Handle that the probe was accepted."""
        raise NotImplementedError

    def probe_rejected(self, probe: SentRequest, now: float, draw: float) -> Phase:
        """Handle that the probe was rejected."""
        self.evidence.closure.rejections += 1
        self.evidence.schedule_probe(now)
        return self

    def accepted(self, request: SentRequest, now: float) -> Phase:
        """Handle a request that was in flight when the hold began."""
        closure = self.evidence.closure
        if request.sent_at > closure.began_at + REORDERING * self.evidence.traffic.round_trip:
            closure.late_acceptances += 1
            closure.last_late_acceptance = max(closure.last_late_acceptance, request.sent_at)
        return self

    def rejected(self, request: SentRequest, now: float, asked: float, draw: float) -> Phase:
        """Handle a request that was in flight when the hold began."""
        closure = self.evidence.closure
        if closure.rejections == 0:
            closure.began_at, closure.rejections = request.sent_at, 1
        else:
            closure.began_at = min(closure.began_at, request.sent_at)
        return self


class Identifying(Hold):
    """After the ramp: find out whether the limit is a bucket or a window."""

    __slots__ = ()

    def accepted(self, request: SentRequest, now: float) -> Phase:
        super().accepted(request, now)
        return self.decide(now)

    def rejected(self, request: SentRequest, now: float, asked: float, draw: float) -> Phase:
        super().rejected(request, now, asked, draw)
        return self.decide(now)

    def decide(self, now: float) -> Phase:
        """Decide once all requests that were in flight have been answered."""
        evidence = self.evidence
        if evidence.traffic.in_flight or evidence.closure.is_probing:
            return self
        if is_bucket(evidence, now):
            return self._cruise(of_late_acceptances(evidence), now)
        evidence.schedule_probe(now)
        return self

    def probe_accepted(self, probe: SentRequest, now: float) -> Phase:
        evidence = self.evidence
        if is_bucket(evidence, now):
            return self._cruise(of_late_acceptances(evidence), now)
        estimate = of_brief_closure(evidence, probe)
        if estimate is not None:
            return self._cruise(estimate, now)
        evidence.known.quota = max(1, evidence.opening.accepted)
        return self._open_window(probe, now)


class Waiting(Hold):
    """A window's quota is used: wait until it opens again."""

    __slots__ = ()

    def probe_accepted(self, probe: SentRequest, now: float) -> Phase:
        return self._open_window(probe, now)

    def rejected(self, request: SentRequest, now: float, asked: float, draw: float) -> Phase:
        super().rejected(request, now, asked, draw)
        evidence = self.evidence
        opening = evidence.opening
        delay = evidence.resume_delay * 2.0**opening.resume_attempts
        if (
            opening.resume_attempts < MAX_RESUME_ATTEMPTS - 1
            and request.sent_at > opening.began_at
            and 2 * opening.accepted >= (evidence.known.quota or 0)
            and now + delay + delay - opening.began_at < evidence.resume_limit
        ):
            opening.resume_attempts += 1
            evidence.closure.probe_at = now + delay
            return Resuming(evidence)
        return self


class Resuming(Hold):
    """An opening was rejected too early: continue it after a short delay."""

    __slots__ = ()

    def probe_accepted(self, probe: SentRequest, now: float) -> Phase:
        evidence = self.evidence
        opening = evidence.opening
        if probe.sent_at - opening.began_at > evidence.resume_limit:
            estimate = after_opening(evidence, probe, now)
            if estimate is not None:
                return self._cruise(estimate, now)
            return self._open_window(probe, now)
        assert evidence.known.quota is not None
        opening.accepted += 1
        in_flight = evidence.traffic.in_flight
        opening.sent = min(opening.accepted + in_flight, evidence.known.quota - 1)
        evidence.closure.rejections = 0
        return self._burst(probe, now)

    def probe_rejected(self, probe: SentRequest, now: float, draw: float) -> Phase:
        evidence = self.evidence
        opening = evidence.opening
        opening.resume_attempts += 1
        probe_at = now + evidence.resume_delay * 2.0 ** (opening.resume_attempts - 1)
        evidence.closure.probe_at = probe_at
        is_in_time = probe_at - opening.began_at <= evidence.resume_limit
        if opening.resume_attempts < MAX_RESUME_ATTEMPTS and is_in_time:
            return self
        estimate = after_opening(evidence, probe, now)
        if estimate is not None:
            return self._cruise(estimate, now)
        evidence.schedule_probe(now)
        return Waiting(evidence)


class Paused(Hold):
    """While cruising, rejected too soon: pause, then cruise again.

    Args:
        evidence: what is known.
        measurements: of the limit, since cruising began.
        cycle: requests accepted in the cycle that ended, and when it began.
    """

    __slots__ = ("_cycle", "_measurements")

    def __init__(self, evidence: Evidence, *, measurements: int, cycle: tuple[int, float]) -> None:
        super().__init__(evidence)
        self._measurements = measurements
        self._cycle = cycle

    def schedule_probe(self, now: float, draw: float) -> None:
        """Set when to probe next: after twice the time with each rejection."""
        closure = self.evidence.closure
        wait = min(LONGEST_CLIMB, 2.0 ** (closure.rejections - 1) / closure.rejected_rate)
        if closure.rejections > 2:
            was_closed = now - closure.began_at
            trip = self.evidence.traffic.round_trip
            wait = min(wait, max(4 * trip, 2 * PROBE_INTERVAL_GROWTH * was_closed))
        closure.probe_at = now + wait * (1 + 0.2 * draw)

    def probe_rejected(self, probe: SentRequest, now: float, draw: float) -> Phase:
        self.evidence.closure.rejections += 1
        self.schedule_probe(now, draw)
        return self

    def probe_accepted(self, probe: SentRequest, now: float) -> Phase:
        evidence = self.evidence
        cruise, closure, known = evidence.cruise, evidence.closure, evidence.known
        count, since = self._cycle
        was_closed = max(probe.sent_at - closure.began_at, 1e-3)
        seconds = max(probe.sent_at - since, 1e-3)
        three_gaps = 3 * (closure.began_at - since) / max(count, 1)
        if was_closed > max(4 * evidence.traffic.round_trip, seconds / 4, three_gaps):
            if self._measurements <= 1 and not known.openings and count >= 2:
                # Closed for long: a window after all, whose quota is unknown.
                known.quota = None
                evidence.opening.began_at = since
                return self._open_window(probe, now)
            estimate = after_long_closure(evidence, probe)
            if estimate is not None:
                return self._cruise(estimate, now)
        cruise.measured(count + 1, seconds, closure.rejected_rate)
        cruise.begin_cycle(probe.sent_at, probe.serial)
        evidence.decided_at = now
        evidence.next_at = now + 1 / cruise.rate
        return Cruising(evidence, measurements=self._measurements)


TRANSITIONS: Mapping[type[Phase], frozenset[type[Phase]]] = {
    RampingUp: frozenset({Identifying}),
    Identifying: frozenset({Bursting, Cruising}),
    Bursting: frozenset({Waiting, Resuming, Cruising}),
    Waiting: frozenset({Bursting, Resuming, Cruising}),
    Resuming: frozenset({Bursting, Waiting, Cruising}),
    Cruising: frozenset({Paused}),
    Paused: frozenset({Cruising, Bursting}),
}
"""For each phase, the phases that may follow it directly."""
