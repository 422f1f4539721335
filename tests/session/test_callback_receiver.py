"""Callbacks over HTTP: handled at once, believed only if the service confirms them."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
from aiohttp import web
from attrs import define, field

import aivideo
from aivideo import (
    Job,
    JobStatus,
    LedgerError,
    MemoryLedger,
    Session,
    SessionStatistics,
    Sora2,
    SubmitUnknownError,
    TaskFailedError,
    TaskNotFoundError,
)
from aivideo._api import callback_tokens as callbacks
from aivideo.desk import Desk
from aivideo.errors import JobHandle
from aivideo.ledger import Ledger
from aivideo.ledger.records import JobRecord
from aivideo.ledger.totals import CreditTotals
from aivideo.simulator import Faults, Nth, Scenario, Simulator, serve

pytestmark = pytest.mark.anyio

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")
TRAIN = Sora2("A paper train", duration=4, aspect_ratio="16:9")
SECRET = "a secret for callback tokens"


@define(eq=False)
class Web:
    """A user's web app: one route that hands callbacks to a session."""

    sim: Simulator
    session: Session
    ledger: Ledger
    handled: list[Job | None] = field(factory=list)
    bodies: list[tuple[str, bytes]] = field(factory=list)
    is_down: bool = False
    """Answer 503, as an app that is down would."""

    async def post(self, request: web.Request) -> web.Response:
        token, body = request.match_info["token"], await request.read()
        self.bodies.append((token, body))
        if self.is_down:
            return web.Response(status=503)
        self.handled.append(await self.session.receive_callback(token, body))
        return web.Response(status=204)

    async def record(self, job: Job | JobHandle) -> JobRecord:
        found = await self.ledger.find(job.id)
        assert found is not None
        return found

    def token(self, job: Job | JobHandle, attempt: int = 1) -> str:
        return callbacks.token(SECRET.encode(), job.id, attempt)

    @property
    def statistics(self) -> SessionStatistics:
        return self.session.statistics()


@asynccontextmanager
async def app(
    *, ledger: Ledger | None = None, timeout: float = 120.0, **settings: object
) -> AsyncIterator[Web]:
    scenario: dict[str, object] = {"task_seconds": 600.0, "media": "stub", "seed": 5} | settings
    kept = ledger or MemoryLedger()
    routes = web.Application()
    async with serve(Scenario(**scenario)) as sim, AsyncExitStack() as stack:  # type: ignore[arg-type]
        runner = web.AppRunner(routes, access_log=None)
        stack.push_async_callback(runner.cleanup)
        here: list[Web] = []

        async def post(request: web.Request) -> web.Response:
            return await here[0].post(request)

        routes.router.add_post("/hooks/{token}", post)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        async with Session(
            "sk-test",
            base_url=sim.url,
            ledger=kept,
            # No poll is due within the hour: what the session learns, it learns by callback.
            poll_interval=3600.0,
            callback_base_url=f"http://127.0.0.1:{port}/hooks/",
            callback_secret=SECRET,
            request_timeout=timeout,
        ) as session:
            here.append(Web(sim, session, kept))
            yield here[0]


def now() -> float:
    return asyncio.get_running_loop().time()


def body_of(sim: Simulator, task_id: str, **changes: object) -> bytes:
    """Return what the service would POST for a task, with some fields changed."""
    return orjson.dumps(
        {
            "id": task_id,
            "status": "completed",
            "model": "sora-2",
            "created_at": 1,
            "completed_at": 2,
            "output": {"urls": ["https://forged.invalid/a.mp4"], "metadata": {}},
            **changes,
        }
    )


async def test_a_callback_ends_the_wait_at_once() -> None:
    async with app() as here:
        job = await here.session.submit(BOAT)
        began = now()
        task = await job
        assert now() - began < 610
        assert here.handled == [job]
        assert here.sim.truth.polls == 1, "asked once, to confirm"
        assert urlsplit(task.urls[0]).hostname == "127.0.0.1"
        token = here.bodies[0][0]
        assert callbacks.read_token(SECRET.encode(), token) == callbacks.Attribution(job.id, 1)
        await asyncio.sleep(1)  # until it is recorded
        assert (await here.record(job)).status is JobStatus.COMPLETED


async def test_a_failed_task_is_reported_by_its_callback_and_refunded() -> None:
    async with app(failure_rate=1.0) as here:
        job = await here.session.submit(BOAT)
        with pytest.raises(TaskFailedError):
            await job
        await asyncio.sleep(1)  # until it is recorded
        assert here.statistics.credits == CreditTotals(refunded=100)
        assert (await here.record(job)).status is JobStatus.FAILED


async def test_a_forged_end_is_not_believed() -> None:
    async with app(faults=Faults(callback_forged=1.0)) as here:
        job = await here.session.submit(BOAT)
        began = now()
        task = await job
        assert now() - began > 590, "the forged callback came earlier"
        assert len(here.bodies) == 2
        assert "forged" not in task.urls[0]


async def test_a_doubled_callback_changes_nothing_the_second_time() -> None:
    async with app(faults=Faults(callback_doubled=1.0)) as here:
        job = await here.session.submit(BOAT)
        await job
        await asyncio.sleep(10)
        assert len(here.bodies) == 2
        assert here.statistics.jobs == {JobStatus.COMPLETED: 1}
        assert here.statistics.credits == CreditTotals(charged=100)
        assert (await here.record(job)).status is JobStatus.COMPLETED
        assert here.statistics.limiter.running_jobs == 0


async def test_a_callback_that_was_refused_once_is_taken_when_it_is_tried_again() -> None:
    async with app() as here:
        here.is_down = True
        job = await here.session.submit(BOAT)
        await asyncio.sleep(650)
        here.is_down = False
        began = now()
        await job
        assert now() - began < 200
        assert len(here.bodies) == 2


@pytest.mark.parametrize("fault", ["cut_after", "truncated", "html_502_taken", "missing_task_id"])
async def test_a_callback_settles_a_post_of_unknown_outcome(fault: str) -> None:
    faults = Faults(**{f"create_{fault}": Nth(1)})  # type: ignore[arg-type]
    async with app(faults=faults) as here:
        with pytest.raises(SubmitUnknownError) as caught:
            await here.session.submit(BOAT)
        job = caught.value.job
        assert here.statistics.credits == CreditTotals(unknown=100)
        await asyncio.sleep(650)
        (task_id,) = here.sim.truth.tasks
        assert here.handled == [job], "the same handle, in the same session"
        assert (job.task_id, job.error) == (task_id, None)
        assert (await job).id == task_id
        assert here.statistics.credits == CreditTotals(charged=100)
        assert here.statistics.jobs == {JobStatus.COMPLETED: 1}
        assert here.statistics.limiter.running_jobs == 0
        found = await here.record(job)
        assert (found.status, found.task_id, found.doubts) == (JobStatus.COMPLETED, task_id, 0)
        assert await here.ledger.totals() == CreditTotals(charged=100)
    assert here.sim.truth.creates_seen == 1


async def test_a_callback_settles_an_unknown_whose_task_failed() -> None:
    async with app(faults=Faults(create_cut_after=Nth(1)), failure_rate=1.0) as here:
        with pytest.raises(SubmitUnknownError) as caught:
            await here.session.submit(BOAT)
        job = caught.value.job
        await asyncio.sleep(650)
        assert (await here.record(job)).status is JobStatus.FAILED
        assert here.statistics.credits == CreditTotals(refunded=100)
        assert await here.ledger.totals() == CreditTotals(refunded=100)
        with pytest.raises(TaskFailedError):
            await job


@pytest.mark.parametrize("is_live", [True, False])
async def test_a_callback_for_a_job_that_waits_to_be_paid_again_sends_nothing(
    is_live: bool,
) -> None:
    ledger = MemoryLedger()
    async with app(ledger=ledger) as here:
        job = await here.session.submit(BOAT, key="boat")
        await Desk(ledger).retry([job.id], pay_again=True)
        receiver = here.session
        if not is_live:
            receiver = Session(
                "sk-test", base_url=here.sim.url, ledger=ledger, callback_secret=SECRET
            )
        here.is_down = True  # the service's own callback does not arrive
        await asyncio.sleep(300)
        assert job.task_id is not None
        body = body_of(here.sim, job.task_id)
        assert await receiver.receive_callback(here.token(job), body) is not None
        await asyncio.sleep(60)
        assert (await here.record(job)).status is JobStatus.PLANNED, "its task runs still"
        assert here.sim.truth.creates_seen == 1
        await asyncio.sleep(290)
        assert await receiver.receive_callback(here.token(job), body) is not None
        await asyncio.sleep(60)
        found = await here.record(job)
        assert (found.status, found.waiting) == (JobStatus.COMPLETED, False)
        assert here.sim.truth.creates_seen == 1
        await receiver.aclose()


async def test_a_callback_settles_a_server_error_that_was_taken_all_the_same() -> None:
    async with app(faults=Faults(create_internal_error_taken=Nth(1))) as here:
        with pytest.raises(Exception, match="500"):
            await here.session.submit(BOAT)
        await asyncio.sleep(650)
        assert await here.ledger.totals() == CreditTotals(charged=100)


async def test_an_early_callback_settles_nothing_until_the_task_has_ended() -> None:
    """The answer for a running task has no prompt: only its end shows whose it is."""
    async with app(faults=Faults(create_cut_after=Nth(1))) as here:
        with pytest.raises(SubmitUnknownError) as caught:
            await here.session.submit(BOAT)
        job = caught.value.job
        (task_id,) = here.sim.truth.tasks
        early = asyncio.create_task(
            here.session.receive_callback(here.token(job), body_of(here.sim, task_id))
        )
        await asyncio.sleep(300)
        assert not early.done()
        assert (await here.record(job)).status is JobStatus.UNKNOWN
        assert await early is job
        assert (await here.record(job)).status is JobStatus.COMPLETED
        await asyncio.sleep(100)
        assert here.statistics.credits == CreditTotals(charged=100)
        assert here.statistics.jobs == {JobStatus.COMPLETED: 1}
        assert here.statistics.limiter.running_jobs == 0


async def test_a_session_of_another_process_settles_what_a_dead_process_left() -> None:
    ledger = MemoryLedger()
    async with app(ledger=ledger, faults=Faults(create_cut_after=Nth(1))) as here:
        with pytest.raises(SubmitUnknownError) as caught:
            await here.session.submit(BOAT)
        async with Session(
            "sk-test", base_url=here.sim.url, ledger=ledger.sharing("next"), callback_secret=SECRET
        ) as later:
            await asyncio.sleep(650)
            ((token, body),) = here.bodies
            record = await here.record(caught.value.job)
            assert record.status is JobStatus.COMPLETED
            again = await later.receive_callback(token, body)
            assert again is not None
            assert again.task_id == record.task_id


# --- callbacks that are ignored ------------------------------------------------------------------


async def test_the_task_of_another_job_settles_nothing() -> None:
    async with app(faults=Faults(create_cut_before=Nth(2))) as here:
        other = await here.session.submit(BOAT)
        with pytest.raises(SubmitUnknownError) as caught:
            await here.session.submit(
                BOAT
            )  # the same prompt: only the task's owner tells them apart
        job = caught.value.job
        await other
        assert other.task_id is not None
        forged = body_of(here.sim, other.task_id)
        assert await here.session.receive_callback(here.token(job), forged) is None
        assert (await here.record(job)).status is JobStatus.UNKNOWN
        assert here.statistics.credits == CreditTotals(charged=100, unknown=100)


async def test_a_task_with_another_prompt_settles_nothing() -> None:
    """A task that no ledger knows: bought by somebody else with the same key."""
    async with app(faults=Faults(create_cut_before=Nth(1))) as here:
        with pytest.raises(SubmitUnknownError) as caught:
            await here.session.submit(BOAT)
        job = caught.value.job
        async with Session("sk-test", base_url=here.sim.url) as elsewhere:
            foreign = await elsewhere.submit(TRAIN)
            await foreign
        assert foreign.task_id is not None
        said = body_of(here.sim, foreign.task_id)
        assert await here.session.receive_callback(here.token(job), said) is None
        assert (await here.record(job)).status is JobStatus.UNKNOWN
        assert await here.ledger.totals() == CreditTotals(unknown=100)


async def test_a_running_job_is_ended_by_no_task_but_its_own() -> None:
    async with app() as here:
        job = await here.session.submit(BOAT)
        other = await here.session.submit(TRAIN)
        assert other.task_id is not None
        polls = here.sim.truth.polls
        said = body_of(here.sim, other.task_id)
        assert await here.session.receive_callback(here.token(job), said) is None
        assert here.sim.truth.polls == polls, "it was not polled"
        assert (await here.record(job)).status is JobStatus.RUNNING


@pytest.mark.parametrize(
    "token",
    ["", "x", "../../etc/passwd", "a.1.AAAAAAAAAAAAAAAAAAAAAA", "%00", "ä" * 50, "." * 10_000],
)
async def test_a_forged_token_costs_no_request(token: str) -> None:
    async with app() as here:
        job = await here.session.submit(BOAT)
        assert job.task_id is not None
        for text in (token, here.token(job, 2), here.token(job)[:-1] + "!"):
            assert await here.session.receive_callback(text, body_of(here.sim, job.task_id)) is None
        stranger = callbacks.token(b"another secret", job.id, 1)
        assert await here.session.receive_callback(stranger, body_of(here.sim, job.task_id)) is None
        assert here.sim.truth.polls == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"id": 5}',
        b'{"id": "", "status": "completed"}',
        b"{" * 9999,
    ],
)
async def test_a_body_that_is_no_task_costs_no_request(body: bytes) -> None:
    async with app() as here:
        job = await here.session.submit(BOAT)
        assert await here.session.receive_callback(here.token(job), body) is None
        assert here.sim.truth.polls == 0
        assert (await here.record(job)).status is JobStatus.RUNNING


async def test_a_callback_that_cannot_be_confirmed_shows_no_signed_url() -> None:
    url = "https://results.example/a.mp4?X-Signature=0123456789"
    body = {"id": "t", "status": "completed", "model": "sora-2", "created_at": 1}
    body |= {"completed_at": 2, "output": {"urls": [url]}}
    async with app() as web:
        job = await web.session.submit(BOAT)
        told = orjson.dumps(body | {"id": job.task_id})
        await web.session.aclose()
        with pytest.raises(Exception, match="closed") as caught:
            await web.session.receive_callback(web.token(job), told)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    package = str(Path(aivideo.__file__).parent)  # the checkout may be called aivideo too
    ours = [str(frame.locals) for frame in shown.stack if frame.filename.startswith(package)]
    assert ours
    assert "0123456789" not in "".join(ours)


async def test_a_task_the_service_does_not_know_settles_nothing() -> None:
    async with app(faults=Faults(create_cut_before=Nth(1))) as here:
        with pytest.raises(SubmitUnknownError) as caught:
            await here.session.submit(BOAT)
        job = caught.value.job
        with pytest.raises(TaskNotFoundError):  # to be answered 5xx, and tried again
            await here.session.receive_callback(here.token(job), body_of(here.sim, "of-nobody"))
        assert (await here.record(job)).status is JobStatus.UNKNOWN


# --- callbacks that arrive before the response ---------------------------------------------------


async def test_a_callback_that_arrives_before_the_posts_response_is_not_lost() -> None:
    """The task ends while its POST still hangs: the callback waits, and settles the unknown."""
    faults = Faults(create_hang=Nth(1))
    async with app(faults=faults, task_seconds=20.0, timeout=60.0) as here:
        with pytest.raises(SubmitUnknownError) as caught:
            await here.session.submit(BOAT)
        job = caught.value.job
        assert here.bodies, "it called while the POST was under way"
        await asyncio.sleep(1)
        assert (job.error, job.status) == (None, JobStatus.COMPLETED)
        assert (await job).id == job.task_id
        assert here.statistics.credits == CreditTotals(charged=100)
        assert await here.ledger.totals() == CreditTotals(charged=100)
        assert (await here.record(job)).status is JobStatus.COMPLETED
        await here.session.submit(TRAIN)  # the gate is open
        assert here.sim.truth.creates_taken == 2


async def test_a_callback_fails_if_the_ledger_cannot_be_read() -> None:
    class Broken(MemoryLedger):
        broken = False

        async def find(self, job_id: str) -> JobRecord | None:
            if self.broken:
                raise LedgerError("the disk is gone")
            return await super().find(job_id)

    ledger = Broken()
    async with app(ledger=ledger) as here:
        job = await here.session.submit(BOAT)
        ledger.broken = True
        assert job.task_id is not None
        with pytest.raises(LedgerError):
            await here.session.receive_callback(here.token(job), body_of(here.sim, job.task_id))
        ledger.broken = False


async def test_the_ledger_holds_no_token_no_key_and_no_url_of_a_result(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    scenario = Scenario(task_seconds=10.0, media="stub", failure_rate=0.5, seed=1)
    async with (
        serve(scenario) as sim,
        Session(
            "sk-very-secret-key",
            base_url=sim.url,
            ledger=path,
            callback_base_url="http://127.0.0.1:9/hooks",
            callback_secret=SECRET,
        ) as session,
    ):
        jobs = [await session.submit(BOAT) for _ in range(6)]
        ends = await asyncio.gather(*jobs, return_exceptions=True)
        assert {type(end).__name__ for end in ends} == {"CompletedTask", "TaskFailedError"}
        stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert jobs[0].id.encode() in stored
        for secret in ("very-secret", "Signature", "signature=", SECRET, "/hooks"):
            assert secret.encode() not in stored, secret
        tokens = [callbacks.token(SECRET.encode(), job.id, 1) for job in jobs]
        assert not [token for token in tokens if token.encode() in stored]
