"""Ledger failures: events are kept in memory and recorded later; no further creates are sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from aivideo import JobStatus, LedgerError, RateLimit, Session, Sora2, SubmitUnknownError
from aivideo._api.wire import Answer
from aivideo._session.recorder import REWRITE_INTERVAL
from aivideo.ledger import events, records
from aivideo.ledger.events import Event
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import AttemptStatus, JobRecord
from aivideo.ledger.totals import CreditTotals
from aivideo.simulator import Faults, Nth, Scenario, Service
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio


def boat(n: int = 0) -> Sora2:
    return Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9")


class FailingLedger(MemoryLedger):
    """A ledger whose disk can be full: for claims, for events or for both."""

    def __init__(self) -> None:
        super().__init__()
        self.full = frozenset[str]()
        self.written: list[str] = []

    def _check(self, what: str) -> None:
        if what in self.full:
            raise LedgerError(f"ledger: the disk is full ({what})")

    async def claim(
        self, job_id: str, *, lease: float, retry_faulted: bool = False
    ) -> JobRecord | None:
        await asyncio.sleep(0.01)
        self._check("claim")
        return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        await asyncio.sleep(0.01)
        self._check("record")
        after = await super().record(job_id, event, attempt=attempt)
        self.written.append(type(event).__name__)
        return after


CLAIM, RECORD = frozenset({"claim"}), frozenset({"record"})


def new_service(**settings: object) -> Service:
    scenario = {"task_seconds": 60.0, "media": "stub", "latency": 1.0, **settings}
    return Service(Scenario(**scenario))  # type: ignore[arg-type]


def session_on(ledger: MemoryLedger, service: Service, **settings: object) -> Session:
    transport = DirectTransport(service)
    return Session("sk-test", ledger=ledger, transport=transport, **settings)  # type: ignore[arg-type]


async def test_a_ledger_failure_after_a_post_loses_no_task_and_closes_the_gate() -> None:
    ledger, service = FailingLedger(), new_service()
    async with session_on(ledger, service) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = RECORD  # the POST is in flight
        assert await job.submitted() in service.truth.tasks, (
            "the session continues with the task it created"
        )
        assert session.statistics().credits == CreditTotals(charged=100)
        with pytest.raises(LedgerError, match="disk is full"):
            await session.submit(boat(1))
        assert service.truth.creates_seen == 1
        found = await ledger.find(job.id)
        assert found is not None
        assert found.status is JobStatus.SUBMITTING, "another process would treat it as unknown"
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        found = await ledger.find(job.id)
        assert found is not None
        assert (found.status, found.task_id) == (JobStatus.RUNNING, job.task_id)
        await session.submit(boat(1))  # the gate is open again
        assert (await job).id == job.task_id
    assert service.truth.creates_taken == 2


async def test_a_ledger_that_raises_another_exception_loses_no_task() -> None:
    class Broken(FailingLedger):
        def _check(self, what: str) -> None:
            if what in self.full:
                raise ConnectionError("the database went away")

    ledger, service = Broken(), new_service()
    async with session_on(ledger, service) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = RECORD  # the POST is in flight
        task_id = await job.submitted()
        ledger.full = frozenset()
        await asyncio.sleep(2 * REWRITE_INTERVAL)
        assert await ledger.find_task(task_id) is not None
        assert (await job).status == "completed"
    assert service.truth.creates_seen == 1


async def test_delayed_events_are_recorded_in_their_order() -> None:
    ledger, service = FailingLedger(), new_service()
    async with session_on(ledger, service, poll_interval=1.0) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        await job  # taken and completed, but nothing is recorded
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        assert ledger.written == ["Taken", "Completed"]
        assert (await ledger.totals()) == CreditTotals(charged=100)


async def test_a_completion_before_the_rewrite_is_recorded_after_the_earlier_event() -> None:
    ledger, service = FailingLedger(), new_service(task_seconds=1.0, queue_seconds=0.0)
    async with session_on(ledger, service, poll_interval=0.5) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        await job.submitted()
        ledger.full = frozenset()
        await job  # before the next attempt to write
        await asyncio.sleep(0.1)
        assert ledger.written == ["Taken", "Completed"]


async def test_many_delayed_events_are_recorded_once_each() -> None:
    ledger, service = FailingLedger(), new_service()
    async with session_on(ledger, service, rate_limit=RateLimit.bucket(100, burst=50)) as session:
        jobs = [await session.enqueue(boat(n)) for n in range(30)]
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        ids = {await job.submitted() for job in jobs}
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 1)
        assert ledger.written == ["Taken"] * 30
        assert {job.task_id for job in [each async for each in ledger.jobs()]} == ids


async def test_simultaneous_completions_before_the_rewrite_are_all_recorded() -> None:
    ledger, service = FailingLedger(), new_service(task_seconds=1.0, queue_seconds=0.0)
    settings = {"rate_limit": RateLimit.bucket(1000, burst=500), "poll_interval": 0.5}
    async with session_on(ledger, service, **settings) as session:
        jobs = [await session.enqueue(boat(n)) for n in range(10)]
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        await asyncio.gather(*(job.submitted() for job in jobs))
        ledger.full = frozenset()
        await asyncio.gather(*jobs)
        await asyncio.sleep(0.5)
        assert sorted(ledger.written) == ["Completed"] * 10 + ["Taken"] * 10
        assert await ledger.counts() == {JobStatus.COMPLETED: 10}


async def test_a_failed_claim_sends_nothing_and_the_gate_opens_again_automatically() -> None:
    ledger, service = FailingLedger(), new_service()
    async with session_on(ledger, service) as session:
        ledger.full = CLAIM
        job = await session.enqueue(boat())
        with pytest.raises(LedgerError, match="disk is full"):
            await job
        assert session.statistics().credits == CreditTotals(), "its reservation is released"
        with pytest.raises(LedgerError, match="disk is full"):
            await session.submit(boat(1))
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        await session.submit(boat(2))
    assert service.truth.creates_seen == 1


async def test_the_gate_opens_when_all_events_are_recorded_after_any_kind_of_failure() -> None:
    ledger, service = FailingLedger(), new_service()
    async with session_on(ledger, service) as session:
        created = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = CLAIM | RECORD
        with pytest.raises(LedgerError):
            await session.submit(boat(1))  # closes the gate before the event fails to be recorded
        await created.submitted()
        await asyncio.sleep(3 * REWRITE_INTERVAL)
        with pytest.raises(LedgerError):
            await session.submit(boat(2))  # still closed
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        assert [each for each in ledger.written if each != "Withdrawn"] == ["Taken"]
        await session.submit(boat(3))
    assert service.truth.creates_seen == 2


async def test_a_gate_opened_too_early_opens_again_after_the_ledger_recovers() -> None:
    ledger, service = FailingLedger(), new_service()
    async with session_on(ledger, service) as session:
        ledger.full = CLAIM
        for number in range(2):
            with pytest.raises(LedgerError):
                await session.submit(boat(number))
            session.resume_submits()
        with pytest.raises(LedgerError):
            await session.submit(boat(2))
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        await session.submit(boat(3))
    assert service.truth.creates_seen == 1


async def test_a_recovered_ledger_does_not_open_a_gate_closed_for_another_reason() -> None:
    ledger, service = FailingLedger(), new_service()
    async with session_on(ledger, service) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        session.stop_submits("enough")
        ledger.full = RECORD
        await job.submitted()
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        assert ledger.written == ["Taken"]
        with pytest.raises(Exception, match="enough"):
            await session.submit(boat(1))


async def test_closing_writes_once_more_and_logs_jobs_that_are_not_recorded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for lost in (False, True):
        ledger, service = FailingLedger(), new_service()
        caplog.clear()
        async with session_on(ledger, service) as session:
            job = await session.enqueue(boat())
            await asyncio.sleep(0.5)
            ledger.full = RECORD
            await job.submitted()
            ledger.full = RECORD if lost else frozenset()
        messages = [record.getMessage() for record in caplog.records]
        assert any("does not know" in line and job.id in line for line in messages) is lost
        assert ledger.written == ([] if lost else ["Taken"])
        later = ledger.sharing("another process")
        later._now = lambda: 1e12
        assert len(await later.lapse()) == (1 if lost else 0), "it becomes unknown; it is not lost"


async def test_a_task_id_of_another_job_makes_the_create_unknown_and_closes_no_gate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For example, a caching proxy that returns the same response to two creates."""
    ledger, service = FailingLedger(), new_service()

    class CachingProxy(DirectTransport):
        first: Answer | None = None

        async def send(
            self,
            method: str,
            url: str,
            headers: Mapping[str, str],
            body: bytes | None,
            timeout: float,
        ) -> Answer:
            answer = await super().send(method, url, headers, body, timeout)
            if method != "POST":
                return answer
            self.first = self.first or answer
            return self.first if b"Boat 1" in (body or b"") else answer

    async with Session("sk-test", ledger=ledger, transport=CachingProxy(service)) as session:
        first = await session.submit(boat(0))
        with pytest.raises(SubmitUnknownError, match="another job") as caught:
            await session.submit(boat(1))
        assert caught.value.job.status is JobStatus.UNKNOWN
        found = await ledger.find(caught.value.job.id)
        assert found is not None
        assert found.status is JobStatus.UNKNOWN
        assert found.reason is not None
        assert first.id in found.reason.message
        assert session.statistics().credits == CreditTotals(charged=100, unknown=100)
        await session.submit(boat(2))
        await asyncio.sleep(3 * REWRITE_INTERVAL)
        assert "rejected by the ledger as inconsistent" in caplog.text
    assert service.truth.creates_seen == 3


async def test_a_late_success_is_recorded_even_if_the_job_was_settled_as_not_taken() -> None:
    ledger, service = FailingLedger(), new_service(faults=Faults(create_slow=Nth(1)))
    async with session_on(ledger, service) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(5)  # the response takes ten seconds
        other = ledger.sharing("other")
        await MemoryLedger.record(other, job.id, events.Doubted(records.Reason(message="?")))
        await MemoryLedger.record(other, job.id, events.Released())
        assert await job.submitted() in service.truth.tasks, "the late success is accepted"
        found = await ledger.find(job.id)
        assert found is not None
        assert [each.status for each in found.attempts] == [AttemptStatus.RUNNING]
        assert (await ledger.totals()) == CreditTotals(charged=100)


async def test_a_ledger_failure_of_many_jobs_is_logged_in_three_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger, service = FailingLedger(), new_service()
    async with session_on(ledger, service, rate_limit=RateLimit.bucket(100, burst=50)) as session:
        jobs = [await session.enqueue(boat(n)) for n in range(10)]
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        await asyncio.gather(*(job.submitted() for job in jobs))
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 3, lines
    assert "kept in memory until it can be written" in lines[0]
    assert "no further creates" in lines[1]
    assert "complete again" in lines[2]
    assert all(record.exc_info is None for record in caplog.records)
