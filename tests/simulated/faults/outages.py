"""Outages of the service and of the disk, in intervals of a boot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aivideo.simulator import Endpoint, Fault, Occasion
from tests.simulated.faults.plan import BootPlan

if TYPE_CHECKING:
    from tests.simulated.faults.world import World

_OUTAGE_FAULTS = {
    Endpoint.CREATE: (Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.HTML_502, Fault.HTML_502_TAKEN),
    Endpoint.POLL: (Fault.CUT_BEFORE, Fault.HTML_502, Fault.INTERNAL_ERROR),
    Endpoint.CREDITS: (Fault.CUT_BEFORE, Fault.HTML_502, Fault.INTERNAL_ERROR),
    Endpoint.DOWNLOAD: (Fault.RESET, Fault.HTML_502),
}


_CREATE_OUTAGES = {
    "500": Fault.INTERNAL_ERROR,
    "502": Fault.HTML_502,
    "hang": Fault.HANG,
}
"""The fault of every create in an outage that leaves all else alone."""


class Outages:
    """Decides which requests fail because of an outage.

    Args:
        world: has the time and the random numbers.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.plan: BootPlan = world.plan.boots[0]
        self._booted = 0.0

    def boot(self, plan: BootPlan) -> None:
        """Begin a boot: its intervals count from now."""
        self.plan, self._booted = plan, self._world.time

    def is_within(self, span: tuple[float, float], at: float | None = None) -> bool:
        """Whether a time, by default now, is in an interval of the boot."""
        begin, end = span
        return begin <= (self._world.now() if at is None else at) - self._booted < end

    def all_creates_fail(self, at: float) -> bool:
        """Whether an outage makes every create fail at a time, and only creates."""
        kind = self.plan.outage_kind
        return kind != "all" and not self._world.faults_off and self.is_within(self.plan.outage, at)

    def fault(self, occasion: Occasion) -> Fault | None:
        """Decide the fault of a request; None: the scenario decides."""
        if self._world.faults_off:
            return Fault.NONE
        if not self.is_within(self.plan.outage):
            return None
        if self.plan.outage_kind != "all":
            creates = occasion.endpoint is Endpoint.CREATE
            return _CREATE_OUTAGES[self.plan.outage_kind] if creates else None
        faults = _OUTAGE_FAULTS.get(occasion.endpoint)
        return None if faults is None else self._world.rng.choice(faults)
