"""How likely a task is to end in the next second, having not ended yet: learned, by its age.

The hazard is constant on bins of the age, each 19 % wider than the one before. Three guesses, each
the Gamma prior of the next and worth one end to it:

1. a log-logistic;
2. the ends in a bin and its neighbours, over those that the first guess foretold there;
3. the ends in the bin, over the seconds at risk in it.

So ten ends tell a scale, and a thousand the edge of a hump. (With the first guess alone as prior,
ten jobs alive at once talk a bin's hazard down before the first can end: the first ten of a kind
were seen 1.2 times as late as at a fixed interval, and are now seen 1.02 times as late.)

A look that finds a task alive adds seconds at risk: that is all that censoring takes, and a drift
to *slower* is seen before the first slow task has ended. Everything is forgotten by a third of a
per cent with each end.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import inf, log, log1p, sqrt
from operator import mul

MEMORY = 0.9965
"""What is left of all that was learned, with each end."""

FIRST_BIN, RATIO, BINS = 5.0, 2**0.25, 80
"""Bins of the age: 5 s, then each 19 % wider, up to 52 days."""

_LOG_RATIO = log(RATIO)
_EDGES = [0.0, *(FIRST_BIN * RATIO**n for n in range(BINS))]


def _bin(age: float) -> int:
    if age < FIRST_BIN:
        return 0
    return min(BINS - 1, 1 + int(log(age / FIRST_BIN) / _LOG_RATIO + 1e-9))


def _around(each: list[float], near: int) -> list[float]:
    """Sum each with its neighbours, so many on either side."""
    total = [0.0, *accumulate(each)]
    last = len(each)
    return [total[min(last, n + near + 1)] - total[max(0, n - near)] for n in range(last)]


class Hazard:
    """The chance to end in the next second, by age; learned. See the module.

    Args:
        median: of the log-logistic that is the first guess, in seconds.
        shape: of the same.
    """

    __slots__ = ("_ends", "_near", "_prior", "_rates", "_risk")

    NEAR = 2
    """Neighbours on either side."""
    WEIGHT = 1.0
    """Ends that each guess is worth to the next."""

    def __init__(self, median: float = 150.0, shape: float = 1.25) -> None:
        self._prior: list[float] = []
        for low, high in pairwise(_EDGES):
            middle = (low + high) / 2
            odds = (middle / median) ** shape
            self._prior.append(shape * odds / (middle * (1 + odds)))
        self._near = [self.WEIGHT / rate for rate in self._prior]
        """Seconds at risk that the second guess is worth."""
        self._ends = [0.0] * BINS
        self._risk = [0.0] * BINS
        self._rates = [*self._prior]

    def rate(self, age: float) -> float:
        """The hazard at ``age``, per second."""
        return self._rates[_bin(age)]

    def alive(self, since: float, until: float) -> None:
        """Note that it had not ended between two ages."""
        place = _bin(since)
        while since < until:
            end = _EDGES[place + 1] if place < BINS - 1 else inf
            stop = min(until, end)
            self._risk[place] += stop - since
            self._rates[place] = (self.WEIGHT + self._ends[place]) / (
                self._near[place] + self._risk[place]
            )
            since, place = stop, place + 1

    def ended(self, since: float, age: float) -> None:
        """Note an end at ``age``; it was last counted at risk at ``since``."""
        self._ends = [each * MEMORY for each in self._ends]
        self._risk = [each * MEMORY for each in self._risk]
        self._ends[_bin(age)] += 1
        self.alive(since, age)
        ends = _around(self._ends, self.NEAR)
        foretold = _around([*map(mul, self._prior, self._risk)], self.NEAR)
        weight = self.WEIGHT
        self._near = [
            weight * (weight + expected) / (prior * (weight + came))
            for prior, came, expected in zip(self._prior, ends, foretold, strict=True)
        ]
        self._rates = [
            (weight + came) / (near + risk)
            for near, came, risk in zip(self._near, self._ends, self._risk, strict=True)
        ]

    def integral(self, since: float, until: float) -> float:
        """The hazard piled up between two ages."""
        place, total = _bin(since), 0.0
        while since < until:
            end = _EDGES[place + 1] if place < BINS - 1 else inf
            stop = min(until, end)
            total += self._rates[place] * (stop - since)
            since, place = stop, place + 1
        return total

    def log_likelihood(self, since: float, age: float) -> float:
        """Of an end at ``age``, known not to have come by ``since``."""
        return log(self.rate(age)) - self.integral(since, age)

    def wait(self, age: float, worth: float, most: float) -> float:
        """Seconds until wait × P(ended meanwhile) ÷ 2 reaches ``worth``, at most ``most``.

        Within a bin the hazard is constant, so that is a quadratic equation in the wait.
        """
        place, waited, piled = _bin(age), 0.0, 0.0
        while waited < most:
            rate = self._rates[place]
            end = (_EDGES[place + 1] if place < BINS - 1 else inf) - age
            linear, rest = piled + rate * waited, piled * waited - 2 * worth
            step = (sqrt(linear * linear - 4 * rate * rest) - linear) / (2 * rate)
            if waited + step <= end:
                return min(most, waited + step)
            piled += rate * (end - waited)
            waited, place = end, place + 1
        return most

    def until(self, age: float, odds: float, most: float) -> float:
        """Seconds from ``age`` until it has ended with probability ``odds``, at most ``most``."""
        place, waited, left = _bin(age), 0.0, -log1p(-odds)
        while waited < most:
            rate = self._rates[place]
            end = (_EDGES[place + 1] if place < BINS - 1 else inf) - age
            if waited + left / rate <= end:
                return min(most, waited + left / rate)
            left -= rate * (end - waited)
            waited, place = end, place + 1
        return most
