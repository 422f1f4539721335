"""The simulation of one seed: a service and a disk that survive the crashes of all processes."""

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
from tests.simulated.faults.disk import Snapshot, wal_of
from tests.simulated.faults.laws import Laws
from tests.simulated.faults.plan import (
    HOUR,
    KEY,
    BootPlan,
    Plan,
    ProcessPlan,
    fault_free_process,
    plan_of,
)
from tests.simulated.faults.process import (
    DownloadPart,
    Process,
    ProcessTransport,
    StuckError,
    WatchedLedger,
    WorldLoop,
    lose_unsynced,
    process_context,
    recording_fsync,
)

API = "http://127.0.0.1:1"
CALLBACK_URL = "http://127.0.0.1:2/hook"

PROCESS_TIMEOUT = 12 * HOUR
"""Seconds after which a process closes normally, even if jobs are still running."""

FINAL_TIMEOUT = 100 * HOUR
"""The same for the final process, where it is a violation if jobs are still running."""

_OUTAGE_FAULTS = {
    Endpoint.CREATE: (Fault.CUT_BEFORE, Fault.CUT_AFTER, Fault.HTML_502, Fault.HTML_502_TAKEN),
    Endpoint.POLL: (Fault.CUT_BEFORE, Fault.HTML_502, Fault.INTERNAL_ERROR),
    Endpoint.CREDITS: (Fault.CUT_BEFORE, Fault.HTML_502, Fault.INTERNAL_ERROR),
    Endpoint.DOWNLOAD: (Fault.RESET, Fault.HTML_502),
}


@frozen(kw_only=True)
class Result:
    """The result of one seed."""

    seed: int
    violations: tuple[str, ...]
    trace: tuple[str, ...]
    deaths: int
    tasks: int
    unknowns: int
    """Jobs whose final status is unknown or faulted."""


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
            from tests.simulated.faults.disk import state_after_crash

            self.files_left, _ = state_after_crash(self.base, self.files_left, self.world.rng)
        for process in self.processes:
            process.mark_dead()
        folder = self.world.folder / "videos"
        lose_unsynced(folder, self.world.synced, self.world.rng)
        self.ended.set()

    def kill_process(self, process: Process) -> None:
        """Kill one process; the kernel keeps its writes and releases its locks."""
        self.crashed = True
        process.mark_dead()
        others = any(each.alive and not each.closed for each in self.processes)
        if not others:
            self.files_left = Snapshot.of(self.ledger)
        if process.ledger is not None:
            # Closing the last connection would checkpoint and delete the WAL; a kill does not.
            process.ledger.abandon(close=others)
        self.check_over()

    def check_over(self) -> None:
        """End the boot if its last process has ended."""
        if not any(each.alive and not each.closed for each in self.processes):
            self.over = True
            self.ended.set()


class World:
    """All that survives the processes: the service, the disk and the checks.

    Args:
        seed: seed of all random draws.
        tracing: whether to keep a trace.
    """

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.plan: Plan = plan_of(seed)
        self.tracing = tracing
        self.trace: list[str] = []
        self.rng = random.Random(f"chance {seed}")
        self.time = 0.0
        shared = Path("/dev/shm")  # a disk in memory, if available
        self.folder = Path(
            tempfile.mkdtemp(prefix="aivideo-faults-", dir=shared if shared.is_dir() else None)
        )
        self.ledger = self.folder / "boot-0" / "jobs.db"
        self.service = Service(self.plan.scenario)
        self.service.hook = self._fault
        self.laws = Laws(self)
        self.synced: set[int] = set()
        self.deaths = 0
        self.faults_off = False
        self.delivered: set[str] = set()
        """Tasks whose callback was accepted by a live process."""
        self.changed_manually: set[str] = set()
        """Prompts of jobs that were settled or retried manually."""
        self._loop: WorldLoop | None = None
        self._boot_plan = self.plan.boots[0]
        self._booted = 0.0
        self._crashed: list[tuple[str, str, int]] = []
        """Processes that crashed in the previous boot: name, owner name and pending POSTs."""

    # --- for processes and checks -----------------------------------------------------------------

    def log(self, who: str, text: str) -> None:
        """Add a line to the trace."""
        if self.tracing:
            text = text.replace(str(self.folder), "…")  # the only name that is not deterministic
            self.trace.append(f"{self.now():10.2f} {who:<6} {text}")

    def now(self) -> float:
        """Seconds since the start of the service."""
        return self.time if self._loop is None else self._loop.time()

    def unix(self) -> float:
        """Unix time by the clock of the processes, in seconds."""
        return self.service.epoch + self.now()

    def connection_fails(self) -> bool:
        """Draw whether a request fails to connect."""
        return not self.faults_off and self.rng.random() < self.plan.connection_failures

    def disk_is_full(self) -> bool:
        """Whether ledger transactions fail now."""
        return self._within(self._boot_plan.disk_full)

    def must_be_saved(self, prompt: str) -> bool:
        """Whether the job of ``prompt`` must have a final status at the end."""
        if not self.plan.saves:
            return False
        results = [task for task in self.laws.by_prompt[prompt] if task.outcome == "completed"]
        if any(task.ends + self.plan.scenario.result_ttl <= self.time for task in results):
            return False  # a result URL expired before it was downloaded
        return self.plan.batch_ceiling is None or "keyed" in prompt

    def ledger_files(self) -> Generator[tuple[str, bytes]]:
        """Yield name and content of every file of the ledgers of all boots."""
        for path in sorted(self.folder.glob("boot-*/*")):
            yield path.name, path.read_bytes()

    # --- boots ------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run the simulation and check the laws."""
        with _deterministic(self), _checked_logs(self), warnings.catch_warnings():
            # Coroutines of crashed processes that were never started.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            try:
                self._prepare()
                for number, boot in enumerate(self.plan.boots):
                    self._boot(number, boot)
                    if self.laws.violations:
                        break
                if not self.laws.violations:
                    self._disable_faults()
                    self._boot(
                        len(self.plan.boots),
                        BootPlan(processes=(self._final_process(),), down_before=60.0),
                    )
                if not self.laws.violations:
                    self.laws.check_ledger()
            except StuckError as error:
                self.laws.fail("termination", f"a boot does not end: {error}")
            finally:
                unknowns = self._count_unknown()
                shutil.rmtree(self.folder, ignore_errors=True)
        result = Result(
            seed=self.seed,
            violations=tuple(self.laws.violations),
            trace=tuple(self.trace),
            deaths=self.deaths,
            tasks=len(self.service.truth.tasks),
            unknowns=unknowns,
        )
        self.__dict__.clear()  # drop the last references to dead processes
        with _ignore_unraisable():
            gc.collect()
        return result

    def _count_unknown(self) -> int:
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

    def _final_process(self) -> ProcessPlan:
        return evolve(fault_free_process(), resumes=self.plan.batch_ceiling is None)

    def _disable_faults(self) -> None:
        """Disable all faults and give the account enough credits."""
        self.faults_off = True
        service = self.service
        service.scenario = evolve(service.scenario, spend_limit=None)
        account = service.truth.accounts[KEY]
        account.balance += 10**6
        account.purchased += 10**6

    def _within(self, span: tuple[float, float]) -> bool:
        begin, end = span
        return begin <= self.now() - self._booted < end

    def _fault(self, occasion: Occasion) -> Fault | None:
        if self.faults_off:
            return Fault.NONE
        if self._within(self._boot_plan.outage):
            faults = _OUTAGE_FAULTS.get(occasion.endpoint)
            return None if faults is None else self.rng.choice(faults)
        return None

    def _boot(self, number: int, plan: BootPlan) -> None:
        self.time += plan.down_before
        self._boot_plan, self._booted = plan, self.time
        self._drop_missed_callbacks()
        for _ in range(plan.manual_changes):
            self._change_manually()
        self.log("----", f"boot {number}, {len(plan.processes)} processes")
        loop = self._loop = WorldLoop(self.time)
        asyncio.set_event_loop(loop)
        boot = Boot(self, plan, self.ledger, loop)
        errors: list[str] = []
        loop.set_exception_handler(lambda _, context: errors.append(_describe(context)))
        try:
            loop.run_until_complete(self._run_boot(boot, number))
        except RuntimeError as error:  # raised by the virtual-time loop on a deadlock
            self.laws.fail("termination", f"deadlock: {str(error).splitlines()[0]}")
            boot.over = True
        finally:
            self.time = loop.time()
            self._crashed = [
                (process.name, process.ledger.file.owner.name, process.posts_at_death)
                for process in boot.processes
                if process.ledger is not None and not (process.closed or process.alive)
            ]
            self._discard_loop(boot, loop)
            self._loop = None
        if errors and not boot.crashed:
            self.laws.fail("no defects", errors[0])
        self._copy_ledger(boot, number)

    def _discard_loop(self, boot: Boot, loop: WorldLoop) -> None:
        """Close a loop and drop its tasks, without log messages or side effects."""
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
        with _ignore_unraisable():
            loop.close()
            asyncio.set_event_loop(None)
            for process in boot.processes:
                if not process.closed and process.ledger is not None:
                    process.ledger.abandon(close=False)
                process.release()
            boot.deliveries.clear()
            self.service.on_callback_planned = None
            gc.collect()
        logger.disabled = False

    def _copy_ledger(self, boot: Boot, number: int) -> None:
        """Copy the ledger's files to a new folder, out of reach of connections still open."""
        if not boot.crashed:
            return
        files_left = Snapshot.of(self.ledger) if boot.files_left is None else boot.files_left
        old = self.ledger.parent
        new = self.folder / f"boot-{number + 1}"
        new.mkdir()
        self.ledger = new / "jobs.db"
        files_left.write_to(self.ledger)
        for path in sorted(old.glob("jobs.db-owner-*")):
            shutil.copy(path, new)
        for process in boot.processes:
            if process.ledger is not None and not process.closed:
                with suppress(Exception):
                    process.ledger.file.connection.close()

    async def _run_boot(self, boot: Boot, number: int) -> None:
        sending = asyncio.create_task(self._send_callbacks(boot))
        for index, plan in enumerate(boot.plan.processes):
            name = f"{number}{'ab'[index]}"
            boot.processes.append(Process(name, plan, boot))
        for process in boot.processes:
            boot.loop.create_task(self._run_process(process), context=process_context(process))
        await boot.ended.wait()
        sending.cancel()
        if not boot.crashed:
            await asyncio.gather(sending, return_exceptions=True)
        self.deaths += sum(not process.closed for process in boot.processes)

    # --- a process --------------------------------------------------------------------------

    async def _run_process(self, process: Process) -> None:
        await asyncio.sleep(process.plan.starts)
        if not process.alive or not self._opened(process):
            return
        session = self._session(process)
        try:
            if self.faults_off:
                await self._wait_for_service()
            await Work(self, process, session).run()
        except Exception as error:
            if process.alive:
                self.laws.fail("no defects", f"{process.name}: {error!r}")
                raise
        if process.alive:
            await self._close(process)

    def _opened(self, process: Process) -> bool:
        """Open the ledger of a process. Return False if the process crashed or opening failed."""
        if process.crashes_at("write"):
            process.die(how="before it opens its ledger")
            return False
        try:
            process.ledger = WatchedLedger(process, self.ledger)
        except LedgerError as error:
            self.laws.fail("ledger file", f"{process.name} cannot open it: {error}")
            process.boot.over = True
            process.boot.ended.set()
            return False
        self._check_sync(process)
        self._check_abandoned_claims(process)
        crash = process.plan.crash
        if crash is not None and crash.at == "time":
            asyncio.get_running_loop().call_later(crash.number, process.die)
        return True

    def _session(self, process: Process) -> Session:
        plan = process.plan
        settings = dict(plan.settings)
        if plan.callbacks:
            settings["callback_base_url"] = CALLBACK_URL
        if plan.states_limit:
            settings["rate_limit"] = self.plan.stated
        if self.tracing:
            process.log(f"starts: {plan}")
        process.session = Session(
            KEY,
            base_url=API,
            ledger=process.ledger,
            transport=ProcessTransport(process),
            **settings,
        )
        return process.session

    async def _close(self, process: Process) -> None:
        assert process.ledger is not None
        try:
            await process.ledger.aclose()
        except LedgerError as error:
            self.laws.fail("ledger file", f"{process.name} cannot close it: {error}")
        # A dead process does not get here: its calls hang.
        process.log("closed normally")
        self.laws.ended(process)
        process.closed = True
        process.boot.check_over()

    async def _wait_for_service(self) -> None:
        """Wait until every task has ended and no callback attempt is left."""
        loop = asyncio.get_running_loop()
        while (at := self.service.next_event()) is not None:
            await asyncio.sleep(max(0.0, at - loop.time()) + 60.0)
            self.service._advance(loop.time())

    def _check_sync(self, process: Process) -> None:
        assert process.ledger is not None
        (level,) = process.ledger.file.connection.execute("PRAGMA synchronous").fetchone()
        if level < 2 and process.boot.base is None:
            process.boot.base = Snapshot.of(self.ledger)

    def _check_abandoned_claims(self, process: Process) -> None:
        """Check that a crashed process left at most as many claims as it had pending POSTs."""
        assert process.ledger is not None
        for name, owner, pending_posts in self._crashed:
            (left,) = process.ledger.file.connection.execute(
                "SELECT count(*) FROM attempts WHERE status = 'submitting' AND owner = ?", (owner,)
            ).fetchone()
            if left > pending_posts:
                self.laws.fail(
                    "law 1", f"{name} left {left} claims, but had {pending_posts} pending POSTs"
                )
        self._crashed.clear()

    # --- callbacks --------------------------------------------------------------------------------

    def _drop_missed_callbacks(self) -> None:
        """Fail the callback attempts that were due while no process was running."""
        service = self.service
        while (at := service.next_callback()) is not None and at < self.time:
            for callback in service.due_callbacks(at):
                service.callback_answered(callback, None, at)

    async def _send_callbacks(self, boot: Boot) -> None:
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
        """Forge callbacks: true data of one task, sent to the callback URL of another."""
        tasks = self.service.truth.tasks.values()
        urls = [task.callback_url for task in tasks if task.callback_url is not None]
        return [
            evolve(callback, url=self.rng.choice(urls), attempt=0)
            for callback in due
            # A failed task has no prompt, so a wrong attribution could not be detected.
            if callback.headers["X-Event"] == "task.completed"
            and not self.faults_off
            and self.rng.random() < 0.1
        ]

    async def _deliver(self, boot: Boot, callback: Callback) -> None:
        loop, service = boot.loop, self.service
        receivers = [
            p for p in boot.processes if p.alive and not p.closed and p.session is not None
        ]
        status: int | None = None
        if receivers:
            process = self.rng.choice(receivers)
            assert process.session is not None
            token = callback.url.rpartition("/")[2]
            if self.tracing:
                process.log(f"callback {callback.headers['X-Event']} of {callback.task_id[:8]}")
            receiving = loop.create_task(
                process.session.receive_callback(token, callback.body),
                context=process_context(process),
            )
            died = loop.create_task(process.died.wait())
            await asyncio.wait([receiving, died], return_when=asyncio.FIRST_COMPLETED)
            if receiving.done() and not receiving.cancelled():
                error = receiving.exception()
                status = 200 if error is None else 503
                task = service.truth.tasks[callback.task_id]
                if not process.alive:
                    pass
                elif error is None and callback.attempt:
                    self.delivered.add(task.id)
                elif error is not None and not self._may_fail(error):
                    self.laws.fail("no defects", f"a callback raised {error!r}")
            died.cancel()
        service.callback_answered(callback, status, loop.time())

    def _may_fail(self, error: BaseException) -> bool:
        """Whether the error is allowed: the callback could not be confirmed or recorded."""
        if isinstance(error, LedgerError):
            return "disk is full" in str(error) or "is closed" in str(error)
        return isinstance(error, AIVideoError)

    # --- manual changes ---------------------------------------------------------------------

    def _change_manually(self) -> None:
        """Settle or retry a job, as a user does after looking at the account."""
        if not self.ledger.exists():
            return
        rng = self.rng
        file = LedgerFile(self.ledger, now=self.unix)
        try:
            file.group([LedgerFile.lapse])
            (jobs,) = file.group([lambda file: file.page(0, None, ())])
            assert isinstance(jobs, list)
            records = [job for _, job in jobs]
            unknown = [job for job in records if job.doubts]
            ended = [job for job in records if job.status in (JobStatus.FAILED, JobStatus.REFUSED)]
            if unknown and rng.random() < 0.7:
                job = rng.choice(unknown)
                prompt = job.request.input["prompt"]
                number = next(
                    a.number
                    for a in job.attempts
                    if a.status in (AttemptStatus.UNKNOWN, AttemptStatus.FAULTED)
                )
                known = {a.task_id for a in job.attempts}
                hidden = [t for t in self.laws.by_prompt[prompt] if t.id not in known]
                event: events.Event
                if rng.random() < 0.1 and job.status is not JobStatus.PLANNED:
                    event, number_ = events.Retried(pay_again=True), None
                    if job.status in (JobStatus.UNKNOWN, JobStatus.FAULTED):
                        self.laws.allowed_repeats[prompt] += 1
                    else:
                        return
                elif hidden and rng.random() < 0.9:
                    event, number_ = events.Taken(hidden[0].id), number
                else:
                    event, number_ = events.Released(), number
                    if hidden:
                        self.laws.allowed_repeats[prompt] += 1
                        self.laws.wrongly_settled = True
            elif ended:
                job = rng.choice(ended)
                prompt = job.request.input["prompt"]
                event, number_ = events.Retried(), None
                self.laws.allowed_repeats[prompt] += 1
            else:
                return
            self.log("MANUAL", f"{type(event).__name__} for {prompt!r}")
            self.changed_manually.add(prompt)
            (result,) = file.group([lambda file: file.record(job.id, event, number_)])
            if isinstance(result, Exception):
                self.laws.fail("law 4", f"a manual change was rejected: {result}")
        finally:
            file.close()


@define
class Work:
    """The work of one process: a batch, jobs with keys, and resumed jobs."""

    world: World
    process: Process
    session: Session
    pending: list[str] = field(factory=list)

    async def run(self) -> None:
        """Do all the work and close the session."""
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
        timeout = FINAL_TIMEOUT if world.faults_off else PROCESS_TIMEOUT
        if plan.closes_at is not None:
            timeout = plan.closes_at
        running = callers
        if callers:
            _, late = await asyncio.wait(callers, timeout=timeout)
            running = [*late]
        if process.alive and running and world.faults_off:
            world.laws.fail("termination", f"after {timeout:g} s, still running: {self.pending}")
        if ticker is not None:
            ticker.cancel()
        await self.session.aclose()
        if running:
            # Closing the session must end all waiting calls.
            await asyncio.wait(running, timeout=1.0)
            if process.alive and self.pending:
                world.laws.fail("one outcome", f"still waiting after close: {self.pending}")

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.pending.append(name)

        async def watched() -> None:
            try:
                await work
            except AIVideoError as error:
                if self.process.alive:
                    self.process.log(f"{name} ends: {type(error).__name__}: {error}"[:200])
            except asyncio.CancelledError:
                self.process.log(f"{name} is cancelled")
            except Exception as error:
                if self.process.alive:
                    self.world.laws.fail("no defects", f"{name} raised {error!r}")
                    raise
            finally:
                self.pending.remove(name)

        task = asyncio.create_task(watched())
        rng = self.world.rng
        if not self.world.faults_off and rng.random() < self.process.plan.cancels:
            asyncio.get_running_loop().call_later(rng.random() ** 2 * 60.0, task.cancel)
        return task

    async def _resume(self, callers: list[asyncio.Task[None]]) -> None:
        try:
            jobs = await self.session.resume()
        except LedgerError as error:
            self.process.log(f"could not resume: {error}")
            return
        callers.extend(self._spawn(f"resumed {job.id}", self._wait_for_job(job)) for job in jobs)

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
            laws.fail("one outcome", f"{len(seen)} outcomes of {len(plan.batch)}")

    async def _keyed(self, number: int, request: Sora2) -> None:
        session, rng = self.session, self.world.rng
        submit: Callable[..., Coroutine[Any, Any, Job]]
        submit = session.enqueue if rng.random() < 0.5 else session.submit
        job = await submit(request, key=f"k{number}")
        if rng.random() < 0.2:
            self._spawn(f"a second waiter of keyed {number}", self._wait_for_job(job, save=False))
        await self._wait_for_job(job)

    async def _wait_for_job(self, job: Job, *, save: bool = True) -> None:
        laws, process = self.world.laws, self.process
        assert job.request is not None
        prompt = str(job.request.input["prompt"])
        try:
            if self.world.plan.saves and save:
                path = await job.save(self.world.folder / "videos" / f"{job.id}.mp4")
                if process.alive and not laws.is_complete(str(job.task_id), path):
                    laws.fail("complete files", f"{path} is incomplete")
            else:
                await job
        except TaskFailedError as error:
            tasks = {task.id: task for task in laws.by_prompt[prompt]}
            task = tasks.get(error.task.id)
            if process.alive and (task is None or task.outcome != "failed"):
                laws.fail("true results", f"{prompt!r} is reported as failed, but did not fail")
        else:
            if process.alive:
                laws.succeeded(prompt, job.task_id)

    async def _resume_submits(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            self.process.gate_closed_at = None
            self.session.resume_submits()


@contextmanager
def _ignore_unraisable() -> Generator[None]:
    """Suppress errors of discarded coroutines of dead processes."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


# --- clocks, random numbers and logs ------------------------------------------------------------


class _Now(datetime):
    world: World

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(cls.world.unix(), tz or UTC)


@contextmanager
def _deterministic(world: World) -> Generator[None]:
    """Replace random numbers and clocks by those of the seed during a simulation."""
    names = random.Random(f"names {world.seed}")
    _Now.world = world
    state = random.getstate()
    random.seed(f"jitter {world.seed}")
    replacements = [
        (secrets, "token_hex", lambda size=16: names.randbytes(size).hex()),
        (time, "time", world.unix),
        (os, "fsync", recording_fsync(world.synced, os.fsync)),
        (download, "datetime", _Now),
        (download, "_Part", DownloadPart),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replacements]
    gc.disable()
    gc.freeze()  # makes collections fast: older objects are not garbage
    try:
        for module, name, value in replacements:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        random.setstate(state)
        gc.unfreeze()
        gc.enable()


class _LogChecker(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if KEY[3:] in text or "X-Signature" in text:
            self._world.laws.fail("secrets", f"in a log line: {text}")
        if record.levelno >= logging.INFO:
            self._world.log("log", f"{record.levelname} {text}"[:300])


@contextmanager
def _checked_logs(world: World) -> Generator[None]:
    """Check every log record, at any level, for secrets."""
    checker = _LogChecker(world)
    loggers = [logging.getLogger("aivideo"), logging.getLogger("asyncio")]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
            logger.addHandler(checker)
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(checker)
            logger.setLevel(level)
            logger.propagate = propagate


def _describe(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"


__all__ = ["APIConnectionError", "APIStatusError", "Boot", "Result", "World", "wal_of"]
