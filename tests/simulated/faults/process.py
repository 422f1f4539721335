"""A simulated process that may crash at any point, with its event loop, transport and ledger.

All external effects of a process pass through crash points: a ledger transaction, a request that is
sent, a response that is received, a file that is written. A crash between two crash points has no
observable difference, so crashing before or after each of them covers crashes at every ``await``.
After the crash, every external call of the process hangs forever.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from aivideo import LedgerError
from aivideo.delivery import download
from tests.simulated.faults.disk import Snapshot, state_after_crash
from tests.simulated.faults.holds import Hold
from tests.simulated.faults.ledgers import WatchedLedger, WatchedMemory
from tests.simulated.faults.loops import PROCESS
from tests.simulated.faults.plan import Pause, ProcessPlan

if TYPE_CHECKING:
    from aivideo import Session
    from tests.simulated.faults.world import Boot, World


@define
class FileLock:
    """A lock of an open file."""

    handle: int
    inode: int

    @classmethod
    def of(cls, handle: int) -> FileLock:
        """Return the lock of a handle."""
        return cls(handle, os.fstat(handle).st_ino)

    def release(self) -> None:
        """Release it as the kernel does; the handle may have been closed, and used again."""
        with suppress(OSError):
            if os.fstat(self.handle).st_ino == self.inode:
                fcntl.flock(self.handle, fcntl.LOCK_UN)


@define
class Claim:
    """A successful claim: the permission to POST once."""

    job_id: str
    number: int
    content: str
    at: float
    """When it was claimed, by :meth:`Process.own_time`."""
    since: float
    """When it began to be claimed, in seconds of the simulation."""
    posted: bool = False


@define(eq=False)
class Post:
    """One create request that was sent, and its result."""

    process: Process
    claim: Claim
    content: str
    sent_at: float
    """Seconds of the simulation."""
    verdict: str | None = None
    """The verdict on its response (:func:`~tests.simulated.faults.verdicts.verdict_of`)."""
    task_id: str | None = None
    write_attempted: bool = False
    """Whether its process has tried to record the verdict."""
    written: bool = False
    """Whether the verdict was recorded."""
    is_known: bool = False
    """Whether a ledger knows its task, perhaps from a callback."""

    @property
    def name(self) -> tuple[str, int]:
        """The id of its job, and the number of its attempt."""
        return self.claim.job_id, self.claim.number


@define(eq=False)
class Process:
    """One run of a process; see the module."""

    name: str
    plan: ProcessPlan
    boot: Boot
    alive: bool = True
    closed: bool = False
    """Whether it closed its session and ledger normally."""
    session: Session | None = None
    ledger: WatchedLedger | WatchedMemory | None = None
    claims: list[Claim] = field(factory=list)
    claiming: int = 0
    posts_at_death: int = 0
    """Value of ``pending_posts`` when it crashed."""
    posts: list[Post] = field(factory=list)
    sends: list[float] = field(factory=list)
    """Times at which API requests were sent."""
    gate_closed_at: float | None = None
    hold: Hold = field(factory=Hold)
    not_wanted: set[str] = field(factory=set)
    """Jobs whose own ``on_job`` has raised: this process does not send them."""
    locks: list[FileLock] = field(factory=list)
    """Locks of files that the kernel releases when it dies."""
    lines: set[str] = field(factory=set)
    """The contents of the manifest as it read it."""
    started: float = 0.0
    stands_still: bool = False
    set_aside: list[Any] = field(factory=list)
    """Callbacks whose turn came while it stood still."""
    still_seconds: float = 0.0
    """For how long it has stood still so far."""
    pace_from: float = 0.0
    """Its pace is checked from here on: what was permitted before a pause is sent after it."""
    died: asyncio.Event = field(factory=asyncio.Event)
    _is_stopped: bool = False
    _stopped_work: list[tuple[asyncio.Future[Any], Callable[[], Any]]] = field(factory=list)
    _passed: dict[str, int] = field(factory=dict)
    _hung: list[Any] = field(factory=list)
    _points: dict[str, int] = field(factory=dict)

    @property
    def world(self) -> World:
        """The simulation that it belongs to."""
        return self.boot.world

    @property
    def pending_posts(self) -> int:
        """Number of claimed or sent POSTs whose verdict is not recorded yet."""
        claimed = sum(not claim.posted for claim in self.claims)
        return self.claiming + claimed + sum(not post.written for post in self.posts)

    def log(self, text: str) -> None:
        """Add a line to the trace."""
        self.world.log(self.name, text)

    # --- clocks and pauses ------------------------------------------------------------------------

    def unix(self) -> float:
        """Unix time by its own wall clock, in seconds."""
        world, plan = self.world, self.plan
        running = world.now() - self.started
        jumped = sum(seconds for after, seconds in plan.clock_jumps if after <= running)
        return world.unix() + plan.clock_offset + jumped

    @property
    def has_other_clock(self) -> bool:
        """Whether its wall clock ever differs from that of the machine."""
        return bool(self.plan.clock_offset or self.plan.clock_jumps)

    def own_time(self) -> float:
        """Seconds of the simulation in which it did not stand still."""
        return self.world.now() - self.still_seconds

    def pauses_at(self, kind: str) -> None:
        """Count a point of a kind, and stand still if the plan says so."""
        if not self.plan.pauses:
            return
        self._passed[kind] = number = self._passed.get(kind, 0) + 1
        for pause in self.plan.pauses:
            if (pause.at, pause.number) == (kind, number):
                self.stand_still(pause)

    def stand_still(self, pause: Pause) -> None:
        """Run nothing of this process for a while, from the next callback on."""
        if not self.alive or self.closed or self.stands_still:
            return
        self.log(f"=== stands still for {pause.seconds:.1f} s at a {pause.at}")
        self.stands_still, self._is_stopped = True, pause.stops
        self.world.reached["a process stopped" if pause.stops else "a loop was blocked"] += 1
        self.boot.loop.call_outside(pause.seconds, self._go_on, pause.seconds)

    def _go_on(self, seconds: float) -> None:
        if not self.alive:
            return
        self.log("=== goes on")
        self.stands_still = self._is_stopped = False
        self.still_seconds += seconds
        self.sends.clear()
        self.pace_from = self.world.now() + 120.0
        for claim in self.claims:
            if not claim.posted and claim.since + self.request_timeout < self.world.now():
                self.world.reached["stopped between claim and POST, past the lease"] += 1
        work, self._stopped_work = self._stopped_work, []
        for future, each in work:
            self._transact(future, each)
        self.boot.loop.go_on(self)

    @property
    def asks_only_if_held(self) -> bool:
        """Whether it reads the account's counters only to learn that an outage is over."""
        return self.plan.reads_credits_every is None and not self.plan.manifest

    @property
    def request_timeout(self) -> float:
        """Seconds that one of its requests may take."""
        return float(self.plan.settings.get("request_timeout", 60.0))

    # --- crashes ----------------------------------------------------------------------------

    def crashes_at(self, kind: str) -> bool:
        """Count a crash point of a kind. Return True if the plan has the process crash here."""
        crash = self.plan.crash
        if crash is None or not self.alive:
            return False
        due = False
        for each in (kind, "event") if kind != "time" else (kind,):
            self._points[each] = number = self._points.get(each, 0) + 1
            due = due or (each == crash.at and (kind == "time" or number == crash.number))
        return due

    def die(self, files_left: Snapshot | None = None, how: str = "") -> None:
        """Crash now: all memory is lost.

        Args:
            files_left: the ledger's files after the crash; None: as they are on disk now.
            how: a description for the trace.
        """
        if not self.alive:
            return
        crash = self.plan.crash
        power = crash is not None and crash.power
        self.log(f"*** {'POWER FAILS' if power else 'KILLED'} {how}".rstrip())
        if power:
            self.boot.lose_power(files_left)
        else:
            self.boot.kill_process(self)

    def release(self) -> None:
        """Drop all references, so that the dead process can be garbage-collected."""
        self._hung.clear()
        self.set_aside.clear()
        self._stopped_work.clear()
        self.session = None
        self.died = asyncio.Event()
        if isinstance(self.ledger, WatchedLedger):
            self.ledger._flushing = None
            self.ledger._waiting.clear()

    def mark_dead(self) -> None:
        """Mark the process as dead."""
        if self.alive:
            self.posts_at_death = self.pending_posts
            for lock in self.locks:
                lock.release()
        self.alive = False
        self.died.set()

    async def crash_point(self, kind: str, what: str) -> None:
        """Crash here if the plan says so. Calls of a dead process hang forever."""
        if self.alive and self.crashes_at(kind):
            self.die(how=what)
        if not self.alive:
            await self.hang()
        if kind != "post":  # between the last look at the clock and the first byte
            self.pauses_at(kind)
            if self.stands_still:
                await asyncio.sleep(0)

    async def hang(self) -> None:
        """Wait forever."""
        future = asyncio.get_running_loop().create_future()
        self._hung.append(future)
        await future

    # --- the disk -----------------------------------------------------------------------------

    def write_file(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        """Run file work immediately."""
        self._hung.append(future)
        if self.alive and self.crashes_at("file"):
            self.die(how="before a file is written")
        if self.alive:
            _settle(future, work)
            self.pauses_at("file")

    def write_ledger(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        """Run a ledger transaction after its simulated duration."""
        self._hung.append(future)
        world = self.world
        # A process has one thread for its ledger, so transactions run one after another. It goes on
        # while the process's event loop is blocked.
        duration = world.rng.random() * world.plan.ledger_delay
        self.boot.loop.call_outside(duration, self._transact, future, work)

    def _transact(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        if not self.alive:
            return
        if self._is_stopped:
            self._stopped_work.append((future, work))
            return
        world = self.world
        assert isinstance(self.ledger, WatchedLedger)
        closing = self.ledger._file is None
        if world.disk_is_full() and not closing:
            self.log("a transaction fails: the disk is full")
            future.set_exception(LedgerError("the disk is full"))
            return
        if not self.crashes_at("write"):
            _settle(future, work)
            world.laws.ceilings.transaction_done(self)
            self.pauses_at("write")
            return
        # The process crashes in this transaction: its caller gets no result.
        assert self.plan.crash is not None
        if not self.plan.crash.power:
            if world.rng.random() < 0.5:
                work()
                self.die(how="after a transaction, before its result")
            else:
                self.die(how="before a transaction")
            return
        before = Snapshot.of(self.boot.ledger)
        work()
        after = Snapshot.of(self.boot.ledger)
        files_left, description = state_after_crash(self.boot.base or before, after, world.rng)
        self.die(files_left, how=f"in a transaction; on disk: {description}")


def _settle(future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
    try:
        result = work()
    except Exception as error:  # passed to the waiting coroutine
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


class DownloadPart(download._Part):
    """The temporary file of a download; a dead process does not remove it."""

    def __init__(self, target: Path) -> None:
        super().__init__(target)
        self._process = PROCESS.get(None)

    def discard(self) -> None:
        """See :class:`aivideo.delivery.download._Part`."""
        process = self._process
        if process is None or process.alive:
            super().discard()
        elif self._file is not None and not self._file.closed:
            with suppress(OSError):
                self._file.close()


def process_context(process: Process) -> Any:
    """Create the context in which the tasks of a process run."""
    context = copy_context()
    context.run(PROCESS.set, process)
    return context


def recording_fsync(seen: set[int], plain: Callable[[int], None]) -> Callable[[int], None]:
    """Wrap ``os.fsync`` so that the inodes of synced files are recorded."""

    def fsync(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        seen.add(os.fstat(number).st_ino)
        plain(number)

    return fsync


def lose_unsynced(folder: Path, synced: set[int], rng: random.Random) -> None:
    """Truncate or zero the unsynced files of a folder at random."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.stat().st_ino in synced:
            continue
        data = path.read_bytes()
        keep = rng.randrange(len(data) + 1)
        path.write_bytes(data[:keep] + bytes(rng.choice((0, len(data) - keep))))
