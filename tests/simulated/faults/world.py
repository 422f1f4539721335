"""The simulation of one seed: a service and a disk that survive the crashes of all processes."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from attrs import evolve, frozen

from aivideo import LedgerError, Session
from aivideo.simulator import Service
from tests.simulated.faults import persons
from tests.simulated.faults.books import Books
from tests.simulated.faults.boots import Boot
from tests.simulated.faults.callbacks import Callbacks
from tests.simulated.faults.creates import Creates
from tests.simulated.faults.disk import Snapshot
from tests.simulated.faults.hardships import plan_with_hardships
from tests.simulated.faults.laws import Laws
from tests.simulated.faults.ledgers import WatchedLedger, WatchedMemory
from tests.simulated.faults.loops import StuckError, WorldLoop
from tests.simulated.faults.machine import (
    checked_logs,
    describe,
    deterministic,
    ignore_unraisable,
)
from tests.simulated.faults.network import ProcessTransport
from tests.simulated.faults.outages import Outages
from tests.simulated.faults.persons import Manifest
from tests.simulated.faults.plan import KEY, BootPlan, Plan, ProcessPlan, fault_free_process
from tests.simulated.faults.process import Process, process_context
from tests.simulated.faults.work import Work

API = "http://127.0.0.1:1"
CALLBACK_URL = "http://127.0.0.1:2/hook"


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
    reached: Counter[str]
    """How often each interesting state was reached."""


class World:
    """All that survives the processes: the service, the disk and the checks.

    Args:
        seed: seed of all random draws.
        tracing: whether to keep a trace.
    """

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.plan: Plan = plan_with_hardships(seed)
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
        self.outages = Outages(self)
        self.service.hook = self.outages.fault
        self.laws = Laws(self)
        self.synced: set[int] = set()
        self.deaths = 0
        self.faults_off = False
        self.delivered: set[str] = set()
        """Tasks whose callback was accepted by a live process."""
        self.changed_manually: set[str] = set()
        """Contents of jobs that were settled or retried manually."""
        self.reached: Counter[str] = Counter()
        """How often each interesting state was reached."""
        self.owners: dict[str, Process] = {}
        """The processes, by the names under which they claim."""
        self.creates = Creates(self)
        self._callbacks = Callbacks(self)
        self.waiting_loose = set(range(len(self.plan.loose)))
        """The requests without key that nobody has taken on."""
        self.manifest = Manifest(self)
        self.resumes_at_end = self.plan.batch_ceiling is None
        self.laws.ask(self.plan.batch)
        self.laws.ask(self.plan.keyed)
        self.laws.ask(self.plan.loose)
        for boot in self.plan.boots:
            for process in boot.processes:
                self.laws.ask(process.unkept)
        self.clocks_differ = any(
            process.clock_offset or process.clock_jumps
            for boot in self.plan.boots
            for process in boot.processes
        )
        self._loop: WorldLoop | None = None
        self._boot_number = 0
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
        return self.outages.is_within(self.outages.plan.disk_full)

    def ceiling_now(self) -> int | None:
        """The ceiling of the batch, if it is set by now."""
        return self.plan.batch_ceiling if self._boot_number >= self.plan.ceiling_from else None

    def must_be_saved(self, content: str, status: str) -> bool:
        """Whether a job of ``content`` must have a final status at the end."""
        if not self.plan.saves:
            return False
        results = [task for task in self.laws.by_content[content] if task.outcome == "completed"]
        if any(task.ends + self.plan.scenario.result_ttl <= self.time for task in results):
            return False  # a result URL expired before it was downloaded
        if "keyed" in content:
            return True
        if "loose" in content:
            # `resume()` takes on what runs; a task that has ended is left to whoever looks for it.
            return self.resumes_at_end and status not in ("withdrawn", "completed")
        if "manifest" in content:
            # A line that was removed before it was sent stays planned.
            return status not in ("planned", "withdrawn")
        return self.plan.batch_ceiling is None

    def is_being_sent(self, job_id: str) -> bool:
        """Whether any process has claimed a job and has no verdict yet."""
        return any(post.claim.job_id == job_id and post.verdict is None for post in self.laws.posts)

    def ledger_files(self) -> Generator[tuple[str, bytes]]:
        """Yield name and content of every file of the ledgers of all boots."""
        for path in sorted(self.folder.glob("boot-*/*")):
            yield path.name, path.read_bytes()

    # --- boots ------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Run the simulation and check the laws."""
        with deterministic(self), checked_logs(self), warnings.catch_warnings():
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
                    persons.look(self)
                if not self.laws.violations:
                    Books(self.laws).check()
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
            reached=self.reached,
        )
        self.__dict__.clear()  # drop the last references to dead processes
        with ignore_unraisable():
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
        return evolve(fault_free_process(), resumes=self.resumes_at_end)

    def _disable_faults(self) -> None:
        """Disable all faults and give the account enough credits."""
        self.faults_off = True
        self.time = max(self.time, self.creates.last_at)
        service = self.service
        service.scenario = evolve(service.scenario, spend_limit=None)
        account = service.truth.accounts[KEY]
        account.balance += 10**6
        account.purchased += 10**6

    def _boot(self, number: int, plan: BootPlan) -> None:
        self.time += plan.down_before
        self._boot_number = number
        self.outages.boot(plan)
        self._callbacks.drop_missed()
        self.creates.deliver_due()
        for _ in range(plan.manual_changes):
            persons.change_manually(self)
        for _ in range(plan.edits_before):
            self.manifest.edit()
        self.log("----", f"boot {number}, {len(plan.processes)} processes")
        loop = self._loop = WorldLoop(self.time)
        asyncio.set_event_loop(loop)
        boot = Boot(self, plan, self.ledger, loop)
        errors: list[str] = []
        loop.set_exception_handler(lambda _, context: errors.append(describe(context)))
        try:
            loop.run_until_complete(self._run_boot(boot, number))
        except RuntimeError as error:  # raised by the virtual-time loop on a deadlock
            self.laws.fail("termination", f"deadlock: {str(error).splitlines()[0]}")
            boot.over = True
        finally:
            self.time = loop.time()
            self._crashed = [
                (process.name, process.ledger.owner, process.posts_at_death)
                for process in boot.processes
                if isinstance(process.ledger, WatchedLedger)
                and not (process.closed or process.alive)
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
        loop._ready.clear()
        loop._scheduled.clear()  # type: ignore[attr-defined]
        logger = logging.getLogger("asyncio")
        logger.disabled = not clean
        with ignore_unraisable():
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
            if isinstance(process.ledger, WatchedLedger) and not process.closed:
                with suppress(Exception):
                    process.ledger.file.connection.close()

    async def _run_boot(self, boot: Boot, number: int) -> None:
        sending = asyncio.create_task(self._callbacks.send(boot))
        for index, plan in enumerate(boot.plan.processes):
            name = f"{number}{'abc'[index]}"
            boot.processes.append(Process(name, plan, boot))
        for process in boot.processes:
            boot.loop.create_task(self._run_process(process), context=process_context(process))
        self.creates.boot(boot)
        for at in boot.plan.visits:
            boot.loop.call_outside(at, persons.visit, boot)
        for at in boot.plan.edits:
            boot.loop.call_outside(at, self.manifest.edit_while_running, boot)
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
        process.started = self.now()
        if process.plan.unkept:
            process.ledger = WatchedMemory(process)
            self.owners[process.ledger.owner] = process
            return True
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
        self.owners[process.ledger.owner] = process
        self._check_sync(process.ledger, process)
        self._check_abandoned_claims(process.ledger)
        for pause in process.plan.pauses:
            if pause.at == "time":
                process.boot.loop.call_outside(pause.number, process.stand_still, pause)
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

    def _check_sync(self, ledger: WatchedLedger, process: Process) -> None:
        (level,) = ledger.file.connection.execute("PRAGMA synchronous").fetchone()
        if level < 2 and process.boot.base is None:
            process.boot.base = Snapshot.of(self.ledger)

    def _check_abandoned_claims(self, ledger: WatchedLedger) -> None:
        """Check that a crashed process left at most as many claims as it had pending POSTs."""
        for name, owner, pending_posts in self._crashed:
            (left,) = ledger.file.connection.execute(
                "SELECT count(*) FROM attempts WHERE status = 'submitting' AND owner = ?", (owner,)
            ).fetchone()
            if left > pending_posts:
                self.laws.fail(
                    "law 1", f"{name} left {left} claims, but had {pending_posts} pending POSTs"
                )
        self._crashed.clear()


__all__ = ["Boot", "Result", "World"]
