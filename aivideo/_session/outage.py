"""Outages: how many creates may be in flight while the service fails, as plain decisions.

Five creates in a row that fail as in an outage (an unknown outcome, a documented 500 or 503) hold
all others: an outage must not turn every job that waits into one that may have been paid for.
::

    open ──five failures in a row──► held ──the service answers a GET──► probing: 1, 2, 4, … creates
     ▲                                 ▲                                      │            │
     │                                 └──────────── one failure ─────────────┘            │
     └──────────────────── as many were answered as may be in flight at once ──────────────┘

Each question while creates are held is asked after a pause. Pauses double from 5 s to 15 min, over
all holds, and once more with each probe that fails although the question was answered. Only an
accepted create makes them short again. So an endpoint that is down for an hour while the balance is
answered costs seven creates, besides those that were in flight.

A create that found no connection is proved unsent. Five of those in a row hold the creates too,
once the service has been reached: jobs then wait for the connection and do not fail. Before that
the cause is more likely a wrong address, and each job fails by itself.
"""

from __future__ import annotations

FAILURES_IN_A_ROW = 5
"""Failed creates in a row that begin a hold."""

FIRST_PAUSE = 5.0
"""Seconds until the first question whether an outage is over."""

LONGEST_PAUSE = 900.0
"""Seconds until such a question, at most."""

MOST_PROBES = 64
"""Creates in flight at once while the service is probed, at most; after them there is no bound."""


class Outage:
    """Counts failures, and says how many creates may be in flight; see the module.

    Attributes:
        allowed: creates that may be in flight at once; 0: they are held; None: no bound.
        is_unreachable: whether creates are held, or were last, because none found a connection.
    """

    def __init__(self) -> None:
        self.allowed: int | None = None
        self.is_unreachable = False
        self._pause = FIRST_PAUSE
        self._failed_in_a_row = 0
        self._unconnected_in_a_row = 0
        self._answered = 0
        self._was_reached = False

    @property
    def is_held(self) -> bool:
        """Whether creates wait until the service answers a question."""
        return self.allowed == 0

    def failed(self) -> bool:
        """Count a create that may have been taken; return whether a hold begins with it."""
        self._failed_in_a_row += 1
        return self._begins(self._failed_in_a_row, is_unreachable=False)

    def unconnected(self) -> bool:
        """Count a create that found no connection; return whether a hold begins with it."""
        self._unconnected_in_a_row += self._was_reached
        return self._begins(self._unconnected_in_a_row, is_unreachable=True)

    def _begins(self, in_a_row: int, *, is_unreachable: bool) -> bool:
        if self.is_held:
            return False  # it was sent before the hold began
        is_probing = self.allowed is not None
        if in_a_row < FAILURES_IN_A_ROW and not is_probing:
            return False
        if is_probing:
            self.next_pause()  # the answer to the question said nothing about creates
        self.allowed = 0
        self.is_unreachable = is_unreachable
        return True

    def answered(self, *, accepted: bool) -> bool:
        """Count a create that was answered in the service's own words.

        Args:
            accepted: whether a task was made.

        Returns:
            Whether :attr:`allowed` has changed.
        """
        self._failed_in_a_row = self._unconnected_in_a_row = 0
        self._was_reached = True
        self.is_unreachable = False
        if accepted:
            self._pause = FIRST_PAUSE
        if not self.allowed:  # open or held
            return False
        self._answered += 1
        if self._answered < self.allowed:
            return False
        self._answered = 0
        self.allowed = None if self.allowed >= MOST_PROBES else 2 * self.allowed
        return True

    def next_pause(self) -> float:
        """Return the seconds until the next question; the pause after it is twice as long."""
        pause, self._pause = self._pause, min(LONGEST_PAUSE, 2 * self._pause)
        return pause

    def begin_probing(self) -> None:
        """Allow one create: the service has answered a question."""
        self.allowed = 1
        self._answered = self._failed_in_a_row = self._unconnected_in_a_row = 0
