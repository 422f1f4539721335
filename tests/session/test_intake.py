"""Taking jobs on: new ones are planned, known ones continue as their records say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from aivideo import (
    Generation,
    InternalServerError,
    InvalidRequestError,
    JobStatus,
    JobWithdrawnError,
    MemoryLedger,
    Session,
    SessionClosedError,
    Sora2,
    SqliteLedger,
    SubmitUnknownError,
)
from aivideo._session.intake import check_key, check_request
from aivideo._session.live import IfUnsent
from aivideo.ledger import events
from aivideo.ledger.records import JobRecord, Reason
from aivideo.models import fingerprint
from aivideo.simulator import Faults, Nth, Scenario, Service
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")
TRAIN = Sora2("A paper train", duration=4, aspect_ratio="16:9")
WHY = Reason(message="reset", status=500, code="internal_error")


def service(**settings: object) -> Service:
    scenario = {"task_seconds": 60.0, "media": "stub", "latency": 1.0, **settings}
    return Service(Scenario(**scenario))  # type: ignore[arg-type]


def session_of(sold: Service, **settings: Any) -> Session:
    return Session("sk-test", transport=DirectTransport(sold), **settings)


async def recorded(ledger: MemoryLedger, *happened: events.Event, key: str = "boat") -> JobRecord:
    """Record a job in ``ledger`` to which ``happened``."""
    job = await ledger.plan(
        JobRecord(
            id=f"job-{key}", request=BOAT, fingerprint=fingerprint(BOAT), credits=100, key=key
        )
    )
    for event in happened:
        if isinstance(event, events.Claimed):
            claimed = await ledger.claim(job.id, lease=60)
            assert claimed is not None
        else:
            job = await ledger.record(job.id, event)
    return job


@pytest.mark.parametrize("request_", ["a prompt", None, {"prompt": "a boat"}])
def test_what_is_no_request_is_refused(request_: object) -> None:
    with pytest.raises(InvalidRequestError, match="is not a request"):
        check_request(request_)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["", "example.com/hook", "ftp://example.com/hook", 5])
def test_a_callback_url_that_is_no_web_url_is_refused(url: object) -> None:
    with pytest.raises(InvalidRequestError, match="callback_url"):
        check_request(BOAT, url)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["", "  ", 5, b"boat", ("a",), "\ud800", "boat\0"])
def test_a_key_that_is_no_text_is_refused(key: object) -> None:
    with pytest.raises(InvalidRequestError, match="key"):
        check_key(key)


def test_a_key_of_a_subclass_of_str_becomes_a_plain_str() -> None:
    class Name(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "another"

        def __hash__(self) -> int:
            raise RuntimeError("not hashable")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("not comparable")

    key = check_key(Name("boat"))
    assert type(key) is str
    assert key == "boat"


BAD_CALLS: tuple[tuple[str, Any], ...] = (
    ("key", uuid4()),
    ("key", "\ud800"),
    ("key", "boat\0"),
    ("callback_url", "https://you.example/\udce9"),
    ("model", "veo\ud800"),
    ("input", {"prompt": "\ud800"}),
    ("input", {"seed": 2**64}),
    ("request", "a boat"),
)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("call", ["submit", "enqueue", "generate"])
async def test_each_bad_call_among_sixty_fails_alone(
    tmp_path: Path, on_disk: bool, call: str
) -> None:
    async def one(number: int) -> object:
        field, bad = bad_calls.get(number, ("", None))
        made = {"model": "veo-3", "input": {"prompt": "a boat"}}
        arguments = {"key": f"boat-{number}"}
        if field in made:
            made[field] = bad
        elif field != "request":
            arguments[field or "key"] = bad or f"boat-{number}"
        request = bad if field == "request" else Generation(**made, credits=10)  # type: ignore[arg-type]
        return await getattr(session, call)(request, **arguments)

    bad_calls = dict(enumerate(BAD_CALLS, start=20))
    sold = service()
    ledger = SqliteLedger(tmp_path / "jobs.db") if on_disk else MemoryLedger()
    async with session_of(sold, ledger=ledger) as session:
        ends = await asyncio.gather(*map(one, range(60)), return_exceptions=True)
        failed = [end for end in ends if isinstance(end, BaseException)]
        assert [type(error) for error in failed] == [InvalidRequestError] * 8
        fields = [getattr(error, "field", None) for error in failed]
        assert fields == [field for field, _ in BAD_CALLS]
        await asyncio.gather(*session.jobs())
    await ledger.aclose()
    assert sold.truth.creates_taken == 52


async def test_a_generation_whose_input_was_changed_to_what_is_not_json_is_refused() -> None:
    request = Generation("veo-3", {"prompt": "a boat"}, credits=10)
    request.input["image"] = b"pixels"  # type: ignore[index]
    sold = service()
    async with session_of(sold) as session:
        with pytest.raises(InvalidRequestError, match="is not JSON"):
            await session.submit(request)
    assert sold.truth.creates_seen == 0


async def test_the_same_key_is_the_same_job_and_another_request_under_it_is_refused() -> None:
    sold = service()
    async with session_of(sold) as session:
        job = await session.submit(BOAT, key="boat")
        again = await session.enqueue(BOAT, key="boat")
        with pytest.raises(InvalidRequestError, match="key"):
            await session.submit(TRAIN, key="boat")
        assert again.id == job.id
        await again
    assert sold.truth.creates_seen == 1


@pytest.mark.parametrize(
    ("happened", "error"),
    [
        (events.Doubted(WHY), SubmitUnknownError),
        (events.Faulted(WHY), InternalServerError),
        (events.Refused(Reason(message="bad", status=400)), InvalidRequestError),
    ],
)
async def test_a_key_whose_job_ended_without_a_task_raises_why_and_sends_nothing(
    happened: events.Event, error: type[Exception]
) -> None:
    sold, ledger = service(), MemoryLedger()
    await recorded(ledger, events.Claimed(), happened)
    async with session_of(sold, ledger=ledger) as session:
        with pytest.raises(error):
            await session.submit(BOAT, key="boat")
    assert sold.truth.creates_seen == 0


async def test_the_key_of_a_withdrawn_job_may_be_used_again() -> None:
    sold, ledger = service(), MemoryLedger()
    await recorded(ledger, events.Withdrawn())
    async with session_of(sold, ledger=ledger) as session:
        found = await session.find(key="boat")
        assert found is not None
        assert found.status is JobStatus.WITHDRAWN
        with pytest.raises(JobWithdrawnError):
            await found
        await session.submit(BOAT, key="boat")
    assert sold.truth.creates_taken == 1


async def test_resume_sends_enqueued_jobs_and_leaves_keys_and_batches_to_their_callers() -> None:
    sold, ledger = service(), MemoryLedger()
    async with session_of(sold, ledger=ledger) as session:
        session.stop_submits()
        await session.enqueue(BOAT)
        with pytest.raises(SessionClosedError):
            await session.submit(BOAT, key="submitted")
        async for _ in session.generate_many([BOAT], batch="boats"):
            pass
    async with session_of(sold, ledger=ledger.sharing("next")) as session:
        (job,) = await session.resume()
        await job
    assert sold.truth.creates_taken == 1


async def test_resume_reports_jobs_in_doubt_and_polls_those_that_run() -> None:
    sold, ledger = service(faults=Faults(create_cut_after=Nth(2))), MemoryLedger()
    async with session_of(sold, ledger=ledger) as session:
        running = await session.submit(BOAT)
        with pytest.raises(SubmitUnknownError):
            await session.submit(TRAIN)
    async with session_of(sold, ledger=ledger.sharing("next")) as session:
        by_id = {job.id: job for job in await session.resume()}
        assert len(by_id) == 2
        again = by_id.pop(running.id)
        assert (await again).id == running.task_id
        (unknown,) = by_id.values()
        with pytest.raises(SubmitUnknownError):
            await unknown
    assert sold.truth.creates_seen == 2


async def test_taking_a_job_up_twice_gives_one_handle_and_one_submission() -> None:
    sold, ledger = service(), MemoryLedger()
    record = await recorded(ledger)
    async with session_of(sold, ledger=ledger) as session:
        first, second = session.take_up(record), session.take_up(record)
        assert first is second
        await first
    assert sold.truth.creates_seen == 1


async def test_a_job_interrupted_and_wanted_again_is_sent() -> None:
    sold, ledger = service(), MemoryLedger()
    record = await recorded(ledger)
    async with session_of(sold, ledger=ledger) as session:
        parts = session._parts
        live = parts.intake.adopt(record, if_unsent=IfUnsent.KEEP, enqueued=False)
        parts.submitter.interrupt(live)
        again = parts.intake.adopt(record, if_unsent=IfUnsent.KEEP)
        await again.job
    assert sold.truth.creates_seen == 1


async def test_a_closed_session_takes_no_job_on() -> None:
    sold = service()
    session = session_of(sold)
    async with session:
        pass
    with pytest.raises(SessionClosedError, match="nothing was sent"):
        await session.submit(BOAT)
    assert sold.truth.creates_seen == 0


async def test_a_session_that_closes_while_a_job_is_recorded_does_not_send_it() -> None:
    class Slow(MemoryLedger):
        async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
            planned = await super().plan(job, replace=replace)
            await asyncio.sleep(5)
            return planned

    sold, ledger = service(), Slow()
    async with session_of(sold, ledger=ledger) as session:
        submitting = asyncio.create_task(session.submit(BOAT))
        enqueuing = asyncio.create_task(session.enqueue(TRAIN))
        await asyncio.sleep(1)
    ends = await asyncio.gather(submitting, enqueuing, return_exceptions=True)
    assert [type(end) for end in ends] == [SessionClosedError] * 2
    assert await ledger.counts() == {JobStatus.WITHDRAWN: 1, JobStatus.PLANNED: 1}
    assert sold.truth.creates_seen == 0


async def test_a_submit_cancelled_while_its_job_is_recorded_is_withdrawn() -> None:
    class Slow(MemoryLedger):
        async def plan(self, job: JobRecord, *, replace: bool = False) -> JobRecord:
            planned = await super().plan(job, replace=replace)
            await asyncio.sleep(5)
            return planned

    sold, ledger = service(), Slow()
    async with session_of(sold, ledger=ledger) as session:
        submitting = asyncio.create_task(session.submit(BOAT))
        await asyncio.sleep(1)
        submitting.cancel()
        await asyncio.wait([submitting])
        await asyncio.sleep(60)
        assert await ledger.counts() == {JobStatus.WITHDRAWN: 1}
    assert sold.truth.creates_seen == 0
