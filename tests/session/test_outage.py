"""How many creates may be in flight while the service fails, and what an hour of outage costs."""

from __future__ import annotations

import asyncio

import pytest

from aivideo import (
    APIConnectionError,
    JobRecord,
    JobStatus,
    MemoryLedger,
    Session,
    Sora2,
    SubmitUnknownError,
)
from aivideo._session.outage import (
    FAILURES_IN_A_ROW,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MOST_PROBES,
    Outage,
)
from aivideo.simulator import Scenario, Service
from tests.simulated.outage_hour import KINDS, Failing, hour_of_outage


def held() -> Outage:
    outage = Outage()
    assert [outage.failed() for _ in range(FAILURES_IN_A_ROW)][-1]
    return outage


def test_five_failures_in_a_row_hold_creates_and_an_answer_between_them_resets_the_count() -> None:
    outage = Outage()
    for _ in range(FAILURES_IN_A_ROW - 1):
        assert not outage.failed()
    assert not outage.answered(accepted=False)
    assert [outage.failed() for _ in range(FAILURES_IN_A_ROW)] == [False] * 4 + [True]
    assert (outage.allowed, outage.is_held) == (0, True)
    assert not outage.failed(), "creates that were in flight begin no second hold"


def test_probing_allows_one_create_then_two_then_four_until_there_is_no_bound() -> None:
    outage = held()
    outage.begin_probing()
    allowed = [outage.allowed]
    while outage.allowed is not None:
        for _ in range(outage.allowed - 1):
            assert not outage.answered(accepted=True)
        assert outage.answered(accepted=True)
        allowed.append(outage.allowed)
    assert allowed == [1, 2, 4, 8, 16, 32, MOST_PROBES, None]
    assert [outage.failed() for _ in range(FAILURES_IN_A_ROW)] == [False] * 4 + [True]


def test_one_failure_while_probing_holds_creates_again() -> None:
    outage = held()
    outage.begin_probing()
    outage.answered(accepted=True)
    assert outage.allowed == 2
    assert outage.failed()
    assert outage.is_held


def test_answers_to_creates_from_before_the_hold_do_not_end_it() -> None:
    outage = held()
    assert not outage.answered(accepted=True)
    assert outage.is_held


def test_pauses_double_over_all_holds_and_only_an_accepted_create_makes_them_short() -> None:
    outage = held()
    pauses = [outage.next_pause() for _ in range(3)]
    outage.begin_probing()
    outage.answered(accepted=False)
    outage.failed()
    pauses += [outage.next_pause() for _ in range(6)]
    assert pauses == [5, 10, 20, 80, 160, 320, 640, LONGEST_PAUSE, LONGEST_PAUSE]
    outage.begin_probing()
    outage.answered(accepted=True)
    assert outage.next_pause() == FIRST_PAUSE


def test_creates_without_a_connection_hold_the_others_once_the_service_was_reached() -> None:
    outage = Outage()
    assert not any(outage.unconnected() for _ in range(20)), "perhaps a wrong address"
    outage.answered(accepted=True)
    assert [outage.unconnected() for _ in range(FAILURES_IN_A_ROW)][-1]
    assert outage.is_unreachable
    outage.begin_probing()
    outage.answered(accepted=True)
    assert not outage.is_unreachable


def test_lost_connections_and_failed_creates_are_counted_apart() -> None:
    outage = Outage()
    outage.answered(accepted=True)
    results = []
    for _ in range(FAILURES_IN_A_ROW):
        results += [outage.unconnected(), outage.failed()]
    assert results.index(True) == 2 * (FAILURES_IN_A_ROW - 1)


# --- an hour of outage --------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_flight", [1, 64])
async def test_an_hour_of_outage_puts_a_handful_in_doubt_and_the_rest_goes_on(
    kind: str, in_flight: int
) -> None:
    hour = await hour_of_outage(kind, jobs=500, in_flight=in_flight, begins=5.0)
    assert hour.in_doubt <= hour.bound
    assert hour.most_in_flight_later <= 1, "one probe at a time"
    assert hour.succeeded == 500 - hour.in_doubt


@pytest.mark.anyio
async def test_a_submit_does_not_wait_for_an_hour_for_a_service_that_cannot_be_reached() -> None:
    transport = Failing(Service(Scenario(task_seconds=60.0, media="stub")), "refused")
    boat = Sora2("A paper boat", duration=4, aspect_ratio="16:9")
    async with Session("sk-test", transport=transport) as session:
        await session.submit(boat)
        await asyncio.sleep(60)
        for _ in range(3):
            began = asyncio.get_running_loop().time()
            with pytest.raises(APIConnectionError) as caught:
                await session.submit(boat)
            assert asyncio.get_running_loop().time() - began < 60
            assert not caught.value.written
        await asyncio.sleep(2 * 3600)
        assert (await session.submit(boat)).task_id


@pytest.mark.anyio
async def test_a_claim_written_while_the_outage_begins_is_taken_back() -> None:
    class Slow(MemoryLedger):
        async def claim(
            self, job_id: str, *, lease: float, retry_faulted: bool = False
        ) -> JobRecord | None:
            if self._jobs[job_id].request.input["prompt"] == "Late":
                await asyncio.sleep(2)
            return await super().claim(job_id, lease=lease, retry_faulted=retry_faulted)

    transport = Failing(Service(Scenario(media="stub")), "502 page", begins=0)
    ledger = Slow()
    async with Session("sk-test", transport=transport, ledger=ledger) as session:
        jobs = [
            await session.enqueue(Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9"))
            for n in range(5)
        ]
        late = await session.enqueue(Sora2("Late", duration=4, aspect_ratio="16:9"))
        for job in jobs:
            with pytest.raises(SubmitUnknownError):
                await job
        await asyncio.sleep(3)
        assert late.status is JobStatus.PLANNED
        assert transport.failed == 5
