"""Estimate the length of a rate-limit window from the times at which it was seen to end.

A window admits a fixed number of requests, then rejects all others until it ends. An end is
observed only as a bracket: the service was still closed for a request sent at ``last_closed_at``
and open for one sent at ``first_open_at``. Two such brackets bound the length::

    last_closed_at[2] - first_open_at[1] < length < first_open_at[2] - last_closed_at[1]

Each further end narrows the bounds. They halve if the next probe is sent in the middle of the
interval in which the end may lie.

Operators choose round lengths. If exactly one of the roundest numbers lies between the bounds, it
is used as the length until a bound excludes it. A wrong guess costs one early probe; a right one
usually saves four.
"""

from __future__ import annotations

from attrs import define

PRECISION = 0.03
"""A length known to within this fraction of itself is known well enough."""

_ROUND_LENGTHS = (
    (1.0, 10.0, 60.0, 3600.0),
    (5.0, 30.0, 15.0, 20.0, 2.0, 3.0, 300.0, 600.0, 900.0),
)
"""Seconds, the roundest group first."""


@define
class Window:
    """Bounds on the latest end of a window and on its length, in seconds.

    Attributes:
        last_closed_at: the latest end was after this time …
        first_open_at: … and before this one.
        shortest: the length is greater than this …
        longest: … and at most this.
    """

    last_closed_at: float
    first_open_at: float
    shortest: float = 0.0
    longest: float = float("inf")

    @classmethod
    def from_first_end(cls, began_at: float, last_closed_at: float, first_open_at: float) -> Window:
        """Create it from the first end, of a window whose first request was sent at ``began_at``.

        A sliding window ends one length after its first request; a fixed window began earlier. So
        if one of the roundest lengths fits a sliding window, it is used until it is disproved.
        """
        window = cls(last_closed_at, first_open_at, shortest=max(0.0, last_closed_at - began_at))
        longest = first_open_at - began_at
        if any(window.shortest < length <= longest for length in _ROUND_LENGTHS[0]):
            window.longest = longest
        return window

    def add_end(self, last_closed_at: float, first_open_at: float) -> None:
        """Record the next end: after ``last_closed_at`` and before ``first_open_at``."""
        self.shortest = max(self.shortest, last_closed_at - self.first_open_at)
        self.longest = min(self.longest, first_open_at - self.last_closed_at)
        if self.shortest >= self.longest:  # the length is not constant, or an end was missed
            self.longest = 1.01 * max(first_open_at - self.first_open_at, self.shortest)
        self.last_closed_at, self.first_open_at = last_closed_at, first_open_at

    @property
    def is_bounded(self) -> bool:
        """Whether the length has an upper bound yet."""
        return self.longest < float("inf")

    @property
    def length(self) -> float | None:
        """The only round length within the bounds, in seconds, or None."""
        if not self.is_bounded:
            return None
        for lengths in _ROUND_LENGTHS:
            inside = [each for each in lengths if self.shortest < each <= self.longest]
            if len(inside) == 1:
                return inside[0]
        whole = float(int(self.longest))
        return whole if whole - 1 <= self.shortest < whole and self.longest > 2 else None

    @property
    def best_length(self) -> float | None:
        """The length as well as it is known, in seconds; None without an upper bound."""
        return self.length or (self.longest if self.is_bounded else None)

    def next_end(self) -> tuple[float, float] | None:
        """Return the interval in which it ends next; None while that is too uncertain."""
        length = self.length
        if length is not None:
            return self.last_closed_at + length, self.first_open_at + length
        if self.longest - self.shortest <= 0.5 * self.shortest:
            return self.last_closed_at + self.shortest, self.first_open_at + self.longest
        return None
