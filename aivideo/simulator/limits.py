"""Rate limits. The provider does not document its own, so several common kinds are available.

Each kind is a frozen value, to be stated in a scenario. Its `start()` returns the limiter of one
API key. A limiter has no clock: `take(now)` counts one request if it is allowed at `now`.

A rejected request never counts: it takes no token and does not fill a window.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Protocol

import attrs

# Tolerance in seconds for floating-point rounding: a client that waits exactly as long as required
# may arrive early by a rounding error, and must be allowed.
_TOLERANCE = 1e-9


class Limiter(Protocol):
    """The rate limiter of one API key."""

    def take(self, now: float) -> float:
        """Count one request at `now` (seconds).

        Returns:
            0.0 if it is allowed, else the seconds until a request would be allowed.
        """
        ...


class _TokenBucketLimiter:
    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at: float | None = None

    def take(self, now: float) -> float:
        if self._at is not None and now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now if self._at is None else max(self._at, now)
        if self._tokens >= 1 - _TOLERANCE:
            self._tokens = max(0.0, self._tokens - 1)
            return 0.0
        return (1 - self._tokens) / self._rate


class _FixedWindowLimiter:
    __slots__ = ("_count", "_limit", "_phase", "_seconds", "_window")

    def __init__(self, limit: int, seconds: float, phase: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._phase = phase
        self._window: float | None = None
        self._count = 0

    def take(self, now: float) -> float:
        window = (now - self._phase + _TOLERANCE) // self._seconds
        if window != self._window:
            self._window = window
            self._count = 0
        if self._count < self._limit:
            self._count += 1
            return 0.0
        return max(_TOLERANCE, (window + 1) * self._seconds + self._phase - now)


class _SlidingWindowLimiter:
    __slots__ = ("_limit", "_seconds", "_taken")

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._taken: deque[float] = deque()

    def take(self, now: float) -> float:
        taken = self._taken
        while taken and now - taken[0] >= self._seconds - _TOLERANCE:
            taken.popleft()
        if len(taken) < self._limit:
            taken.append(now)
            return 0.0
        return max(_TOLERANCE, taken[0] + self._seconds - now)


@attrs.frozen
class TokenBucket:
    """A token bucket: `rate` tokens per second, at most `burst` tokens; it starts full."""

    rate: float = attrs.field(validator=attrs.validators.gt(0))
    burst: float = attrs.field(default=1.0, validator=attrs.validators.ge(1))

    def start(self) -> Limiter:
        """Return a limiter with a full bucket."""
        return _TokenBucketLimiter(self.rate, self.burst)


@attrs.frozen
class FixedWindow:
    """At most `limit` requests in each window of `seconds`. Windows start at `phase` seconds."""

    limit: int = attrs.field(validator=attrs.validators.ge(1))
    seconds: float = attrs.field(validator=attrs.validators.gt(0))
    phase: float = 0.0

    def start(self) -> Limiter:
        """Return a limiter with an empty window."""
        return _FixedWindowLimiter(self.limit, self.seconds, self.phase)


@attrs.frozen
class SlidingWindow:
    """At most `limit` requests in any period of `seconds`."""

    limit: int = attrs.field(validator=attrs.validators.ge(1))
    seconds: float = attrs.field(validator=attrs.validators.gt(0))

    def start(self) -> Limiter:
        """Return a limiter with an empty window."""
        return _SlidingWindowLimiter(self.limit, self.seconds)


@attrs.frozen
class JobsCap:
    """At most `limit` tasks pending or processing. Rejects creates only, never polls."""

    limit: int = attrs.field(validator=attrs.validators.ge(1))


RequestRate = TokenBucket | FixedWindow | SlidingWindow
"""A limit on requests per time."""

RateLimit = RequestRate | JobsCap
"""A rate limit that a scenario may state."""

_FORMATS = (
    "token:RATE/s[:BURST] (token:50/s:10), fixed:COUNT/SECONDSs (fixed:20/10s), "
    "sliding:COUNT/SECONDSs (sliding:100/60s) or jobs:COUNT (jobs:20)"
)
_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
_PER = rf"(?P<count>{_NUMBER})/(?P<seconds>{_NUMBER})?s"
_TOKEN = re.compile(rf"token:{_PER}(?::(?P<burst>{_NUMBER}))?")
_WINDOW = re.compile(rf"(?P<kind>fixed|sliding):{_PER}")
_JOBS = re.compile(r"jobs:(?P<count>\d+)")


def parse_rate_limit(text: str) -> RateLimit:
    """Parse a rate limit in the format of the command line.

    Formats: `token:50/s:10` (50 per second, bursts of 10; the default burst is 1), `fixed:20/10s`,
    `sliding:100/60s`, `jobs:20`.

    Raises:
        ValueError: if the text has none of these formats; the message lists them.
    """
    try:
        if match := _TOKEN.fullmatch(text):
            per = float(match["seconds"] or 1)
            return TokenBucket(float(match["count"]) / per, float(match["burst"] or 1))
        if match := _WINDOW.fullmatch(text):
            count = float(match["count"])
            if count.is_integer():
                kind = FixedWindow if match["kind"] == "fixed" else SlidingWindow
                return kind(int(count), float(match["seconds"] or 1))
        if match := _JOBS.fullmatch(text):
            return JobsCap(int(match["count"]))
    except (ValueError, ZeroDivisionError):
        pass  # a zero where a positive number is required: reported below
    raise ValueError(f"not a rate limit: {text!r}; write {_FORMATS}")
