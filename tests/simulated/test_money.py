"""Nothing is paid twice, nothing that was taken is forgotten: over HTTP, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from aivideo import (
    APIConnectionError,
    BudgetExceededError,
    ConfigurationError,
    Failed,
    InsufficientCreditsError,
    InternalServerError,
    InvalidRequestError,
    JobStatus,
    LedgerError,
    Outcome,
    Session,
    SessionClosedError,
    Sora2,
    SpendLimitError,
    SubmitUnknownError,
    Succeeded,
    TaskFailedError,
    UpstreamError,
    WaitTimeoutError,
)
from aivideo._api.transport import Incoming
from aivideo._api.wire import Answer
from aivideo.simulator import (
    Endpoint,
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


def nth(fault: str) -> Faults:
    """``fault`` for the first create."""
    fields: dict[str, Any] = {f"create_{fault}": Nth(1)}
    return evolve(Faults(), **fields)


def scenario(**settings: object) -> Scenario:
    return Scenario(**{"task_seconds": 60.0, "media": "stub", "seed": 5, **settings})  # type: ignore[arg-type]


UNKNOWN = [
    "cut_before",  # a byte was written: the client cannot tell
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
async def test_a_create_of_unknown_fate_is_never_sent_again(fault: str) -> None:
    async with serve(scenario(faults=nth(fault))) as sim:
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
async def test_a_server_error_ends_the_job_and_holds_its_credits(
    fault: str, error: type[Exception]
) -> None:
    async with serve(scenario(faults=nth(fault))) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            with pytest.raises(error):
                await session.generate(BOAT)
            assert session.statistics().credits.unknown == 100
            await asyncio.sleep(600)
        assert sim.truth.creates_seen == 1


async def test_a_server_error_is_sent_again_only_by_leave() -> None:
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


async def test_closing_waits_for_the_verdict_of_a_post_under_way() -> None:
    async with serve(scenario(latency=10.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            job = await session.enqueue(BOAT)
            await asyncio.sleep(5)
        assert job.task_id in sim.truth.tasks
        with pytest.raises(SessionClosedError) as caught:
            await job
        assert caught.value.job is job


async def test_closing_goes_on_when_its_caller_is_cancelled() -> None:
    async with serve(scenario(latency=10.0)) as sim:
        before = asyncio.all_tasks()
        session = Session("sk-test", base_url=sim.url)
        job = await session.enqueue(BOAT)
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.aclose(), 2)
        await session.aclose()  # whoever asks again waits for the same
        assert job.task_id in sim.truth.tasks
        assert not {
            task for task in asyncio.all_tasks() - before if "aivideo/sim" not in repr(task)
        }


async def test_draining_waits_for_posts_and_not_for_jobs_that_must_wait() -> None:
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
        purchase, full = session._engine._purchase, LedgerError("the disk is full")
        spent = SpendLimitError("reached", status=429, code="spend_limit_exceeded")
        purchase.close_gate(full)
        purchase.close_gate(spent)
        purchase.reopen_gate()
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


async def test_a_ceiling_is_exact_under_concurrency_and_freed_by_refunds() -> None:
    async with (
        serve(scenario(failure_rate=1.0)) as sim,
        Session("sk-test", base_url=sim.url, max_credits=350) as session,
    ):
        jobs = await asyncio.gather(*(session.enqueue(boat) for boat in boats(10)))
        ends = await asyncio.gather(*jobs, return_exceptions=True)
        kinds = [type(end) for end in ends]
        assert kinds.count(TaskFailedError) == 3
        assert kinds.count(BudgetExceededError) == 7
        assert sim.truth.creates_taken == 3
        await session.submit(BOAT)  # what failed was refunded, and is free again


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


async def test_a_key_is_one_job_however_often_it_is_submitted() -> None:
    async with serve(scenario()) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            first, second = await asyncio.gather(
                session.submit(BOAT, key="boat"), session.submit(BOAT, key="boat")
            )
            assert first is second
            with pytest.raises(InvalidRequestError):
                await session.submit(boats(1)[0], key="boat")
        assert sim.truth.creates_seen == 1


async def test_blips_while_polling_never_lose_a_job() -> None:
    faults = Faults(
        poll_reset=0.1,
        poll_malformed=0.1,
        poll_html_502=0.1,
        poll_internal_error=0.1,
        poll_truncated=0.1,
    )
    async with serve(scenario(faults=faults, not_found_for=5.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            outcomes = [outcome async for outcome in session.generate_many(boats(40))]
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
        assert sim.truth.creates_seen == 40


async def test_waiting_less_long_is_not_losing() -> None:
    async with serve(scenario()) as sim, Session("sk-test", base_url=sim.url) as session:
        job = await session.submit(BOAT)
        with pytest.raises(WaitTimeoutError) as caught:
            await job.result(wait_timeout=1)
        assert caught.value.job is job
        leaver, stayer = asyncio.create_task(job.result()), asyncio.create_task(job.result())
        await asyncio.sleep(1)
        leaver.cancel()
        assert (await stayer).id == job.task_id
        assert (await session.job(stayer.result().id)).id == job.task_id


async def test_many_are_read_lazily_and_a_slow_consumer_holds_them_back() -> None:
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
            assert read == before, "nobody takes the outcomes, so nothing more is submitted"
            await outcomes.aclose()
            await asyncio.sleep(600)
            assert read == before
        assert sim.truth.creates_taken <= read


async def test_leaving_early_submits_nothing_more_and_leaves_no_task_behind() -> None:
    async with serve(scenario(latency=0.2)) as sim:
        before = asyncio.all_tasks()
        async with Session("sk-test", base_url=sim.url, max_requests_in_flight=4) as session:
            outcomes = session.generate_many(boats(500))
            async for _ in outcomes:
                break
            await outcomes.aclose()
            taken = sim.truth.creates_taken
            await asyncio.sleep(600)
            assert sim.truth.creates_taken - taken <= 4, "only what was under way"
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        assert not {task for task in left if "aivideo/simulator" not in repr(task)}


async def test_a_session_that_closes_under_a_download_tells_of_it(tmp_path: Path) -> None:
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


async def test_an_iterable_that_breaks_loses_nothing_that_was_submitted() -> None:
    def broken() -> Iterator[Sora2]:
        yield from boats(3)
        raise RuntimeError("the caller's own")

    async with serve(scenario()) as sim, Session("sk-test", base_url=sim.url) as session:
        heard: list[Outcome] = []

        async def hear() -> None:
            async for outcome in session.generate_many(broken()):
                heard.append(outcome)  # noqa: PERF401  what was heard before it raised

        with pytest.raises(RuntimeError, match="the caller's own"):
            await hear()
        assert len(heard) == 3
        assert sim.truth.creates_taken == 3


async def test_a_save_to_that_raises_is_raised_when_the_others_have_ended(tmp_path: Path) -> None:
    def place(index: int, _: object) -> Path:
        if index == 1:
            raise KeyError("no place for it")
        return tmp_path / f"{index}.mp4"

    outcomes: list[Outcome] = []
    async with Session("sk-test", transport=DirectTransport(Service(scenario()))) as session:

        async def collect() -> None:
            async for outcome in session.generate_many(boats(3), save_to=place):
                outcomes.append(outcome)  # noqa: PERF401  what came before it raised

        with pytest.raises(KeyError, match="no place for it"):
            await collect()
    assert {outcome.index for outcome in outcomes} == {0, 2}


async def test_files_are_whole_and_the_key_stays_with_the_api(tmp_path: Path) -> None:
    faults = Faults(download_cut=Nth(1, 3), download_ignore_range=Nth(2), download_html_502=Nth(5))
    async with serve(scenario(media="mp4", faults=faults)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            outcomes = [o async for o in session.generate_many(boats(4), save_to=tmp_path)]
        assert all(isinstance(outcome, Succeeded) for outcome in outcomes)
        files = sorted(tmp_path.iterdir())
        assert len(files) == 4
        assert all(file.read_bytes()[4:8] == b"ftyp" for file in files)
        assert all(file.read_bytes() for file in files)
        assert sim.truth.keys_at_results == 0


async def test_slow_creates_never_meet_a_connection_that_is_being_closed() -> None:
    async with serve(scenario(idle_close=5.0)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            for boat in boats(1000):
                await session.submit(boat)
                await asyncio.sleep(7)
            assert session.statistics().credits.unknown == 0
        assert sim.truth.creates_taken == 1000


@pytest.mark.parametrize("settings", [{"batch": ""}, {"key": str}, {"retry_failed": True}])
async def test_a_batch_without_a_name_is_refused_before_anything_is_read(
    settings: dict[str, Any],
) -> None:
    async with Session("sk-test", base_url="http://127.0.0.1:9") as session:
        with pytest.raises(ConfigurationError, match="batch"):
            await anext(session.generate_many(iter([BOAT]), **settings))


async def test_a_close_ends_a_download_that_is_tried_again_and_tells_whoever_saves(
    tmp_path: Path,
) -> None:
    faults = Faults(download_html_502=1.0)
    async with serve(scenario(faults=faults)) as sim:
        async with Session("sk-test", base_url=sim.url) as session:
            job = await session.submit(BOAT)
            await job
            saving = asyncio.create_task(job.save(tmp_path / "boat.mp4"))
            await asyncio.sleep(1.0)  # a try has failed, and the next one waits
        done, _ = await asyncio.wait([saving], timeout=0.5)
        assert done, "it does not try on for a session that is closed"
        assert isinstance(saving.exception(), SessionClosedError)
        assert list(tmp_path.iterdir()) == []


async def test_who_is_cancelled_while_saving_is_cancelled_and_leaves_no_half_file(
    tmp_path: Path,
) -> None:
    faults = Faults(download_html_502=1.0)
    async with (
        serve(scenario(faults=faults)) as sim,
        Session("sk-test", base_url=sim.url) as session,
    ):
        job = await session.submit(BOAT)
        await job
        saving = asyncio.create_task(job.save(tmp_path / "boat.mp4"))
        await asyncio.sleep(1.0)
        saving.cancel()
        await asyncio.wait([saving])
        assert saving.cancelled()
        assert not session._engine.saving
        assert list(tmp_path.iterdir()) == []
