"""The way of a create: from a permit to a verdict. The one place that spends money.

1. The limiter grants a permit; only then is the attempt written down as ``submitting`` and its
   credits reserved (``ledger.claim``, a compare-and-set): a crash makes at most as many unknowns
   as POSTs were in flight.
2. One POST, in a task that the session owns. A cancelled caller does not cancel it, and closing
   waits for it.
3. Its verdict decides (:mod:`aivideo._api.verdict`), and is written down before anything else
   happens. Only what is proved not taken goes round again.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import random
from collections.abc import Awaitable, Callable
from typing import assert_never

from attrs import field, frozen

from aivideo._api import callback_tokens as callbacks
from aivideo._api import verdict
from aivideo._api.client import Client
from aivideo._pacing.limiter import GateClosed, Limiter, Permit
from aivideo._pacing.turns import RequestKind
from aivideo._session.books import Books, event_of, why_untaken
from aivideo._session.job import Job
from aivideo.errors import (
    AIVideoError,
    AuthenticationError,
    InvalidRequestError,
    LedgerError,
    PermissionDeniedError,
    SubmitUnknownError,
)
from aivideo.ledger import events, transitions
from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.models import TaskId

log = logging.getLogger("aivideo._session.session")

UNSENT_TRIES = 6
"""POSTs that never connected, in a row, before a job gives up (some 15 s)."""

FAULTED_TRIES = 4
"""POSTs of a job answered by 500 or 503, when the user allowed to send those again."""

UNKNOWNS_IN_A_ROW = 5
"""Unknowns in a row that close the gate until ``GET /v1/credits`` answers: an outage must not
turn every waiting job into an unknown."""

LEASE_MARGIN = 30.0
"""Seconds by which a claim outlives the request timeout, for its verdict to be written."""

FOLLOW_EVERY = 2.0
"""Seconds between two looks into the ledger at a POST that another process has under way."""


@frozen
class CallbackURLs:
    """Where the service is to call us (None: nowhere), and what tokens are made with."""

    base: str | None
    secret: bytes = field(repr=False)

    def of(self, record: JobRecord, number: int) -> str | None:
        """Give the callback URL of one attempt: the user's own, else ours with its token."""
        if record.callback_url is not None or self.base is None:
            return record.callback_url
        return f"{self.base}/{callbacks.token(self.secret, record.id, number)}"


class Purchase:
    """Sends creates; see the module.

    Args:
        client: the endpoints.
        limiter: who may send when.
        books: where it is written down.
        urls: what callback URLs are made of.
        note: told of each record of a job: its handle, and its tasks, follow it.
        answers: asks the service something harmless; raises if it does not answer.
        resubmit_server_errors: whether a create answered by 500 or 503 is sent again.

    Attributes:
        posting: ids of the jobs whose POST is under way, each with what is set when its verdict
            is in: nobody may cancel those.
    """

    def __init__(
        self,
        client: Client,
        limiter: Limiter,
        books: Books,
        *,
        urls: CallbackURLs,
        note: Callable[[Job, JobRecord], None],
        answers: Callable[[], Awaitable[object]],
        resubmit_server_errors: bool,
    ) -> None:
        self.posting: dict[str, asyncio.Event] = {}
        self._client = client
        self._limiter = limiter
        self._books = books
        self._urls = urls
        self._note = note
        self._answers = answers
        self._resubmit_server_errors = resubmit_server_errors
        self._outage = _Outage()
        self._probing: asyncio.Task[None] | None = None

    async def submit(  # noqa: C901  a turn and an arm a verdict: a table
        self, job: Job, record: JobRecord
    ) -> TaskId:
        """Send a job's create until it has a verdict that ends it.

        Args:
            job: its handle.
            record: what the ledger knows of it: ``planned``, or ``submitting`` by somebody else.

        Raises:
            AIVideoError: why it was not taken, or may not have been.
        """
        ours = record.status is JobStatus.PLANNED
        unsent = faulted = 0
        retry_after: float | None = None
        while True:
            if not ours:
                task_id = await self._follow(job, record)
                if task_id is not None:
                    return task_id
            permit = await self._permit(retry_after)
            # From here to the verdict nobody may cancel this task.
            verdict_in = self.posting[job.id] = asyncio.Event()
            try:
                heard = await self._post(job, record, permit)
            finally:
                self.posting.pop(job.id, None)
                verdict_in.set()
            ours = heard is not None
            retry_after = None
            match heard:
                case None:
                    continue
                case verdict.Accepted(task_id):
                    if job.task_id is None:
                        raise SubmitUnknownError(
                            f"the service answered with task {task_id}, which is another job's",
                            job=job,
                        )
                    return task_id
                case verdict.Throttled():
                    retry_after = heard.retry_after or 0.0
                case verdict.Unsent():
                    unsent += 1
                    if unsent >= UNSENT_TRIES:
                        raise heard.error
                    await asyncio.sleep(min(8.0, 0.5 * 2**unsent) * random.uniform(0.5, 1.0))
                case verdict.Faulted():
                    faulted += 1
                    if not self._resubmit_server_errors or faulted >= FAULTED_TRIES:
                        raise heard.error
                    await asyncio.sleep(2.0**faulted * random.uniform(0.5, 1.0))
                    # The attempt stays as it is, and its credits held: it may have been charged.
                    again = events.Retried(may_pay_twice=True)
                    self._note(job, await self._books.ledger.record(job.id, again))
                case verdict.Unknown() if job.task_id is not None:
                    return job.task_id  # a callback has told meanwhile
                case verdict.Unknown():
                    raise SubmitUnknownError(str(heard.error), job=job) from heard.error
                case verdict.Exhausted() | verdict.Refused():
                    raise heard.error
                case _:
                    assert_never(heard)

    async def _post(self, job: Job, record: JobRecord, permit: Permit) -> verdict.Verdict | None:
        """Claim, POST once, and write the verdict down; None: somebody else has the job."""
        claimed: JobRecord | None = None
        try:
            lease = self._client.request_timeout + LEASE_MARGIN
            claimed = await self._books.claim(job, record, lease=lease)
        finally:
            if claimed is None:
                permit.unused()
        if claimed is None:
            return None
        try:
            _refuse_another(record, claimed)
        except InvalidRequestError:
            permit.unused()
            await self._keep(job, claimed, events.Released())
            raise
        url = self._urls.of(claimed, claimed.latest)
        try:
            heard = await self._client.submit(claimed.request, callback_url=url)
        except BaseException as error:
            # Only a loop that is torn down gets here. What has left, has left.
            permit.lost()
            reason = Reason(message=f"interrupted by {type(error).__name__}")
            await self._keep(job, claimed, events.Doubted(reason))
            raise
        try:
            await self._keep(job, claimed, event_of(heard))
        finally:
            self._settle(permit, heard)
        return heard

    async def _keep(self, job: Job, claimed: JobRecord, event: events.AttemptEvent) -> None:
        record = await self._books.keep(job, event, claimed.latest)
        if record is not None:
            self._note(job, record)
        elif isinstance(event, events.Taken):
            # Not on disk, and bought all the same: this process goes on with it.
            self._note(job, transitions.apply(claimed, event))

    async def _follow(self, job: Job, planned: JobRecord) -> TaskId | None:
        """Wait for the verdict of a POST that another process has under way.

        Returns:
            The task it became; None: it was not taken, and is to be sent after all.
        """
        ledger = self._books.ledger
        while True:
            await ledger.lapse()
            record = await ledger.find(job.id)
            if record is None:
                raise LedgerError(f"job {job.id} has gone from the ledger")
            _refuse_another(planned, record)
            self._note(job, record)
            if record.task_id is not None:
                return record.task_id
            if record.status is JobStatus.PLANNED:
                return None
            if record.status is not JobStatus.SUBMITTING:
                raise why_untaken(job, record) or LedgerError(f"job {job.id} is {record.status}")
            await asyncio.sleep(FOLLOW_EVERY)

    async def _permit(self, retry_after: float | None) -> Permit:
        while True:
            try:
                permit = await self._limiter.acquire(RequestKind.CREATE, retry_after=retry_after)
            except GateClosed as closed:
                # A copy for each: one error raised a thousand times would grow a traceback.
                raise copy.copy(closed.error) from None
            if not self._outage.on:
                return permit
            permit.unused()  # granted just before the outage was seen

    # --- the gate -------------------------------------------------------------------------

    def close_gate(self, error: AIVideoError) -> None:
        """Send no further create, and say why, once.

        A reason that passes by itself (a ledger that cannot be written) gives way to one that does
        not.
        """
        before = self._limiter.creates_closed_by
        passes = isinstance(before, LedgerError) and not isinstance(error, LedgerError)
        if before is None or passes:
            log.warning("no further creates: %s", error)
            self._limiter.close_creates(error)

    def reopen_gate(self) -> None:
        """Let creates go again, if it was the ledger that has closed the gate."""
        if isinstance(self._limiter.creates_closed_by, LedgerError):
            self._limiter.open_creates()

    async def aclose(self) -> None:
        """Stop asking whether an outage is over."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    def _settle(self, permit: Permit, heard: verdict.Verdict) -> None:
        """Tell the pace, the gate and the outage watch what a verdict means to each."""
        match heard:
            case verdict.Accepted():
                permit.accepted(job_taken=True)
                self._outage.answered()
            case verdict.Throttled(_, retry_after):
                permit.rejected(retry_after)
            case verdict.Exhausted(error):
                permit.accepted()
                self.close_gate(error)
            case verdict.Refused(error):
                permit.accepted()
                self._outage.answered()
                if isinstance(error, AuthenticationError | PermissionDeniedError):
                    self.close_gate(error)
            case verdict.Faulted():
                permit.accepted()
            case verdict.Unsent():
                permit.lost()
            case verdict.Unknown():
                permit.lost()
                if self._outage.unknown():
                    log.warning(
                        "%d creates in a row of unknown fate: no more until the service answers",
                        UNKNOWNS_IN_A_ROW,
                    )
                    # Held, not closed: and whatever closes them lets those go that wait here.
                    self._limiter.hold_creates()
                    self._probing = asyncio.create_task(self._probe())
            case _:
                assert_never(heard)

    async def _probe(self) -> None:
        """Ask for the balance until the service answers, then let creates go on."""
        while self._outage.on:
            await asyncio.sleep(self._outage.pause)
            try:
                await self._answers()
            except Exception as error:  # a transport of one's own may break in its own way
                log.info("the service does not answer yet: %s", error)
                self._outage.relapse()
            else:
                self._outage.over()
                self._limiter.release_creates()


def _refuse_another(planned: JobRecord, now: JobRecord) -> None:
    """See that a job still is what was to be sent, at the price that was admitted.

    Raises:
        InvalidRequestError: somebody else has let its key ask for something else meanwhile, as an
            edited manifest does: whoever did so sends that.
    """
    if (planned.fingerprint, planned.credits) != (now.fingerprint, now.credits):
        raise InvalidRequestError.because(
            "key", now.key, "was used for another request meanwhile", "use a key per request"
        )


class _Outage:
    """Counts unknowns in a row; when there are too many, creates wait until the service answers."""

    FIRST_PAUSE = 5.0

    def __init__(self) -> None:
        self.on = False
        self.pause = self.FIRST_PAUSE
        self._in_a_row = 0

    def unknown(self) -> bool:
        """Note an unknown; True if it was the one that closes the gate."""
        self._in_a_row += 1
        if self.on or self._in_a_row < UNKNOWNS_IN_A_ROW:
            return False
        self.on = True
        return True

    def answered(self) -> None:
        """Note a create that was answered: the row is broken, and the next pause short again."""
        self._in_a_row = 0
        self.pause = self.FIRST_PAUSE

    def relapse(self) -> None:
        self.pause = min(600.0, self.pause * 2)

    def over(self) -> None:
        # The row goes on: one more unknown right after is a relapse, and waits twice as long.
        self.on = False
        self._in_a_row = UNKNOWNS_IN_A_ROW - 1
        self.relapse()
