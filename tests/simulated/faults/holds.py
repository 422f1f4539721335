"""Law 7 for one process: when its creates are held, and how many may be in doubt in an outage.

A second implementation of the law, which shares no code with the package.
"""

from __future__ import annotations

from attrs import define

TOLERANCE = 1e-6
DOUBTS_IN_A_ROW = 5
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 900.0
MORE_DOUBTS = 12
"""Creates that may be in doubt in an outage, besides those in flight at the fifth doubt."""


@define
class Hold:
    """The state of the gate of one process, as the law has it. Times are seconds."""

    since: float | None = None
    """When creates were held; None: they are not held."""
    released_at: float | None = None
    """When the last hold ended, until a create is accepted: one create is the probe."""
    in_a_row: int = 0
    pause: float = FIRST_PAUSE
    """Seconds between two questions whether the outage is over, at least."""
    asks_from: float = 0.0
    """Earliest time of the next question."""
    _doubts: int = 0
    _most: int | None = None

    def counts(self, verdict: str) -> bool:
        """Whether a verdict counts towards the five in a row."""
        return verdict in ("unknown", "faulted")

    def heard(self, verdict: str, now: float) -> bool:
        """Take in a verdict that was recorded; return whether a hold begins with it."""
        if self.counts(verdict):
            self.in_a_row += 1
            if self.in_a_row < DOUBTS_IN_A_ROW or self.since is not None:
                return False
            self.since, self.released_at = now, None
            self.asks_from = now + self.pause
            return True
        if verdict in ("taken", "no"):
            self.in_a_row = 0
            if verdict == "taken":
                self.released_at = None
                self.pause = FIRST_PAUSE
                self.asks_from = min(self.asks_from, now + FIRST_PAUSE)
        return False

    def asked(self, status: int | None, now: float) -> None:
        """Take in the answer to a question whether the outage is over; None: no answer."""
        if self.since is None or status == 429:
            return  # a 429 says nothing: the same question is asked again, at its pace
        self.pause = min(LONGEST_PAUSE, 2 * self.pause)
        self.asks_from = now + self.pause
        if status is not None and status < 500:
            self.since, self.released_at = None, now
            self.in_a_row = DOUBTS_IN_A_ROW - 1

    def doubted_in_outage(self, in_flight: int) -> str | None:
        """Count a create in doubt while all creates fail; return what is wrong, or None.

        Args:
            in_flight: other creates of the process that have no verdict yet.
        """
        self._doubts += 1
        if self._doubts == DOUBTS_IN_A_ROW:
            self._most = in_flight + MORE_DOUBTS
        if self._most is not None and self._doubts > self._most:
            return f"{self._doubts} creates are in doubt in one outage, at most {self._most} may be"
        return None
