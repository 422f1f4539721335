"""The gate for creates: open, closed with an error, or held during an outage.

* *Closed*: a spend cap, an empty balance, a bad key, a ledger that cannot be written, or the user
  (:meth:`Session.stop_submits`). Creates that wait get the error at once. Whoever closed it decides
  who may open it again: a ledger that can be written again opens only what the ledger has closed.
* *Held*: five unknown outcomes in a row mean that the service, or the way to it, is out. Creates
  then wait until ``GET /v1/credits`` is answered (:class:`OutageProbe`); pauses between two such
  questions double from 5 s to 10 min, and only an answered create makes them short again.

Polls and downloads never pass this gate: what runs is watched and saved, whatever happens here.
"""

from __future__ import annotations

import asyncio
import logging

from aivideo._pacing.limiter import Limiter
from aivideo._session.live import LiveJobs
from aivideo._session.paced import Account
from aivideo.errors import AIVideoError, LedgerError
from aivideo.events import GateChanged

log = logging.getLogger("aivideo.session")

UNKNOWNS_IN_A_ROW = 5
"""Unknown outcomes in a row that hold the creates: an outage must not turn every job that waits
into an unknown."""

FIRST_PAUSE = 5.0
"""Seconds until the first question whether an outage is over."""

LONGEST_PAUSE = 600.0
"""Seconds between two such questions, at most."""


class Outage:
    """Counts unknown outcomes in a row, and the pause between two questions. Pure."""

    def __init__(self) -> None:
        self.is_on = False
        self.pause = FIRST_PAUSE
        self._in_a_row = 0

    def unknown(self) -> bool:
        """Count an unknown outcome; returns whether an outage begins with it."""
        self._in_a_row += 1
        if self.is_on or self._in_a_row < UNKNOWNS_IN_A_ROW:
            return False
        self.is_on = True
        return True

    def answered(self) -> None:
        """Note a create that was answered: the row is broken, and the next pause is short."""
        self._in_a_row = 0
        self.pause = FIRST_PAUSE

    def unanswered(self) -> None:
        """Note a question that was not answered: the next pause is twice as long."""
        self.pause = min(LONGEST_PAUSE, self.pause * 2)

    def over(self) -> None:
        """Note that the service answers again."""
        self.is_on = False
        # The row goes on: one more unknown outcome begins the next outage, with a longer pause.
        self._in_a_row = UNKNOWNS_IN_A_ROW - 1
        self.unanswered()


class Gate:
    """Opens, closes and holds the creates; see the module.

    Args:
        limiter: where creates wait.
        live: tells the instrumentation.
    """

    def __init__(self, limiter: Limiter, live: LiveJobs) -> None:
        self.outage = Outage()
        self._limiter = limiter
        self._live = live

    @property
    def closed_by(self) -> AIVideoError | None:
        """Why creates are stopped, or None."""
        return self._limiter.creates_closed_by

    def close(self, error: AIVideoError) -> None:
        """Send no further create, and log why, once.

        A reason that passes by itself (a ledger that cannot be written) is replaced by one that
        does not.
        """
        before = self._limiter.creates_closed_by
        replaces = isinstance(before, LedgerError) and not isinstance(error, LedgerError)
        if before is None or replaces:
            log.warning("no further creates are sent: %s", error)
            self.stop(error)

    def stop(self, error: AIVideoError) -> None:
        """Send no further create, whatever the gate was closed by before."""
        self._limiter.close_creates(error)
        self._live.emit(GateChanged(state="closed", error=error))

    def open(self) -> None:
        """Send creates again."""
        if self._limiter.creates_closed_by is not None:
            self._limiter.open_creates()
            self._live.emit(GateChanged(state="open"))

    def ledger_recovered(self) -> None:
        """Send creates again if it was the ledger that closed the gate."""
        if isinstance(self._limiter.creates_closed_by, LedgerError):
            self.open()

    def answered(self) -> None:
        """Note that a create was answered in the service's own words."""
        self.outage.answered()

    def doubted(self) -> bool:
        """Note a create of unknown outcome; returns whether creates are held from now on."""
        if not self.outage.unknown():
            return False
        log.warning(
            "%d creates in a row have an unknown outcome: creates wait until the service answers",
            UNKNOWNS_IN_A_ROW,
        )
        # Held, not closed: whoever closes the gate releases those that wait here.
        self._limiter.hold_creates()
        self._live.emit(GateChanged(state="held"))
        return True

    def outage_over(self) -> None:
        """Send creates again after an outage."""
        self.outage.over()
        self._limiter.release_creates()
        self._live.emit(GateChanged(state="open"))


class OutageProbe:
    """Asks for the balance until the service answers, then lets creates go on.

    Args:
        gate: what is held.
        account: what is asked.
    """

    def __init__(self, gate: Gate, account: Account) -> None:
        self._gate = gate
        self._account = account

    async def run(self) -> None:
        """Ask, with pauses that double, until the service answers."""
        outage = self._gate.outage
        while outage.is_on:
            await asyncio.sleep(outage.pause)
            try:
                await self._account.credits()
            except Exception as error:  # a transport of the user's own may fail in its own way
                log.info("the service does not answer yet: %s", error)
                outage.unanswered()
            else:
                self._gate.outage_over()
