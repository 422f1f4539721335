"""A process that may die at any moment, and the loop, the wire and the ledger it lives with.

Everything a process does to the world goes through a gate: a transaction of its ledger, a request
that leaves, an answer that comes in, a file that is written. A crash between two gates changes
nothing that anybody could ever see, so a process that may die at each gate, before and after it,
may die at each of its awaits. From its death on every call into the world hangs for ever.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar, copy_context
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson
from attrs import define, field

from aivideo import APIConnectionError, APITimeoutError, LedgerError
from aivideo._api.wire import Answer
from aivideo.delivery import download
from aivideo.ledger import events
from aivideo.ledger.events import Event
from aivideo.ledger.records import JobRecord
from aivideo.ledger.sqlite import SqliteLedger
from aivideo.simulator import SimAnswer, SimRequest
from aivideo.testing import VirtualTimeLoop
from tests.simulated.faults.disk import Picture, torn
from tests.simulated.faults.plan import ProcessPlan

if TYPE_CHECKING:
    from aivideo import Session
    from tests.simulated.faults.world import Boot, World

PROCESS: ContextVar[Process] = ContextVar("process")

MOST_STEPS = 400_000
"""Turns of the loop in one boot; a boot that takes more spins."""


class StuckError(Exception):
    """A boot does not end."""


class _SerialTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on where it lies in memory."""

    _numbers = count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_SerialTask._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class WorldLoop(VirtualTimeLoop):
    """The machine's loop: what goes to a thread elsewhere is done here at once, or after a delay.

    Args:
        start: what its clock says first, in seconds.
    """

    def __init__(self, start: float) -> None:
        super().__init__(start=start, deadlock_after=0.5)
        self.steps = 0
        self.set_task_factory(
            lambda loop, coro, **settings: _SerialTask(coro, loop=loop, **settings)
        )

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Have the process whose call it is do it: on its disk, or in its ledger."""
        future: asyncio.Future[Any] = self.create_future()
        process = PROCESS.get()
        if executor is None:
            process.write_file(future, lambda: func(*args))
        else:
            process.write_ledger(future, lambda: func(*args))
        return future

    def _run_once(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise StuckError(f"{MOST_STEPS} turns of the loop")
        super()._run_once()  # type: ignore[misc]


@define
class Claim:
    """A claim that its process won: the right to POST once."""

    job_id: str
    number: int
    at: float
    posted: bool = False


@define(eq=False)
class Post:
    """One create that was sent, and what became of it."""

    process: Process
    claim: Claim
    prompt: str
    verdict: str | None = None
    """What its answer says (:func:`tests.simulated.faults.laws.judged`), once it has come."""
    task_id: str | None = None
    known: bool = False
    """Whether its process has tried to write its verdict down."""
    written: bool = False
    """Whether it could."""


@define(eq=False)
class Process:
    """One life; see the module."""

    name: str
    plan: ProcessPlan
    boot: Boot
    alive: bool = True
    closed: bool = False
    """Whether it ended in order."""
    session: Session | None = None
    ledger: WatchedLedger | None = None
    claims: dict[str, Claim] = field(factory=dict)
    """The latest claim of each prompt."""
    claiming: int = 0
    left_under_way: int = 0
    """POSTs under way when it died."""
    posts: list[Post] = field(factory=list)
    sends: list[float] = field(factory=list)
    """When requests to the API left."""
    gate_closed_at: float | None = None
    outage_since: float | None = None
    unknowns_in_a_row: int = 0
    pause: float = 5.0
    """Seconds until the service may be asked whether an outage is over."""
    probes_from: float = 0.0
    """From when on it may be asked."""
    died: asyncio.Event = field(factory=asyncio.Event)
    _hung: list[Any] = field(factory=list)
    _points: dict[str, int] = field(factory=dict)

    @property
    def world(self) -> World:
        """Where it lives."""
        return self.boot.world

    @property
    def under_way(self) -> int:
        """POSTs that are claimed, or were, and whose verdict is not written yet."""
        claimed = sum(not claim.posted for claim in self.claims.values())
        return self.claiming + claimed + sum(not post.written for post in self.posts)

    def say(self, text: str) -> None:
        """Add a line to the story."""
        self.world.say(self.name, text)

    # --- dying ------------------------------------------------------------------------------

    def dies_at(self, kind: str) -> bool:
        """Count a moment of a kind; True: this is the one at which the plan has it die."""
        crash = self.plan.crash
        if crash is None or not self.alive:
            return False
        due = False
        for each in (kind, "event") if kind != "time" else (kind,):
            self._points[each] = number = self._points.get(each, 0) + 1
            due = due or (each == crash.at and (kind == "time" or number == crash.number))
        return due

    def die(self, remains: Picture | None = None, how: str = "") -> None:
        """Lose all memory, now.

        Args:
            remains: what is left of the ledger's files; None: what lies there.
            how: for the story.
        """
        if not self.alive:
            return
        crash = self.plan.crash
        power = crash is not None and crash.power
        self.say(f"*** {'POWER FAILS' if power else 'KILLED'} {how}".rstrip())
        if power:
            self.boot.lose_power(remains)
        else:
            self.boot.lose_process(self)

    def forget(self) -> None:
        """Let go of all that hangs in it."""
        self._hung.clear()
        self.session = None
        self.died = asyncio.Event()
        if self.ledger is not None:
            self.ledger._flushing = None
            self.ledger._waiting.clear()

    def fall(self) -> None:
        """Be dead from now on."""
        if self.alive:
            self.left_under_way = self.under_way
        self.alive = False
        self.died.set()

    async def gate(self, kind: str, what: str) -> None:
        """Pass from the process into the world, or back; dead processes do not."""
        if self.alive and self.dies_at(kind):
            self.die(how=what)
        if not self.alive:
            await self.hang()

    async def hang(self) -> None:
        """Never come back."""
        future = asyncio.get_running_loop().create_future()
        self._hung.append(future)
        await future

    # --- the disk -----------------------------------------------------------------------------

    def write_file(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        """Do what is to be done to a file, at once."""
        self._hung.append(future)
        if self.alive and self.dies_at("file"):
            self.die(how="before a file is written")
        if self.alive:
            _settle(future, work)

    def write_ledger(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        """Do a transaction, after the time it takes."""
        self._hung.append(future)
        world = self.world
        loop = asyncio.get_running_loop()
        # One after the other: a process has one thread for its ledger.
        takes = world.chance.random() * world.plan.ledger_delay
        loop.call_later(takes, self._transact, future, work)

    def _transact(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        if not self.alive:
            return
        world = self.world
        assert self.ledger is not None
        closing = self.ledger._file is None
        if world.disk_is_full() and not closing:
            self.say("a transaction fails: the disk is full")
            future.set_exception(LedgerError("the disk is full"))
            return
        if not self.dies_at("write"):
            _settle(future, work)
            world.laws.written(self)
            return
        # It dies in this very transaction, and nobody hears of it.
        assert self.plan.crash is not None
        if not self.plan.crash.power:
            if world.chance.random() < 0.5:
                work()
                self.die(how="after a transaction that nobody heard of")
            else:
                self.die(how="before a transaction")
            return
        before = Picture.of(self.boot.ledger)
        work()
        after = Picture.of(self.boot.ledger)
        remains, left = torn(self.boot.base or before, after, world.chance)
        self.die(remains, how=f"in a transaction: of its bytes stay {left}")


def _settle(future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
    try:
        result = work()
    except Exception as error:  # whoever waits is told
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


class WatchedLedger(SqliteLedger):
    """The ledger as it is; what was asked of it and answered is told to those who judge."""

    def __init__(self, process: Process, path: Path) -> None:
        self._owner_process = process
        super().__init__(path, now=process.world.unix)
        assert self._file is not None
        self.file = self._file
        pages = process.boot.plan.autocheckpoint
        if pages is not None:
            self.file.connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")

    async def claim(self, job_id: str, *, lease: float) -> JobRecord | None:
        """See :class:`SqliteLedger`."""
        process = self._owner_process
        laws = process.world.laws
        if process.alive:
            laws.claim_begins(process, job_id)
        process.claiming += 1
        try:
            claimed = await super().claim(job_id, lease=lease)
        finally:
            process.claiming -= 1
        if claimed is not None and process.alive:
            laws.claimed(process, claimed)
        return claimed

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        """See :class:`SqliteLedger`."""
        process = self._owner_process
        written = False
        try:
            record = await super().record(job_id, event, attempt=attempt)
            written = True
        finally:
            if process.alive:
                process.world.laws.recorded(process, job_id, attempt, event, written=written)
        if process.world.tracing:
            process.say(
                f"wrote {_shown(event)}: {record.request.input['prompt']!r} is {record.status}"
            )
        return record

    def abandon(self, *, close: bool) -> None:
        """Drop what the kernel drops when a process dies."""
        owner = self.file.owner
        if owner._lock is not None:
            os.close(owner._lock)
            owner._lock = None
        if close:
            self.file.connection.close()


def _shown(event: Event) -> str:
    match event:
        case events.Taken(task_id):
            return f"Taken({task_id[:8]})"
        case events.Doubted(reason) | events.Faulted(reason) | events.Refused(reason):
            return f"{type(event).__name__}({reason.message[:60]})"
        case _:
            return type(event).__name__


class Part(download._Part):
    """The temporary file of a download; a dead process removes none."""

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


@define
class Wire:
    """The network of one process: a :class:`aivideo.Transport`."""

    process: Process

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """See :meth:`aivideo.Transport.send`."""
        process, loop = self.process, asyncio.get_running_loop()
        world = process.world
        path = urlsplit(url).path
        began = loop.time()
        # A process may die before its POST has left, and after: "event" counts both.
        await process.gate("post" if method == "POST" else "get", f"before a {method} leaves")
        post = world.laws.sent(process, method, path, body)
        name = f"{method} {path[:22]}" + (f" {post.prompt!r}" if post else "")
        if world.refuses():
            await asyncio.sleep(world.chance.random())
            await process.gate("answer", "while it connects")
            world.laws.unsent(process, post)
            process.say(f"{name}: no connection")
            raise APIConnectionError("no connection: refused", written=False)
        way = world.chance.uniform(*world.plan.way_there)
        if way:
            await asyncio.sleep(way)
        if process.boot.over:
            await process.hang()  # the machine died with the request on its way out
        made = world.service.truth.creates_taken
        request = SimRequest(method, path, headers, body or b"")
        answer = world.service.handle(request, loop.time())
        if world.service.truth.creates_taken > made:
            world.laws.taken(process, post)
        left = timeout - way
        await asyncio.sleep(min(answer.delay, left) if answer.delay > 0 else 0)
        await process.gate("answer", f"before the answer to {name} is heard")
        if post is not None and process.dies_at("verdict"):
            process.die(how="with a verdict in hand")
            await process.hang()
        heard: Answer | APIConnectionError
        if answer.delay >= left:
            heard = APITimeoutError(f"no answer within {timeout:g} s", written=True)
        elif answer.cut is not None:
            heard = APIConnectionError("the connection was cut", written=True)
        else:
            heard = Answer(answer.status, answer.body, _lowered(answer))
        world.laws.heard(process, path, post, heard)
        if world.tracing:
            said = f"{heard.status}" if isinstance(heard, Answer) else str(heard)
            taken = " (taken)" if world.service.truth.creates_taken > made and post else ""
            process.say(f"{name}: {said} after {loop.time() - began:.2f} s{taken}")
        if isinstance(heard, APIConnectionError):
            raise heard
        return heard

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AsyncGenerator[Any]:
        """See :meth:`aivideo.Transport.stream`."""
        process, loop = self.process, asyncio.get_running_loop()
        world = process.world
        parts = urlsplit(url)
        await process.gate("get", "before a download")
        if world.refuses():
            raise APIConnectionError("the result's origin did not answer", written=False)
        request = SimRequest("GET", parts.path, headers, b"", parts.query)
        answer = world.service.handle_result(request, loop.time())
        await asyncio.sleep(world.chance.random() * 0.5)
        await process.gate("answer", "while a result comes")
        if answer.cut == "reset":
            raise APIConnectionError("the connection was reset", written=True)
        yield _Incoming(process, answer.status, _lowered(answer), answer)

    async def aclose(self) -> None:
        """Nothing to close."""


@define
class _Incoming:
    process: Process
    status: int
    headers: Mapping[str, str]
    _answer: SimAnswer

    async def chunks(self) -> AsyncIterator[bytes]:
        body = self._answer.sent_body
        for at in range(0, len(body), 600):
            await self.process.gate("answer", "in the middle of a result")
            yield body[at : at + 600]
        if self._answer.cut is not None:
            raise APIConnectionError("the connection was cut", written=True)


def _lowered(answer: SimAnswer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}


def prompt_of(body: bytes | None) -> str:
    """Read the prompt of a create."""
    return str(orjson.loads(body or b"{}")["input"]["prompt"])


def in_process(process: Process) -> Any:
    """Make the context in which a process's tasks run."""
    context = copy_context()
    context.run(PROCESS.set, process)
    return context


def fsynced(seen: set[int], plain: Callable[[int], None]) -> Callable[[int], None]:
    """Make an ``os.fsync`` that remembers which files are on disk."""

    def fsync(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        seen.add(os.fstat(number).st_ino)
        plain(number)

    return fsync


def lose_unsynced(folder: Path, synced: set[int], draw: random.Random) -> None:
    """Lose what was never synced of the files of a folder: a part of it, or all."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.stat().st_ino in synced:
            continue
        data = path.read_bytes()
        keep = draw.randrange(len(data) + 1)
        path.write_bytes(data[:keep] + bytes(draw.choice((0, len(data) - keep))))
