"""One boot of the machine: its processes, and what is left on disk when it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, field

from tests.simulated.faults.disk import Snapshot, state_after_crash
from tests.simulated.faults.ledgers import WatchedLedger
from tests.simulated.faults.loops import WorldLoop
from tests.simulated.faults.plan import BootPlan
from tests.simulated.faults.process import Process, lose_unsynced

if TYPE_CHECKING:
    from tests.simulated.faults.world import World


@define(eq=False)
class Boot:
    """One boot of the machine."""

    world: World
    plan: BootPlan
    ledger: Path
    loop: WorldLoop
    processes: list[Process] = field(factory=list)
    over: bool = False
    base: Snapshot | None = None
    """The ledger when it was opened, if it does not sync its commits."""
    files_left: Snapshot | None = None
    """The ledger's files after a crash; None: as they are on disk."""
    crashed: bool = False
    deliveries: set[asyncio.Task[None]] = field(factory=set)
    ended: asyncio.Event = field(factory=asyncio.Event)

    def lose_power(self, files_left: Snapshot | None) -> None:
        """Kill all processes; unsynced data may be lost."""
        self.over = self.crashed = True
        self.files_left = Snapshot.of(self.ledger) if files_left is None else files_left
        if files_left is None and self.base is not None:
            self.files_left, _ = state_after_crash(self.base, self.files_left, self.world.rng)
        for process in self.processes:
            process.mark_dead()
        for name in ("videos", "clips"):
            lose_unsynced(self.world.folder / name, self.world.synced, self.world.rng)
        self.ended.set()

    def kill_process(self, process: Process) -> None:
        """Kill one process; the kernel keeps its writes and releases its locks."""
        self.crashed = True
        process.mark_dead()
        others = any(
            each.alive and not each.closed and not each.plan.unkept for each in self.processes
        )
        if not others:
            self.files_left = Snapshot.of(self.ledger)
        if process.ledger is not None:
            # Closing the last connection would checkpoint and delete the WAL; a kill does not.
            process.ledger.abandon(close=others)
        self.check_over()

    @property
    def uses_ledger(self) -> bool:
        """Whether a process has the ledger open."""
        return any(
            each.alive and not each.closed and isinstance(each.ledger, WatchedLedger)
            for each in self.processes
        )

    def check_over(self) -> None:
        """End the boot if its last process has ended."""
        if not any(each.alive and not each.closed for each in self.processes):
            self.over = True
            self.ended.set()
