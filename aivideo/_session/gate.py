"""The gate for creates: open, closed with an error, or held during an outage.

* *Closed*: a spend cap, an empty balance, a bad key, a ledger that cannot be written, or the user
  (:meth:`Session.stop_submits`). Creates that wait get the error at once. Whoever closed it decides
  who may open it again: a ledger that can be written again opens only what the ledger has closed.
* *Held*: the service, or the way to it, is out. Creates then wait until ``GET /v1/credits`` is
  answered (:class:`OutageProbe`), and go on few at a time; :mod:`aivideo._session.outage` decides.

Polls and downloads never pass this gate: what runs is watched and saved, whatever happens here.
"""

from __future__ import annotations

import asyncio
import logging

from aivideo._api.messages import Answer, json_object
from aivideo._pacing.limiter import Limiter
from aivideo._session.live import LiveJobs
from aivideo._session.outage import Outage
from aivideo._session.paced import Account
from aivideo.errors import AIVideoError, APIStatusError, LedgerError, ResponseError
from aivideo.events import GateChanged

log = logging.getLogger("aivideo.session")


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

    def answered(self, *, accepted: bool) -> None:
        """Note a create that was answered in the service's own words; ``accepted``: and taken."""
        if self.outage.answered(accepted=accepted):
            self._limiter.limit_creates(self.outage.allowed)
            if self.outage.allowed is None:
                log.warning("the service answers creates again: the outage is over")
                self._live.emit(GateChanged(state="open"))

    def doubted(self) -> bool:
        """Note a create that may have been taken; return whether creates are held from now on."""
        return self._held_if(self.outage.failed(), "have an unknown outcome or a server error")

    def unconnected(self) -> bool:
        """Note a create that found no connection; return whether creates are held from now on."""
        return self._held_if(self.outage.unconnected(), "found no connection")

    def _held_if(self, begins: bool, what: str) -> bool:
        if begins:
            log.warning("creates %s: all others wait until the service answers", what)
            # Held, not closed: whoever closes the gate releases those that wait here.
            self._limiter.limit_creates(0)
            self._live.emit(GateChanged(state="held"))
        return begins

    def begin_probing(self) -> None:
        """Send creates again after a hold: first one, then 2, 4 and so on."""
        self.outage.begin_probing()
        self._limiter.limit_creates(self.outage.allowed)
        self._live.emit(GateChanged(state="probing"))


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
        """Ask, with pauses that double, until the service answers in its own words."""
        outage = self._gate.outage
        while outage.is_held:
            pause = outage.next_pause()
            log.info("creates are held; the service is asked in %.0f s", pause)
            await asyncio.sleep(pause)
            try:
                await self._account.credits()
            except Exception as error:  # a transport of the user's own may fail in its own way
                if not is_answer(error):
                    log.info("the service does not answer yet: %s", error)
                    continue
            self._gate.begin_probing()


def is_answer(error: Exception) -> bool:
    """Return whether the failure of a GET is an answer of the service itself, below 500.

    A 4xx in the documented shape is one, and a balance that cannot be read; a page of a server in
    between is not.
    """
    if isinstance(error, APIStatusError):
        return error.status < 500
    return (
        isinstance(error, ResponseError)
        and error.status < 500
        and json_object(Answer(error.status, error.body, {})) is not None
    )
