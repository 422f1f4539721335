"""Jobs reported as unsent are never sent: submit, generate, enqueue, cancel, close, resume."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aivideo import (
    BudgetExceededError,
    Failed,
    InvalidRequestError,
    Job,
    JobRecord,
    JobStatus,
    JobWithdrawnError,
    LedgerError,
    LedgerEvent,
    MemoryLedger,
    RateLimit,
    Session,
    SessionClosedError,
    Sora2,
    SpendLimitError,
    WaitTimeoutError,
)
from aivideo.simulator import Scenario, Service, TokenBucket
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio

SLOW = RateLimit.window(1, seconds=100)
"""With this limit, the second create waits for 100 seconds."""


def boat(n: int = 0) -> Sora2:
    return Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9")


def service(**settings: object) -> Service:
    scenario = {"task_seconds": 60.0, "media": "stub", "latency": 1.0, **settings}
    return Service(Scenario(**scenario))  # type: ignore[arg-type]


def session_on(path: Path, sold: Service, **settings: Any) -> Session:
    return Session("sk-test", ledger=path, transport=DirectTransport(sold), **settings)


@asynccontextmanager
async def full_queue(path: Path, sold: Service, **settings: Any) -> AsyncGenerator[Session]:
    """A session whose next create waits for 100 seconds."""
    async with session_on(path, sold, rate_limit=SLOW, **settings) as session:
        await session.submit(boat(99))
        yield session


async def resumed(path: Path, sold: Service) -> list[Job]:
    """Resume in a later process; return the jobs it took on."""
    async with session_on(path, sold) as session:
        jobs = await session.resume()
        await asyncio.sleep(3600)
        return jobs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


async def test_a_submit_refused_by_its_ceiling_is_not_sent_by_resume(path: Path) -> None:
    sold = service()
    async with session_on(path, sold, max_credits=400) as session:
        for n in range(4):
            await session.submit(boat(n))
        for n in range(4, 8):
            with pytest.raises(BudgetExceededError, match="nothing was sent"):
                await session.submit(boat(n))
        await asyncio.sleep(3600)
    await resumed(path, sold)
    assert sold.truth.creates_taken == 4


async def test_a_submit_cancelled_in_the_queue_is_not_sent_later(path: Path) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        for n in range(12):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await session.submit(boat(n))
        await asyncio.sleep(3600)
        assert sold.truth.creates_taken == 1
        counts = await session.ledger.counts()
        assert counts[JobStatus.WITHDRAWN] == 12
    await resumed(path, sold)
    assert sold.truth.creates_taken == 1


async def test_a_submit_cancelled_while_its_post_is_under_way_is_kept(path: Path) -> None:
    sold = service(latency=5.0)
    async with session_on(path, sold) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await session.submit(boat())
        await asyncio.sleep(60)
        assert (await session.ledger.counts())[JobStatus.RUNNING] == 1
    assert sold.truth.creates_taken == 1


async def test_a_submit_with_a_key_stays_planned_for_that_key_alone(path: Path) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await session.submit(boat(), key="boat")
        await asyncio.sleep(3600)
        assert sold.truth.creates_taken == 1, "nobody waits for it"
    assert await resumed(path, sold) == []
    assert sold.truth.creates_taken == 1
    async with session_on(path, sold) as session:
        await session.submit(boat(), key="boat")
    assert sold.truth.creates_taken == 2


async def test_cancelling_one_of_two_submits_of_a_key_keeps_the_other(path: Path) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        cancelled = asyncio.create_task(session.submit(boat(), key="boat"))
        other_waiter = asyncio.create_task(session.submit(boat(), key="boat"))
        await asyncio.sleep(1)
        cancelled.cancel()
        job = await other_waiter
        assert job.task_id is not None


async def test_a_key_submitted_again_right_after_it_was_cancelled_is_sent(path: Path) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        cancelled = asyncio.create_task(session.submit(boat(), key="boat"))
        await asyncio.sleep(1)
        cancelled.cancel()
        job = await session.submit(boat(), key="boat")
        assert job.task_id is not None
        assert sold.truth.creates_taken == 2


async def test_wait_timeout_counts_the_queue_and_its_error_carries_the_queued_job(
    path: Path,
) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        began = asyncio.get_running_loop().time()
        with pytest.raises(WaitTimeoutError) as caught:
            await session.generate(boat(), wait_timeout=1)
        assert asyncio.get_running_loop().time() - began == pytest.approx(1)
        job = caught.value.job
        assert job is not None
        assert job.status is JobStatus.PLANNED
        assert (await job).id == job.task_id, "it stayed queued"
    assert sold.truth.creates_taken == 2


async def test_an_enqueued_job_stays_planned_at_the_close_and_resume_sends_it(path: Path) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        job = await session.enqueue(boat())
    with pytest.raises(SessionClosedError, match=r"not sent yet: session\.resume"):
        await job
    assert sold.truth.creates_taken == 1
    await resumed(path, sold)
    assert sold.truth.creates_taken == 2


async def test_a_submit_that_a_close_ends_is_withdrawn(path: Path) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        waiting = asyncio.create_task(session.submit(boat()))
        await asyncio.sleep(1)
    with pytest.raises(SessionClosedError, match="it was not sent"):
        await waiting
    await resumed(path, sold)
    assert sold.truth.creates_taken == 1


async def test_what_a_spend_cap_stops_is_withdrawn(path: Path) -> None:
    sold = service(spend_limit=100, spend_window=3600.0)
    async with session_on(path, sold) as session:
        await session.submit(boat())
        for n in range(1, 4):
            with pytest.raises(SpendLimitError):
                await session.submit(boat(n))
    await asyncio.sleep(7200)
    await resumed(path, sold)
    assert sold.truth.creates_taken == 1


async def test_leaving_generate_many_withdraws_what_was_not_sent(path: Path) -> None:
    sold = service(task_seconds=1.0)
    async with session_on(path, sold, rate_limit=SLOW) as session:
        outcomes = session.generate_many([boat(n) for n in range(5)])
        async with aclosing(outcomes):
            async for _ in outcomes:
                break
        taken = sold.truth.creates_taken
    await resumed(path, sold)
    assert sold.truth.creates_taken == taken < 5


async def test_leaving_a_named_batch_leaves_the_rest_to_the_batch(path: Path) -> None:
    sold = service(task_seconds=1.0)
    boats = [boat(n) for n in range(8)]
    async with session_on(path, sold, rate_limit=SLOW) as session:
        outcomes = session.generate_many(boats, batch="boats")
        async with aclosing(outcomes):
            async for _ in outcomes:
                break
        taken = sold.truth.creates_taken
    await resumed(path, sold)
    assert sold.truth.creates_taken == taken < 8
    async with session_on(path, sold) as session:
        ends = [outcome async for outcome in session.generate_many(boats, batch="boats")]
    assert len(ends) == sold.truth.creates_taken == 8
    assert not any(isinstance(end, Failed) for end in ends)


async def test_cancel_withdraws_a_queued_job_and_its_key_may_be_used_again(path: Path) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        job = await session.enqueue(boat(), key="boat")
        assert await job.cancel() is True
        assert job.status is JobStatus.WITHDRAWN
        with pytest.raises(JobWithdrawnError, match="nothing was sent"):
            await job
        assert await job.cancel() is False, "it is withdrawn already"
        await asyncio.sleep(3600)
        assert sold.truth.creates_taken == 1
        again = await session.submit(boat(5), key="boat")
        assert again.task_id is not None
    assert sold.truth.creates_taken == 2


async def test_cancel_is_too_late_once_the_post_has_left(path: Path) -> None:
    sold = service(latency=5.0)
    async with session_on(path, sold) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(1)
        assert await job.cancel() is False
        assert await job.submitted()
        assert await job.cancel() is False
        await job
        assert await job.cancel() is False
    assert sold.truth.creates_taken == 1


async def test_a_job_that_another_process_waits_to_send_can_be_cancelled_by_this_one(
    path: Path,
) -> None:
    sold = service()
    async with full_queue(path, sold) as one, session_on(path, sold) as other:
        mine = await one.enqueue(boat(), key="boat")
        found = await other.find(key="boat")
        assert found is not None
        assert found.status is JobStatus.PLANNED
        assert await found.cancel() is True
        with pytest.raises(JobWithdrawnError):
            await mine
    assert sold.truth.creates_taken == 1


async def test_find_returns_a_job_or_none_and_sends_nothing(path: Path) -> None:
    sold = service()
    async with full_queue(path, sold) as session:
        job = await session.enqueue(boat(), key="boat")
        assert await session.find(key="boat") is job
        assert await session.find(id=job.id) is job
        assert await session.find(key="another") is None
        assert await session.find(key="boat", batch="boats") is None
    async with session_on(path, sold) as session:
        found = await session.find(id=job.id)
        assert found is not None
        await asyncio.sleep(3600)
        assert found.status is JobStatus.PLANNED
    assert sold.truth.creates_taken == 1


async def test_a_batchs_ceiling_binds_what_is_taken_up_from_the_ledger(path: Path) -> None:
    sold = service()
    boats = [boat(n) for n in range(5)]
    async with session_on(path, sold) as session:
        session.stop_submits()
        async for _ in session.generate_many(boats, batch="boats", max_credits=200):
            pass
    async with session_on(path, sold) as session:
        jobs = [session.take_up(record) async for record in session.ledger.jobs()]
        await asyncio.gather(*jobs, return_exceptions=True)
        assert sold.truth.creates_taken == 2
        async for _ in session.generate_many(boats, batch="boats"):
            pass
        assert sold.truth.creates_taken == 2, "left out, the stored ceiling stays"
        async for _ in session.generate_many(boats, batch="boats", max_credits="none"):
            pass
        assert sold.truth.creates_taken == 5


async def test_any_exception_of_a_ledger_at_the_claim_becomes_a_ledger_error(
    path: Path,
) -> None:
    class Broken(MemoryLedger):
        async def claim(
            self, job_id: str, *, lease: float, retry_faulted: bool = False
        ) -> JobRecord | None:
            raise ConnectionError("the database went away")

    sold, ledger = service(), Broken()
    async with Session("sk-test", ledger=ledger, transport=DirectTransport(sold)) as session:
        with pytest.raises(LedgerError, match="the database went away"):
            await session.submit(boat())
        assert (await ledger.counts())[JobStatus.WITHDRAWN] == 1
    assert sold.truth.creates_seen == 0


async def test_a_job_cancelled_before_its_submission_has_begun_ends() -> None:
    sold = service()
    async with Session("sk-test", transport=DirectTransport(sold)) as session:
        job = await session.enqueue(boat())
        assert await job.cancel() is True
        with pytest.raises(JobWithdrawnError):
            await asyncio.wait_for(job.result(), 60)
        assert session.jobs() == []
    assert sold.truth.creates_seen == 0


async def test_a_submit_cancelled_under_a_post_that_gets_a_429_is_not_sent_again(
    path: Path,
) -> None:
    sold = service(latency=5.0, rate_limit=TokenBucket(0.001, 1))
    async with session_on(path, sold) as session:
        await session.submit(boat(99))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await session.submit(boat())
        posts = sold.truth.creates_seen
        await asyncio.sleep(7200)
        assert sold.truth.creates_seen == posts == 2
        assert (await session.ledger.counts())[JobStatus.WITHDRAWN] == 1


class Full(MemoryLedger):
    """A ledger whose disk is full for some of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.full = frozenset[str]()

    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        if "claim" in self.full:
            raise LedgerError("the disk is full")
        return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)

    async def record(
        self, job_id: str, event: LedgerEvent, *, attempt: int | None = None
    ) -> JobRecord:
        if "record" in self.full:
            raise LedgerError("the disk is full")
        return await super().record(job_id, event, attempt=attempt)


@pytest.mark.parametrize("full", [{"claim", "record"}, {"record"}])
async def test_a_job_that_could_not_be_withdrawn_is_withdrawn_when_the_ledger_recovers(
    full: set[str],
) -> None:
    sold, ledger = service(rate_limit=TokenBucket(0.001, 1)), Full()
    async with Session("sk-test", ledger=ledger, transport=DirectTransport(sold)) as session:
        await session.submit(boat(99))
        ledger.full = frozenset(full)
        with pytest.raises(LedgerError, match="full"):
            await session.submit(boat())
        ledger.full = frozenset()
        await asyncio.sleep(60)
        assert (await ledger.counts())[JobStatus.WITHDRAWN] == 1
        assert await session.resume() == [] or sold.truth.creates_taken == 1


async def test_resume_submits_does_not_reopen_a_closing_session(path: Path) -> None:
    sold = service(latency=5.0, rate_limit=TokenBucket(0.001, 1))
    async with session_on(path, sold) as session:
        await session.submit(boat(99))
        await session.enqueue(boat())
        await asyncio.sleep(1)
        closing = asyncio.create_task(session.aclose())
        await asyncio.sleep(1)
        session.resume_submits()
        await closing
    assert sold.truth.creates_seen == 2


async def test_leaving_one_of_two_calls_of_a_batch_leaves_the_others_jobs_alone(
    path: Path,
) -> None:
    sold, boats = service(), [boat(n) for n in range(3)]
    async with session_on(path, sold, rate_limit=RateLimit.window(1, seconds=20)) as session:
        one = session.generate_many(boats, batch="boats")
        stays = asyncio.create_task(anext(one))
        await asyncio.sleep(1)
        other = session.generate_many(boats, batch="boats")
        leaves = asyncio.create_task(anext(other))
        await asyncio.sleep(1)
        leaves.cancel()
        await asyncio.wait([leaves])
        await other.aclose()
        ends = [await stays] + [outcome async for outcome in one]
    assert not any(isinstance(end, Failed) for end in ends)
    assert sold.truth.creates_taken == 3


async def test_a_job_whose_claim_is_written_while_the_session_closes_is_not_sent() -> None:
    class Slow(MemoryLedger):
        async def claim(
            self, job_id: str, *, lease: float, retry_faulted: bool = False
        ) -> JobRecord | None:
            await asyncio.sleep(5)
            return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)

    sold, ledger = service(), Slow()
    async with Session("sk-test", ledger=ledger, transport=DirectTransport(sold)) as session:
        submitting = asyncio.create_task(session.submit(boat()))
        enqueued = await session.enqueue(boat(1))
        await asyncio.sleep(1)
    with pytest.raises(SessionClosedError, match="it was not sent"):
        await submitting
    with pytest.raises(SessionClosedError, match="not sent yet"):
        await enqueued
    assert sold.truth.creates_seen == 0
    assert await ledger.counts() == {JobStatus.WITHDRAWN: 1, JobStatus.PLANNED: 1}


@pytest.mark.parametrize("how", ["close", "ceiling", "cancel"])
async def test_a_job_that_another_session_has_sent_meanwhile_is_not_said_to_be_unsent(
    path: Path, how: str
) -> None:
    sold = service()
    async with full_queue(path, sold, max_credits=None if how != "ceiling" else 150) as one:
        waiting = asyncio.create_task(one.submit(boat()))
        await asyncio.sleep(1)
        async with session_on(path, sold) as other:
            (taken, queued) = sorted(await other.resume(), key=lambda job: job.task_id is None)
            assert taken.task_id is not None
            await queued.submitted()
            if how == "close":
                await one.aclose()
            elif how == "cancel":
                waiting.cancel()
            await asyncio.wait([waiting], timeout=3600)
    assert sold.truth.creates_taken == 2
    if how == "cancel":
        assert waiting.cancelled()
    else:
        assert (await waiting).task_id == queued.task_id


async def test_a_keyed_job_that_another_session_has_sent_is_not_said_to_be_unsent(
    path: Path,
) -> None:
    sold = service()
    async with full_queue(path, sold, max_credits=150) as one:
        waiting = asyncio.create_task(one.submit(boat(), key="boat"))
        await asyncio.sleep(1)
        async with session_on(path, sold) as other:
            sent = await other.submit(boat(), key="boat")
        assert (await waiting).task_id == sent.task_id
    assert sold.truth.creates_taken == 2


async def test_a_key_used_for_another_request_meanwhile_brings_no_foreign_result(
    path: Path,
) -> None:
    sold, name = service(), "boat"
    async with full_queue(path, sold, max_credits=150) as one:
        outcomes = one.generate_many([boat(1)], batch="boats", key=lambda *_: name)
        waiting = asyncio.create_task(anext(outcomes))
        await asyncio.sleep(1)
        async with session_on(path, sold) as other:
            sent = other.generate_many([boat(2)], batch="boats", key=lambda *_: name)
            assert not isinstance(await anext(sent), Failed)
        outcome = await waiting
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, InvalidRequestError)
        assert outcome.task_id is None
    assert sold.truth.creates_taken == 2
