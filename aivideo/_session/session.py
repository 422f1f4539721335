"""Session: what most people use. :mod:`aivideo._session.assembly` shows the parts behind it.

The file is long because it is the public class: each method states its contract (arguments, units,
errors), and hands on to the part that does the work.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from decimal import Decimal
from typing import Any, Literal, Self, TypeVar

from attrs import frozen

from aivideo import _amounts
from aivideo._api.client import Client
from aivideo._api.transport import Transport
from aivideo._pacing.limiter import LimiterStatistics
from aivideo._polling.poller import PollerStatistics
from aivideo._secrets import Secret, seal
from aivideo._session.actions import OnUpdate, check_wait_timeout
from aivideo._session.assembly import assemble, shut_down
from aivideo._session.job import Job
from aivideo._session.live import IfUnsent
from aivideo._session.many import BatchOptions, GenerateMany, KeyOf, SaveTo
from aivideo.catalog import Catalog, is_name
from aivideo.errors import (
    ConfigurationError,
    InvalidRequestError,
    QueueFullError,
    SessionClosedError,
    WaitTimeoutError,
)
from aivideo.events import Instrumentation
from aivideo.ledger import Ledger
from aivideo.ledger.memory import MemoryLedger
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.ledger.totals import CreditTotals
from aivideo.models import CompletedTask, Credits, Outcome, Request, Task, TaskId
from aivideo.settings import RateLimit, SessionSettings

T = TypeVar("T")

MAX_QUEUED = 10_000
"""Jobs that ``enqueue`` lets wait for their POST before it refuses more."""


@frozen(kw_only=True)
class SessionStatistics:
    """What a session is doing now, as one value.

    Attributes:
        limiter: the pace, and what waits for it.
        poller: the tasks polled.
        credits: of this session's own POSTs: what was charged, is reserved or unknown, came back.
        jobs: number of jobs by status; of this session, ended ones included.
    """

    limiter: LimiterStatistics
    poller: PollerStatistics
    credits: CreditTotals
    jobs: dict[str, int]


class Session:
    """Submits requests at the pace the key allows, polls their tasks, saves their results.

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

    A session belongs to the event loop of its first use; calls in another one are refused with
    :class:`~aivideo.ConfigurationError` before anything is recorded or sent. Close it with
    ``async with`` or :meth:`aclose`: one that was used and is not closed is a ``ResourceWarning``.

    Args:
        api_key: ``sk-…``; by default ``AIVIDEO_API_KEY``.
        base_url: by default ``AIVIDEO_BASE_URL``, else the service's own.
        max_requests_in_flight: HTTP requests under way at once.
        max_running_jobs: tasks under way at once, at most; None: as many as the service takes.
        max_requests_per_minute: the key's rate limit, if you know it: then no 429 occurs.
        rate_limit: the same, said exactly: ``RateLimit.bucket(50, burst=10)`` or
            ``RateLimit.window(20, seconds=10)``.
        poll_interval: seconds between two polls of a task; None: learned, which costs less.
        ledger: where jobs are recorded: a path (an SQLite file, made where there is none) or a
            :class:`~aivideo.Ledger`; None: in memory.
        max_credits: a hard ceiling over what is charged, reserved or unknown in this session,
            from its opening: an int, a str such as ``"30.5"``, or a Decimal.
        resubmit_server_errors: send a create again that was answered by 500 or 503. It is not
            documented whether such a create was charged, so this may pay twice.
        callback_base_url: where your :meth:`receive_callback` can be reached from outside. Each
            create then carries ``<callback_base_url>/<token>`` unless it has a ``callback_url``.
        callback_secret: what the tokens are made with, at least 16 characters; None: derived from
            the key.
        request_timeout: seconds for one HTTP request, connecting included.
        transport: what carries the requests; the session closes only one it made itself.
        trust_env: take proxies from ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
            ``NO_PROXY``.
        proxy: URL of an HTTP proxy for all requests; it may hold a user and a password.
        allow_insecure: allow a plain ``http://`` base URL that is not this machine.
        catalog: rules and prices of its own; a request whose price differs from it is refused.
        instrumentation: called with each :data:`~aivideo.SessionEvent`; see :mod:`aivideo.events`.

    :meth:`of` takes the same as one value, :class:`~aivideo.SessionSettings`.

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
        request_timeout: float = 60.0,
        transport: Transport | None = None,
        trust_env: bool = False,
        proxy: str | Secret | None = None,
        allow_insecure: bool = False,
        catalog: Catalog | None = None,
        instrumentation: Instrumentation | None = None,
    ) -> None:
        # First: a traceback may show this frame's locals.
        api_key, callback_secret, proxy = seal(api_key), seal(callback_secret), seal(proxy)
        self._open(
            SessionSettings(
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
                trust_env=trust_env,
                proxy=proxy,
                allow_insecure=allow_insecure,
                catalog=catalog,
                instrumentation=instrumentation,
            )
        )

    @classmethod
    def of(cls, settings: SessionSettings) -> Self:
        """Make a session of checked settings, such as ``SessionSettings.from_env()``.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        session = cls.__new__(cls)
        session._open(settings)
        return session

    def _open(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._client = Client.of(settings)
        self._ledger, self._owns_ledger = _opened(settings.ledger)
        self._parts = assemble(settings, self._client, self._ledger)

    @property
    def ledger(self) -> Ledger:
        """Where the jobs are recorded."""
        return self._ledger

    def __repr__(self) -> str:
        parts = getattr(self, "_parts", None)
        if parts is None:  # a setting was refused, and a traceback shows its locals
            return "<Session not made>"
        state = "closed" if self._closed else f"{len(parts.live.unfinished())} jobs"
        return f"<Session {self._client.base_url} {state}>"

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is None or self._closed or not parts.supervisor.is_left_open:
            return
        warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)

    async def __aenter__(self) -> Self:
        self._parts.supervisor.check_loop()
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

        Cancelling this call does not cancel a POST that is under way. If it raises, or is
        cancelled, before the POST has left, nothing is ever sent for it: without ``key`` the job
        is withdrawn; with ``key`` it stays planned, and only the same key sends it.

        Args:
            request: what to make; it costs ``request.credits`` when taken.
            callback_url: called by the service when the task has ended.
            key: your name for the job: the same key again is the same job, and sends nothing.
            on_update: called at each change of the task. What it raises is logged, and the job
                goes on.

        Raises:
            InvalidRequestError: the request, ``callback_url`` or ``key`` breaks a rule; or ``key``
                was used for another request.
            BudgetExceededError: it would pass ``max_credits``; nothing was sent.
            SubmitUnknownError: whether it was taken is unknown; it is never sent again by itself.
            APIStatusError: the service refused it. After a 500 or 503 that is unknown too.
            APIConnectionError: the service could not be reached; nothing was sent.
            QueueFullError: too many jobs wait to be sent.
            SessionClosedError: the session closed, or submits were stopped; it was not sent.
            LedgerError: it could not be recorded; nothing was sent.
            ConfigurationError: this is another event loop than the session's.
        """
        job = await self._plan(request, callback_url, key, on_update)
        await self._wait_for(job, job.submitted())
        return job

    async def enqueue(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        on_update: OnUpdate | None = None,
    ) -> Job:
        """Record a request and return its job at once; it is sent when the pace allows.

        It stays planned if the session closes first: :meth:`resume` sends it then. Takes what
        :meth:`submit` takes.

        Raises:
            QueueFullError: too many jobs wait to be sent.
            SessionClosedError: the session is closed.
            LedgerError: it could not be recorded.
            InvalidRequestError: as in :meth:`submit`. All else is raised by ``await job``.
            ConfigurationError: this is another event loop than the session's.
        """
        return await self._plan(request, callback_url, key, on_update, enqueued=True)

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
            wait_timeout: seconds to wait at most, the time in the queue included; then
                WaitTimeoutError, and the job goes on, queued or running (``error.job``).
        """
        check_wait_timeout(wait_timeout)
        clock = asyncio.get_running_loop().time
        began = clock()
        job = await self._plan(request, callback_url, key, on_update)
        left = wait_timeout
        if left is not None:
            left = max(0.0, left - (clock() - began))
        return await self._wait_for(job, job.result(wait_timeout=left))

    async def _plan(
        self,
        request: Request,
        callback_url: str | None,
        key: str | None,
        on_update: OnUpdate | None,
        *,
        enqueued: bool = False,
    ) -> Job:
        parts = self._parts
        parts.supervisor.check_loop()
        if len(parts.supervisor.submissions) >= MAX_QUEUED:
            raise QueueFullError(MAX_QUEUED)
        told_unsent = key is None and not enqueued
        job, _ = await parts.intake.plan(
            request,
            callback_url=callback_url,
            key=key,
            if_unsent=IfUnsent.WITHDRAW if told_unsent else IfUnsent.KEEP,
            enqueued=enqueued,
        )
        if on_update is not None:
            parts.actions.listen(job, on_update)
        return job

    async def _wait_for(self, job: Job, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait on behalf of one call; if it is cancelled, nobody sends the job later.

        A POST that is under way goes on. A job that somebody else waits for, or that was enqueued,
        stays in the queue.
        """
        live = self._parts.live.get(job.id)
        submission = None if live is None else live.submission
        if live is None or submission is None or live.job is not job:
            return await waiting
        submission.callers += 1
        try:
            return await waiting
        except WaitTimeoutError:
            # Its caller has the job, and may wait again.
            submission.enqueued, submission.if_unsent = True, IfUnsent.KEEP
            raise
        except asyncio.CancelledError:
            if submission.callers == 1 and not submission.enqueued:
                submission.interrupt()
            raise
        finally:
            submission.callers -= 1

    async def generate_many(
        self,
        requests: Iterable[Request] | AsyncIterable[Request],
        *,
        save_to: SaveTo | None = None,
        batch: str | None = None,
        key: KeyOf | None = None,
        max_credits: int | str | Decimal | None = None,
        retry_failed: bool = False,
        pay_again: bool = False,
        known_only: bool = False,
        on_job: Callable[[Job], object] | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """Make many, and yield how each ended, in the order they end.

        ``requests`` is read only as fast as it can be submitted, and a slow consumer holds back
        new submits. One failure never ends the others. Left early, nothing more is submitted: what
        was not sent is withdrawn, or left to its batch; what was taken is polled until the session
        closes. Use ``contextlib.aclosing`` so that leaving takes effect at once.

        With a ledger on disk, the same ``batch`` goes on where it was stopped or killed: what was
        saved is there (its task then has no URLs: they are not kept), what runs is polled again,
        what was not taken is sent, and what has an unknown outcome is a :class:`~aivideo.Failed`.

        Args:
            requests: any iterable, async or not.
            save_to: a folder for the files, or a function from index and request to a path; None:
                do not fetch results.
            batch: a name under which the same request is the same job, whenever it is asked for;
                None: each call is new work.
            key: names the job of an index and a request within the batch, as a str; None: its
                content and its occurrence number among requests with equal content.
            max_credits: a ceiling over all that the batch was ever charged, has reserved or may
                have cost, in all processes and runs: an int, a str or a Decimal. It is stored with
                the batch: left out, the stored one counts; ``"none"`` lifts it. Without ``batch``,
                over this call. Nothing more is bought under it while a create of unknown price is
                charged, reserved or of unknown outcome.
            retry_failed: send those again that failed (and were refunded) or were refused.
            pay_again: allow to pay twice. A job that was taken and whose result cannot be had (its
                URL has expired, the service does not know its task, its file is lost) is bought
                again, once per call; with ``retry_failed``, those whose outcome is unknown are sent
                again too. The earlier POST stays charged, or in doubt; ceilings count both.
            known_only: record nothing: take on only jobs that the ledger knows by their ``key``. A
                request fails if its key is not known, is known for another request by now, or was
                withdrawn.
            on_job: called with each request's job (``job.index`` is the request's index) before it
                is sent: whoever leaves early can tell from it what was taken.

        Yields:
            :class:`~aivideo.Succeeded` or :class:`~aivideo.Failed`. What ``key``, ``save_to`` or
            ``on_job`` raise for one request is its outcome, a ``Failed`` with a
            :class:`~aivideo.UserCodeError`: if ``key`` or ``on_job`` raised, it is not sent.

        Raises:
            ConfigurationError: an argument breaks a rule; no request was read.
            SystemExit, KeyboardInterrupt: ``key``, ``save_to`` or ``on_job`` raised it. No further
                request is read, and it is raised after the last outcome of those that were.
            Exception: ``requests`` raised it; likewise.
        """
        self._parts.supervisor.check_loop()
        if batch is not None and not is_name(batch):
            raise ConfigurationError("batch= must be a name, or None for new work")
        if batch is None and (key is not None or retry_failed or pay_again or known_only):
            raise ConfigurationError(
                "key=, retry_failed=, pay_again= and known_only= go with batch=: name the batch"
            )
        call = GenerateMany(
            self._parts.workers,
            requests,
            save_to,
            BatchOptions(
                batch,
                key,
                _ceiling(max_credits),
                retry_failed=retry_failed,
                pay_again=pay_again,
                known_only=known_only,
            ),
            self._settings.max_requests_in_flight,
            on_job,
        )
        try:
            async for outcome in call.outcomes():
                yield outcome
        finally:
            await call.leave()

    async def resume(self) -> list[Job]:
        """Take on every job of the ledger that has not ended, as its record says.

        Planned ones that were enqueued are sent, running ones are polled. A POST whose process
        died has an unknown outcome: its job is in the list with status ``unknown``, and is never
        sent by itself. What belongs to a batch is left to it (``generate_many(batch=...)``), and
        what was submitted with a key to ``submit(key=...)``; what was withdrawn stays so.
        """
        self._parts.supervisor.check_loop()
        statuses = (*JobStatus.sendable(), JobStatus.RUNNING, *JobStatus.in_doubt())
        return await self._parts.intake.resume(statuses)

    async def receive_callback(self, token: str, body: bytes) -> Job | None:
        """Take in a callback of the service: what was POSTed to ``<callback_base_url>/<token>``.

        Callbacks are not signed, so nothing in one is believed: a valid token has the task that it
        names asked for, and that response counts. It ends the wait for a running job at once, and
        settles a job of unknown outcome if model, prompt and length are its own; where it names a
        task that has not ended, that is waited for: a web handler gives this a task of its own.

        Args:
            token: the last part of the URL's path.
            body: the POST's body, as it came.

        Returns:
            The job it was about; None: it was not ours, or not true. Answer 2xx all the same, or
            404: the service tries others again.

        Raises:
            APIStatusError: the service refused to confirm it; answer 5xx, and it is tried again.
            APIConnectionError: the service could not be reached; likewise.
            ResponseError: it did not answer with a task; likewise.
            SessionClosedError: the session closed before the task it names had ended; likewise.
        """
        self._parts.supervisor.check_loop()
        receiving = self._parts.callbacks.receive(token, body)
        del token, body  # a signed URL may be in it: no traceback with locals may show it
        return await receiving

    def stop_submits(self, reason: str = "submits were stopped") -> None:
        """Send no further create: whatever still waits ends with a SessionClosedError, unsent.

        POSTs under way, polls and downloads go on; :meth:`resume_submits` starts again.
        """
        if self._closing is None:
            self._parts.gate.stop(SessionClosedError(reason))
            self._parts.recorder.limit_waiting(limited=True)

    def resume_submits(self) -> None:
        """Send creates again: after a top-up, say, or when a spend cap has reset.

        What runs is polled again too, where a bad key had ended that.
        """
        if self._closing is None:
            self._parts.recorder.limit_waiting(limited=False)
            self._parts.gate.open()
            self._parts.watching.watch_again()

    async def drain(self, *, downloads: bool = True) -> None:
        """Wait for the POSTs and, with ``downloads``, the downloads that are under way now.

        A POST that is rejected by the rate limit is not waited for again.
        """
        posting = [live.submission for live in self._parts.live if live.submission is not None]
        for submission in posting:
            await submission.verdict_known()
        if downloads:
            await self._parts.downloads.drain()

    # --- asking ---------------------------------------------------------------------------

    def job(self, task_id: TaskId) -> Job:
        """Take up a task again by its id; it is polled once somebody waits for it.

        Raises:
            InvalidRequestError: that is not an id.
        """
        if not is_name(task_id):
            raise InvalidRequestError.because(
                "task_id", task_id, "must be the id of a task", "take it from job.task_id"
            )
        return self._parts.actions.job_of(task_id)

    async def find(
        self,
        *,
        id: str | None = None,  # noqa: A002  the attribute it names
        key: str | None = None,
        batch: str | None = None,
    ) -> Job | None:
        """Find a job in the ledger by its id, or by its key within its batch.

        A job that runs is polled from now on; one that is planned is not sent by this.

        Args:
            id: our id of the job.
            key: the user's name for it.
            batch: the batch of the key; None: the key was given to submit, enqueue or generate.

        Returns:
            The job; None: the ledger has none.

        Raises:
            ConfigurationError: give either ``id`` or ``key``.
            LedgerError: the ledger cannot be read.
        """
        self._parts.supervisor.check_loop()
        if (id is None) is (key is None) or (id is not None and batch is not None):
            raise ConfigurationError("find() takes either id=…, or key=… with its batch=…")
        if id is not None:
            record = await self._ledger.find(id)
        else:
            assert key is not None
            record = await self._ledger.find_key(batch, key)
        if record is None:
            return None
        if record.status.is_sendable:
            return self._parts.intake.handle_of(record)
        return self._parts.intake.adopt(record).job

    def take_up(self, record: JobRecord) -> Job:
        """Take on a job that a ledger knows, as its record says: polled if it runs, sent if not.

        Args:
            record: from this session's :attr:`ledger`.
        """
        self._parts.supervisor.check_loop()
        return self._parts.intake.adopt(record).job

    def jobs(self) -> list[Job]:
        """List the jobs that wait to be sent, are being sent, or run."""
        return self._parts.live.unfinished()

    async def retrieve(self, task_id: TaskId) -> Task:
        """Ask for a task once, at the pace.

        Raises:
            TaskNotFoundError: there is none with that id.
            APIStatusError: the service refused.
            APIConnectionError: no response.
            ResponseError: a response that is not a task.
        """
        self._parts.supervisor.check_loop()
        return await self._parts.questions.retrieve(task_id)

    async def credits(self) -> Credits:
        """Ask for the balance, at the pace.

        Raises:
            APIStatusError: the service refused.
            APIConnectionError: no response.
            ResponseError: a response that is not a balance.
        """
        self._parts.supervisor.check_loop()
        return await self._parts.account.credits()

    def statistics(self) -> SessionStatistics:
        """Return what the session is doing now."""
        parts = self._parts
        return SessionStatistics(
            limiter=parts.limiter.statistics(),
            poller=parts.poller.statistics(),
            credits=parts.live.spent,
            jobs={str(status): count for status, count in parts.live.counts.items() if count},
        )

    async def aclose(self) -> None:
        """Close: send nothing more, wait for POSTs under way, and release every waiter.

        A POST under way is waited for up to ``request_timeout``: its verdict is money. A SQLite
        ledger that another process keeps locked is waited for up to 10 s in all; what could not be
        recorded is then logged, with the command that records it. So whoever is cancelled here
        leaves alone: the closing goes on, and may be waited for again. Waiters get a
        :class:`~aivideo.SessionClosedError` that carries their job. Jobs that were enqueued and not
        sent stay planned.

        Raises:
            ConfigurationError: this is another event loop than the session's.
        """
        self._parts.supervisor.check_loop()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        parts = self._parts
        parts.intake.close()
        parts.actions.close()
        parts.gate.stop(SessionClosedError("the session closed"))
        parts.recorder.limit_waiting(limited=True)
        try:
            await parts.supervisor.close(lambda: shut_down(parts))
        finally:
            self._closed = True
            try:
                await parts.recorder.aclose()
            finally:
                await self._client.aclose()
                if self._owns_ledger:
                    await self._ledger.aclose()
                else:
                    parts.recorder.limit_waiting(limited=False)


def _opened(ledger: Ledger | str | os.PathLike[str] | None) -> tuple[Ledger, bool]:
    """Open a ledger; returns it, and whether the session is to close it."""
    if ledger is None:
        return MemoryLedger(), True
    if isinstance(ledger, str | os.PathLike):
        from aivideo.ledger.sqlite import SqliteLedger

        return SqliteLedger(ledger), True
    return ledger, False


def _ceiling(max_credits: int | str | Decimal | None) -> Decimal | Literal["none"] | None:
    if max_credits is None:
        return None
    if max_credits == "none":
        return "none"
    try:
        amount = _amounts.exact(max_credits)
    except ValueError as error:
        raise ConfigurationError(
            f'max_credits={max_credits!r} {error}; give credits, or "none" to lift the ceiling'
        ) from None
    if amount < 0:
        raise ConfigurationError(f"max_credits={max_credits!r} must be 0 credits or more")
    return amount
