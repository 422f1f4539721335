"""What a stranger writes against the promises of aivideo. Type checkers read it; it is never run.

A line that must not check ends in `# E`; every other line must.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal, assert_never, assert_type

import aivideo
from aivideo import (
    AIVideoError,
    AiohttpTransport,
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BudgetExceededError,
    Client,
    CompletedTask,
    Credits,
    DownloadError,
    Failed,
    FailedTask,
    Generation,
    InsufficientCreditsError,
    InternalServerError,
    InvalidRequestError,
    Job,
    JobRecord,
    JobWithdrawnError,
    Ledger,
    LedgerError,
    MemoryLedger,
    ModelNotFoundError,
    NotFoundError,
    Outcome,
    PendingTask,
    PermissionDeniedError,
    ProcessingTask,
    QueueFullError,
    RateLimit,
    RateLimitError,
    Request,
    ResponseError,
    ResultExpiredError,
    Session,
    Sora2,
    SpendLimitError,
    SqliteLedger,
    SubmitUnknownError,
    Succeeded,
    Task,
    TaskFailedError,
    TaskNotFoundError,
    Transport,
    UnrecognizedTask,
    UpstreamError,
    UserCodeError,
    WaitTimeoutError,
)
from aivideo.catalog import Catalog, Model, PerSecond, default_catalog
from aivideo.errors import JobHandle
from aivideo.settings import SessionSettings


def requests() -> Iterator[Request]:
    boat = Sora2("A paper boat in the rain", duration=8, aspect_ratio="16:9")
    assert_type(boat.credits, Decimal)
    assert_type(boat.duration, Literal[4, 8, 12])
    assert_type(boat.model, str)
    assert_type(boat.dollars, Decimal)
    yield boat
    yield Sora2("From here", duration=4, aspect_ratio="9:16", image="https://you.example/1.png")
    other = Generation("veo-3", {"prompt": "A paper boat"}, credits=400)
    assert_type(other.credits, Decimal | None)
    Generation("veo-3", {}, credits="30.5")
    Generation("veo-3", {}, credits=Decimal("30.5"))
    Generation("veo-3", {}, credits=30.5)  # E
    yield other
    Sora2("x", 8, "16:9")  # E
    Sora2("x", duration="8", aspect_ratio="16:9")  # E
    Sora2("x", duration=5, aspect_ratio="16:9")  # E
    Sora2("x", duration=8, aspect_ratio="1:1")  # E
    Sora2("x", duration=8, aspect_ratio="16:9", credits=100)  # E
    Sora2("x", duration=8)  # E
    Sora2(None, duration=8, aspect_ratio="16:9")  # E
    boat.prompt = "frozen"  # E
    boat.credits = Decimal(1)  # E
    boat.credits + 0.5  # E
    Generation("veo-3", "A paper boat")  # E


async def one(session: Session) -> str:
    request = Sora2("A paper boat", duration=8, aspect_ratio="16:9")
    task = await session.generate(request)
    assert_type(task, CompletedTask)
    assert_type(task.expires_at, datetime)
    request.seconds  # E
    task.url  # E

    job = await session.submit(request, callback_url="https://you.example/x", key="boat", on_update=show)
    assert_type(job, Job)
    assert_type(job.task_id, str | None)
    assert_type(job.credits, Decimal | None)
    handle: JobHandle = job
    assert_type(handle.task_id, str | None)
    async for update in job.updates():
        assert_type(update, Task)
    assert_type(await job, CompletedTask)
    assert_type(await job.result(wait_timeout=600), CompletedTask)
    assert_type(await job.save("boat.mp4"), Path)
    await job.save(Path("boat.mp4"))
    await job.result(timeout=600)  # E
    await job.result(600)  # E

    assert_type(await session.enqueue(request, key="later"), Job)
    assert_type(session.job("7b0c"), Job)
    assert_type((await session.credits()).balance, Decimal)
    assert_type(await session.credits(), Credits)
    session.resume_submits()
    await session.submit("A paper boat")  # E
    await session.generate(request, timeout=3)  # E
    session.generate(request).urls  # E
    return task.urls[0]


def show(task: Task) -> None:
    print(f"{task.id}: {task.status}")
    assert_type(task.status == "completed", bool)


async def lines() -> AsyncIterator[Request]:
    yield Sora2("A paper boat", duration=4, aspect_ratio="9:16")


async def many(session: Session) -> None:
    async with aclosing(session.generate_many(requests(), save_to="videos/")) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, Succeeded | Failed)
            told(outcome)
    async for outcome in session.generate_many(lines(), save_to=Path("videos"), batch="tonight"):
        told(outcome)
    async for outcome in session.generate_many([Sora2("x", duration=4, aspect_ratio="9:16")]):
        told(outcome)
    session.generate_many(requests(), batch="tonight", key=lambda at, _: str(at), max_credits=500)
    session.generate_many(requests(), batch="tonight", retry_failed=True)
    session.generate_many(["A paper boat"])  # E
    session.generate_many(requests(), batch=7)  # E
    for outcome in session.generate_many(requests()):  # E
        pass


def told(outcome: Outcome) -> str:
    match outcome:
        case Succeeded(request, task, path):
            assert_type(request, Request)
            assert_type(task, CompletedTask)
            assert_type(path, Path | None)
            return task.urls[0]
        case Failed(request, error):
            assert_type(error, AIVideoError)
            return str(error)
        case _:
            assert_never(outcome)


def half_told(outcome: Outcome) -> str:
    match outcome:
        case Succeeded():
            return "made"
        case _:
            assert_never(outcome)  # E


def stands(task: Task) -> str:
    match task:
        case PendingTask() | ProcessingTask():
            return "wait"
        case CompletedTask():
            return task.urls[0]
        case FailedTask():
            return task.error.message
        case UnrecognizedTask():
            return task.status
        case _:
            assert_never(task)


def stands_unasked(task: Task) -> str:
    return task.urls[0]  # E


async def settings() -> None:
    transport: Transport = AiohttpTransport(proxy="http://proxy.example:3128", trust_env=True)
    async with Session(
        "sk-x",
        base_url="http://127.0.0.1:8811",
        max_requests_in_flight=32,
        max_running_jobs=100,
        max_requests_per_minute=600,
        poll_interval=5.0,
        ledger=MemoryLedger(),
        max_credits=10_000,
        resubmit_server_errors=False,
        request_timeout=30.0,
        transport=transport,
    ) as session:
        assert_type(session, Session)
    Session(rate_limit=RateLimit.bucket(50, burst=10))
    Session(rate_limit=RateLimit.window(20, seconds=10))
    Session(timeout=3)  # E
    Session("sk-x", "http://127.0.0.1:8811")  # E
    Session(max_credits="30.5")
    Session(max_credits=30.5)  # E
    shared = SessionSettings(
        api_key="sk-x", max_credits="30.5", ledger=MemoryLedger(), catalog=default_catalog()
    )
    assert_type(shared.max_credits, Decimal | None)
    assert_type(shared.catalog, Catalog)
    assert_type(SessionSettings.from_env(max_running_jobs=5), SessionSettings)
    Client.of(shared)
    Session.of(shared)
    shared.max_credits = None  # E
    SessionSettings("sk-x")  # E
    SessionSettings(request_timeout="60")  # E
    SessionSettings(ledger=5)  # E
    SessionSettings(resubmit_server_errors="false")  # E
    with Session():  # E
        pass


def catalogue() -> Request:
    mine = default_catalog().with_models(Model(name="veo-3", price=PerSecond("30.5")))
    request = mine.request("veo-3", prompt="A paper boat", duration=4)
    assert_type(request, Generation)
    mine.check_price(request)
    PerSecond(30.5)  # E
    mine.models = ()  # E
    return request


async def books(ledger: Ledger) -> None:
    async with Session(ledger="jobs.db", callback_base_url="https://you.example/x") as session:
        assert_type(await session.resume(), list[Job])
        assert_type(await session.find(key="boat", batch="tonight"), Job | None)
        assert_type(await session.find(id="0123"), Job | None)
        assert_type(await session.job("t").cancel(), bool)
        session.generate_many([], max_credits="none")
        session.generate_many([], max_credits=0.5)  # E
        aivideo.Sesion()  # E
        assert_type(await session.receive_callback("token", b"{}"), Job | None)
        assert_type(session.ledger, Ledger)
    Session(ledger=Path("jobs.db"), callback_secret="secret")
    Session(ledger=SqliteLedger("jobs.db", read_only=True))
    Session(ledger=7)  # E
    async for record in ledger.jobs(batch="tonight"):
        assert_type(record, JobRecord)


async def endpoints() -> None:
    async with Client("sk-x") as client:
        task_id = await client.create(Sora2("x", duration=4, aspect_ratio="9:16"))
        assert_type(task_id, str)
        assert_type(await client.retrieve(task_id), Task)
        assert_type(await client.credits(), Credits)
        client.generate  # E


async def money(session: Session, request: Request) -> str:
    try:
        await session.generate(request)
    except JobWithdrawnError as withdrawn:
        assert_type(withdrawn.job, JobHandle)
    except SubmitUnknownError as error:
        assert_type(error.job, JobHandle)
        assert_type(error.reason, str)
        return error.job.status
    except UserCodeError as error:
        assert_type(error.function, str)
        assert_type(error.job, JobHandle | None)
        assert_type(error.task_id, str | None)
        return error.function
    except TaskFailedError as error:
        assert_type(error.task, FailedTask)
        return error.task.error.code
    except WaitTimeoutError as error:
        task = await error.job
        assert_type(task, CompletedTask)
        assert_type(await error.job.result(wait_timeout=60), CompletedTask)
        assert_type(await error.job.save("boat.mp4"), Path)
        async for update in error.job.updates():
            assert_type(update, Task)
        assert_type(error.job.credits, Decimal | None)
        if error.job.request is not None:
            assert_type(error.job.request.model, str)
        await error.job.result(600)  # E
        return task.urls[0]
    except BudgetExceededError as error:
        assert_type(error.needed, Decimal | None)
        assert_type(error.held, Decimal)
        return str(error.ceiling)
    except (SpendLimitError, InsufficientCreditsError):
        return "no money"
    except (AuthenticationError, PermissionDeniedError, ModelNotFoundError, TaskNotFoundError):
        return "not for you"
    except (NotFoundError, RateLimitError, InternalServerError, UpstreamError) as error:
        status: APIStatusError = error
        assert_type(status.status, int)
        assert_type(status.code, str | None)
        assert_type(status.type, str | None)
        assert_type(status.request_id, str | None)
        assert_type(status.retry_after, float | None)
        return status.message
    except (InvalidRequestError, QueueFullError, ResultExpiredError, DownloadError):
        return "before or after"
    except (APITimeoutError, APIConnectionError, ResponseError, LedgerError) as error:
        ours: AIVideoError = error
        return str(ours)
    return aivideo.__version__


def not_a_rate_limit(error: SpendLimitError) -> RateLimitError:
    return error  # E
