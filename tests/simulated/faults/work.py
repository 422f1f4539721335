"""The work of one process, as users write it; some of what they write raises or blocks."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field

from aivideo import (
    AIVideoError,
    InternalServerError,
    Job,
    LedgerError,
    Request,
    Session,
    SessionClosedError,
    SubmitUnknownError,
    TaskFailedError,
    UpstreamError,
)
from aivideo.desk import Desk, DeskError
from aivideo.manifest import (
    Batch,
    BatchSettings,
    Defaults,
    Line,
    ManifestError,
    Plan,
    prepare,
    read_manifest,
)
from tests.simulated.faults.content import content_of
from tests.simulated.faults.ledgers import PLANNED
from tests.simulated.faults.plan import HOUR, Pause
from tests.simulated.faults.process import Process

if TYPE_CHECKING:
    from tests.simulated.faults.world import World

PROCESS_TIMEOUT = 12 * HOUR
"""Seconds after which a process closes normally, even if jobs are still running."""

FINAL_TIMEOUT = 100 * HOUR
"""The same for the final process, where it is a violation if jobs are still running."""

MANIFEST = BatchSettings(name="m")

MAY_BE_CHARGED = (SubmitUnknownError, InternalServerError, UpstreamError)
"""Errors of ``submit`` after which a create may have been charged. After all others it is unsent,
and whoever wants it submits it again."""


class UsersError(Exception):
    """Raised by a user's own function."""


@define
class Work:
    """The work of one process: a batch, a manifest, and jobs with and without keys."""

    world: World
    process: Process
    session: Session
    pending: list[str] = field(factory=list)

    async def run(self) -> None:
        """Do all the work and close the session."""
        process, plan, world = self.process, self.process.plan, self.world
        callers: list[asyncio.Task[None]] = []
        if plan.unkept:
            callers.append(self._spawn("the other program", self._unkept()))
        else:
            await self._start(callers)
        tickers = self._tickers()
        timeout = FINAL_TIMEOUT if world.faults_off else PROCESS_TIMEOUT
        if plan.closes_at is not None:
            timeout = plan.closes_at
        running = callers
        if callers:
            _, late = await asyncio.wait(callers, timeout=timeout)
            running = [*late]
        if process.alive and running and world.faults_off:
            world.laws.fail("termination", f"after {timeout:g} s, still running: {self.pending}")
        for ticker in tickers:
            ticker.cancel()
        if plan.reads_credits_every is not None:
            await self._audit()
        self._check_places()
        await self.session.aclose()
        if running:
            # Closing the session must end all waiting calls; a GET that is under way ends first.
            stood_still = process.still_seconds
            allowed = 1.0 + 3 * process.request_timeout * plan.manifest
            await asyncio.wait(running, timeout=allowed)
            while process.still_seconds > stood_still:  # the time passed while nothing ran
                stood_still = process.still_seconds
                await asyncio.wait(running, timeout=allowed)
            if process.alive and self.pending:
                world.laws.fail("one outcome", f"still waiting after close: {self.pending}")

    async def _start(self, callers: list[asyncio.Task[None]]) -> None:
        plan, world = self.process.plan, self.world
        if plan.resumes:
            await self._resume(callers)
        if plan.batch and world.plan.batch:
            callers.append(self._spawn("the batch", self._batch()))
        if plan.keyed:
            for number, request in enumerate(world.plan.keyed):
                callers.append(self._spawn(f"keyed {number}", self._keyed(number, request)))
        if plan.loose:
            for number, request in enumerate(world.plan.loose):
                callers.append(self._spawn(f"loose {number}", self._loose(number, request)))
        if plan.manifest and world.plan.manifest:
            callers.append(self._spawn("the manifest", self._manifest()))

    def _tickers(self) -> list[asyncio.Task[None]]:
        plan, tickers = self.process.plan, []
        if plan.resume_submits_every is not None:
            tickers.append(self._resume_submits(plan.resume_submits_every))
        if plan.reads_credits_every is not None:
            tickers.append(self._read_credits(plan.reads_credits_every))
        return [asyncio.create_task(ticker) for ticker in tickers]

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.pending.append(name)

        async def watched() -> None:
            try:
                await work
            except AIVideoError as error:
                if self.process.alive:
                    self.world.laws.heard(error)
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

    # --- users' own functions --------------------------------------------------------------------

    def _on_update(self) -> Callable[[object], None] | None:
        """Return a function that raises now and then, or None."""
        share = self.process.plan.raising
        if not share:
            return None

        def on_update(_: object) -> None:
            if self.world.rng.random() < share:
                self.world.reached["on_update raised"] += 1
                raise UsersError

        return on_update

    def _on_job(self, job: Job) -> None:
        if self.world.rng.random() < self.process.plan.raising_on_job:
            self.world.reached["on_job raised"] += 1
            self.process.not_wanted.add(job.id)
            raise UsersError

    def _take_in(self) -> None:
        """Take in an outcome, which may block the event loop."""
        rng, process = self.world.rng, self.process
        if rng.random() < process.plan.blocking:
            seconds = 1.0 + 19.0 * rng.random()
            process.stand_still(Pause(at="time", number=0, seconds=seconds, stops=False))

    # --- jobs ---------------------------------------------------------------------------------

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
        requests = list(plan.batch)
        if process.plan.order is not None:
            random.Random(process.plan.order).shuffle(requests)
        outcomes = self.session.generate_many(
            requests,
            save_to=self.world.folder / "videos" if plan.saves else None,
            batch="b",
            max_credits=self.world.ceiling_now(),
            on_job=self._on_job if process.plan.raising_on_job else None,
        )
        left = False
        try:
            async for outcome in outcomes:
                if not process.alive:
                    return
                laws.outcome(process, requests, outcome, seen)
                self._take_in()
                if process.plan.leaves_after is not None and len(seen) > process.plan.leaves_after:
                    left = True
                    break
        finally:
            if process.alive:
                await outcomes.aclose()
        if process.alive and not left and len(seen) != len(plan.batch):
            laws.fail("one outcome", f"{len(seen)} outcomes of {len(plan.batch)}")

    async def _keyed(self, number: int, request: Request) -> None:
        session, rng, key = self.session, self.world.rng, f"k{number}"
        submit: Callable[..., Coroutine[Any, Any, Job]]
        submit = session.enqueue if rng.random() < 0.5 else session.submit
        self.world.laws.promises.asks(self.process, key)
        if submit == session.enqueue:
            self.world.laws.promises.enqueued(key)
        try:
            job = await submit(request, key=key, on_update=self._on_update())
        except AIVideoError as error:
            if submit == session.submit:
                self._told(error, key)
            raise
        if rng.random() < 0.2:
            self._spawn(f"a second waiter of keyed {number}", self._wait_for_job(job, save=False))
        await self._wait_for_job(job)

    async def _loose(self, number: int, request: Request) -> None:
        """Submit a request without a key; submit it again if it was said to be unsent."""
        waiting, world = self.world.waiting_loose, self.world
        tries = 0
        while number in waiting and tries < 3:
            tries += 1
            waiting.discard(number)  # an own crash, or a cancellation, tells nothing
            try:
                job = await self.session.submit(request, on_update=self._on_update())
            except AIVideoError as error:
                if self._told(error, None):
                    waiting.add(number)
                    world.reached["a request that was said to be unsent is wanted again"] += 1
                if tries == 3 or isinstance(error, SessionClosedError):
                    raise
                await asyncio.sleep(world.rng.random() * 0.4)
            else:
                await self._wait_for_job(job)

    def _check_places(self) -> None:
        """Check that no place under ``max_running_jobs`` is taken by anything but a task."""
        taken = self.session.statistics().limiter.running_jobs
        tasks = len(self.session._parts.live.tasks())
        if self.process.alive and taken > tasks:
            self.world.laws.fail("places", f"{taken} places are taken by {tasks} tasks")

    def _told(self, error: AIVideoError, key: str | None) -> bool:
        """Take in the error of ``submit``; return whether the user believes it to be unsent."""
        if not self.process.alive or isinstance(error, MAY_BE_CHARGED):
            return False
        if "session.resume() sends it" in str(error):
            return False  # it was enqueued under the same key before
        if "session.resume() may send it" in str(error):
            return False  # it could not be withdrawn
        if "an earlier create of it may have been charged" in str(error):
            return False  # a person had it sent again
        if isinstance(error, SessionClosedError) and "not sent" not in str(error):
            return False  # it followed a POST of another process
        job_id = PLANNED.get()
        if job_id is None:
            return True
        if not self.world.is_being_sent(job_id):
            self.world.laws.promises.told_unsent(self.process, job_id, key)
        return True

    async def _unkept(self) -> None:
        requests = self.process.plan.unkept
        seen: set[int] = set()
        async for outcome in self.session.generate_many(requests):
            if not self.process.alive:
                return
            self.world.laws.outcome(self.process, requests, outcome, seen)

    async def _wait_for_job(self, job: Job, *, save: bool = True) -> None:
        laws, process = self.world.laws, self.process
        assert job.request is not None
        content = content_of(job.request.input)
        try:
            if self.world.plan.saves and save:
                path = await job.save(self.world.folder / "videos" / f"{job.id}.mp4")
                if process.alive and not laws.is_complete(str(job.task_id), path):
                    laws.fail("complete files", f"{path} is incomplete")
            else:
                await job
        except TaskFailedError as error:
            if process.alive:
                laws.failed(content, error.task.id)
        else:
            if process.alive:
                laws.succeeded(content, job.task_id)

    # --- the manifest -------------------------------------------------------------------------

    async def _manifest(self) -> None:
        world, process = self.world, self.process
        folder = world.folder / "clips"
        folder.mkdir(exist_ok=True)
        try:
            plan = await self._prepared(folder)
        except ManifestError as error:
            process.log(f"the manifest is refused: {error}")
            world.reached["a manifest was refused"] += 1
            world.manifest.give_new_ids(error.problems)
            plan = await self._prepared(folder)
        batch = Batch(self.session, plan, folder, MANIFEST)
        report = await batch.run()
        for result in report.results if process.alive else ():
            if result.error is not None:
                world.laws.heard(result.error)
            if result.status != "saved" or result.task_id is None:
                continue
            world.laws.succeeded(content_of(result.line.request.input), result.task_id)
            if result.path is not None and not world.laws.is_complete(result.task_id, result.path):
                world.laws.fail("complete files", f"{result.path} is incomplete")

    async def _prepared(self, folder: Path) -> Plan:
        """Match the manifest with the ledger."""
        assert self.process.ledger is not None
        ledger, lines = self.process.ledger, self._lines()
        matched: Any = prepare
        if "settings" in inspect.signature(prepare).parameters:
            plan: Plan = await matched(ledger, lines, folder, MANIFEST)
        else:  # until "ident" is on
            plan = await matched(ledger, MANIFEST.name, lines)
        return plan

    def _lines(self) -> list[Line]:
        path = self.world.manifest.path
        lines = read_manifest(path, Defaults(duration=4, aspect_ratio="16:9"))
        self.process.lines.update(content_of(line.request.input) for line in lines)
        return lines

    # --- the account --------------------------------------------------------------------------

    async def _read_credits(self, every: float) -> None:
        while True:
            try:
                await self.session.credits()
            except AIVideoError as error:
                self.process.log(f"could not read the credits: {error}"[:120])
            else:
                await self._audit()
            await asyncio.sleep(every)

    async def _audit(self) -> None:
        assert self.process.ledger is not None
        try:
            audit = await Desk(self.process.ledger).audit()
        except (DeskError, LedgerError) as error:
            self.process.log(f"no audit: {error}")
        else:
            if self.process.alive:
                self.world.laws.audits.check(audit)

    async def _resume_submits(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            self.process.gate_closed_at = None
            self.session.resume_submits()
