"""A simulated process that may crash at any point, with its event loop, transport and ledger.

All external effects of a process pass through crash points: a ledger transaction, a request that is
sent, a response that is received, a file that is written. A crash between two crash points has no
observable difference, so crashing before or after each of them covers crashes at every ``await``.
After the crash, every external call of the process hangs forever.
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
from tests.simulated.faults.disk import Snapshot, state_after_crash
from tests.simulated.faults.plan import ProcessPlan

if TYPE_CHECKING:
    from aivideo import Session
    from tests.simulated.faults.world import Boot, World

PROCESS: ContextVar[Process] = ContextVar("process")

MAX_STEPS = 400_000
"""Maximum event-loop iterations in one boot; a boot that needs more is in an endless loop."""


class StuckError(Exception):
    """A boot does not terminate."""


class _SerialTask(asyncio.Task[Any]):
    """A task whose hash is a serial number, so that the order of sets of tasks is deterministic."""

    _numbers = count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_SerialTask._numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class WorldLoop(VirtualTimeLoop):
    """The event loop of a boot. Work for executor threads runs in the loop, possibly delayed.

    Args:
        start: initial time of its clock, in seconds.
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
        """Run file or ledger work of the calling process."""
        future: asyncio.Future[Any] = self.create_future()
        process = PROCESS.get()
        if executor is None:
            process.write_file(future, lambda: func(*args))
        else:
            process.write_ledger(future, lambda: func(*args))
        return future

    def _run_once(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise StuckError(f"{MAX_STEPS} iterations of the event loop")
        super()._run_once()  # type: ignore[misc]


@define
class Claim:
    """A successful claim: the permission to POST once."""

    job_id: str
    number: int
    at: float
    posted: bool = False


@define(eq=False)
class Post:
    """One create request that was sent, and its result."""

    process: Process
    claim: Claim
    prompt: str
    verdict: str | None = None
    """The verdict on its response (:func:`tests.simulated.faults.laws.verdict_of`), if received."""
    task_id: str | None = None
    write_attempted: bool = False
    """Whether its process has tried to record the verdict."""
    written: bool = False
    """Whether the verdict was recorded."""


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
    ledger: WatchedLedger | None = None
    claims: dict[str, Claim] = field(factory=dict)
    """The latest claim of each prompt."""
    claiming: int = 0
    posts_at_death: int = 0
    """Value of ``pending_posts`` when it crashed."""
    posts: list[Post] = field(factory=list)
    sends: list[float] = field(factory=list)
    """Times at which API requests were sent."""
    gate_closed_at: float | None = None
    outage_since: float | None = None
    unknowns_in_a_row: int = 0
    pause: float = 5.0
    """Minimum seconds between two probes for the end of an outage."""
    probes_from: float = 0.0
    """Earliest time of the next probe."""
    died: asyncio.Event = field(factory=asyncio.Event)
    _hung: list[Any] = field(factory=list)
    _points: dict[str, int] = field(factory=dict)

    @property
    def world(self) -> World:
        """The simulation that it belongs to."""
        return self.boot.world

    @property
    def pending_posts(self) -> int:
        """Number of claimed or sent POSTs whose verdict is not recorded yet."""
        claimed = sum(not claim.posted for claim in self.claims.values())
        return self.claiming + claimed + sum(not post.written for post in self.posts)

    def log(self, text: str) -> None:
        """Add a line to the trace."""
        self.world.log(self.name, text)

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
        self.session = None
        self.died = asyncio.Event()
        if self.ledger is not None:
            self.ledger._flushing = None
            self.ledger._waiting.clear()

    def mark_dead(self) -> None:
        """Mark the process as dead."""
        if self.alive:
            self.posts_at_death = self.pending_posts
        self.alive = False
        self.died.set()

    async def crash_point(self, kind: str, what: str) -> None:
        """Crash here if the plan says so. Calls of a dead process hang forever."""
        if self.alive and self.crashes_at(kind):
            self.die(how=what)
        if not self.alive:
            await self.hang()

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

    def write_ledger(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        """Run a ledger transaction after its simulated duration."""
        self._hung.append(future)
        world = self.world
        loop = asyncio.get_running_loop()
        # A process has one thread for its ledger, so transactions run one after another.
        duration = world.rng.random() * world.plan.ledger_delay
        loop.call_later(duration, self._transact, future, work)

    def _transact(self, future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
        if not self.alive:
            return
        world = self.world
        assert self.ledger is not None
        closing = self.ledger._file is None
        if world.disk_is_full() and not closing:
            self.log("a transaction fails: the disk is full")
            future.set_exception(LedgerError("the disk is full"))
            return
        if not self.crashes_at("write"):
            _settle(future, work)
            world.laws.transaction_done(self)
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


class WatchedLedger(SqliteLedger):
    """The SQLite ledger; reports its calls and their results to the law checker."""

    def __init__(self, process: Process, path: Path) -> None:
        self._owner_process = process
        super().__init__(path, now=process.world.unix)
        assert self._file is not None
        self.file = self._file
        pages = process.boot.plan.autocheckpoint
        if pages is not None:
            self.file.connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")

    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        """See :class:`SqliteLedger`."""
        process = self._owner_process
        laws = process.world.laws
        if process.alive:
            laws.claim_begins(process, job_id)
        process.claiming += 1
        try:
            claimed = await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)
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
            process.log(
                f"wrote {_shown(event)}: {record.request.input['prompt']!r} is {record.status}"
            )
        return record

    def abandon(self, *, close: bool) -> None:
        """Release what the kernel releases when a process dies."""
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


@define
class ProcessTransport:
    """The network of one process, as a :class:`aivideo.Transport`."""

    process: Process

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """See :meth:`aivideo.Transport.send`."""
        process, loop = self.process, asyncio.get_running_loop()
        world = process.world
        path = urlsplit(url).path
        began = loop.time()
        await process.crash_point(
            "post" if method == "POST" else "get", f"before a {method} is sent"
        )
        post = world.laws.sent(process, method, path, body)
        name = f"{method} {path[:22]}" + (f" {post.prompt!r}" if post else "")
        if world.connection_fails():
            await asyncio.sleep(world.rng.random())
            await process.crash_point("answer", "while it connects")
            world.laws.unsent(process, post)
            process.log(f"{name}: no connection")
            raise APIConnectionError("no connection: refused", written=False)
        delay = world.rng.uniform(*world.plan.network_delay)
        if delay:
            await asyncio.sleep(delay)
        if process.boot.over:
            await process.hang()  # the machine crashed before the request was sent
        creates_before = world.service.truth.creates_taken
        request = SimRequest(method, path, headers, body or b"")
        answer = world.service.handle(request, loop.time())
        if world.service.truth.creates_taken > creates_before:
            world.laws.taken(process, post)
        remaining = timeout - delay
        await asyncio.sleep(min(answer.delay, remaining) if answer.delay > 0 else 0)
        await process.crash_point("answer", f"before the response to {name} is received")
        if post is not None and process.crashes_at("verdict"):
            process.die(how="before a verdict is recorded")
            await process.hang()
        response: Answer | APIConnectionError
        if answer.delay >= remaining:
            response = APITimeoutError(f"no answer within {timeout:g} s", written=True)
        elif answer.cut is not None:
            response = APIConnectionError("the connection was cut", written=True)
        else:
            response = Answer(answer.status, answer.body, _lowered(answer))
        world.laws.received(process, path, post, response)
        if world.tracing:
            result = f"{response.status}" if isinstance(response, Answer) else str(response)
            taken = (
                " (taken)" if world.service.truth.creates_taken > creates_before and post else ""
            )
            process.log(f"{name}: {result} after {loop.time() - began:.2f} s{taken}")
        if isinstance(response, APIConnectionError):
            raise response
        return response

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AsyncGenerator[Any]:
        """See :meth:`aivideo.Transport.stream`."""
        process, loop = self.process, asyncio.get_running_loop()
        world = process.world
        parts = urlsplit(url)
        await process.crash_point("get", "before a download")
        if world.connection_fails():
            raise APIConnectionError("the result's origin did not answer", written=False)
        request = SimRequest("GET", parts.path, headers, b"", parts.query)
        answer = world.service.handle_result(request, loop.time())
        await asyncio.sleep(world.rng.random() * 0.5)
        await process.crash_point("answer", "while a result is received")
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
            await self.process.crash_point("answer", "in the middle of a result")
            yield body[at : at + 600]
        if self._answer.cut is not None:
            raise APIConnectionError("the connection was cut", written=True)


def _lowered(answer: SimAnswer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}


def prompt_of(body: bytes | None) -> str:
    """Read the prompt from the body of a create request."""
    return str(orjson.loads(body or b"{}")["input"]["prompt"])


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
