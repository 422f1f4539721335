"""Estimates of a limit's rate: when to send at a steady pace instead of in bursts, and how fast.

Each function looks at the evidence at one kind of moment and returns an estimate to cruise at, or
None if the current way of sending is better. Some update what is known about the window.
"""

from __future__ import annotations

import math

from aivideo._pacing.cruise import (
    CUT,
    LONGEST_CLIMB,
    PEAK_MARGIN,
    PRECISE_COUNT,
    relative_error,
)
from aivideo._pacing.evidence import LOW_ACCEPTANCE, REORDERING, START_RATE, Evidence, RateEstimate
from aivideo._pacing.protocol import SentRequest
from aivideo._pacing.window import Window

MIN_LATE_ACCEPTANCES = 3
"""Requests accepted after the first rejection that identify a bucket."""

SLOW_BUCKET_RATE = START_RATE / 4
"""Requests per second. A closure shorter than such a bucket would cause is a bucket's; what caused
a longer one is known only at the next opening."""

SMALL_QUOTA = 4
"""Requests. A window with a smaller quota looks like a bucket, or like a key shared with others."""


# --- after the ramp: a bucket or a window? --------------------------------------------------------


def is_bucket(evidence: Evidence, now: float) -> bool:
    """Return whether requests were accepted until the end of those that were in flight.

    An empty bucket still accepts a steady part of them; a used-up window accepts none.
    """
    closure, last = evidence.closure, evidence.traffic.last_sent_at
    return (
        closure.late_acceptances >= MIN_LATE_ACCEPTANCES
        and evidence.asked_until <= now
        and closure.last_late_acceptance - closure.began_at > 0.6 * (last - closure.began_at)
    )


def of_late_acceptances(evidence: Evidence) -> RateEstimate:
    """Estimate a bucket's rate from what it accepted after the first rejection."""
    closure, traffic = evidence.closure, evidence.traffic
    count = closure.late_acceptances
    seconds = traffic.last_sent_at - closure.began_at - REORDERING * traffic.round_trip
    seconds = max(seconds, 1e-3)
    error = relative_error(count)
    peak = min(closure.rejected_rate, (1 + error) * count / seconds)
    climb = max(4 * seconds, 12 * traffic.round_trip)
    return RateEstimate(peak, peak * (1 - error), climb)


def of_brief_closure(evidence: Evidence, probe: SentRequest) -> RateEstimate | None:
    """Estimate a bucket's rate, if a window would hardly have been closed for so short a time.

    One probe at a time gives a lower bound only, so the estimate starts at the geometric mean of
    that bound and of a pace slightly below the one that was rejected.
    """
    closure, opening = evidence.closure, evidence.opening
    if opening.accepted < SMALL_QUOTA:
        return None
    seconds = max(probe.sent_at - closure.began_at, 1e-3)
    rate = (closure.late_acceptances + 1) / seconds
    was_open = closure.began_at - opening.began_at
    if rate < SLOW_BUCKET_RATE and seconds >= was_open / 2:
        return None
    peak = max(rate, 0.7 * closure.rejected_rate)
    base = max(0.9 * rate, math.sqrt(rate * peak))
    return RateEstimate(peak, base, max(12 * evidence.traffic.round_trip, 6 / peak))


# --- when an opening is used up -------------------------------------------------------------------


def after_opening(evidence: Evidence, request: SentRequest, now: float) -> RateEstimate | None:
    """Evaluate an opening that is used up; return an estimate if bursts do not fit the limit."""
    estimate = _of_slow_bucket(evidence, request)
    if estimate is None and evidence.is_short_opening:
        estimate = _of_uneven_openings(evidence, request, now)
    if estimate is None and not evidence.is_short_opening:
        evidence.known.short_openings = 0
        evidence.known.quota = max(1, evidence.opening.accepted)
    return estimate


def _of_slow_bucket(evidence: Evidence, request: SentRequest) -> RateEstimate | None:
    """Less than half of the first count was accepted: a bucket, which was full at first."""
    known, opening = evidence.known, evidence.opening
    if known.openings != 1 or known.quota is None or 2 * opening.accepted >= known.quota:
        return None
    count = opening.accepted + evidence.closure.late_acceptances
    seconds = max(request.sent_at - known.first_rejected_at, 1e-3)
    return _measured(request, count / seconds, count, 2 * seconds)


def _of_uneven_openings(
    evidence: Evidence, request: SentRequest, now: float
) -> RateEstimate | None:
    """This opening accepted far less than the quota.

    If the pace itself used the window, only at other times than in this opening, then the window
    slides and frees its places as they were taken, and its rate is known. Otherwise others use the
    key, if it is the second such opening in a row.
    """
    known, opening = evidence.known, evidence.opening
    assert known.window is not None
    assert known.quota
    assert evidence.traffic.first_sent_at is not None
    length = known.window.best_length or now - evidence.traffic.first_sent_at
    known.forget_until(request.sent_at - length)
    if len(known.accepted_at) >= LOW_ACCEPTANCE * known.quota:
        return _of_quota(known.quota, length)
    if known.openings == 1:
        # The first opening, which gave the quota, began in one window and ended in the next.
        known.quota = max(1, opening.accepted)
        return None
    known.short_openings += 1
    if known.short_openings < 2:
        return None
    count = max(opening.accepted, len(known.accepted_at))
    return _measured(request, count / length, count, max(20.0, 2 * length))


# --- when a window ends ---------------------------------------------------------------------------


def at_window_end(evidence: Evidence, probe: SentRequest, now: float) -> RateEstimate | None:
    """Record that a window ended; return an estimate if bursts have no advantage (any more)."""
    if evidence.is_other_window(probe):
        estimate = after_long_closure(evidence, probe)
        if estimate is not None:
            return estimate
    known, opening, closure = evidence.known, evidence.opening, evidence.closure
    window = _record_end(evidence, probe)
    known.openings += 1
    closure.overdue_probes = opening.resume_attempts = 0
    evidence.cruise.min_climb = 1.5 * window.longest if window.is_bounded else 0.0
    length = window.best_length
    seconds = probe.sent_at - opening.began_at
    if known.quota is not None and known.quota < SMALL_QUOTA:
        # If others left nothing, that is no measurement: start at a usable rate.
        unmeasured = 0 if opening.accepted else SMALL_QUOTA - 1
        rate = (known.quota + unmeasured) / seconds
        return RateEstimate(2 * rate, rate, 2 * seconds)
    was_open, was_closed = closure.began_at - opening.began_at, probe.sent_at - closure.began_at
    if known.openings > 1 and 2 * was_closed < was_open:
        # A steady pace is as quick here, and a bucket would look the same.
        rate = opening.accepted / seconds
        return RateEstimate(1.1 * rate, rate, max(2 * seconds, 6 * evidence.traffic.round_trip))
    if known.quota and length and evidence.has_burst_long_enough(now):
        evidence.cruise.young = False
        return _of_quota(known.quota, length)
    return None


def after_long_closure(evidence: Evidence, probe: SentRequest) -> RateEstimate | None:
    """Estimate the rate of a second, longer window that the known limit does not explain.

    It is measured from the end of one such closure to the end of the next. If hardly anything was
    accepted in between, others use the key, and that is no measurement.
    """
    known, accepted = evidence.known, evidence.traffic.accepted
    accepted_before, began_at = known.long_cycle
    count, seconds = accepted - accepted_before, max(probe.sent_at - began_at, 1e-3)
    if count < PRECISE_COUNT:
        return None
    known.long_cycle = (accepted - 1, probe.sent_at)
    rate = count / seconds
    return RateEstimate(
        peak=(1 + PEAK_MARGIN) * rate,
        base=(1 - CUT) * rate,
        climb=LONGEST_CLIMB,
        measurements=2,  # never burst again: bursts would hit the other limit
        cycle_from=probe,
    )


def _record_end(evidence: Evidence, probe: SentRequest) -> Window:
    known, closure = evidence.known, evidence.closure
    closed_at = min(closure.closed_until, probe.sent_at)
    if known.window is None:
        known.window = Window.from_first_end(
            evidence.opening.began_at, max(closed_at, closure.began_at), probe.sent_at
        )
        return known.window
    window = known.window
    if not closure.rejections and window.is_bounded:
        # The first probe was accepted: the window ended at some time since it could have.
        shortest = window.length or window.shortest
        closed_at = min(probe.sent_at, window.last_closed_at + shortest)
    window.add_end(closed_at, probe.sent_at)
    return window


# --- forms of an estimate -------------------------------------------------------------------------


def _of_quota(quota: int, length: float) -> RateEstimate:
    """Return the rate of a window whose quota and length (in seconds) are known."""
    return RateEstimate(quota / length, (1 - CUT) * quota / length, LONGEST_CLIMB)


def _measured(request: SentRequest, rate: float, count: int, climb: float) -> RateEstimate:
    """Return ``rate`` ± the error of a measurement of ``count`` requests until ``request``."""
    error = relative_error(count)
    peak = (1 + error) * rate
    return RateEstimate(peak, peak * (1 - error), climb, cycle_from=request)
