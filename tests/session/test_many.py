"""generate_many: lazy input, outcomes as they end, user code that raises, and early exit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from attrs import evolve

from aivideo import (
    BudgetExceededError,
    ConfigurationError,
    DownloadError,
    Failed,
    Generation,
    InternalServerError,
    InvalidRequestError,
    Job,
    JobStatus,
    JobWithdrawnError,
    MemoryLedger,
    Outcome,
    RateLimit,
    ResultExpiredError,
    Session,
    SessionClosedError,
    Sora2,
    SubmitUnknownError,
    Succeeded,
    TaskNotFoundError,
    UserCodeError,
)
from aivideo._api.transport import Incoming
from aivideo.ledger.events import Withdrawn
from aivideo.ledger.records import JobRecord
from aivideo.ledger.totals import CreditTotals
from aivideo.models import fingerprint
from aivideo.simulator import (
    Faults,
    Nth,
    Scenario,
    Service,
    serve,
)
from aivideo.testing import DirectTransport

pytestmark = pytest.mark.anyio


BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def boats(count: int) -> list[Sora2]:
    return [Sora2(f"Boat {n}", duration=4, aspect_ratio="16:9") for n in range(count)]


def repr_of_type(value: object) -> str:
    return type(value).__name__


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


async def test_an_early_exit_does_not_send_a_job_that_two_of_its_requests_share() -> None:
    sold = Service(scenario(latency=0.2))
    slow = RateLimit.window(1, seconds=1000)
    async with session_of(sold, rate_limit=slow) as session:
        outcomes = session.generate_many(
            [*boats(1), BOAT, BOAT], batch="boats", key=lambda _, request: request.input["prompt"]
        )
        waiting = asyncio.ensure_future(anext(outcomes))
        await asyncio.sleep(10)
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.sleep(5000)
    assert sold.truth.creates_seen == 1


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


class BadReprError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


ERRORS = [KeyError("no path"), StopIteration(), asyncio.CancelledError(), BadReprError()]
EXITS = [SystemExit(3), KeyboardInterrupt()]


def session_of(sold: Service, **settings: Any) -> Session:
    return Session("sk-test", transport=DirectTransport(sold), **settings)


async def outcomes_and_error(
    outcomes: AsyncIterator[Outcome],
) -> tuple[dict[int, Outcome], BaseException | None]:
    """Return the outcomes by index, and what was raised after the last one."""
    ended: dict[int, Outcome] = {}
    try:
        async for outcome in outcomes:
            ended[outcome.index] = outcome
    except BaseException as error:
        return ended, error
    return ended, None


def user_code_error(outcome: Outcome) -> UserCodeError:
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, UserCodeError)
    assert outcome.error.index == outcome.index
    return outcome.error


@pytest.mark.parametrize("raised", ERRORS, ids=repr_of_type)
@pytest.mark.parametrize("batch", [None, "boats"])
async def test_a_job_whose_on_job_raises_is_not_sent_and_the_others_go_on(
    raised: BaseException, batch: str | None
) -> None:
    def on_job(job: Job) -> None:
        told.append(job)
        if job.index == 1:
            raise raised

    told: list[Job] = []
    sold, ledger = Service(scenario(latency=0.2)), MemoryLedger()
    async with session_of(sold, ledger=ledger) as session:
        ended, error = await outcomes_and_error(
            session.generate_many(boats(5), batch=batch, on_job=on_job)
        )
        assert error is None
        assert [*sorted(ended)] == [*range(5)]
        failed = user_code_error(ended[1])
        assert failed.function == "on_job"
        assert failed.__cause__ is raised
        assert failed.job is told[1]
        assert (failed.task_id, ended[1].task_id) == (None, None)  # type: ignore[union-attr]
        assert all(text in str(failed) for text in ("on_job", told[1].id, type(raised).__name__))
        assert [isinstance(ended[n], Succeeded) for n in (0, 2, 3, 4)] == [True] * 4
        assert sold.truth.creates_seen == 4
        record = await ledger.find(told[1].id)
        assert record is not None
        assert record.status is (JobStatus.WITHDRAWN if batch is None else JobStatus.PLANNED)
        if batch is not None:  # the next run of the batch sends what this one did not
            again, error = await outcomes_and_error(session.generate_many(boats(5), batch=batch))
            assert error is None
            assert all(isinstance(outcome, Succeeded) for outcome in again.values())
            assert sold.truth.creates_seen == 5


@pytest.mark.parametrize("raised", EXITS, ids=repr_of_type)
async def test_an_exit_in_on_job_is_raised_after_all_that_was_submitted_has_ended(
    raised: BaseException,
) -> None:
    def on_job(job: Job) -> None:
        if job.index == 2:
            raise raised

    read: list[int] = []

    def requests() -> Iterator[Sora2]:
        for n, boat in enumerate(boats(50)):
            read.append(n)
            yield boat

    sold = Service(scenario(latency=1.0))
    async with session_of(sold) as session:
        ended, error = await outcomes_and_error(session.generate_many(requests(), on_job=on_job))
        assert error is raised
        assert read == [0, 1, 2], "nothing more is read"
        assert isinstance(ended[0], Succeeded)
        assert isinstance(ended[1], Succeeded)
        assert user_code_error(ended[2]).__cause__ is raised
    assert sold.truth.creates_seen == 2


async def test_an_on_job_that_raises_for_a_job_of_two_requests_does_not_stop_the_other() -> None:
    def on_job(job: Job) -> None:
        told.append(job)
        if len(told) == 2:
            raise RuntimeError("an error of the caller")

    told: list[Job] = []
    sold = Service(scenario(latency=0.2))
    async with session_of(sold) as session:
        ended, error = await outcomes_and_error(
            session.generate_many(
                [BOAT, BOAT], batch="boats", key=lambda index, _: "boat", on_job=on_job
            )
        )
    assert error is None
    assert told[0] is told[1]
    assert isinstance(ended[0], Succeeded)
    assert user_code_error(ended[1]).job is told[0]
    assert sold.truth.creates_seen == 1


async def test_an_on_job_that_raises_for_a_task_that_runs_names_the_task() -> None:
    sold = Service(scenario(task_seconds=3600.0))
    async with session_of(sold) as session:
        outcomes = session.generate_many([BOAT], batch="boats")
        waiting = asyncio.ensure_future(anext(outcomes))
        await asyncio.sleep(60)
        waiting.cancel()
        await asyncio.wait([waiting])
        (job,) = session.jobs()

        def on_job(_: Job) -> None:
            raise RuntimeError("an error of the caller")

        ended, error = await outcomes_and_error(
            session.generate_many([BOAT], batch="boats", on_job=on_job)
        )
        assert error is None
        failed = user_code_error(ended[0])
        assert job.task_id is not None
        assert failed.task_id == job.task_id
        assert f"session.job({job.task_id!r})" in str(failed)
    assert sold.truth.creates_seen == 1


@pytest.mark.parametrize("raised", ERRORS, ids=repr_of_type)
async def test_a_request_whose_key_raises_is_not_recorded_and_the_others_go_on(
    raised: BaseException,
) -> None:
    def key(index: int, _: object) -> str:
        if index == 1:
            raise raised
        return f"boat-{index}"

    sold, ledger = Service(scenario()), MemoryLedger()
    async with session_of(sold, ledger=ledger) as session:
        ended, error = await outcomes_and_error(
            session.generate_many(boats(3), batch="boats", key=key)
        )
    assert error is None
    failed = user_code_error(ended[1])
    assert (failed.function, failed.job, failed.__cause__) == ("key", None, raised)
    assert isinstance(ended[0], Succeeded)
    assert isinstance(ended[2], Succeeded)
    assert len([record async for record in ledger.jobs()]) == 2


@pytest.mark.parametrize("bad", [None, 5, uuid4(), "", "\ud800", "boat\0"], ids=repr)
async def test_a_key_that_is_no_text_fails_alone(bad: Any) -> None:
    sold = Service(scenario())
    async with session_of(sold) as session:
        ended, error = await outcomes_and_error(
            session.generate_many(
                boats(3), batch="boats", key=lambda index, _: bad if index == 1 else str(index)
            )
        )
    assert error is None
    assert isinstance(ended[1], Failed)
    assert isinstance(ended[1].error, InvalidRequestError)
    assert ended[1].error.field == "key"
    assert sold.truth.creates_seen == 2


def returns(value: object) -> Callable[[], object]:
    return lambda: value


def raises(error: BaseException) -> Callable[[], object]:
    def function() -> object:
        raise error

    return function


@pytest.mark.parametrize(
    "answer",
    [*map(raises, ERRORS), returns(None), returns(b"boat.mp4"), returns("boat\0.mp4")],
    ids=[*map(repr_of_type, ERRORS), "None", "bytes", "NUL"],
)
async def test_a_save_to_that_raises_or_returns_no_path_fails_alone_and_names_its_task(
    tmp_path: Path, answer: Callable[[], object]
) -> None:
    def path_for(index: int, _: object) -> Any:
        return answer() if index == 1 else tmp_path / f"{index}.mp4"

    async with session_of(Service(scenario())) as session:
        ended, error = await outcomes_and_error(session.generate_many(boats(3), save_to=path_for))
    assert error is None
    failed = user_code_error(ended[1])
    assert failed.function == "save_to"
    assert failed.task_id is not None
    assert isinstance(failed.job, Job)
    assert failed.job.task_id == failed.task_id
    assert f"session.job({failed.task_id!r}).save" in str(failed)
    assert {path.name for path in tmp_path.iterdir()} == {"0.mp4", "2.mp4"}


@pytest.mark.parametrize("raised", EXITS, ids=repr_of_type)
async def test_an_exit_in_save_to_ends_the_wait_for_the_next_request(
    tmp_path: Path, raised: BaseException
) -> None:
    async def requests() -> AsyncGenerator[Sora2, None]:
        for boat in boats(3):
            yield boat
        await asyncio.sleep(1e9)

    def path_for(index: int, _: object) -> Path:
        if index == 0:
            raise raised
        return tmp_path / f"{index}.mp4"

    async with session_of(Service(scenario())) as session:
        ended, error = await outcomes_and_error(session.generate_many(requests(), save_to=path_for))
        assert asyncio.get_running_loop().time() < 3600
    assert error is raised
    assert user_code_error(ended[0]).task_id is not None
    assert isinstance(ended[1], Succeeded)
    assert isinstance(ended[2], Succeeded)


@pytest.mark.parametrize("raised", [*EXITS, asyncio.CancelledError()], ids=repr_of_type)
async def test_an_iterable_that_exits_does_not_end_the_event_loop_while_posts_are_under_way(
    raised: BaseException,
) -> None:
    def broken() -> Iterator[Sora2]:
        yield from boats(3)
        raise raised

    sold = Service(scenario(latency=5.0))
    async with session_of(sold) as session:
        ended, error = await outcomes_and_error(session.generate_many(broken()))
    assert error is raised
    assert [isinstance(ended[n], Succeeded) for n in range(3)] == [True] * 3
    assert sold.truth.creates_seen == 3


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


async def test_an_item_that_is_no_request_fails_alone() -> None:
    changed = Generation("veo-3", {"prompt": "a boat"}, credits=10)
    changed.input["size"] = object()  # type: ignore[index]
    sold = Service(scenario())
    items: list[Any] = [BOAT, Unprintable(), None, changed, *boats(2)]
    async with session_of(sold) as session:
        ended, error = await outcomes_and_error(session.generate_many(items))
    assert error is None
    for index in (1, 2, 3):
        outcome = ended[index]
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, InvalidRequestError)
    assert sold.truth.creates_seen == 3


async def test_what_an_earlier_run_has_saved_is_not_asked_for_again(tmp_path: Path) -> None:
    def exits(*_: object) -> Path:
        raise SystemExit

    sold = Service(scenario())
    async with session_of(sold, ledger=MemoryLedger()) as session:
        for save_to in (lambda *_: tmp_path / "boat.mp4", exits):
            ended, error = await outcomes_and_error(
                session.generate_many([BOAT], batch="boats", save_to=save_to)
            )
            assert error is None
            assert isinstance(ended[0], Succeeded)


async def test_a_transport_that_fails_in_a_download_gives_each_job_its_outcome(
    tmp_path: Path,
) -> None:
    class Broken(DirectTransport):
        def stream(self, url: str, headers: Mapping[str, str], timeout: float) -> Any:
            raise RuntimeError(f"cannot open {url}")

    session = Session("sk-test", transport=Broken(Service(scenario())))
    async with session:
        ended, error = await outcomes_and_error(session.generate_many(boats(2), save_to=tmp_path))
    assert error is None
    for outcome in ended.values():
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.error, DownloadError)
        assert isinstance(outcome.error.__cause__, RuntimeError)
        assert outcome.task_id is not None


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("save_to", {"save_to": 5}),
        ("save_to", {"save_to": "videos\0"}),
        ("on_job", {"on_job": 5}),
        ("key", {"key": "boat", "batch": "boats"}),
    ],
)
async def test_an_argument_of_a_wrong_type_is_refused_before_any_request_is_read(
    name: str, settings: dict[str, Any]
) -> None:
    async with Session("sk-test", base_url="http://127.0.0.1:9") as session:
        with pytest.raises(ConfigurationError) as caught:
            await anext(session.generate_many(iter([BOAT]), **settings))
        assert caught.value.field == name


@pytest.mark.parametrize(
    "settings",
    [
        {"batch": ""},
        {"key": str},
        {"retry_failed": True},
        {"pay_again": True},
        {"known_only": True},
    ],
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


# --- paying again ---------------------------------------------------------------------------------

LONG_AGO = 100_000.0
"""Seconds: a task that completed so long ago has an expired URL, one of 10,000 s ago has not."""


def sold_long_ago(**settings: object) -> Service:
    return Service(scenario(epoch=time.time() - LONG_AGO, **settings))


async def outcome_of(
    sold: Service | DirectTransport,
    ledger: MemoryLedger,
    folder: Path,
    *,
    retry_failed: bool = False,
    pay_again: bool = False,
    max_credits: int | None = None,
    session_max_credits: int | None = None,
) -> Outcome:
    """Ask for the same job of the same batch again, in a new session."""
    transport = sold if isinstance(sold, DirectTransport) else DirectTransport(sold)
    async with Session(
        "sk-test", transport=transport, ledger=ledger, max_credits=session_max_credits
    ) as session:
        outcomes = session.generate_many(
            [BOAT],
            batch="b",
            save_to=folder,
            retry_failed=retry_failed,
            pay_again=pay_again,
            max_credits=max_credits,
        )
        [outcome] = [each async for each in outcomes]
        return outcome


async def the_job(ledger: MemoryLedger) -> JobRecord:
    [record] = [each async for each in ledger.jobs()]
    return record


async def saved_and_lost(transport: DirectTransport, ledger: MemoryLedger, folder: Path) -> None:
    """Buy the job, lose its file, and wait until its URL has expired."""
    first = await outcome_of(transport, ledger, folder)
    assert isinstance(first, Succeeded)
    assert first.path is not None
    first.path.unlink()
    await asyncio.sleep(90_000)


async def test_a_lost_file_whose_url_has_expired_is_bought_again_only_with_pay_again(
    tmp_path: Path,
) -> None:
    transport, ledger = DirectTransport(sold_long_ago()), MemoryLedger()
    await saved_and_lost(transport, ledger, tmp_path)
    for retry_failed in (False, True):
        refused = await outcome_of(transport, ledger, tmp_path, retry_failed=retry_failed)
        assert isinstance(refused, Failed)
        assert isinstance(refused.error, ResultExpiredError)
        assert "its file was saved earlier" in str(refused.error)
        assert "pay_again=True buys it again" in str(refused.error)
    assert transport.service.truth.creates_seen == 1
    again = await outcome_of(transport, ledger, tmp_path, pay_again=True)
    assert isinstance(again, Succeeded)
    assert again.path is not None
    assert again.path.is_file()
    record = await the_job(ledger)
    assert (record.status, record.path) == (JobStatus.SAVED, str(again.path))
    assert [each.task_id for each in record.attempts] == [*transport.service.truth.tasks]
    assert await ledger.totals() == CreditTotals(charged=200), "both count"
    assert isinstance(await outcome_of(transport, ledger, tmp_path, pay_again=True), Succeeded)
    assert transport.service.truth.creates_seen == 2, "its file is there: nothing is paid again"


async def test_a_task_that_vanished_is_bought_again_only_with_pay_again(tmp_path: Path) -> None:
    sold, ledger = Service(scenario(task_seconds=3600.0)), MemoryLedger()
    transport = DirectTransport(sold)
    async with Session("sk-test", transport=transport, ledger=ledger) as session:
        outcomes = session.generate_many([BOAT], batch="b")
        waiting = asyncio.ensure_future(anext(outcomes))
        await asyncio.sleep(10)
        waiting.cancel()
    sold.scenario = evolve(sold.scenario, not_found_for=1e9)
    refused = await outcome_of(transport, ledger, tmp_path)
    assert isinstance(refused, Failed)
    assert isinstance(refused.error, TaskNotFoundError)
    assert "pay_again=True buys it again" in str(refused.error)
    assert (await the_job(ledger)).status is JobStatus.RUNNING
    assert sold.truth.creates_seen == 1
    # The second task vanishes too: once per call is enough.
    again = await outcome_of(transport, ledger, tmp_path, pay_again=True)
    assert isinstance(again, Failed)
    assert isinstance(again.error, TaskNotFoundError)
    assert again.task_id == (await the_job(ledger)).task_id
    assert sold.truth.creates_seen == 2
    assert await ledger.totals() == CreditTotals(charged=200)
    # Both are heard of again: the ledger takes in both.
    sold.scenario = evolve(sold.scenario, not_found_for=0.0)
    assert isinstance(await outcome_of(transport, ledger, tmp_path), Succeeded)
    statuses = [str(each.status) for each in (await the_job(ledger)).attempts]
    assert statuses == ["completed", "completed"]
    assert sold.truth.creates_seen == 2


async def test_to_pay_again_counts_towards_the_ceiling(tmp_path: Path) -> None:
    transport, ledger = DirectTransport(sold_long_ago()), MemoryLedger()
    await saved_and_lost(transport, ledger, tmp_path)
    for over in (
        await outcome_of(transport, ledger, tmp_path, pay_again=True, max_credits=150),
        await outcome_of(transport, ledger, tmp_path, pay_again=True, session_max_credits=50),
    ):
        assert isinstance(over, Failed)
        assert isinstance(over.error, BudgetExceededError)
    assert transport.service.truth.creates_seen == 1


async def test_jobs_in_doubt_are_sent_again_only_with_retry_failed_and_pay_again(
    tmp_path: Path,
) -> None:
    sold = Service(scenario(faults=Faults(create_cut_after=Nth(1), create_internal_error=Nth(2))))
    ledger = MemoryLedger()
    first = await outcome_of(sold, ledger, tmp_path)
    assert isinstance(first, Failed)
    for again in (
        await outcome_of(sold, ledger, tmp_path),
        await outcome_of(sold, ledger, tmp_path, retry_failed=True),
        await outcome_of(sold, ledger, tmp_path, pay_again=True),
    ):
        assert isinstance(again, Failed)
        assert isinstance(again.error, SubmitUnknownError)
    assert sold.truth.creates_seen == 1
    transport = DirectTransport(sold)

    async def insisted() -> Outcome:
        return await outcome_of(transport, ledger, tmp_path, retry_failed=True, pay_again=True)

    faulted = await insisted()
    assert isinstance(faulted, Failed)
    assert isinstance(faulted.error, InternalServerError)
    assert isinstance(await insisted(), Succeeded)
    assert sold.truth.creates_seen == 3
    assert await ledger.totals() == CreditTotals(charged=100, unknown=200)
    assert isinstance(await insisted(), Succeeded)
    assert sold.truth.creates_seen == 3, "what has a result is not paid again"


@pytest.mark.parametrize("delay", [0.0, 5.0])
async def test_two_processes_that_pay_again_for_one_task_buy_one_more(
    tmp_path: Path, delay: float
) -> None:
    sold, ledger = Service(scenario(task_seconds=3600.0, latency=1.0)), MemoryLedger()
    transport = DirectTransport(sold)
    async with Session("sk-test", transport=transport, ledger=ledger) as session:
        outcomes = session.generate_many([BOAT], batch="b")
        waiting = asyncio.ensure_future(anext(outcomes))
        await asyncio.sleep(10)
        waiting.cancel()
    [lost] = sold.truth.tasks
    sold.truth.tasks.pop(lost)

    async def process(number: int) -> Outcome:
        await asyncio.sleep(number * delay)
        handle = ledger.sharing(f"process-{number}")
        return await outcome_of(transport, handle, tmp_path / str(number), pay_again=True)

    ends = await asyncio.gather(process(0), process(1))
    assert sold.truth.creates_seen == 2
    [bought] = sold.truth.tasks
    assert [end.task.id for end in ends if isinstance(end, Succeeded)] == [bought, bought]


async def test_a_ceiling_that_forbids_to_pay_again_is_said_in_the_session_that_bought_it(
    tmp_path: Path,
) -> None:
    sold, ledger = Service(scenario(task_seconds=3600.0)), MemoryLedger()
    asyncio.get_running_loop().call_later(60, sold.truth.tasks.clear)
    over = await outcome_of(sold, ledger, tmp_path, pay_again=True, session_max_credits=150)
    assert isinstance(over, Failed)
    assert isinstance(over.error, BudgetExceededError)
    assert sold.truth.creates_seen == 1


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
