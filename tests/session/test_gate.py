"""The gate for creates: what closes it, what holds it, and what opens it again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from aivideo import (
    APIConnectionError,
    Failed,
    GateChanged,
    InsufficientCreditsError,
    JobStatus,
    LedgerError,
    Session,
    SessionClosedError,
    SessionEvent,
    Sora2,
    SpendLimitError,
    SubmitUnknownError,
)
from aivideo._api.wire import Answer
from aivideo._pacing.limiter import Limiter
from aivideo._session.gate import FIRST_PAUSE, LONGEST_PAUSE, UNKNOWNS_IN_A_ROW, Gate, Outage
from aivideo._session.live import LiveJobs
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


def a_gate() -> tuple[Gate, list[SessionEvent]]:
    told: list[SessionEvent] = []
    return Gate(Limiter(), LiveJobs(told.append)), told


def test_five_unknowns_in_a_row_begin_an_outage_and_an_answer_breaks_the_row() -> None:
    outage = Outage()
    for _ in range(UNKNOWNS_IN_A_ROW - 1):
        assert not outage.unknown()
    outage.answered()
    begins = [outage.unknown() for _ in range(UNKNOWNS_IN_A_ROW)]
    assert begins == [False] * (UNKNOWNS_IN_A_ROW - 1) + [True]
    assert not outage.unknown(), "it has begun already"


def test_one_unknown_after_an_outage_begins_the_next_with_a_longer_pause() -> None:
    outage = Outage()
    for _ in range(UNKNOWNS_IN_A_ROW):
        outage.unknown()
    outage.over()
    assert outage.pause == 2 * FIRST_PAUSE
    assert outage.unknown()
    for _ in range(20):
        outage.unanswered()
    assert outage.pause == LONGEST_PAUSE
    outage.answered()
    assert outage.pause == FIRST_PAUSE


def test_a_reason_that_passes_by_itself_gives_way_to_one_that_does_not() -> None:
    gate, _ = a_gate()
    gate.close(FULL)
    gate.close(SPENT)
    gate.ledger_recovered()
    assert gate.closed_by is SPENT
    gate.close(FULL)
    assert gate.closed_by is SPENT
    gate.open()
    assert gate.closed_by is None


def test_a_ledger_that_recovers_opens_what_it_has_closed() -> None:
    gate, told = a_gate()
    gate.close(FULL)
    gate.ledger_recovered()
    assert gate.closed_by is None
    assert told == [GateChanged(state="closed", error=FULL), GateChanged(state="open")]


async def test_an_outage_holds_creates_and_its_end_releases_them() -> None:
    gate, told = a_gate()
    assert [gate.doubted() for _ in range(UNKNOWNS_IN_A_ROW)][-1]
    held = gate.outage.is_on
    gate.outage_over()
    assert (held, gate.outage.is_on) == (True, False)
    assert told == [GateChanged(state="held"), GateChanged(state="open")]


BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


async def test_no_money_closes_the_gate_and_the_rest_is_not_sent() -> None:
    async with serve(scenario(keys={"sk-test": 250})) as sim:
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=1) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(40))]
            failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
            assert len(failed) == 38
            assert {type(outcome.error) for outcome in failed} == {InsufficientCreditsError}
            assert session.statistics().credits.charged == 200
        assert sim.truth.creates_taken == 2
        assert sim.truth.creates_seen == 3, "what waited was not POSTed"


async def test_a_spend_cap_is_no_rate_limit_and_opens_when_told() -> None:
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
            assert (await first).status == "completed", "what ran went on"
            await asyncio.sleep(3600)
            session.resume_submits()
            await session.submit(BOAT)
        assert sim.truth.creates_taken == 2


async def test_a_spend_cap_outlasts_a_ledger_that_could_not_be_written_meanwhile() -> None:
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


async def test_a_bad_key_ends_all_with_few_requests() -> None:
    async with serve(scenario(disabled_keys={"sk-test"})) as sim:
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=4) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(200))]
        assert len(outcomes) == 200
        assert sim.truth.creates_seen <= 4


async def test_five_unknowns_in_a_row_hold_the_creates_until_the_service_answers() -> None:
    faults = Faults(create_cut_after=Nth(*range(1, 6)))
    async with serve(scenario(faults=faults)) as sim:
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=1) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(50))]
        unknown = [o for o in outcomes if isinstance(getattr(o, "error", None), SubmitUnknownError)]
        assert len(unknown) == 5
        assert len(outcomes) == 50
        assert sim.truth.requests[Endpoint.CREDITS] >= 1
        assert sim.truth.creates_seen == 50, "each was sent once"


class Dead(DirectTransport):
    """A network that dies: five creates are never answered, the next ones cannot connect."""

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


async def test_closing_waits_for_no_service_that_is_out() -> None:
    async with asyncio.timeout(60):
        async with Session("sk-test", transport=Dead(Service(scenario()))) as session:
            jobs = [await session.enqueue(boat) for boat in boats(8)]
            await asyncio.sleep(1)
        statuses = [job.status for job in jobs]
    assert statuses == [JobStatus.UNKNOWN] * 5 + [JobStatus.PLANNED] * 3


async def test_what_waits_for_the_end_of_an_outage_ends_when_submits_are_stopped() -> None:
    async with Session("sk-test", transport=Dead(Service(scenario()))) as session:
        jobs = [await session.enqueue(boat) for boat in boats(8)]
        await asyncio.sleep(60)
        session.stop_submits("enough")
        for job in jobs[5:]:
            with pytest.raises(SessionClosedError, match="enough"):
                await asyncio.wait_for(job.submitted(), 60)
