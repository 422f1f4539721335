from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from attrs import define
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aivideo._pacing.limiter import GateClosed, Limiter, Permit
from aivideo._pacing.turns import RequestKind
from aivideo.errors import SpendLimitError
from aivideo.settings import RateLimit
from aivideo.simulator import FixedWindow, SlidingWindow, TokenBucket
from aivideo.testing import VirtualTimeLoop
from tests.pacing.servers import ideal

pytestmark = pytest.mark.anyio

CREATE, POLL = RequestKind.CREATE, RequestKind.POLL


def now() -> float:
    return asyncio.get_running_loop().time()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def granted(limiter: Limiter, kind: RequestKind, order: list[Any], name: object) -> Permit:
    permit = await limiter.acquire(kind)
    order.append(name)
    return permit


async def test_three_creates_are_granted_per_poll_while_both_wait() -> None:
    limiter = Limiter(max_in_flight=1, rate_limit=RateLimit.bucket(1000, burst=1000))
    held = await limiter.acquire(CREATE)
    order: list[str] = []

    async def one(kind: RequestKind) -> None:
        permit = await granted(limiter, kind, order, kind.value[0])
        permit.accepted()

    waiting = [asyncio.create_task(one(kind)) for kind in [CREATE] * 9 + [POLL] * 9]
    await settle()
    held.accepted()
    await asyncio.gather(*waiting)
    assert "".join(order) == "cccpcccpcccp" + "pppppp"


async def test_creates_are_granted_in_order_of_arrival() -> None:
    limiter = Limiter(rate_limit=RateLimit.bucket(10, burst=1))
    order: list[int] = []
    waiting = [asyncio.create_task(granted(limiter, CREATE, order, n)) for n in range(8)]
    await asyncio.wait(waiting[:1])
    for task in waiting:
        (await task).accepted()
    assert order == [*range(8)]


async def test_max_in_flight_is_never_exceeded() -> None:
    limiter = Limiter(max_in_flight=3, rate_limit=RateLimit.bucket(1000, burst=1000))
    permits = [await limiter.acquire(POLL) for _ in range(3)]
    fourth = asyncio.create_task(limiter.acquire(POLL))
    await asyncio.sleep(10)
    assert not fourth.done()
    permits[0].accepted()
    assert (await fourth) is not None
    assert limiter.statistics().in_flight == 3


async def test_a_cancelled_waiter_has_no_effect() -> None:
    limiter = Limiter(max_in_flight=1, rate_limit=RateLimit.bucket(1000, burst=1000))
    held = await limiter.acquire(CREATE)
    order: list[str] = []
    tasks = [asyncio.create_task(granted(limiter, CREATE, order, name)) for name in "abc"]
    await settle()
    tasks[0].cancel()
    await settle()
    assert limiter.statistics().waiting_creates == 2
    held.accepted()
    tasks[1].cancel()  # granted, but its task has not run yet
    await settle()
    (await tasks[2]).accepted()
    assert order == ["c"]
    assert limiter.statistics().in_flight == 0


async def test_a_cancelled_delayed_waiter_has_no_effect() -> None:
    limiter = Limiter(rate_limit=RateLimit.bucket(1000, burst=1000))
    tasks = [asyncio.create_task(limiter.acquire(CREATE, retry_after=3000.0)) for _ in range(3)]
    await settle()
    tasks[1].cancel()
    await settle()
    assert limiter.statistics().waiting_creates == 2
    tasks[0].cancel()
    tasks[2].cancel()
    await settle()
    assert limiter.statistics().waiting_creates == 0


async def test_an_unused_permit_goes_to_the_next_waiter() -> None:
    """A waiter cancelled just when it was granted uses no place of a stated window."""
    limiter = Limiter(max_in_flight=1, rate_limit=RateLimit.window(3, seconds=60))
    for _ in range(2):
        held = await limiter.acquire(POLL)
        waiting = asyncio.create_task(limiter.acquire(CREATE))
        await settle()
        held.unused()
        waiting.cancel()
        await settle()
        assert waiting.cancelled()
    for _ in range(3):
        (await limiter.acquire(CREATE)).accepted()
    assert now() < 1.0
    learned = Limiter()
    (await learned.acquire(POLL)).unused()
    before = now()
    (await learned.acquire(POLL)).accepted()
    assert now() == before


async def test_an_unused_probe_is_followed_by_another() -> None:
    limiter = Limiter(draw=lambda: 0.0)
    (await limiter.acquire(CREATE)).rejected(10.0)
    (await limiter.acquire(CREATE)).unused()
    began = now()
    (await limiter.acquire(CREATE)).accepted()
    assert now() - began < 1.0


Arrival = tuple[RequestKind, float, float, list[float | None], float | None, float]
"""Kind, arrival time, seconds to its answer, rejections, cancellation time, seconds of its job."""


@define
class Scenario:
    """Requests that arrive, are rejected and cancelled, while the limits of the limiter hold."""

    limiter: Limiter
    max_in_flight: int
    max_running_jobs: int | None
    in_use: int = 0
    running: int = 0

    async def send(self, arrival: Arrival) -> str:
        """Send one request until it is accepted, then run its job; return how it ended."""
        kind, arrives_at, takes, rejections, _, job_seconds = arrival
        await asyncio.sleep(arrives_at)
        asked: float | None = None
        for rejection in rejections:
            try:
                permit = await self.permit(kind, asked, takes)
            except GateClosed:
                return "closed"
            permit.rejected(rejection)
            self.running -= kind is CREATE
            asked = rejection or 0.0
        try:
            permit = await self.permit(kind, asked, takes)
        except GateClosed:
            return "closed"
        permit.accepted(job_taken=kind is CREATE)
        if kind is CREATE:
            await asyncio.shield(self.run_job(job_seconds))
        return "served"

    async def permit(self, kind: RequestKind, asked: float | None, takes: float) -> Permit:
        """Acquire a permit and wait for the answer."""
        permit = await self.limiter.acquire(kind, retry_after=asked)
        self.in_use += 1
        self.running += kind is CREATE
        assert self.in_use <= self.limiter.statistics().in_flight <= self.max_in_flight
        assert self.max_running_jobs is None or self.running <= self.max_running_jobs
        try:
            await asyncio.sleep(takes)
        except asyncio.CancelledError:
            permit.lost()
            self.running -= kind is CREATE
            raise
        finally:
            self.in_use -= 1
        return permit

    async def run_job(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.running -= 1
        self.limiter.job_ended()

    async def close_creates(self, at: float, seconds: float) -> None:
        await asyncio.sleep(at)
        self.limiter.close_creates(SpendLimitError("cap", status=429))
        await asyncio.sleep(seconds)
        self.limiter.open_creates()

    async def run(self, arrivals: list[Arrival], gate: tuple[float, float] | None) -> None:
        loop = asyncio.get_running_loop()
        tasks = []
        for arrival in arrivals:
            tasks.append(asyncio.create_task(self.send(arrival)))
            if arrival[4] is not None:
                loop.call_later(arrival[4], tasks[-1].cancel)
        closing = None if gate is None else asyncio.create_task(self.close_creates(*gate))
        # No waiter starves, though each may be held for an hour.
        async with asyncio.timeout(200_000):
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            if closing is not None:
                await closing
        for end, (kind, *_, cancel_at, _job) in zip(ends, arrivals, strict=True):
            if end == "closed":
                assert kind is CREATE
                assert gate is not None
            elif end != "served":
                assert isinstance(end, asyncio.CancelledError), end
                assert cancel_at is not None
        await asyncio.sleep(100)  # jobs of cancelled tasks end too

    async def check_is_empty(self) -> None:
        after = self.limiter.statistics()
        assert (after.in_flight, after.waiting_creates, after.waiting_polls) == (0, 0, 0)
        assert after.running_jobs == 0
        for _ in range(self.max_in_flight):  # all permits are available again
            for kind in (CREATE, POLL):
                async with asyncio.timeout(10_000):
                    (await self.limiter.acquire(kind)).accepted()


@settings(deadline=None, max_examples=80, phases=(Phase.explicit, Phase.generate))
@given(
    st.lists(
        st.tuples(
            st.sampled_from([CREATE, CREATE, POLL]),
            st.floats(0, 20),  # when it arrives
            st.floats(0, 2),  # seconds until its answer
            st.lists(st.none() | st.sampled_from([0.0, 1.0, 2.5, 7.0, -1.0, 1e12]), max_size=3),
            st.none() | st.floats(0, 30),  # when it is cancelled
            st.floats(0, 20),  # seconds for which its job runs
        ),
        max_size=30,
    ),
    st.integers(1, 5),
    st.none() | st.integers(1, 3),
    st.sampled_from([None, RateLimit.bucket(5, burst=2), RateLimit.window(4, seconds=3)]),
    st.none() | st.tuples(st.floats(0, 20), st.floats(0, 20)),
)
def test_all_remaining_waiters_are_served_and_the_limiter_is_empty_afterwards(
    arrivals: list[Arrival],
    in_flight: int,
    running: int | None,
    stated: RateLimit | None,
    gate: tuple[float, float] | None,
) -> None:
    """Random arrivals, cancellations and rejections, with caps and creates closed for a while."""

    async def main() -> None:
        limiter = Limiter(
            max_in_flight=in_flight,
            max_running_jobs=running,
            rate_limit=stated,
            draw=lambda: 0.5,
        )
        scenario = Scenario(limiter, in_flight, running)
        await scenario.run(arrivals, gate)
        await scenario.check_is_empty()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([CREATE, POLL]),
            st.floats(0, 3),  # when it arrives
            st.floats(0, 2),  # seconds until its answer
            st.sampled_from(["accepted", "rejected", "lost", "unused", "cancel"]),
            st.floats(0, 4),  # when it is cancelled, if it is
        ),
        max_size=25,
    ),
    st.integers(1, 4),
    st.booleans(),
)
def test_no_permit_is_lost_and_no_waiter_starves(
    arrivals: list[tuple[RequestKind, float, float, str, float]], in_flight: int, stated: bool
) -> None:
    async def main() -> None:
        limiter = Limiter(
            max_in_flight=in_flight,
            rate_limit=RateLimit.bucket(20, burst=3) if stated else None,
            draw=lambda: 0.5,
        )
        most = 0

        async def one(kind: RequestKind, at: float, takes: float, end: str) -> None:
            nonlocal most
            await asyncio.sleep(at)
            while True:
                permit = await limiter.acquire(kind)
                try:
                    most = max(most, limiter.statistics().in_flight)
                    await asyncio.sleep(takes)
                except asyncio.CancelledError:
                    permit.lost()
                    raise
                if end == "rejected":
                    permit.rejected(None)
                    end = "accepted"
                    continue
                getattr(permit, "accepted" if end == "cancel" else end)()
                return

        async def cancelled(task: asyncio.Task[None], at: float) -> None:
            await asyncio.sleep(at)
            task.cancel()

        tasks = []
        for kind, at, takes, end, cancel_at in arrivals:
            tasks.append(asyncio.create_task(one(kind, at, takes, end)))
            if end == "cancel":
                tasks.append(asyncio.create_task(cancelled(tasks[-1], cancel_at)))
        async with asyncio.timeout(3600):  # no waiter starves
            await asyncio.gather(*tasks, return_exceptions=True)
        after = limiter.statistics()
        assert (after.in_flight, after.waiting_creates, after.waiting_polls) == (0, 0, 0)
        assert most <= in_flight
        for kind in (CREATE, POLL):  # permits are available again
            async with asyncio.timeout(3600):
                (await limiter.acquire(kind)).accepted()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


async def test_closed_creates_raise_the_error_while_polls_are_granted() -> None:
    limiter = Limiter(rate_limit=RateLimit.bucket(1, burst=1))
    (await limiter.acquire(POLL)).accepted()
    waiting = asyncio.create_task(limiter.acquire(CREATE))
    later = asyncio.create_task(limiter.acquire(CREATE, retry_after=100.0))
    await settle()
    error = SpendLimitError("cap", status=429)
    limiter.close_creates(error)
    assert limiter.statistics().waiting_creates == 0
    for task in (waiting, later, asyncio.create_task(limiter.acquire(CREATE))):
        with pytest.raises(GateClosed) as caught:
            await task
        assert caught.value.error is error
    (await limiter.acquire(POLL)).accepted()
    pace = limiter.statistics().pace
    limiter.open_creates()
    (await limiter.acquire(CREATE)).accepted()
    assert limiter.statistics().pace == pace  # closing creates does not change the pace


async def test_a_retry_after_of_one_second_delays_only_the_rejected_request() -> None:
    limiter = Limiter(draw=lambda: 0.0)
    for _ in range(8):  # ramp up over a few answers
        permit = await limiter.acquire(CREATE)
        await asyncio.sleep(0.05)
        permit.accepted()
    rejected = await limiter.acquire(CREATE)
    await asyncio.sleep(0.05)
    began = now()
    rejected.rejected(1.0)
    again = asyncio.create_task(limiter.acquire(CREATE, retry_after=1.0))
    other = await limiter.acquire(CREATE)
    assert now() - began < 0.9
    await asyncio.sleep(0.05)
    other.accepted()
    (await again).accepted()
    assert now() - began >= 1.0


@pytest.mark.parametrize("asked", [2.0, 30.0, 3600.0, 10**9])
async def test_a_retry_after_of_two_seconds_or_more_holds_all_requests_for_an_hour_at_most(
    asked: float,
) -> None:
    limiter = Limiter(draw=lambda: 0.0)
    permit = await limiter.acquire(CREATE)
    began = now()
    permit.rejected(asked)
    probes = [asyncio.create_task(limiter.acquire(kind)) for kind in (CREATE, POLL, CREATE)]
    done, waiting = await asyncio.wait(probes, return_when=asyncio.FIRST_COMPLETED)
    assert now() - began == pytest.approx(min(asked, 3600.0), rel=0.03)
    assert len(done) == 1  # one probe, and nothing else until it is answered
    await asyncio.sleep(50)
    assert all(not task.done() for task in waiting)
    done.pop().result().accepted()
    for task in waiting:
        (await task).accepted()


async def test_a_probe_is_of_the_rejected_kind_and_a_poll_if_both_were_rejected() -> None:
    for rejected, expected in (([CREATE], CREATE), ([POLL], POLL), ([CREATE, POLL], POLL)):
        limiter = Limiter(draw=lambda: 0.0)
        permits = [await limiter.acquire(kind) for kind in rejected]
        for permit in permits:
            permit.rejected(5.0)
        order: list[RequestKind] = []
        tasks = [
            asyncio.create_task(granted(limiter, kind, order, kind)) for kind in (CREATE, POLL)
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert order == [expected]
        for task in tasks:
            task.cancel()
        await settle()


@pytest.mark.parametrize("creates", [0, 10, 50, 90, 100])
@pytest.mark.parametrize(
    ("limit", "stated"),
    [
        (TokenBucket(50, 10), RateLimit.bucket(50, burst=10)),
        (TokenBucket(3, 2), RateLimit.bucket(3, burst=2)),
        (FixedWindow(20, 10), RateLimit.window(20, seconds=10)),
        (SlidingWindow(13, 17), RateLimit.window(13, seconds=17)),
    ],
)
async def test_any_mix_of_creates_and_polls_fully_uses_a_stated_limit_without_rejections(
    limit: TokenBucket | FixedWindow | SlidingWindow, stated: RateLimit, creates: int
) -> None:
    limiter, server, draw = Limiter(rate_limit=stated), limit.start(), random.Random(creates)
    seconds = 10.0 if isinstance(limit, TokenBucket) else limit.seconds
    await asyncio.sleep(seconds - now() % seconds)  # the phase of a window is not stated
    began = now()

    async def one(kind: RequestKind) -> None:
        permit = await limiter.acquire(kind)
        await asyncio.sleep(0.02 * draw.uniform(0.8, 1.2))
        assert not server.take(now())
        await asyncio.sleep(0.02 * draw.uniform(0.8, 1.2))
        permit.accepted()

    kinds = [CREATE] * creates + [POLL] * (100 - creates)
    draw.shuffle(kinds)
    await asyncio.gather(*(one(kind) for kind in kinds))
    assert now() - began <= 1.02 * ideal(limit, 100, began, 0.04)


async def test_rejections_of_an_earlier_hold_do_not_affect_the_next_one() -> None:
    limiter = Limiter(draw=lambda: 0.0)
    (await limiter.acquire(POLL)).rejected(5.0)
    (await limiter.acquire(POLL)).accepted()
    permit = await limiter.acquire(CREATE)
    await asyncio.sleep(1.0)
    permit.rejected(5.0)
    order: list[RequestKind] = []
    tasks = [asyncio.create_task(granted(limiter, kind, order, kind)) for kind in (POLL, CREATE)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert order == [CREATE]  # the poll was rejected in the hold before
    for task in tasks:
        task.cancel()
    await settle()


async def test_a_delayed_create_is_first_in_the_queue_afterwards() -> None:
    limiter = Limiter(max_in_flight=1, rate_limit=RateLimit.bucket(1000, burst=1000))
    held = await limiter.acquire(CREATE)
    order: list[str] = []

    async def one(name: str, retry_after: float | None) -> None:
        permit = await limiter.acquire(CREATE, retry_after=retry_after)
        order.append(name)
        permit.accepted()

    tasks = [asyncio.create_task(one(name, None)) for name in "ab"]
    tasks.append(asyncio.create_task(one("rejected before", 3.0)))
    await asyncio.sleep(5.0)
    held.accepted()
    await asyncio.gather(*tasks)
    assert order == ["rejected before", "a", "b"]


async def test_a_waiter_cancelled_just_before_a_grant_is_skipped() -> None:
    limiter = Limiter(max_in_flight=1, rate_limit=RateLimit.bucket(1000, burst=1000))
    held = await limiter.acquire(CREATE)
    tasks = [asyncio.create_task(limiter.acquire(CREATE)) for _ in range(2)]
    await settle()
    tasks[0].cancel()  # its task has not run yet, so it is still in the queue
    held.accepted()
    (await tasks[1]).accepted()
    assert tasks[0].cancelled()
    assert limiter.statistics().in_flight == 0


async def test_under_a_learned_cap_a_job_that_ends_admits_the_next_create() -> None:
    limiter = Limiter(draw=lambda: 0.0)
    (await limiter.acquire(CREATE)).accepted(job_taken=True)
    while (
        limiter.statistics().create_limit == "none"
    ):  # rejected repeatedly while polls are accepted
        create = await limiter.acquire(CREATE)
        await asyncio.sleep(0.1)
        create.rejected()
        await asyncio.sleep(0.1)
        (await limiter.acquire(POLL)).accepted()
        await asyncio.sleep(0.1)
    assert limiter.statistics().create_limit == "unsure"
    waiting = asyncio.create_task(limiter.acquire(CREATE))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    limiter.job_ended()
    async with asyncio.timeout(0.5):  # by time alone it would take two seconds
        (await waiting).accepted(job_taken=True)


async def test_max_running_jobs_is_never_exceeded() -> None:
    limiter = Limiter(max_running_jobs=2, rate_limit=RateLimit.bucket(1000, burst=1000))
    for _ in range(2):
        (await limiter.acquire(CREATE)).accepted(job_taken=True)
    third = asyncio.create_task(limiter.acquire(CREATE))
    (await limiter.acquire(POLL)).accepted()
    await asyncio.sleep(1000)
    assert not third.done()
    limiter.job_ended()
    (await third).accepted(job_taken=True)
    assert limiter.statistics().running_jobs == 2
