"""Learn the hazard of a kind of task: the probability, per second, that a running task ends now.

The hazard is piecewise constant over bins of the task's age, each bin 19 % wider than the one
before. Three estimates are combined; each is the Gamma prior of the next, with the weight of one
observed end:

1. a log-logistic distribution;
2. the observed ends in a bin and its neighbours, divided by the number that the first estimate
   predicts there;
3. the observed ends in the bin, divided by the seconds at risk in it.

So ten ends are enough to find the time scale, and a thousand to find the edge of a peak. (With the
first estimate alone as the prior, ten jobs running at once lower a bin's hazard before the first of
them can end: the ends of the first ten jobs of a kind were seen 1.2 times as late as with a fixed
interval of the same cost. With all three it is 1.02 times.)

A poll that finds a task running adds seconds at risk. Censoring needs no more than that, and a
slowdown is noticed before the first slow task has ended. With each end, all counts decay by a third
of a per cent.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import inf, log, log1p, sqrt
from operator import mul

DECAY = 0.9965
"""Factor applied to all counts with each observed end."""

FIRST_BIN, BIN_RATIO, BINS = 5.0, 2**0.25, 80
"""Age bins: the first is 5 s wide, each later one 19 % wider, up to 52 days."""

_LOG_RATIO = log(BIN_RATIO)
_EDGES = [0.0, *(FIRST_BIN * BIN_RATIO**n for n in range(BINS))]


def _bin_of(age: float) -> int:
    if age < FIRST_BIN:
        return 0
    return min(BINS - 1, 1 + int(log(age / FIRST_BIN) / _LOG_RATIO + 1e-9))


def _smoothed(values: list[float], reach: int) -> list[float]:
    """Return, for each bin, the sum over it and ``reach`` neighbours on either side."""
    total = [0.0, *accumulate(values)]
    last = len(values)
    return [total[min(last, n + reach + 1)] - total[max(0, n - reach)] for n in range(last)]


class Hazard:
    """The learned probability per second that a running task ends, by its age; see the module.

    Args:
        median: median of the log-logistic prior, in seconds.
        shape: shape parameter of the same distribution.
    """

    __slots__ = ("_ends", "_prior", "_prior_risk", "_rates", "_risk")

    NEIGHBOURS = 2
    """Bins on either side that the second estimate includes."""
    PRIOR_ENDS = 1.0
    """Weight of each estimate as the prior of the next, in ends."""

    def __init__(self, median: float = 150.0, shape: float = 1.25) -> None:
        self._prior: list[float] = []
        for low, high in pairwise(_EDGES):
            middle = (low + high) / 2
            odds = (middle / median) ** shape
            self._prior.append(shape * odds / (middle * (1 + odds)))
        self._prior_risk = [self.PRIOR_ENDS / rate for rate in self._prior]
        """Seconds at risk that stand for the second estimate, per bin."""
        self._ends = [0.0] * BINS
        self._risk = [0.0] * BINS
        self._rates = [*self._prior]

    def rate(self, age: float) -> float:
        """Return the hazard at ``age``, per second."""
        return self._rates[_bin_of(age)]

    def survived(self, since: float, until: float) -> None:
        """Record that a task did not end between two ages, in seconds."""
        index = _bin_of(since)
        while since < until:
            end = _EDGES[index + 1] if index < BINS - 1 else inf
            stop = min(until, end)
            self._risk[index] += stop - since
            self._rates[index] = (self.PRIOR_ENDS + self._ends[index]) / (
                self._prior_risk[index] + self._risk[index]
            )
            since, index = stop, index + 1

    def ended(self, since: float, age: float) -> None:
        """Record an end at ``age``; the time at risk was already recorded up to ``since``."""
        self._ends = [count * DECAY for count in self._ends]
        self._risk = [seconds * DECAY for seconds in self._risk]
        self._ends[_bin_of(age)] += 1
        self.survived(since, age)
        ends = _smoothed(self._ends, self.NEIGHBOURS)
        predicted = _smoothed([*map(mul, self._prior, self._risk)], self.NEIGHBOURS)
        weight = self.PRIOR_ENDS
        self._prior_risk = [
            weight * (weight + expected) / (prior * (weight + observed))
            for prior, observed, expected in zip(self._prior, ends, predicted, strict=True)
        ]
        self._rates = [
            (weight + observed) / (prior_risk + risk)
            for prior_risk, observed, risk in zip(
                self._prior_risk, self._ends, self._risk, strict=True
            )
        ]

    def integral(self, since: float, until: float) -> float:
        """Return the cumulative hazard between two ages."""
        index, total = _bin_of(since), 0.0
        while since < until:
            end = _EDGES[index + 1] if index < BINS - 1 else inf
            stop = min(until, end)
            total += self._rates[index] * (stop - since)
            since, index = stop, index + 1
        return total

    def log_likelihood(self, since: float, age: float) -> float:
        """Return the log likelihood of an end at ``age``, given that none came before ``since``."""
        return log(self.rate(age)) - self.integral(since, age)

    def wait(self, age: float, delay: float, longest: float) -> float:
        """Return the wait after which wait × P(ended meanwhile) ÷ 2 reaches ``delay``.

        Within a bin the hazard is constant, so this is a quadratic equation in the wait.

        Args:
            age: age at the start of the wait, in seconds.
            delay: expected delay, in seconds.
            longest: upper bound of the wait, in seconds.
        """
        index, waited, hazard = _bin_of(age), 0.0, 0.0
        while waited < longest:
            rate = self._rates[index]
            end = (_EDGES[index + 1] if index < BINS - 1 else inf) - age
            linear, rest = hazard + rate * waited, hazard * waited - 2 * delay
            step = (sqrt(linear * linear - 4 * rate * rest) - linear) / (2 * rate)
            if waited + step <= end:
                return min(longest, waited + step)
            hazard += rate * (end - waited)
            waited, index = end, index + 1
        return longest

    def until(self, age: float, probability: float, longest: float) -> float:
        """Return the wait after which a task of ``age`` has ended with ``probability``.

        Args:
            age: age at the start of the wait, in seconds.
            probability: probability of an end during the wait, from 0 to 1.
            longest: upper bound of the wait, in seconds.
        """
        index, waited, remaining = _bin_of(age), 0.0, -log1p(-probability)
        while waited < longest:
            rate = self._rates[index]
            end = (_EDGES[index + 1] if index < BINS - 1 else inf) - age
            if waited + remaining / rate <= end:
                return min(longest, waited + remaining / rate)
            remaining -= rate * (end - waited)
            waited, index = end, index + 1
        return longest
