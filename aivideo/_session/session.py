"""Session: what most people use. :mod:`aivideo._session.engine` does the work."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from decimal import Decimal
from typing import Self

from attrs import frozen

from aivideo import catalog
from aivideo._api.client import Client
from aivideo._api.transport import Transport
from aivideo._pacing.limiter import Limiter, LimiterStatistics
from aivideo._polling.poller import PollerStatistics
from aivideo._secrets import Secret, seal
from aivideo._session.bulk import Bulk, KeyOf, Naming, SaveTo
from aivideo._session.engine import Engine, OnUpdate
from aivideo._session.job import Job
from aivideo._session.purchase import CallbackURLs
from aivideo.errors import (
    ConfigurationError,
    InvalidRequestError,
    QueueFullError,
    SessionClosedError,
)
from aivideo.ledger import Ledger
from aivideo.ledger.journal import CreditTotals, JobRecord, JobStatus
from aivideo.ledger.memory import MemoryLedger
from aivideo.models import CompletedTask, Credits, Outcome, Request, Task, TaskId
from aivideo.settings import DEFAULT_REQUEST_TIMEOUT, RateLimit, SessionSettings

MAX_QUEUED = 10_000
"""Jobs that ``enqueue`` lets wait for their POST before it refuses more."""


@frozen(kw_only=True)
class SessionStatistics:
    """What a session is doing now, as one value.

    Attributes:
        limiter: the pace, and who waits for it.
        poller: the tasks watched.
        credits: of this session's own POSTs: what was charged, is reserved or unknown, came back.
        jobs: how many jobs stand where, by status; of this session, ended ones included.
    """

    limiter: LimiterStatistics
    poller: PollerStatistics
    credits: CreditTotals
    jobs: dict[str, int]


class Session:
    """Submits requests at the pace the key allows, watches their tasks, saves their results.

    ::

        async with Session() as session:
            task = await session.generate(
                Sora2("A paper boat in the rain", duration=8, aspect_ratio="16:9")
            )
            print(task.urls[0], task.expires_at)

    Without ``ledger`` a session keeps its jobs in memory: it never pays twice for a request while
    it lives, and after a crash nobody can say what was bought. With ``ledger="jobs.db"`` each step
    is on disk before it is taken: :meth:`resume`, the same ``key``, or the same ``batch`` go on
    where a killed process stopped, and nothing is paid twice.

    Args:
        api_key: ``sk-…``; by default ``AIVIDEO_API_KEY``.
        base_url: by default ``AIVIDEO_BASE_URL``, else the service's own.
        max_requests_in_flight: HTTP requests under way at once.
        max_running_jobs: tasks under way at once, at most; None: as many as the service takes.
        max_requests_per_minute: the key's rate limit, if you know it: then no 429 occurs.
        rate_limit: the same, said exactly: ``RateLimit.bucket(50, burst=10)`` or
            ``RateLimit.window(20, seconds=10)``.
        poll_interval: seconds between two looks at a task; None: learned, which costs less.
        ledger: where jobs are written down: a path (an SQLite file, made where there is none) or a
            :class:`~aivideo.Ledger`; None: in memory.
        max_credits: a hard ceiling over what is charged, reserved or unknown in this session,
            from its opening.
        resubmit_server_errors: send a create again that was answered by 500 or 503. It is not
            documented whether such a create was charged, so this may pay twice.
        callback_base_url: where your :meth:`receive_callback` can be reached from outside. Each
            create then carries ``<callback_base_url>/<token>`` unless it has a ``callback_url``.
        callback_secret: what the tokens are made with; None: derived from the key.
        request_timeout: seconds for one HTTP request, connecting included.
        transport: what carries the requests; the session closes only one it made itself.
        allow_insecure: allow a plain ``http://`` base URL that is not this machine.

    Raises:
        ConfigurationError: a setting that cannot work; found here, before anything is sent.
        LedgerError: the ledger cannot be used.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str | None = None,
        max_requests_in_flight: int = 64,
        max_running_jobs: int | None = None,
        max_requests_per_minute: float | None = None,
        rate_limit: RateLimit | None = None,
        poll_interval: float | None = None,
        ledger: Ledger | str | os.PathLike[str] | None = None,
        max_credits: int | str | Decimal | None = None,
        resubmit_server_errors: bool = False,
        callback_base_url: str | None = None,
        callback_secret: str | Secret | None = None,
        request_timeout: float = DEFAULT_REQUEST_TIMEOUT,
        transport: Transport | None = None,
        allow_insecure: bool = False,
    ) -> None:
        api_key, callback_secret = seal(api_key), seal(callback_secret)  # before anything raises
        settings = SessionSettings(
            api_key=api_key,
            base_url=base_url,
            max_requests_in_flight=max_requests_in_flight,
            max_running_jobs=max_running_jobs,
            max_requests_per_minute=max_requests_per_minute,
            rate_limit=rate_limit,
            poll_interval=poll_interval,
            ledger=ledger,
            max_credits=max_credits,
            resubmit_server_errors=resubmit_server_errors,
            callback_base_url=callback_base_url,
            callback_secret=callback_secret,
            request_timeout=request_timeout,
            transport=transport,
            allow_insecure=allow_insecure,
        )
        self._client = Client.of(settings)
        self._ledger, self._owns_ledger = _opened(settings.ledger)
        self._window = settings.max_requests_in_flight
        self._closing: asyncio.Task[None] | None = None
        ceiling = settings.max_credits
        self._engine = Engine(
            self._client,
            Limiter(
                max_in_flight=settings.max_requests_in_flight,
                max_running_jobs=settings.max_running_jobs,
                rate_limit=settings.rate_limit,
                max_requests_per_minute=settings.max_requests_per_minute,
            ),
            self._ledger,
            poll_interval=settings.poll_interval,
            # Rounded down: ledgers count whole credits, and prices are rounded up.
            max_credits=None if ceiling is None else int(ceiling),
            resubmit_server_errors=settings.resubmit_server_errors,
            callback_urls=CallbackURLs(
                settings.callback_base_url, self._client.callback_secret(settings.callback_secret)
            ),
        )

    @property
    def ledger(self) -> Ledger:
        """Where the jobs are written down."""
        return self._ledger

    def __repr__(self) -> str:
        engine = getattr(self, "_engine", None)
        if engine is None:  # a setting was refused, and a traceback shows its locals
            return "<Session not made>"
        state = "closed" if engine.closed else f"{len(engine.jobs)} jobs"
        return f"<Session {self._client.base_url} {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # --- submitting -----------------------------------------------------------------------

    async def submit(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        on_update: OnUpdate | None = None,
    ) -> Job:
        """Send a request, and return its job once the service has taken it.

        Cancelling this call does not cancel a POST that is under way.

        Args:
            request: what to make; it costs ``request.credits`` when taken.
            callback_url: told by the service when the task has ended.
            key: your name for the job: the same key again is the same job, and sends nothing.
            on_update: told of each change of the task.

        Raises:
            InvalidRequestError: the request, or ``callback_url``, breaks a rule; or ``key`` was
                used for another request.
            BudgetExceededError: it would pass ``max_credits``; nothing was sent.
            SubmitUnknownError: nobody can tell whether it was taken; it is not sent again.
            APIStatusError: the service refused it. After a 500 or 503 nobody can tell either.
            APIConnectionError: the service could not be reached; nothing was sent.
            QueueFullError: too many jobs wait to be sent.
            SessionClosedError: the session closed, or submits were stopped; it was not sent.
            LedgerError: it could not be written down; nothing was sent.
        """
        job = await self.enqueue(request, callback_url=callback_url, key=key, on_update=on_update)
        await job.submitted()
        return job

    async def enqueue(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        on_update: OnUpdate | None = None,
    ) -> Job:
        """Write a request down and return its job at once; it is sent when the pace allows.

        Takes what :meth:`submit` takes.

        Raises:
            QueueFullError: too many jobs wait to be sent.
            SessionClosedError: the session is closed.
            LedgerError: it could not be written down.
            InvalidRequestError: as in :meth:`submit`. All else is raised by ``await job``.
        """
        if self._engine.queued >= MAX_QUEUED:
            raise QueueFullError(MAX_QUEUED)
        job, _ = await self._engine.plan(
            request, callback_url=callback_url, key=key, on_update=on_update
        )
        return job

    async def generate(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        on_update: OnUpdate | None = None,
        wait_timeout: float | None = None,
    ) -> CompletedTask:
        """Submit a request and wait for its result: minutes to hours.

        Takes what :meth:`submit` takes, and raises what it and :meth:`Job.result` raise.

        Args:
            request: what to make.
            callback_url: see :meth:`submit`.
            key: see :meth:`submit`.
            on_update: see :meth:`submit`.
            wait_timeout: seconds to wait at most; the job then goes on (``error.job``).
        """
        job = await self.submit(request, callback_url=callback_url, key=key, on_update=on_update)
        return await job.result(wait_timeout=wait_timeout)

    async def generate_many(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        save_to: SaveTo | None = None,
        batch: str | None = None,
        key: KeyOf | None = None,
        max_credits: int | None = None,
        retry_failed: bool = False,
        on_job: Callable[[Job], object] | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """Make many, and yield how each ended, in the order they end.

        ``requests`` is read only as fast as it can be submitted, and a slow consumer holds back
        new submits. One failure never ends the others. Left early, nothing more is submitted, and
        what was taken stays watched until the session closes; use ``contextlib.aclosing`` so that
        leaving takes effect at once.

        With a ledger on disk, the same ``batch`` goes on where it was stopped or killed: what was
        saved is there (its task then has no URLs: they are not kept), what runs is watched again,
        what was not taken is sent, and what is of unknown fate is a :class:`~aivideo.Failed`.

        Args:
            requests: any iterable, async or not.
            save_to: a folder for the files, or a function from place and request to a path; None:
                do not fetch results.
            batch: a name under which the same request is the same job, whenever it is asked for;
                None: each call is new work.
            key: names the job of a place and a request within the batch; None: its content, and
                the how-manieth of that content it is.
            max_credits: a ceiling over all that the batch was ever charged, has reserved or does
                not know, in all processes and runs; without ``batch``, over this call.
            retry_failed: send those again that failed (and were refunded) or were refused.
            on_job: told of each request's job (``job.index`` is the request's place) before it is
                sent: whoever leaves early can tell from it what was taken.

        Yields:
            :class:`~aivideo.Succeeded` or :class:`~aivideo.Failed`. What ``requests``, ``key``,
            ``save_to`` or ``on_job`` raise comes after the last of them.
        """
        _check_settings(max_credits=max_credits)
        if batch is not None and not batch.strip():
            raise ConfigurationError("batch= must be a name, or None for new work")
        if batch is None and (key is not None or retry_failed):
            raise ConfigurationError("key= and retry_failed= go with batch=: name the batch")
        bulk = Bulk(
            self._engine,
            requests,
            save_to,
            Naming(batch, key, max_credits, retry_failed=retry_failed),
            self._window,
            on_job,
        )
        try:
            async for outcome in bulk.outcomes():
                yield outcome
        finally:
            await bulk.leave()

    async def resume(self) -> list[Job]:
        """Take up every job of the ledger that has not ended, as its record says.

        Planned ones are sent, running ones watched. A POST whose process died is of unknown fate:
        its job is in the list with status ``unknown``, and is never sent by itself. What a batch
        has not sent is left to it (``generate_many(batch=...)``), which knows its ceiling.
        """
        return await self._engine.resume(
            (
                *(JobStatus.PLANNED, JobStatus.SUBMITTING, JobStatus.RUNNING),
                *(JobStatus.UNKNOWN, JobStatus.FAULTED),
            )
        )

    async def receive_callback(self, token: str, body: bytes) -> Job | None:
        """Take in a callback of the service: what was POSTed to ``<callback_base_url>/<token>``.

        Callbacks are not signed, so nothing it says is believed: a right token has the task that
        it names asked for, and that answer counts. It ends the wait for a running job at once, and
        settles a job of unknown fate if model, prompt and length are its own; where it names a task
        that has not ended, that is waited for: a web handler gives it a task of its own.

        Args:
            token: the last part of the URL's path.
            body: the POST's body, as it came.

        Returns:
            The job it was about; None: it was none of ours, or not true. Answer 2xx all the same,
            or 404: the service tries others again.

        Raises:
            APIStatusError: the service refused to confirm it; answer 5xx, and it is tried again.
            APIConnectionError: the service could not be reached; likewise.
            ResponseError: it did not answer with a task; likewise.
            SessionClosedError: the session closed before the task it names had ended; likewise.
        """
        hearing = self._engine.receive_callback(token, body)
        del token, body  # as there
        return await hearing

    def stop_submits(self, reason: str = "submits were stopped") -> None:
        """Send no further create: whatever still waits ends with a SessionClosedError, unsent.

        POSTs under way, polls and downloads go on; :meth:`resume_submits` opens again.
        """
        self._engine.limiter.close_creates(SessionClosedError(f"{reason}; it was not sent"))

    def resume_submits(self) -> None:
        """Let creates go out again: after a top-up, say, or when a spend cap has reset.

        What runs is watched again too, where a key that was not good had ended that.
        """
        self._engine.resume_submits()

    async def drain(self, *, downloads: bool = True) -> None:
        """Wait for the POSTs and, with ``downloads``, the downloads that are under way now.

        A POST that comes back refused by the rate limit is not waited for again.
        """
        await self._engine.drain(downloads=downloads)

    # --- asking ---------------------------------------------------------------------------

    def job(self, task_id: TaskId) -> Job:
        """Take up a task again by its id; it is watched once somebody waits for it.

        Raises:
            InvalidRequestError: that is no id.
        """
        if not catalog.is_name(task_id):
            raise InvalidRequestError.because(
                "task_id", task_id, "must be the id of a task", "take it from job.task_id"
            )
        return self._engine.job_of(task_id)

    def take_up(self, record: JobRecord) -> Job:
        """Take up a job that a ledger knows, as its record says: watched if it runs, sent if not.

        Args:
            record: from this session's :attr:`ledger`.
        """
        return self._engine.adopt(record)

    def jobs(self) -> list[Job]:
        """List the jobs that have not ended."""
        return [*self._engine.jobs.values()]

    async def retrieve(self, task_id: TaskId) -> Task:
        """Ask for a task once, at the pace.

        Raises:
            TaskNotFoundError: there is none of that id.
            APIStatusError: the service refused.
            APIConnectionError: no answer.
            ResponseError: an answer that is no task.
        """
        return await self._engine.ask(lambda: self._client.retrieve(task_id))

    async def credits(self) -> Credits:
        """Ask for the balance, at the pace.

        Raises:
            APIStatusError: the service refused.
            APIConnectionError: no answer.
            ResponseError: an answer that is no balance.
        """
        return await self._engine.balance()

    def statistics(self) -> SessionStatistics:
        """Say what the session is doing now."""
        return SessionStatistics(
            limiter=self._engine.limiter.statistics(),
            poller=self._engine.poller.statistics(),
            credits=self._engine.books.spent,
            jobs={status: count for status, count in self._engine.books.counts.items() if count},
        )

    async def aclose(self) -> None:
        """Close: send nothing more, wait for POSTs under way, and let every waiter go.

        A POST under way is waited for up to ``request_timeout``: its verdict is money. So whoever
        is cancelled here leaves alone: the closing goes on, and may be waited for again. Waiters
        get a :class:`~aivideo.SessionClosedError` that carries their job.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._engine.aclose()
        finally:
            await self._client.aclose()
            if self._owns_ledger:
                await self._ledger.aclose()


def _opened(ledger: Ledger | str | os.PathLike[str] | None) -> tuple[Ledger, bool]:
    """Open a ledger, and say whether it is the session's own to close."""
    if ledger is None:
        return MemoryLedger(), True
    if isinstance(ledger, str | os.PathLike):
        from aivideo.ledger.sqlite import SqliteLedger

        return SqliteLedger(ledger), True
    return ledger, False


def _check_settings(**settings: object) -> None:
    for name, value in settings.items():
        if value is None:
            continue
        whole = name in ("max_requests_in_flight", "max_running_jobs", "max_credits")
        least = 0 if name == "max_credits" else None
        if (
            isinstance(value, bool)
            or not isinstance(value, int if whole else int | float)
            or math.isnan(value)
            or (value < 0 if least == 0 else value <= 0)
        ):
            kind = "a whole number" if whole else "a number"
            raise ConfigurationError(
                f"{name}={value!r} must be {kind} {'of 0 or more' if least == 0 else 'above 0'}"
            )
