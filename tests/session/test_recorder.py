"""A ledger that breaks under a session: what has happened is kept, nothing more is bought."""

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


class Disk(MemoryLedger):
    """A ledger whose disk may be full, for claims, for verdicts or for both."""

    def __init__(self) -> None:
        super().__init__()
        self.full = frozenset[str]()
        self.written: list[str] = []

    def _need(self, what: str) -> None:
        if what in self.full:
            raise LedgerError(f"ledger: the disk is full ({what})")

    async def claim(self, job_id: str, *, lease: float) -> JobRecord | None:
        await asyncio.sleep(0.01)
        self._need("claim")
        return await super().claim(job_id, lease=lease)

    async def record(self, job_id: str, event: Event, *, attempt: int | None = None) -> JobRecord:
        await asyncio.sleep(0.01)
        self._need("record")
        after = await super().record(job_id, event, attempt=attempt)
        self.written.append(type(event).__name__)
        return after


CLAIM, RECORD = frozenset({"claim"}), frozenset({"record"})


def service(**settings: object) -> Service:
    scenario = {"task_seconds": 60.0, "media": "stub", "latency": 1.0, **settings}
    return Service(Scenario(**scenario))  # type: ignore[arg-type]


def session_on(ledger: MemoryLedger, sold: Service, **settings: object) -> Session:
    transport = DirectTransport(sold)
    return Session("sk-test", ledger=ledger, transport=transport, **settings)  # type: ignore[arg-type]


async def test_a_ledger_that_fails_after_the_post_loses_nothing_and_buys_nothing_more() -> None:
    ledger, sold = Disk(), service()
    async with session_on(ledger, sold) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = RECORD  # the POST is under way
        assert await job.submitted() in sold.truth.tasks, "the session goes on with what it bought"
        assert session.statistics().credits == CreditTotals(charged=100)
        with pytest.raises(LedgerError, match="disk is full"):
            await session.submit(boat(1))
        assert sold.truth.creates_seen == 1
        found = await ledger.find(job.id)
        assert found is not None
        assert found.status is JobStatus.SUBMITTING, "whoever comes now will call it unknown"
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        found = await ledger.find(job.id)
        assert found is not None
        assert (found.status, found.task_id) == (JobStatus.RUNNING, job.task_id)
        await session.submit(boat(1))  # the gate is open again
        assert (await job).id == job.task_id
    assert sold.truth.creates_taken == 2


async def test_a_ledger_that_breaks_in_a_way_of_its_own_loses_nothing_either() -> None:
    class Broken(Disk):
        def _need(self, what: str) -> None:
            if what in self.full:
                raise ConnectionError("the database went away")

    ledger, sold = Broken(), service()
    async with session_on(ledger, sold) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = RECORD  # the POST is under way
        task_id = await job.submitted()
        ledger.full = frozenset()
        await asyncio.sleep(2 * REWRITE_INTERVAL)
        assert await ledger.find_task(task_id) is not None
        assert (await job).status == "completed"
    assert sold.truth.creates_seen == 1


async def test_what_happens_meanwhile_is_written_in_the_order_it_happened() -> None:
    ledger, sold = Disk(), service()
    async with session_on(ledger, sold, poll_interval=1.0) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        await job  # taken and completed, and not a word of it written
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        assert ledger.written == ["Taken", "Completed"]
        assert (await ledger.totals()) == CreditTotals(charged=100)


async def test_an_end_that_comes_before_the_rewrite_waits_for_what_came_before_it() -> None:
    ledger, sold = Disk(), service(task_seconds=1.0, queue_seconds=0.0)
    async with session_on(ledger, sold, poll_interval=0.5) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        await job.submitted()
        ledger.full = frozenset()
        await job  # sooner than the next try
        await asyncio.sleep(0.1)
        assert ledger.written == ["Taken", "Completed"]


async def test_many_that_could_not_be_written_are_each_written_once() -> None:
    ledger, sold = Disk(), service()
    async with session_on(ledger, sold, rate_limit=RateLimit.bucket(100, burst=50)) as session:
        jobs = [await session.enqueue(boat(n)) for n in range(30)]
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        ids = {await job.submitted() for job in jobs}
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 1)
        assert ledger.written == ["Taken"] * 30
        assert {job.task_id for job in [each async for each in ledger.jobs()]} == ids


async def test_ends_that_come_together_before_the_rewrite_lose_none_of_each_other() -> None:
    ledger, sold = Disk(), service(task_seconds=1.0, queue_seconds=0.0)
    settings = {"rate_limit": RateLimit.bucket(1000, burst=500), "poll_interval": 0.5}
    async with session_on(ledger, sold, **settings) as session:
        jobs = [await session.enqueue(boat(n)) for n in range(10)]
        await asyncio.sleep(0.5)
        ledger.full = RECORD
        await asyncio.gather(*(job.submitted() for job in jobs))
        ledger.full = frozenset()
        await asyncio.gather(*jobs)
        await asyncio.sleep(0.5)
        assert sorted(ledger.written) == ["Completed"] * 10 + ["Taken"] * 10
        assert await ledger.counts() == {JobStatus.COMPLETED: 10}


async def test_a_claim_that_cannot_be_written_sends_nothing_and_opens_again_by_itself() -> None:
    ledger, sold = Disk(), service()
    async with session_on(ledger, sold) as session:
        ledger.full = CLAIM
        job = await session.enqueue(boat())
        with pytest.raises(LedgerError, match="disk is full"):
            await job
        assert session.statistics().credits == CreditTotals(), "its reservation is taken back"
        with pytest.raises(LedgerError, match="disk is full"):
            await session.submit(boat(1))
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        await session.submit(boat(2))
    assert sold.truth.creates_seen == 1


async def test_whatever_broke_first_the_gate_opens_when_all_is_written() -> None:
    ledger, sold = Disk(), service()
    async with session_on(ledger, sold) as session:
        bought = await session.enqueue(boat())
        await asyncio.sleep(0.5)
        ledger.full = CLAIM | RECORD
        with pytest.raises(LedgerError):
            await session.submit(boat(1))  # closes the gate, before the verdict cannot be written
        await bought.submitted()
        await asyncio.sleep(3 * REWRITE_INTERVAL)
        with pytest.raises(LedgerError):
            await session.submit(boat(2))  # still closed
        ledger.full = frozenset()
        await asyncio.sleep(REWRITE_INTERVAL + 0.5)
        assert [each for each in ledger.written if each != "Withdrawn"] == ["Taken"]
        await session.submit(boat(3))
    assert sold.truth.creates_seen == 2


async def test_a_gate_that_was_opened_too_early_opens_when_all_is_written() -> None:
    ledger, sold = Disk(), service()
    async with session_on(ledger, sold) as session:
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
    assert sold.truth.creates_seen == 1


async def test_a_gate_that_something_else_closed_is_not_opened_by_a_mended_ledger() -> None:
    ledger, sold = Disk(), service()
    async with session_on(ledger, sold) as session:
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


async def test_closing_tries_once_more_and_names_what_is_lost_to_the_ledger(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for lost in (False, True):
        ledger, sold = Disk(), service()
        caplog.clear()
        async with session_on(ledger, sold) as session:
            job = await session.enqueue(boat())
            await asyncio.sleep(0.5)
            ledger.full = RECORD
            await job.submitted()
            ledger.full = RECORD if lost else frozenset()
        said = [record.getMessage() for record in caplog.records]
        assert any("does not know" in line and job.id in line for line in said) is lost
        assert ledger.written == ([] if lost else ["Taken"])
        later = ledger.sharing("another process")
        later._now = lambda: 1e12
        assert len(await later.lapse()) == (1 if lost else 0), "it is unknown, and not forgotten"


async def test_a_task_that_is_another_jobs_makes_an_unknown_and_closes_no_gate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cache between us and the service, say, that answers two creates with one body."""
    ledger, sold = Disk(), service()

    class Echo(DirectTransport):
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

    async with Session("sk-test", ledger=ledger, transport=Echo(sold)) as session:
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
    assert sold.truth.creates_seen == 3


async def test_what_a_person_has_said_meanwhile_stays_said() -> None:
    ledger, sold = Disk(), service(faults=Faults(create_slow=Nth(1)))
    async with session_on(ledger, sold) as session:
        job = await session.enqueue(boat())
        await asyncio.sleep(5)  # it is answered after ten
        person = ledger.sharing("person")
        await MemoryLedger.record(person, job.id, events.Doubted(records.Reason(message="?")))
        await MemoryLedger.record(person, job.id, events.Released())
        assert await job.submitted() in sold.truth.tasks, "the late success lands all the same"
        found = await ledger.find(job.id)
        assert found is not None
        assert [each.status for each in found.attempts] == [AttemptStatus.RUNNING]
        assert (await ledger.totals()) == CreditTotals(charged=100)


async def test_one_line_says_what_is_wrong_with_the_ledger(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger, sold = Disk(), service()
    async with session_on(ledger, sold, rate_limit=RateLimit.bucket(100, burst=50)) as session:
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
