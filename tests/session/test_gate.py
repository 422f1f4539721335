"""The gate for creates: what closes it, what pauses it and what opens it again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from aivideo import (
    APIConnectionError,
    AuthenticationError,
    Failed,
    GateChanged,
    InsufficientCreditsError,
    InternalServerError,
    JobStatus,
    LedgerError,
    NotFoundError,
    ResponseError,
    Session,
    SessionClosedError,
    SessionEvent,
    Sora2,
    SpendLimitError,
    SubmitUnknownError,
    UpstreamError,
)
from aivideo._api.wire import Answer
from aivideo._pacing.limiter import Limiter
from aivideo._session.gate import Gate, is_answer
from aivideo._session.live import LiveJobs
from aivideo._session.outage import FAILURES_IN_A_ROW
from aivideo.simulator import (
    Endpoint,
    Faults,
    Nth,
    Scenario,
    Service,
    serve,
)
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio

FULL = LedgerError("the disk is full")
SPENT = SpendLimitError("reached", status=429, code="spend_limit_exceeded")


def new_gate() -> tuple[Gate, list[SessionEvent]]:
    events: list[SessionEvent] = []
    return Gate(Limiter(), LiveJobs(events.append)), events


def test_a_permanent_reason_replaces_a_temporary_one() -> None:
    gate, _ = new_gate()
    gate.close(FULL)
    gate.close(SPENT)
    gate.ledger_recovered()
    assert gate.closed_by is SPENT
    gate.close(FULL)
    assert gate.closed_by is SPENT
    gate.open()
    assert gate.closed_by is None


def test_a_recovered_ledger_opens_the_gate_it_has_closed() -> None:
    gate, events = new_gate()
    gate.close(FULL)
    gate.ledger_recovered()
    assert gate.closed_by is None
    assert events == [GateChanged(state="closed", error=FULL), GateChanged(state="open")]


async def test_an_outage_holds_creates_until_probes_are_answered() -> None:
    gate, events = new_gate()
    assert [gate.doubted() for _ in range(FAILURES_IN_A_ROW)][-1]
    assert gate.outage.is_held
    gate.begin_probing()
    while gate.outage.allowed is not None:
        gate.answered(accepted=True)
    states = [event.state for event in events if isinstance(event, GateChanged)]
    assert states == ["held", "probing", "open"]


@pytest.mark.parametrize(
    ("error", "answers"),
    [
        (NotFoundError("no", status=404, code="not_found"), True),
        (AuthenticationError("key", status=401, code="invalid_api_key"), True),
        (InternalServerError("oops", status=500, code="internal_error"), False),
        (UpstreamError("oops", status=503, code="upstream_error"), False),
        (ResponseError("no balance", status=200, body=b'{"code":200,"data":{}}'), True),
        (ResponseError("no balance", status=200, body=b"<html>Sign in</html>"), False),
        (ResponseError("a page", status=403, body=b"<html>Forbidden</html>"), False),
        (ResponseError("a page", status=502, body=b'{"data":{}}'), False),
        (APIConnectionError("reset", written=True), False),
        (ValueError("an error of a transport"), False),
    ],
)
def test_an_outage_is_over_when_the_service_answers_in_its_own_words(
    error: Exception, answers: bool
) -> None:
    assert is_answer(error) is answers


BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


async def test_insufficient_credits_close_the_gate_and_the_rest_is_not_sent() -> None:
    async with serve(scenario(keys={"sk-test": 250})) as sim:
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=1) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(40))]
            failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
            assert len(failed) == 38
            assert {type(outcome.error) for outcome in failed} == {InsufficientCreditsError}
            assert session.statistics().credits.charged == 200
        assert sim.truth.creates_taken == 2
        assert sim.truth.creates_seen == 3, "waiting jobs are not POSTed"


async def test_a_spend_limit_is_not_a_rate_limit_and_opens_with_resume_submits() -> None:
    async with serve(scenario(spend_limit=100, spend_window=3600.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            first = await session.submit(BOAT)
            with pytest.raises(SpendLimitError):
                await session.submit(BOAT)
            pace = session.statistics().limiter.pace
            with pytest.raises(SpendLimitError):
                await session.submit(BOAT)
            assert sim.truth.creates_seen == 2, "the gate was closed"
            assert session.statistics().limiter.pace == pace
            assert (await first).status == "completed", "running jobs continue"
            await asyncio.sleep(3600)
            session.resume_submits()
            await session.submit(BOAT)
        assert sim.truth.creates_taken == 2


async def test_a_gate_closed_by_a_spend_limit_stays_closed_after_the_ledger_recovers() -> None:
    async with Session("sk-test", transport=DirectTransport(Service(scenario()))) as session:
        gate, full = session._parts.gate, LedgerError("the disk is full")
        spent = SpendLimitError("reached", status=429, code="spend_limit_exceeded")
        gate.close(full)
        gate.close(spent)
        gate.ledger_recovered()
        with pytest.raises(SpendLimitError):
            await session.submit(BOAT)
        session.resume_submits()
        await session.submit(BOAT)


async def test_an_invalid_key_fails_all_jobs_with_few_requests() -> None:
    async with serve(scenario(disabled_keys={"sk-test"})) as sim:
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=4) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(200))]
        assert len(outcomes) == 200
        assert sim.truth.creates_seen <= 4


async def test_five_consecutive_unknowns_pause_creates_until_the_service_responds() -> None:
    faults = Faults(create_cut_after=Nth(*range(1, 6)))
    async with serve(scenario(faults=faults)) as sim:
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=1) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(50))]
        unknown = [o for o in outcomes if isinstance(getattr(o, "error", None), SubmitUnknownError)]
        assert len(unknown) == 5
        assert len(outcomes) == 50
        assert sim.truth.requests[Endpoint.CREDITS] >= 1
        assert sim.truth.creates_seen == 50, "each create was sent once"


class BrokenNetwork(DirectTransport):
    """Five creates get no response; the later requests cannot connect."""

    creates = 0

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
    ) -> Answer:
        self.creates += method == "POST"
        if method == "POST" and self.creates <= 5:
            await asyncio.sleep(5)
            raise APIConnectionError("reset", written=True)
        await asyncio.sleep(10)
        raise APIConnectionError("no route", written=False)


async def test_closing_does_not_wait_for_the_end_of_an_outage() -> None:
    async with asyncio.timeout(60):
        async with Session("sk-test", transport=BrokenNetwork(Service(scenario()))) as session:
            jobs = [await session.enqueue(boat) for boat in boats(8)]
            await asyncio.sleep(1)
        statuses = [job.status for job in jobs]
    assert statuses == [JobStatus.UNKNOWN] * 5 + [JobStatus.PLANNED] * 3


async def test_stop_submits_ends_jobs_that_wait_for_the_end_of_an_outage() -> None:
    async with Session("sk-test", transport=BrokenNetwork(Service(scenario()))) as session:
        jobs = [await session.enqueue(boat) for boat in boats(8)]
        await asyncio.sleep(60)
        session.stop_submits("enough")
        for job in jobs[5:]:
            with pytest.raises(SessionClosedError, match="enough"):
                await asyncio.wait_for(job.submitted(), 60)
