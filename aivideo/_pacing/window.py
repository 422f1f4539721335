"""Where a window's ends lie: what refusals and acceptances tell of its length.

A window admits so many requests and then nothing until it ends. What is seen of an end is that the
service was still shut when one request was sent and open when a later one was. Two such brackets
bound the length: between (shut₂ - open₁) and (open₂ - shut₁). Each further end narrows both, by
halves if the next request to try is sent in the middle of where the end may lie.

People choose round lengths. When exactly one of the roundest numbers lies between the bounds it is
taken for the length, until a bound rules it out: that costs at most one early probe, and usually
saves four.
"""

from __future__ import annotations

from attrs import define

FINE = 0.03
"""A length is known well enough within this share of it."""

_ROUND = ((1.0, 10.0, 60.0, 3600.0), (5.0, 30.0, 15.0, 20.0, 2.0, 3.0, 300.0, 600.0, 900.0))
"""Seconds, the roundest first."""


@define
class Window:
    """The latest end seen lies in (``shut``, ``open``), the length in (``shortest``, ``longest``).

    All in seconds; ``shut`` and ``open`` by the loop's clock.
    """

    shut: float
    open: float
    shortest: float = 0.0
    longest: float = float("inf")

    @classmethod
    def first(cls, began: float, shut: float, open_: float) -> Window:
        """Begin with the first end seen, of a window whose first request was sent at ``began``.

        A window that slides ends its length after its first request; one that is fixed began
        earlier. So if a very round length fits the former, it is believed until proved wrong.
        """
        window = cls(shut, open_, shortest=max(0.0, shut - began))
        if any(window.shortest < length <= open_ - began for length in _ROUND[0]):
            window.longest = open_ - began
        return window

    def ended(self, shut: float, open_: float) -> None:
        """Note the next end: still shut when one was sent at ``shut``, open at ``open_``."""
        self.shortest = max(self.shortest, shut - self.open)
        self.longest = min(self.longest, open_ - self.shut)
        if self.shortest >= self.longest:  # not a window of one length, or an end was missed
            self.longest = 1.01 * max(open_ - self.open, self.shortest)
        self.shut, self.open = shut, open_

    @property
    def is_bounded(self) -> bool:
        """Whether the length has an upper bound yet."""
        return self.longest < float("inf")

    @property
    def length(self) -> float | None:
        """The one round length between the bounds, or None."""
        if not self.is_bounded:
            return None
        for lengths in _ROUND:
            inside = [each for each in lengths if self.shortest < each <= self.longest]
            if len(inside) == 1:
                return inside[0]
        whole = float(int(self.longest))
        return whole if whole - 1 <= self.shortest < whole and self.longest > 2 else None

    @property
    def guess(self) -> float | None:
        """The length, as well as it is known; None while it has no upper bound."""
        return self.length or (self.longest if self.is_bounded else None)

    def next_end(self) -> tuple[float, float] | None:
        """Between which times it ends next; None while that cannot be told usefully."""
        length = self.length
        if length is not None:
            return self.shut + length, self.open + length
        if self.longest - self.shortest <= 0.5 * self.shortest:
            return self.shut + self.shortest, self.open + self.longest
        return None
