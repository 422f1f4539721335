"""Ceilings where prices are not known, or stated too low: nothing is bought that may pass one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from aivideo import (
    BudgetExceededError,
    Failed,
    Generation,
    InvalidRequestError,
    Ledger,
    Outcome,
    Request,
    Session,
    Sora2,
    SqliteLedger,
    SubmitUnknownError,
    Succeeded,
)
from aivideo.desk import Desk
from aivideo.ledger.memory import MemoryLedger
from aivideo.simulator import Fault, Scenario, Service
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened: Ledger = (
        MemoryLedger() if request.param == "memory" else SqliteLedger(tmp_path / "a.db")
    )
    yield opened
    await opened.aclose()


def new_service(**settings: object) -> Service:
    return Service(Scenario(**{"task_seconds": 60.0, "media": "stub", **settings}))  # type: ignore[arg-type]


def session_on(service: Service, ledger: Ledger | None = None, **settings: object) -> Session:
    return Session(
        "sk-test",
        transport=DirectTransport(service),
        ledger=ledger,
        **settings,  # type: ignore[arg-type]
    )


def unpriced(number: int = 0) -> Generation:
    return Generation("veo-3", {"prompt": f"A boat {number}"})


CLIP = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


async def run(session: Session, requests: Sequence[Request], **options: object) -> list[Outcome]:
    outcomes = session.generate_many(
        requests,
        batch="boats",
        key=lambda _, request: request.prompt,
        **options,  # type: ignore[arg-type]
    )
    async with aclosing(outcomes):
        return [outcome async for outcome in outcomes]


def refused(outcome: Outcome) -> BudgetExceededError:
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, BudgetExceededError)
    return outcome.error


async def test_after_jobs_of_unknown_price_nothing_more_is_bought_under_a_ceiling(
    ledger: Ledger,
) -> None:
    """They counted as 0 once: 1,000 credits were spent under a ceiling of 100."""
    service = new_service()
    async with session_on(service, ledger) as session:
        three = [unpriced(number) for number in range(3)]
        assert all(isinstance(each, Succeeded) for each in await run(session, three))
    async with session_on(service, ledger) as session:
        (outcome,) = await run(session, [CLIP], max_credits=100)
        error = refused(outcome)
        assert (await ledger.totals(batch="boats")).unpriced == 3
        assert (error.unpriced, len(error.unpriced_jobs)) == (3, 3)
        assert error.held == 0
        for job_id in error.unpriced_jobs:
            assert (await ledger.find(job_id)) is not None
            assert job_id in str(error)
        assert service.truth.creates_seen == 3
        (outcome,) = await run(session, [CLIP], max_credits="none")
        assert isinstance(outcome, Succeeded), "the ceiling was lifted"
    assert service.truth.creates_taken == 4


async def test_a_refund_of_an_unknown_price_opens_the_ceiling_again(ledger: Ledger) -> None:
    service = new_service(failure_rate=1.0)
    async with session_on(service, ledger) as session:
        (outcome,) = await run(session, [unpriced()])
        assert isinstance(outcome, Failed)
        assert service.truth.refunded > 0
        service.scenario = Scenario(task_seconds=60.0, media="stub")
        (outcome,) = await run(session, [CLIP], max_credits=100)
    assert service.truth.creates_taken == 2, "it was sent"


async def test_a_create_of_unknown_price_in_doubt_closes_the_ceiling_until_it_is_settled(
    ledger: Ledger,
) -> None:
    service = new_service()
    service.hook = lambda occasion: Fault.HANG if b"veo-3" in occasion.body else None
    async with session_on(service, ledger, request_timeout=3) as session:
        (outcome,) = await run(session, [unpriced()])
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, SubmitUnknownError)
        (lost,) = [job async for job in ledger.jobs()]
        (outcome,) = await run(session, [CLIP], max_credits=100)
        assert refused(outcome).unpriced_jobs == (lost.id,)
        await Desk(ledger).settle([lost.id], not_taken=True)
        (outcome,) = await run(session, [CLIP])
        assert isinstance(outcome, Succeeded)


async def test_a_create_of_unknown_price_on_its_way_closes_the_ceiling(ledger: Ledger) -> None:
    service = new_service(latency=5.0)
    async with session_on(service, ledger) as session:
        sending = asyncio.create_task(run(session, [unpriced()]))
        await asyncio.sleep(1)
        (outcome,) = await run(session, [CLIP], max_credits=100)
        assert refused(outcome).unpriced == 1
        await sending
    assert service.truth.creates_taken == 1


# --- a stated price that is too low -------------------------------------------------------------

LONG = {"prompt": "A paper boat", "duration": 12, "aspect_ratio": "16:9"}


@pytest.mark.parametrize("ceilings", [("session",), ("batch",), ("session", "batch"), ()], ids=str)
async def test_a_price_stated_below_the_catalogue_s_is_refused_before_anything_is_sent(
    ledger: Ledger, ceilings: tuple[str, ...]
) -> None:
    """3,000 credits were charged under a ceiling of 100 once."""
    service = new_service()
    requests = [
        Generation("sora-2", {**LONG, "prompt": f"A boat {number}"}, credits=1)
        for number in range(10)
    ]
    own = {"max_credits": 100} if "session" in ceilings else {}
    stored = {"max_credits": 100} if "batch" in ceilings else {}
    async with session_on(service, ledger, **own) as session:
        with pytest.raises(InvalidRequestError, match="less than the price") as caught:
            await session.submit(requests[0])
        assert caught.value.field == "credits"
        for outcome in await run(session, requests, **stored):
            assert isinstance(outcome, Failed)
            assert isinstance(outcome.error, InvalidRequestError)
        assert [job async for job in ledger.jobs()] == [], "nothing was recorded"
    assert service.truth.creates_seen == 0


async def test_a_price_stated_above_the_catalogue_s_is_reserved_as_stated(ledger: Ledger) -> None:
    service = new_service()
    async with session_on(service, ledger, max_credits=1000) as session:
        await session.submit(Generation("sora-2", LONG, credits=700))
        assert session.statistics().credits.charged == 700
        with pytest.raises(BudgetExceededError) as caught:
            await session.submit(Generation("sora-2", LONG, credits="300.5"))
        assert caught.value.held == 700
        assert caught.value.unpriced == 0


# --- the two ceilings together ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "stored", "bought"), [(350, None, 3), (None, 350, 3), (350, 250, 2), (250, 350, 2)]
)
async def test_both_ceilings_are_exact_under_concurrency(
    ledger: Ledger, own: int | None, stored: int | None, bought: int
) -> None:
    service = new_service(latency=1.0)
    clips = [Sora2(f"A boat {number}", duration=4, aspect_ratio="16:9") for number in range(12)]
    async with session_on(service, ledger, max_credits=own) as session:
        outcomes = await run(session, clips, max_credits=stored)
        kinds: Callable[[type], int] = lambda kind: sum(isinstance(each, kind) for each in outcomes)  # noqa: E731
        assert kinds(Succeeded) == bought
        assert len([refused(each) for each in outcomes if isinstance(each, Failed)]) == 12 - bought
    assert service.truth.creates_taken == bought


@pytest.mark.parametrize("own", [500, None])
@pytest.mark.parametrize("stored", [500, None])
async def test_an_unknown_price_is_admitted_by_no_ceiling(
    ledger: Ledger, own: int | None, stored: int | None
) -> None:
    service = new_service()
    async with session_on(service, ledger, max_credits=own) as session:
        (outcome,) = await run(session, [unpriced()], max_credits=stored)
        if own is None and stored is None:
            assert isinstance(outcome, Succeeded)
            assert session.statistics().credits.unpriced == 1
        else:
            assert "price of a veo-3 request is not known" in str(refused(outcome))
            assert session.statistics().credits.unpriced == 0
    assert service.truth.creates_seen == (own is None and stored is None)
