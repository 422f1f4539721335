"""One seed, lived: the service and the disk outlive every process, until all has ended."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from aivideo import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    Job,
    LedgerError,
    Session,
    Sora2,
    TaskFailedError,
)
from aivideo.delivery import download
from aivideo.ledger import events
from aivideo.ledger.records import AttemptStatus, JobStatus
from aivideo.ledger.sqlite.file import LedgerFile
from aivideo.simulator import Callback, Endpoint, Fault, Occasion, Service
from tests.simulated.faults.disk import Picture, wal_of
from tests.simulated.faults.laws import Laws
from tests.simulated.faults.plan import (
    HOUR,
    KEY,
    BootPlan,
    Plan,
    ProcessPlan,
    plan_of,
    quiet_process,
)
from tests.simulated.faults.process import (
    Part,
    Process,
    StuckError,
    WatchedLedger,
    Wire,
    WorldLoop,
    fsynced,
    in_process,
    lose_unsynced,
)

API = "http://127.0.0.1:1"
HOOK = "http://127.0.0.1:2/hook"

LONGEST_LIFE = 12 * HOUR
"""After so long a process of a rough life closes in order, whatever still runs."""

LONGEST_QUIET = 100 * HOUR

_OUTAGE_FAULTS = {
    Endpoint.CREATE: (Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.HTML_502, Fault.HTML_502_TAKEN),
    Endpoint.POLL: (Fault.CUT_BEFORE, Fault.HTML_502, Fault.INTERNAL_ERROR),
    Endpoint.CREDITS: (Fault.CUT_BEFORE, Fault.HTML_502, Fault.INTERNAL_ERROR),
    Endpoint.DOWNLOAD: (Fault.RESET, Fault.HTML_502),
}


@frozen(kw_only=True)
class Result:
    """What became of a seed."""

    seed: int
    broken: tuple[str, ...]
    story: tuple[str, ...]
    deaths: int
    tasks: int
    unknowns: int
    """Jobs that end in doubt."""


@define(eq=False)
class Boot:
    """One uptime of the machine."""

    world: World
    plan: BootPlan
    ledger: Path
    loop: WorldLoop
    processes: list[Process] = field(factory=list)
    over: bool = False
    base: Picture | None = None
    """Where the ledger does not sync its commits: how it looked when it was opened."""
    remains: Picture | None = None
    """What is left of the ledger's files after a crash; None: what lies there."""
    crashed: bool = False
    deliveries: set[asyncio.Task[None]] = field(factory=set)
    ended: asyncio.Event = field(factory=asyncio.Event)

    def lose_power(self, remains: Picture | None) -> None:
        """Every process dies, and what was not synced may be lost."""
        self.over = self.crashed = True
        self.remains = Picture.of(self.ledger) if remains is None else remains
        if remains is None and self.base is not None:
            from tests.simulated.faults.disk import torn

            self.remains, _ = torn(self.base, self.remains, self.world.chance)
        for process in self.processes:
            process.fall()
        folder = self.world.folder / "videos"
        lose_unsynced(folder, self.world.synced, self.world.chance)
        self.ended.set()

    def lose_process(self, process: Process) -> None:
        """One process dies; the kernel goes on, and drops what it held."""
        self.crashed = True
        process.fall()
        others = any(each.alive and not each.closed for each in self.processes)
        if not others:
            self.remains = Picture.of(self.ledger)
        if process.ledger is not None:
            # The last connection to close would tidy up, which no killed process does.
            process.ledger.abandon(close=others)
        self.check_over()

    def check_over(self) -> None:
        """Note the end of the last process."""
        if not any(each.alive and not each.closed for each in self.processes):
            self.over = True
            self.ended.set()


class World:
    """What outlives the processes; see the module.

    Args:
        seed: draws everything.
        tracing: whether to keep the story.
    """

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.plan: Plan = plan_of(seed)
        self.tracing = tracing
        self.story: list[str] = []
        self.chance = random.Random(f"chance {seed}")
        self.time = 0.0
        shared = Path("/dev/shm")  # a disk that costs nothing, where there is one
        self.folder = Path(
            tempfile.mkdtemp(prefix="aivideo-faults-", dir=shared if shared.is_dir() else None)
        )
        self.ledger = self.folder / "boot-0" / "jobs.db"
        self.service = Service(self.plan.scenario)
        self.service.hook = self._fault
        self.laws = Laws(self)
        self.synced: set[int] = set()
        self.deaths = 0
        self.quiet = False
        self.told: set[str] = set()
        """Tasks whose true end a callback told to a living process, which took it in."""
        self.touched: set[str] = set()
        """Prompts that a person has had a hand in."""
        self._loop: WorldLoop | None = None
        self._boot_plan = self.plan.boots[0]
        self._booted = 0.0
        self._dead: list[tuple[str, str, int]] = []
        """Who died in the last boot: its name, its owner's, and how many POSTs it had under way."""

    # --- what the others ask ----------------------------------------------------------------------

    def say(self, who: str, text: str) -> None:
        """Add a line to the story."""
        if self.tracing:
            text = text.replace(str(self.folder), "…")  # its name is the only thing not drawn
            self.story.append(f"{self.now():10.2f} {who:<6} {text}")

    def now(self) -> float:
        """Seconds since the service began."""
        return self.time if self._loop is None else self._loop.time()

    def unix(self) -> float:
        """Unix seconds, by the callers' clock."""
        return self.service.epoch + self.now()

    def refuses(self) -> bool:
        """Draw whether a request finds no connection."""
        return not self.quiet and self.chance.random() < self.plan.refused

    def disk_is_full(self) -> bool:
        """Whether no transaction succeeds now."""
        return self._within(self._boot_plan.disk_full)

    def must_be_saved(self, prompt: str) -> bool:
        """Whether a job of ``prompt`` must have ended, when all is over."""
        if not self.plan.saves:
            return False
        results = [task for task in self.laws.by_prompt[prompt] if task.outcome == "completed"]
        if any(task.ends + self.plan.scenario.result_ttl <= self.time for task in results):
            return False  # its file was gone before anybody came for it
        return self.plan.batch_ceiling is None or "keyed" in prompt

    def leavings(self) -> Generator[tuple[str, bytes]]:
        """Give the bytes of every file of every ledger there ever was."""
        for path in sorted(self.folder.glob("boot-*/*")):
            yield path.name, path.read_bytes()

    # --- the life of a seed -----------------------------------------------------------------------

    def live(self) -> Result:
        """Live it, and judge."""
        with _determined(self), _heard_logs(self), warnings.catch_warnings():
            # What died before it had begun.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            try:
                self._prepare()
                for number, boot in enumerate(self.plan.boots):
                    self._boot(number, boot)
                    if self.laws.broken:
                        break
                if not self.laws.broken:
                    self._be_quiet()
                    self._boot(
                        len(self.plan.boots), BootPlan(processes=(self._last(),), down_before=60.0)
                    )
                if not self.laws.broken:
                    self.laws.close_books()
            except StuckError as error:
                self.laws.fail("ends", f"it does not: {error}")
            finally:
                doubts = self._doubts()
                shutil.rmtree(self.folder, ignore_errors=True)
        result = Result(
            seed=self.seed,
            broken=tuple(self.laws.broken),
            story=tuple(self.story),
            deaths=self.deaths,
            tasks=len(self.service.truth.tasks),
            unknowns=doubts,
        )
        self.__dict__.clear()  # the last that holds the dead
        with _silence():
            gc.collect()
        return result

    def _doubts(self) -> int:
        if not self.ledger.exists():
            return 0
        import sqlite3

        with suppress(sqlite3.Error):
            connection = sqlite3.connect(self.ledger)
            try:
                (number,) = connection.execute(
                    "SELECT count(*) FROM jobs WHERE status IN ('unknown', 'faulted')"
                ).fetchone()
                return int(number)
            finally:
                connection.close()
        return 0

    def _prepare(self) -> None:
        self.ledger.parent.mkdir()
        if self.plan.first_file == "empty":
            self.ledger.touch()
        elif self.plan.first_file == "wal":
            import sqlite3

            connection = sqlite3.connect(self.ledger)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.close()

    def _last(self) -> ProcessPlan:
        return evolve(quiet_process(), resumes=self.plan.batch_ceiling is None)

    def _be_quiet(self) -> None:
        """From now on nothing goes wrong any more: the service is well, and money is there."""
        self.quiet = True
        service = self.service
        service.scenario = evolve(service.scenario, spend_limit=None)
        account = service.truth.accounts[KEY]
        account.balance += 10**6
        account.purchased += 10**6

    def _within(self, span: tuple[float, float]) -> bool:
        begin, end = span
        return begin <= self.now() - self._booted < end

    def _fault(self, occasion: Occasion) -> Fault | None:
        if self.quiet:
            return Fault.NONE
        if self._within(self._boot_plan.outage):
            faults = _OUTAGE_FAULTS.get(occasion.endpoint)
            return None if faults is None else self.chance.choice(faults)
        return None

    def _boot(self, number: int, plan: BootPlan) -> None:
        self.time += plan.down_before
        self._boot_plan, self._booted = plan, self.time
        self._callbacks_nobody_hears()
        for _ in range(plan.persons):
            self._person()
        self.say("----", f"boot {number}, {len(plan.processes)} processes")
        loop = self._loop = WorldLoop(self.time)
        asyncio.set_event_loop(loop)
        boot = Boot(self, plan, self.ledger, loop)
        trouble: list[str] = []
        loop.set_exception_handler(lambda _, context: trouble.append(_told(context)))
        try:
            loop.run_until_complete(self._uptime(boot, number))
        except RuntimeError as error:  # a deadlock: nothing can happen any more
            self.laws.fail("ends", f"nobody goes on: {str(error).splitlines()[0]}")
            boot.over = True
        finally:
            self.time = loop.time()
            self._dead = [
                (process.name, process.ledger.file.owner.name, process.left_under_way)
                for process in boot.processes
                if process.ledger is not None and not (process.closed or process.alive)
            ]
            self._bury(boot, loop)
            self._loop = None
        if trouble and not boot.crashed:
            self.laws.fail("no defects", trouble[0])
        self._carry_over(boot, number)

    def _bury(self, boot: Boot, loop: WorldLoop) -> None:
        """Take down a loop and all that hangs in it, without a word and without an effect."""
        clean = not boot.crashed
        for process in boot.processes:
            if not process.closed:
                process.alive = False
                clean = False
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop._ready.clear()  # type: ignore[attr-defined]
        loop._scheduled.clear()  # type: ignore[attr-defined]
        logger = logging.getLogger("asyncio")
        logger.disabled = not clean
        with _silence():
            loop.close()
            asyncio.set_event_loop(None)
            for process in boot.processes:
                if not process.closed and process.ledger is not None:
                    process.ledger.abandon(close=False)
                process.forget()
            boot.deliveries.clear()
            self.service.on_callback_planned = None
            gc.collect()
        logger.disabled = False

    def _carry_over(self, boot: Boot, number: int) -> None:
        """Lay the remains of the ledger down where no dead connection can touch them."""
        if not boot.crashed:
            return
        remains = Picture.of(self.ledger) if boot.remains is None else boot.remains
        old = self.ledger.parent
        new = self.folder / f"boot-{number + 1}"
        new.mkdir()
        self.ledger = new / "jobs.db"
        remains.put(self.ledger)
        for path in sorted(old.glob("jobs.db-owner-*")):
            shutil.copy(path, new)
        for process in boot.processes:
            if process.ledger is not None and not process.closed:
                with suppress(Exception):
                    process.ledger.file.connection.close()

    async def _uptime(self, boot: Boot, number: int) -> None:
        courier = asyncio.create_task(self._courier(boot))
        for place, plan in enumerate(boot.plan.processes):
            name = f"{number}{'ab'[place]}"
            boot.processes.append(Process(name, plan, boot))
        for process in boot.processes:
            boot.loop.create_task(self._life(process), context=in_process(process))
        await boot.ended.wait()
        courier.cancel()
        if not boot.crashed:
            await asyncio.gather(courier, return_exceptions=True)
        self.deaths += sum(not process.closed for process in boot.processes)

    # --- a process --------------------------------------------------------------------------

    async def _life(self, process: Process) -> None:
        await asyncio.sleep(process.plan.starts)
        if not process.alive or not self._opened(process):
            return
        session = self._session(process)
        try:
            if self.quiet:
                await self._settled()
            await Work(self, process, session).run()
        except Exception as error:
            if process.alive:
                self.laws.fail("no defects", f"{process.name}: {error!r}")
                raise
        if process.alive:
            await self._close(process)

    def _opened(self, process: Process) -> bool:
        """Have a process open its ledger; False: it did not live to do so."""
        if process.dies_at("write"):
            process.die(how="before it opens its ledger")
            return False
        try:
            process.ledger = WatchedLedger(process, self.ledger)
        except LedgerError as error:
            self.laws.fail("the file", f"{process.name} cannot open it: {error}")
            process.boot.over = True
            process.boot.ended.set()
            return False
        self._check_sync(process)
        self._check_claims_of_the_dead(process)
        crash = process.plan.crash
        if crash is not None and crash.at == "time":
            asyncio.get_running_loop().call_later(crash.number, process.die)
        return True

    def _session(self, process: Process) -> Session:
        plan = process.plan
        settings = dict(plan.settings)
        if plan.callbacks:
            settings["callback_base_url"] = HOOK
        if plan.states_limit:
            settings["rate_limit"] = self.plan.stated
        if self.tracing:
            process.say(f"starts: {plan}")
        process.session = Session(
            KEY, base_url=API, ledger=process.ledger, transport=Wire(process), **settings
        )
        return process.session

    async def _close(self, process: Process) -> None:
        assert process.ledger is not None
        try:
            await process.ledger.aclose()
        except LedgerError as error:
            self.laws.fail("the file", f"{process.name} cannot close it: {error}")
        # A dead process never gets here.
        process.say("ends in order")
        self.laws.ended(process)
        process.closed = True
        process.boot.check_over()

    async def _settled(self) -> None:
        """Wait until every task is over and every callback was tried: what comes late, has come."""
        loop = asyncio.get_running_loop()
        while (at := self.service.next_event()) is not None:
            await asyncio.sleep(max(0.0, at - loop.time()) + 60.0)
            self.service._advance(loop.time())

    def _check_sync(self, process: Process) -> None:
        assert process.ledger is not None
        (level,) = process.ledger.file.connection.execute("PRAGMA synchronous").fetchone()
        if level < 2 and process.boot.base is None:
            process.boot.base = Picture.of(self.ledger)

    def _check_claims_of_the_dead(self, process: Process) -> None:
        """At most what was in flight is of unknown outcome after a crash."""
        assert process.ledger is not None
        for name, owner, under_way in self._dead:
            (left,) = process.ledger.file.connection.execute(
                "SELECT count(*) FROM attempts WHERE status = 'submitting' AND owner = ?", (owner,)
            ).fetchone()
            if left > under_way:
                self.laws.fail(
                    "law 1", f"{name} left {left} claims, and had {under_way} POSTs under way"
                )
        self._dead.clear()

    # --- callbacks --------------------------------------------------------------------------------

    def _callbacks_nobody_hears(self) -> None:
        """Let callbacks that are due while everything is down find nobody."""
        service = self.service
        while (at := service.next_callback()) is not None and at < self.time:
            for callback in service.due_callbacks(at):
                service.callback_answered(callback, None, at)

    async def _courier(self, boot: Boot) -> None:
        loop, service = boot.loop, self.service
        planned = asyncio.Event()
        service.on_callback_planned = planned.set
        while True:
            at = service.next_callback()
            planned.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(at):
                    await planned.wait()
                continue
            due = service.due_callbacks(max(loop.time(), at or 0.0))
            for callback in [*due, *self._misdirected(due)]:
                deliver = loop.create_task(self._deliver(boot, callback))
                boot.deliveries.add(deliver)
                deliver.add_done_callback(boot.deliveries.discard)

    def _misdirected(self, due: list[Callback]) -> list[Callback]:
        """Have somebody who knows a URL post to it what is true of another task."""
        tasks = self.service.truth.tasks.values()
        urls = [task.callback_url for task in tasks if task.callback_url is not None]
        return [
            evolve(callback, url=self.chance.choice(urls), attempt=0)
            for callback in due
            # Of a failed task the service tells no prompt: nobody could see whose it is.
            if callback.headers["X-Event"] == "task.completed"
            and not self.quiet
            and self.chance.random() < 0.1
        ]

    async def _deliver(self, boot: Boot, callback: Callback) -> None:
        loop, service = boot.loop, self.service
        hearing = [p for p in boot.processes if p.alive and not p.closed and p.session is not None]
        status: int | None = None
        if hearing:
            process = self.chance.choice(hearing)
            assert process.session is not None
            token = callback.url.rpartition("/")[2]
            if self.tracing:
                process.say(f"callback {callback.headers['X-Event']} of {callback.task_id[:8]}")
            hears = loop.create_task(
                process.session.receive_callback(token, callback.body), context=in_process(process)
            )
            died = loop.create_task(process.died.wait())
            await asyncio.wait([hears, died], return_when=asyncio.FIRST_COMPLETED)
            if hears.done() and not hears.cancelled():
                error = hears.exception()
                status = 200 if error is None else 503
                task = service.truth.tasks[callback.task_id]
                if not process.alive:
                    pass
                elif error is None and callback.attempt:
                    self.told.add(task.id)
                elif error is not None and not self._may_fail(error):
                    self.laws.fail("no defects", f"a callback raised {error!r}")
            died.cancel()
        service.callback_answered(callback, status, loop.time())

    def _may_fail(self, error: BaseException) -> bool:
        """Whether a callback may be answered by an error: it could not be confirmed, or written."""
        if isinstance(error, LedgerError):
            return "disk is full" in str(error) or "is closed" in str(error)
        return isinstance(error, AIVideoError)

    # --- persons ----------------------------------------------------------------------------

    def _person(self) -> None:
        """Somebody looks at the dashboard, and settles or retries a job by hand."""
        if not self.ledger.exists():
            return
        chance = self.chance
        file = LedgerFile(self.ledger, now=self.unix)
        try:
            file.group([LedgerFile.lapse])
            (jobs,) = file.group([lambda file: file.page(0, None, ())])
            assert isinstance(jobs, list)
            records = [job for _, job in jobs]
            doubtful = [job for job in records if job.doubts]
            ended = [job for job in records if job.status in (JobStatus.FAILED, JobStatus.REFUSED)]
            if doubtful and chance.random() < 0.7:
                job = chance.choice(doubtful)
                prompt = job.request.input["prompt"]
                number = next(
                    a.number
                    for a in job.attempts
                    if a.status in (AttemptStatus.UNKNOWN, AttemptStatus.FAULTED)
                )
                known = {a.task_id for a in job.attempts}
                hidden = [t for t in self.laws.by_prompt[prompt] if t.id not in known]
                event: events.Event
                if chance.random() < 0.1 and job.status is not JobStatus.PLANNED:
                    event, number_ = events.Retried(pay_again=True), None
                    if job.status in (JobStatus.UNKNOWN, JobStatus.FAULTED):
                        self.laws.permits[prompt] += 1
                    else:
                        return
                elif hidden and chance.random() < 0.9:
                    event, number_ = events.Taken(hidden[0].id), number
                else:
                    event, number_ = events.Released(), number
                    if hidden:
                        self.laws.permits[prompt] += 1
                        self.laws.lied = True
            elif ended:
                job = chance.choice(ended)
                prompt = job.request.input["prompt"]
                event, number_ = events.Retried(), None
                self.laws.permits[prompt] += 1
            else:
                return
            self.say("PERSON", f"says {type(event).__name__} of {prompt!r}")
            self.touched.add(prompt)
            (said,) = file.group([lambda file: file.record(job.id, event, number_)])
            if isinstance(said, Exception):
                self.laws.fail("law 4", f"a person is refused: {said}")
        finally:
            file.close()


@define
class Work:
    """What one process is for: a batch, jobs by key, and whatever the ledger still holds."""

    world: World
    process: Process
    session: Session
    pending: list[str] = field(factory=list)

    async def run(self) -> None:
        """Do it all, and close the session."""
        process, plan, world = self.process, self.process.plan, self.world
        callers: list[asyncio.Task[None]] = []
        if plan.resumes:
            await self._resume(callers)
        if plan.batch and world.plan.batch:
            callers.append(self._spawn("the batch", self._batch()))
        if plan.keyed:
            for number, request in enumerate(world.plan.keyed):
                callers.append(self._spawn(f"keyed {number}", self._keyed(number, request)))
        ticker = None
        if plan.resume_submits_every is not None:
            ticker = asyncio.create_task(self._resume_submits(plan.resume_submits_every))
        patience = LONGEST_QUIET if world.quiet else LONGEST_LIFE
        if plan.closes_at is not None:
            patience = plan.closes_at
        running = callers
        if callers:
            _, late = await asyncio.wait(callers, timeout=patience)
            running = [*late]
        if process.alive and running and world.quiet:
            world.laws.fail("ends", f"after {patience:g} s there still run {self.pending}")
        if ticker is not None:
            ticker.cancel()
        await self.session.aclose()
        if running:
            # Whoever still waits must be let go by the close.
            await asyncio.wait(running, timeout=1.0)
            if process.alive and self.pending:
                world.laws.fail("resolved once", f"after the close there wait {self.pending}")

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.pending.append(name)

        async def watched() -> None:
            try:
                await work
            except AIVideoError as error:
                if self.process.alive:
                    self.process.say(f"{name} ends: {type(error).__name__}: {error}"[:200])
            except asyncio.CancelledError:
                self.process.say(f"{name} is cancelled")
            except Exception as error:
                if self.process.alive:
                    self.world.laws.fail("no defects", f"{name} raised {error!r}")
                    raise
            finally:
                self.pending.remove(name)

        task = asyncio.create_task(watched())
        chance = self.world.chance
        if not self.world.quiet and chance.random() < self.process.plan.cancels:
            asyncio.get_running_loop().call_later(chance.random() ** 2 * 60.0, task.cancel)
        return task

    async def _resume(self, callers: list[asyncio.Task[None]]) -> None:
        try:
            jobs = await self.session.resume()
        except LedgerError as error:
            self.process.say(f"could not resume: {error}")
            return
        callers.extend(self._spawn(f"resumed {job.id}", self._see_through(job)) for job in jobs)

    async def _batch(self) -> None:
        plan, laws, process = self.world.plan, self.world.laws, self.process
        seen: set[int] = set()
        outcomes = self.session.generate_many(
            plan.batch,
            save_to=self.world.folder / "videos" if plan.saves else None,
            batch="b",
            max_credits=plan.batch_ceiling,
        )
        left = False
        try:
            async for outcome in outcomes:
                if not process.alive:
                    return
                laws.outcome(process, outcome, seen)
                if process.plan.leaves_after is not None and len(seen) > process.plan.leaves_after:
                    left = True
                    break
        finally:
            if process.alive:
                await outcomes.aclose()
        if process.alive and not left and len(seen) != len(plan.batch):
            laws.fail("resolved once", f"{len(seen)} outcomes of {len(plan.batch)}")

    async def _keyed(self, number: int, request: Sora2) -> None:
        session, chance = self.session, self.world.chance
        ask: Callable[..., Coroutine[Any, Any, Job]]
        ask = session.enqueue if chance.random() < 0.5 else session.submit
        job = await ask(request, key=f"k{number}")
        if chance.random() < 0.2:
            self._spawn(f"a second waiter of keyed {number}", self._see_through(job, save=False))
        await self._see_through(job)

    async def _see_through(self, job: Job, *, save: bool = True) -> None:
        laws, process = self.world.laws, self.process
        assert job.request is not None
        prompt = str(job.request.input["prompt"])
        try:
            if self.world.plan.saves and save:
                path = await job.save(self.world.folder / "videos" / f"{job.id}.mp4")
                if process.alive and not laws.is_whole(str(job.task_id), path):
                    laws.fail("whole files", f"{path} is not whole")
            else:
                await job
        except TaskFailedError as error:
            made = {task.id: task for task in laws.by_prompt[prompt]}
            told = made.get(error.task.id)
            if process.alive and (told is None or told.outcome != "failed"):
                laws.fail("truth", f"{prompt!r} is told to have failed, and did not")
        else:
            if process.alive:
                laws.succeeded(prompt, job.task_id)

    async def _resume_submits(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            self.process.gate_closed_at = None
            self.session.resume_submits()


@contextmanager
def _silence() -> Generator[None]:
    """Let coroutines that are thrown away break without a word: no dead process has any."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


# --- the world outside --------------------------------------------------------------------------


class _Now(datetime):
    world: World

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(cls.world.unix(), tz or UTC)


@contextmanager
def _determined(world: World) -> Generator[None]:
    """Take chance and clocks from the seed while a world lives."""
    names = random.Random(f"names {world.seed}")
    _Now.world = world
    state = random.getstate()
    random.seed(f"jitter {world.seed}")
    kept = [
        (secrets, "token_hex", lambda size=16: names.randbytes(size).hex()),
        (time, "time", world.unix),
        (os, "fsync", fsynced(world.synced, os.fsync)),
        (download, "datetime", _Now),
        (download, "_Part", Part),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in kept]
    gc.disable()
    gc.freeze()  # what was there before is no garbage of this world: each collection is quick
    try:
        for module, name, value in kept:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        random.setstate(state)
        gc.unfreeze()
        gc.enable()


class _Ears(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if KEY[3:] in text or "X-Signature" in text:
            self._world.laws.fail("secrets", f"in a log line: {text}")
        if record.levelno >= logging.INFO:
            self._world.say("log", f"{record.levelname} {text}"[:300])


@contextmanager
def _heard_logs(world: World) -> Generator[None]:
    """Hear every line that is logged, at any level."""
    ears = _Ears(world)
    loggers = [logging.getLogger("aivideo"), logging.getLogger("asyncio")]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
            logger.addHandler(ears)
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(ears)
            logger.setLevel(level)
            logger.propagate = propagate


def _told(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"


__all__ = ["APIConnectionError", "APIStatusError", "Boot", "Result", "World", "wal_of"]
