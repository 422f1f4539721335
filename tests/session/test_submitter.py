"""Submitting a job: permit, claim, one POST, and the consequences of its response."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
import pytest
from attrs import evolve

from aivideo import (
    BudgetExceededError,
    InternalServerError,
    InvalidRequestError,
    JobStatus,
    MemoryLedger,
    Session,
    Sora2,
    SubmitUnknownError,
    Succeeded,
    TaskFailedError,
    UpstreamError,
)
from aivideo._api.wire import Answer
from aivideo.ledger import events
from aivideo.ledger.records import AttemptStatus, JobRecord
from aivideo.ledger.totals import CreditTotals
from aivideo.simulator import (
    Faults,
    FixedWindow,
    Nth,
    Scenario,
    Service,
    TokenBucket,
    serve,
)
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio


BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


def first_create(fault: str) -> Faults:
    """Return faults with ``fault`` for the first create."""
    fields: dict[str, Any] = {f"create_{fault}": Nth(1)}
    return evolve(Faults(), **fields)


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


UNKNOWN = [
    "cut_before",  # a byte was written: the outcome is unknown to the client
    "cut_after",
    "reset",
    "hang",
    "truncated",
    "malformed",
    "html_502",
    "html_502_taken",
    "wrong_envelope",
    "missing_task_id",
    "redirect",
]


@pytest.mark.parametrize("fault", UNKNOWN)
async def test_a_create_with_an_unknown_outcome_is_never_sent_again(fault: str) -> None:
    async with serve(scenario(faults=first_create(fault))) as sim:
        async with Session("sk-test", base_url=sim.url, request_timeout=20) as session:
            with pytest.raises(SubmitUnknownError) as caught:
                await session.submit(BOAT)
            await asyncio.sleep(3600)
            assert caught.value.job.status is JobStatus.UNKNOWN
            assert session.statistics().credits.unknown == 100
        assert sim.truth.creates_seen == 1
        assert sim.truth.keys_at_results == 0


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("internal_error", InternalServerError),
        ("internal_error_taken", InternalServerError),
        ("upstream_error", UpstreamError),
        ("upstream_error_taken", UpstreamError),
    ],
)
async def test_a_server_error_ends_the_job_and_its_credits_stay_counted(
    fault: str, error: type[Exception]
) -> None:
    async with serve(scenario(faults=first_create(fault))) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            with pytest.raises(error):
                await session.generate(BOAT)
            assert session.statistics().credits.unknown == 100
            await asyncio.sleep(600)
        assert sim.truth.creates_seen == 1


async def test_a_create_with_a_server_error_is_sent_again_only_if_the_user_allows_it() -> None:
    async with serve(scenario(faults=Faults(create_internal_error=Nth(1, 2)))) as sim:
        async with Session("sk-test", base_url=sim.url, resubmit_server_errors=True) as session:
            await session.generate(BOAT)
            assert session.statistics().credits.charged == 100
        assert sim.truth.creates_seen == 3
        assert sim.truth.creates_taken == 1


async def test_a_cancelled_caller_does_not_cancel_its_post() -> None:
    async with serve(scenario(latency=10.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            caller = asyncio.create_task(session.submit(BOAT))
            await asyncio.sleep(5)
            caller.cancel()
            await asyncio.wait([caller])
            await asyncio.sleep(10)
            (job,) = session.jobs()
            assert job.task_id in sim.truth.tasks
            assert (await job).status == "completed"
        assert sim.truth.creates_seen == 1


async def test_drain_waits_for_posts_but_not_for_rate_limited_jobs() -> None:
    class Busy(DirectTransport):
        async def send(
            self,
            method: str,
            url: str,
            headers: Mapping[str, str],
            body: bytes | None,
            timeout: float,
        ) -> Answer:
            await asyncio.sleep(5)
            return Answer(429, b"slow down", {"retry-after": "300"})

    async with Session("sk-test", transport=Busy(Service(scenario()))) as session:
        await session.enqueue(BOAT)
        await asyncio.sleep(1)
        await asyncio.wait_for(session.drain(), 10)
        assert session.statistics().limiter.rejected == 1


async def test_a_ceiling_is_exact_under_concurrency_and_refunds_free_credits() -> None:
    async with (
        serve(scenario(failure_rate=1.0)) as sim,
        Session("sk-test", base_url=sim.url, max_credits=350) as session,
    ):
        jobs = await asyncio.gather(*(session.enqueue(boat) for boat in boats(10)))
        results = await asyncio.gather(*jobs, return_exceptions=True)
        kinds = [type(result) for result in results]
        assert kinds.count(TaskFailedError) == 3
        assert kinds.count(BudgetExceededError) == 7
        assert sim.truth.creates_taken == 3
        await session.submit(
            BOAT
        )  # failed tasks were refunded, so their credits are available again


@pytest.mark.parametrize("limit", [TokenBucket(5, 3), FixedWindow(4, 2)])
@pytest.mark.parametrize("retry_after", ["none", "seconds", "date"])
async def test_a_rate_limit_never_fails_a_job(
    limit: TokenBucket | FixedWindow, retry_after: str
) -> None:
    async with serve(scenario(rate_limit=limit, retry_after=retry_after)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(60))]
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
        assert len(outcomes) == 60
        assert sim.truth.creates_taken == 60
        assert sim.truth.rate_limited > 0


async def test_a_key_is_one_job_even_if_submitted_several_times() -> None:
    async with serve(scenario()) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            first, second = await asyncio.gather(
                session.submit(BOAT, key="boat"), session.submit(BOAT, key="boat")
            )
            assert first is second
            with pytest.raises(InvalidRequestError):
                await session.submit(boats(1)[0], key="boat")
        assert sim.truth.creates_seen == 1


async def test_slow_creates_never_use_a_connection_that_the_server_closes() -> None:
    async with serve(scenario(idle_close=5.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            for boat in boats(1000):
                await session.submit(boat)
                await asyncio.sleep(7)
            assert session.statistics().credits.unknown == 0
        assert sim.truth.creates_taken == 1000


# --- sent again after a 500, as the user allowed ------------------------------------------------

FAULT = (500, "internal_error", "api_error")
BAD = (400, "invalid_request", "invalid_request_error")
SLOW_DOWN: tuple[int, str, str] = (429, "rate_limit_exceeded", "rate_limit_error")
SPENT = (429, "spend_limit_exceeded", "billing_error")


class Scripted(DirectTransport):
    """Answers the first creates with these errors; the later ones as the service does."""

    def __init__(self, *errors: tuple[int, str, str]) -> None:
        self.service = Service(scenario())
        super().__init__(self.service)
        self.errors = list(errors)
        self.posts = 0

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        self.posts += method == "POST"
        if method == "POST" and self.errors:
            status, code, kind = self.errors.pop(0)
            error = {"code": code, "message": "as reported", "type": kind}
            return Answer(status, orjson.dumps({"error": error}), {})
        return await super().send(method, url, headers, body, timeout)


@pytest.mark.parametrize("later", [BAD, SPENT])
async def test_what_follows_a_500_does_not_hide_it(later: tuple[int, str, str]) -> None:
    transport, ledger = Scripted(FAULT, later), MemoryLedger()
    async with Session(
        "sk-test", transport=transport, ledger=ledger, resubmit_server_errors=True
    ) as session:
        with pytest.raises(InternalServerError, match="sent again as allowed") as caught:
            await session.submit(BOAT, key="boat")
        assert later[1] in str(caught.value)
        assert session.statistics().credits.unknown == 100
    assert await ledger.counts() == {JobStatus.FAULTED: 1}
    assert (await ledger.totals()).unknown == 100


@pytest.mark.parametrize(
    "later", [(), (SLOW_DOWN,) * 50, (BAD,), (SPENT,)], ids=["pause", "429s", "400", "cap"]
)
async def test_a_later_run_without_the_permission_does_not_repeat_a_create_after_a_500(
    later: tuple[tuple[int, str, str], ...],
) -> None:
    transport, ledger = Scripted(FAULT, *later), MemoryLedger()
    async with Session(
        "sk-test", transport=transport, ledger=ledger, resubmit_server_errors=True
    ) as session:
        submitting = asyncio.create_task(session.submit(BOAT, key="boat"))
        # In the pause before it is sent again, or while rate limits hold it back.
        await asyncio.sleep(20 if later else 0.5)
    await asyncio.gather(submitting, return_exceptions=True)
    posts = transport.posts
    transport.errors.clear()
    async with Session("sk-test", transport=transport, ledger=ledger.sharing("next")) as session:
        with pytest.raises(InternalServerError):
            await session.submit(BOAT, key="boat")
        await session.resume()
        await asyncio.sleep(600)
    assert transport.posts == posts
    assert await ledger.counts() == {JobStatus.FAULTED: 1}


async def test_a_failed_job_sent_again_waits_through_a_rate_limit() -> None:
    transport, ledger = Scripted(), MemoryLedger()
    failing = DirectTransport(Service(scenario(failure_rate=1.0, seed=6)))
    async with Session("sk-test", transport=failing, ledger=ledger) as session:
        async for _ in session.generate_many([BOAT], batch="boats"):
            pass
    transport.errors = [SLOW_DOWN] * 3
    async with Session("sk-test", transport=transport, ledger=ledger.sharing("next")) as session:
        outcomes = session.generate_many([BOAT], batch="boats", retry_failed=True)
        (outcome,) = [each async for each in outcomes]
    assert isinstance(outcome, Succeeded)
    assert transport.posts == 4


# --- a process that is frozen between its claim and its POST ------------------------------------

KEY = "boat"


class FreezingLedger(MemoryLedger):
    """The ledger of a process that is frozen after its first claim until that claim has lapsed.

    Args:
        meanwhile: what others do while it is frozen; called with the ledger of another process.
    """

    def __init__(self, meanwhile: Callable[[MemoryLedger, str], Awaitable[object]]) -> None:
        self.seconds_frozen = 0.0
        super().__init__(now=self.unix)
        self._meanwhile: Callable[[MemoryLedger, str], Awaitable[object]] | None = meanwhile

    def unix(self) -> float:
        return 1_800_000_000.0 + self.seconds_frozen

    async def claim(self, job_id: str, *, lease: float, **settings: Any) -> JobRecord | None:
        claimed = await super().claim(job_id, lease=lease, **settings)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            self.seconds_frozen += lease + 1
            other = self.sharing("another process")
            assert [job.status for job in await other.lapse()] == [JobStatus.UNKNOWN]
            await meanwhile(other, job_id)
        return claimed


async def nothing(ledger: MemoryLedger, job_id: str) -> None:
    pass


async def settle_as_not_taken(ledger: MemoryLedger, job_id: str) -> None:
    await ledger.record(job_id, events.Released())


async def allow_to_pay_again(ledger: MemoryLedger, job_id: str) -> None:
    await ledger.record(job_id, events.Retried(pay_again=True))


@pytest.fixture
def freezing(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Callable[[MemoryLedger, str], Awaitable[object]]], FreezingLedger]:
    """Return a function that makes a ledger whose freezes the wall clock shows."""

    def make(meanwhile: Callable[[MemoryLedger, str], Awaitable[object]]) -> FreezingLedger:
        ledger = FreezingLedger(meanwhile)
        monkeypatch.setattr(time, "time", ledger.unix)
        return ledger

    return make


Freezing = Callable[[Callable[[MemoryLedger, str], Awaitable[object]]], FreezingLedger]


async def test_a_claim_that_lapsed_while_frozen_is_released_and_claimed_again(
    freezing: Freezing,
) -> None:
    ledger, service = freezing(nothing), Service(scenario())
    async with Session("sk-test", ledger=ledger, transport=DirectTransport(service)) as session:
        job = await session.submit(BOAT, key=KEY)
        found = await ledger.find(job.id)
        assert found is not None
        assert [each.status for each in found.attempts] == [
            AttemptStatus.RELEASED,
            AttemptStatus.RUNNING,
        ]
        assert (await ledger.totals()) == CreditTotals(charged=100)
        assert session.statistics().credits == CreditTotals(charged=100)
    assert service.truth.creates_seen == 1, "nothing was sent under the claim that had lapsed"


@pytest.mark.parametrize("decide", [settle_as_not_taken, allow_to_pay_again])
@pytest.mark.parametrize("other", ["is being sent", "runs", "has ended"])
async def test_a_frozen_process_sends_nothing_once_its_job_was_bought_by_another(
    freezing: Freezing,
    decide: Callable[[MemoryLedger, str], Awaitable[object]],
    other: str,
) -> None:
    service = Service(scenario(latency=5.0, task_seconds=1.0))
    transport = DirectTransport(service)
    others: list[asyncio.Task[object]] = []

    async def buy(ledger: MemoryLedger, job_id: str) -> None:
        await decide(ledger, job_id)

        async def work() -> None:
            async with Session("sk-test", ledger=ledger, transport=transport) as session:
                await (await session.submit(BOAT, key=KEY))

        others.append(asyncio.create_task(work()))
        await asyncio.sleep({"is being sent": 2.0, "runs": 5.5, "has ended": 60.0}[other])

    ledger = freezing(buy)
    async with Session("sk-test", ledger=ledger, transport=transport) as session:
        job = await session.submit(BOAT, key=KEY)
        await job
    await asyncio.gather(*others)
    assert service.truth.creates_taken == 1, "bought twice"
    found = await ledger.find(job.id)
    assert found is not None
    assert [each.status for each in found.attempts] == [
        AttemptStatus.RELEASED,
        AttemptStatus.COMPLETED,
    ]
    assert (await ledger.totals()) == CreditTotals(charged=100)


async def test_a_frozen_process_does_not_send_the_request_that_replaced_its_own(
    freezing: Freezing,
) -> None:
    edited = Sora2("Another boat", duration=4, aspect_ratio="16:9")

    async def replace(ledger: MemoryLedger, job_id: str) -> None:
        await settle_as_not_taken(ledger, job_id)
        record = await ledger.find(job_id)
        assert record is not None
        await ledger.plan(
            evolve(record, id="new", request=edited, fingerprint="other"), replace=True
        )

    ledger, service = freezing(replace), Service(scenario())
    async with Session("sk-test", ledger=ledger, transport=DirectTransport(service)) as session:
        with pytest.raises(InvalidRequestError, match="another request meanwhile"):
            await session.submit(BOAT, key=KEY)
        found = await ledger.find_key(None, KEY)
        assert found is not None
        assert (found.request, found.status) == (edited, JobStatus.PLANNED)
    assert service.truth.creates_seen == 0
