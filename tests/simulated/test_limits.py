"""Sessions with rate limits, stated and unknown, over HTTP on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from aivideo import Outcome, RateLimit, Session, SessionStatistics, Sora2, Succeeded
from aivideo.simulator import FixedWindow, JobsCap, Scenario, SlidingWindow, TokenBucket, serve

pytestmark = pytest.mark.anyio


def boats(count: int) -> Iterator[Sora2]:
    return (Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count))


async def run(
    limit: Any, count: int, *, task_seconds: float = 60.0, **settings: Any
) -> tuple[float, SessionStatistics, list[Outcome]]:
    """Generate ``count`` clips. Return virtual seconds, session statistics and outcomes."""
    scenario = Scenario(rate_limit=limit, task_seconds=task_seconds, media="stub", seed=5)
    loop = asyncio.get_running_loop()
    async with (
        serve(scenario) as simulator,
        Session("sk-x", base_url=simulator.url, **settings) as session,
    ):
        start = loop.time()
        outcomes = [outcome async for outcome in session.generate_many(boats(count))]
        assert simulator.truth.creates_taken == count
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
        return loop.time() - start, session.statistics(), outcomes


async def test_an_unknown_cap_on_running_jobs_is_learned() -> None:
    took, seen, _ = await run(JobsCap(20), 100)
    assert took <= 1.12 * 100 / 20 * 60
    assert seen.limiter.create_limit == "cap"
    assert seen.limiter.running_jobs_cap in (20, 21)
    assert seen.limiter.rejected <= 40


async def test_with_a_stated_cap_on_running_jobs_no_create_is_rejected() -> None:
    took, seen, _ = await run(JobsCap(20), 100, max_running_jobs=20)
    assert took <= 1.12 * 100 / 20 * 60
    assert seen.limiter.rejected == 0


@pytest.mark.parametrize(
    ("limit", "stated"),
    [
        (TokenBucket(20, 5), RateLimit.bucket(20, burst=5)),
        (FixedWindow(20, 5), RateLimit.window(20, seconds=5)),
        (SlidingWindow(20, 5), RateLimit.window(20, seconds=5)),
    ],
)
async def test_with_a_stated_limit_no_create_or_poll_is_rejected(
    limit: Any, stated: RateLimit
) -> None:
    _, seen, _ = await run(limit, 100, rate_limit=stated)
    assert seen.limiter.rejected == 0


async def test_with_max_requests_per_minute_no_request_is_rejected() -> None:
    _, seen, _ = await run(TokenBucket(10, 10), 50, max_requests_per_minute=600)
    assert seen.limiter.rejected == 0


@pytest.mark.parametrize("limit", [TokenBucket(50, 10), FixedWindow(100, 5), SlidingWindow(50, 2)])
async def test_an_unknown_rate_limit_is_learned_and_no_job_fails(limit: Any) -> None:
    took, seen, _ = await run(limit, 300, task_seconds=30.0)
    # Creates and polls share the limit, which therefore determines the duration.
    requests = seen.limiter.accepted
    rate = limit.rate if isinstance(limit, TokenBucket) else limit.limit / limit.seconds
    assert took <= 1.25 * requests / rate + 45
    assert seen.limiter.rejected <= 0.25 * 300
