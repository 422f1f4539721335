"""generate_many: lazy input, outcomes as they end, and early exit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aivideo import (
    ConfigurationError,
    Failed,
    InvalidRequestError,
    JobWithdrawnError,
    MemoryLedger,
    Outcome,
    Session,
    SessionClosedError,
    Sora2,
    Succeeded,
)
from aivideo._api.transport import Incoming
from aivideo.ledger.events import Withdrawn
from aivideo.ledger.records import JobRecord
from aivideo.models import fingerprint
from aivideo.simulator import (
    Scenario,
    Service,
    serve,
)
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio


BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


async def test_requests_are_read_lazily_and_a_slow_consumer_applies_backpressure() -> None:
    read = 0

    def endless() -> Iterator[Sora2]:
        nonlocal read
        while True:
            read += 1
            yield Sora2(f"Boat {read}", duration=4, aspect_ratio="16:9")

    async with serve(scenario(task_seconds=5.0, latency=0.2)) as sim:
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=8) as session:
            outcomes = session.generate_many(endless())
            await anext(outcomes)
            await asyncio.sleep(600)
            before = read
            await asyncio.sleep(600)
            assert read == before, "outcomes are not consumed, so nothing more is submitted"
            await outcomes.aclose()
            await asyncio.sleep(600)
            assert read == before
        assert sim.truth.creates_taken <= read


async def test_an_early_exit_submits_nothing_more_and_leaves_no_asyncio_task() -> None:
    async with serve(scenario(latency=0.2)) as sim:
        before = asyncio.all_tasks()
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=4) as session:
            outcomes = session.generate_many(boats(500))
            async for _ in outcomes:
                break
            await outcomes.aclose()
            taken = sim.truth.creates_taken
            await asyncio.sleep(600)
            assert sim.truth.creates_taken - taken <= 4, "only requests that were in flight"
        await asyncio.sleep(0)
        remaining = asyncio.all_tasks() - before
        assert not {task for task in remaining if "aivideo/simulator" not in repr(task)}


async def test_an_iterable_that_raises_loses_no_submitted_job() -> None:
    def broken() -> Iterator[Sora2]:
        yield from boats(3)
        raise RuntimeError("an error of the caller")

    async with serve(scenario()) as sim, Session("sk-test", base_url=sim.url) as session:
        outcomes: list[Outcome] = []

        async def collect() -> None:
            async for outcome in session.generate_many(broken()):
                outcomes.append(outcome)  # noqa: PERF401  keeps the outcomes before the error

        with pytest.raises(RuntimeError, match="an error of the caller"):
            await collect()
        assert len(outcomes) == 3
        assert sim.truth.creates_taken == 3


async def test_an_error_of_save_to_is_raised_after_the_other_jobs_have_ended(
    tmp_path: Path,
) -> None:
    def path_for(index: int, _: object) -> Path:
        if index == 1:
            raise KeyError("no path")
        return tmp_path / f"{index}.mp4"

    outcomes: list[Outcome] = []
    async with Session("sk-test", transport=DirectTransport(Service(scenario()))) as session:

        async def collect() -> None:
            async for outcome in session.generate_many(boats(3), save_to=path_for):
                outcomes.append(outcome)  # noqa: PERF401  keeps the outcomes before the error

        with pytest.raises(KeyError, match="no path"):
            await collect()
    assert {outcome.index for outcome in outcomes} == {0, 2}


@pytest.mark.parametrize(
    "settings", [{"batch": ""}, {"key": str}, {"retry_failed": True}, {"known_only": True}]
)
async def test_batch_options_without_a_batch_name_are_refused_before_any_request_is_read(
    settings: dict[str, Any],
) -> None:
    async with Session("sk-test", base_url="http://127.0.0.1:9") as session:
        with pytest.raises(ConfigurationError, match="batch"):
            await anext(session.generate_many(iter([BOAT]), **settings))


async def test_closing_a_session_during_downloads_gives_session_closed_errors(
    tmp_path: Path,
) -> None:
    class Slow(DirectTransport):
        @asynccontextmanager
        async def stream(
            self, url: str, headers: Mapping[str, str], timeout: float
        ) -> AsyncGenerator[Incoming]:
            await asyncio.sleep(1e6)
            async with super().stream(url, headers, timeout) as incoming:
                yield incoming

    session = Session("sk-test", transport=Slow(Service(scenario())))
    asyncio.get_running_loop().call_later(1000, lambda: closing.append(close()))
    closing: list[asyncio.Task[None]] = []

    def close() -> asyncio.Task[None]:
        return asyncio.create_task(session.aclose())

    outcomes = [o async for o in session.generate_many(boats(3), save_to=tmp_path)]
    assert len(outcomes) == 3
    errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failed)]
    assert [type(error) for error in errors] == [SessionClosedError] * 3
    await closing[0]


@pytest.mark.parametrize(
    ("happened", "error", "message"),
    [
        ("nothing", InvalidRequestError, "is not known"),
        ("another request", InvalidRequestError, "was used for another request"),
        ("withdrawn", JobWithdrawnError, "withdrawn"),
        ("planned", None, ""),
    ],
)
async def test_with_known_only_nothing_but_a_job_that_was_recorded_is_sent(
    happened: str, error: type[Exception] | None, message: str
) -> None:
    sold, ledger = Service(scenario()), MemoryLedger()
    (boat,) = boats(1)
    if happened != "nothing":
        request = BOAT if happened == "another request" else boat
        job = JobRecord(
            id="x", request=request, fingerprint=fingerprint(request), batch="b", key="k"
        )
        await ledger.plan(job)
    if happened == "withdrawn":
        await ledger.record("x", Withdrawn())
    async with Session("sk-test", transport=DirectTransport(sold), ledger=ledger) as session:
        outcomes = session.generate_many(
            [boat], batch="b", key=lambda index, request: "k", known_only=True
        )
        (outcome,) = [outcome async for outcome in outcomes]
    assert sold.truth.creates_seen == (error is None)
    if error is None:
        assert isinstance(outcome, Succeeded)
    else:
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, error)
        assert message in str(outcome.error)
