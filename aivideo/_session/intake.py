"""Takes jobs on: plans new ones, finds those that a ledger knows, resumes what is left."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection

from aivideo._session.job import Job, JobActions
from aivideo._session.live import IfUnsent, LiveJob, LiveJobs, new_job
from aivideo._session.reasons import why_untaken
from aivideo._session.recorder import Recorder
from aivideo._session.submitter import Submitter
from aivideo._session.supervisor import Supervisor
from aivideo._session.watching import Watching
from aivideo.catalog import Catalog, is_name, is_web_url
from aivideo.errors import (
    ContradictionError,
    InvalidRequestError,
    LedgerError,
    SessionClosedError,
)
from aivideo.ledger import events
from aivideo.ledger.records import JobRecord, JobStatus
from aivideo.models import Generation, Request, Sora2, fingerprint


class Intake:
    """Takes jobs on as their records say: to be submitted, to be polled, or left alone.

    Args:
        live: the live jobs.
        recorder: has the ledger.
        submitter: submits what is planned.
        watching: polls what runs.
        supervisor: finishes what a cancelled caller has begun.
        actions: what the handles ask.
        catalog: checks that a request's price is still its price.
    """

    def __init__(
        self,
        live: LiveJobs,
        recorder: Recorder,
        submitter: Submitter,
        watching: Watching,
        supervisor: Supervisor,
        actions: JobActions,
        catalog: Catalog,
    ) -> None:
        self._closed = False
        self._live = live
        self._ledger = recorder.ledger
        self._recorder = recorder
        self._submitter = submitter
        self._watching = watching
        self._supervisor = supervisor
        self._actions = actions
        self._catalog = catalog

    def close(self) -> None:
        """Take no further job on."""
        self._closed = True

    def _is_closed(self) -> bool:
        return self._closed

    async def plan(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        key: str | None = None,
        batch: str | None = None,
        index: int | None = None,
        replace: bool = False,
        known_only: bool = False,
        retry_failed: bool = False,
        pay_again: bool = False,
        if_unsent: IfUnsent = IfUnsent.KEEP,
        enqueued: bool = False,
    ) -> tuple[Job, JobRecord]:
        """Record a request as a job, or find the job that it is already, and take it on.

        Args:
            request: what to make.
            callback_url: the user's own.
            key: the user's name for the job, within its batch.
            batch: the batch it belongs to.
            index: its place among the requests it came with.
            replace: let the job ask for ``request`` where it asked for another and was not taken.
            known_only: record nothing: find the job of ``key``, as it is.
            retry_failed: send it again if it failed (and was refunded) or was refused.
            pay_again: with ``retry_failed``, send it again also if its outcome is unknown.
            if_unsent: what becomes of it if its submission fails before the POST has left.
            enqueued: whether it stays in the queue although nobody waits for it, and ``resume()``
                may send it later.

        Raises:
            InvalidRequestError: the request, its price, ``callback_url`` or ``key`` breaks a rule.
            SessionClosedError: the session is closed.
            LedgerError: it could not be recorded.
        """
        if self._is_closed():
            raise SessionClosedError("the session is closed; nothing was sent")
        check_request(request, callback_url)
        key = check_key(key)
        self._catalog.check_price(request)
        record = JobRecord(
            id=secrets.token_hex(8),
            request=request,
            fingerprint=content_of(request),
            credits=request.credits,
            batch=batch,
            key=key,
            callback_url=callback_url,
            planned_at=time.time(),
            resumable=batch is None and (key is None or enqueued),
        )
        new_id = record.id
        try:
            if known_only:
                record = await self._known(record)
            else:
                record = await self._ledger.plan(record, replace=replace)
            if retry_failed and (
                record.status.is_retryable or (pay_again and record.status.is_in_doubt)
            ):
                record = await self._retried(record, pay_again=pay_again)
        except BaseException:
            if if_unsent is IfUnsent.WITHDRAW:
                # The ledger may record it all the same, after its caller has left.
                self._supervisor.start_must_finish(lambda: self._withdraw_unowned(new_id))
            raise
        if self._is_closed():  # while it was recorded
            if if_unsent is IfUnsent.WITHDRAW:
                await self._withdraw_unowned(record.id)
                raise SessionClosedError("the session closed; nothing was sent")
            raise SessionClosedError("the session closed; the job is planned, and not sent yet")
        live = self.adopt(record, index=index, if_unsent=if_unsent, enqueued=enqueued)
        return live.job, record

    def adopt(
        self,
        record: JobRecord,
        *,
        index: int | None = None,
        if_unsent: IfUnsent = IfUnsent.KEEP,
        enqueued: bool = True,
    ) -> LiveJob:
        """Take a job on as its record says.

        Args:
            record: from this session's ledger.
            index: its place among the requests it came with.
            if_unsent: what becomes of it if its submission fails before the POST has left.
            enqueued: whether it stays in the queue although nobody waits for it.
        """
        live = self._live.get(record.id)
        if live is not None and self._is_current(live, record):
            if index is not None:
                live.job.index = index
            if live.submission is not None:
                live.submission.interrupted = False  # it is wanted again
                live.submission.enqueued = live.submission.enqueued or enqueued
            return live
        live = self._live.add(record, new_job(record, self._actions, index))
        self._watching.follow(live, record)
        if record.status.is_sendable:
            self._submitter.start(live, if_unsent, enqueued=enqueued)
        elif record.status is not JobStatus.RUNNING:
            self._live.fail(live, why_untaken(live.job, record))
        return live

    def _is_current(self, live: LiveJob, record: JobRecord) -> bool:
        """Whether the handle of a live job can stay, given what the ledger knows now."""
        if live.submission is not None:
            return not live.submission.interrupted or live.submission.posting
        if record.status is JobStatus.PLANNED:
            return False  # its submission has ended here, and it is asked for again
        return live.job.status is record.status or not live.job.status.is_in_doubt

    async def resume(self, statuses: Collection[JobStatus]) -> list[Job]:
        """Take on the jobs of the ledger that have one of ``statuses``.

        A claim whose process died becomes unknown. A planned job is sent only if nobody was told
        that it is unsent: not if it belongs to a batch or to a key, which send it themselves.
        """
        await self._ledger.lapse()
        return [
            self.adopt(record).job
            async for record in self._ledger.jobs(statuses=tuple(statuses))
            if record.resumable or not record.status.is_sendable
        ]

    def handle_of(self, record: JobRecord) -> Job:
        """Return a handle of a job that a ledger knows, without sending or polling anything.

        A task that runs is polled once somebody waits for it.
        """
        live = self._live.get(record.id)
        if live is not None and (live.submission is not None or live.job.status is record.status):
            return live.job
        job = new_job(record, self._actions)
        job.status, job.task_id = record.status, record.task_id
        job.error = why_untaken(job, record)
        return job

    async def buy_again(self, job: Job) -> JobRecord | None:
        """Have a job sent again that was taken and whose result cannot be had; with its handle.

        Args:
            job: its task cannot be found, or its result has expired.

        Returns:
            The job, ``planned`` and on its way, or what another process has made of it meanwhile;
            None: it cannot be sent again.

        Raises:
            SessionClosedError: the session is closed.
            LedgerError: it could not be recorded; nothing is sent.
        """
        if self._is_closed():
            raise SessionClosedError("the session is closed; nothing was sent again", job=job)
        lost, record = job.task_id, await self._ledger.find(job.id)
        if record is not None and record.task_id == lost:
            record = await self._retried(record, pay_again=True)
        if record is None or record.task_id == lost:
            return None
        live = self._live.renew(record, job)
        self._watching.follow(live, record)
        if live.submission is not None:
            return record  # another call of this session was faster
        if record.status.is_sendable:
            self._submitter.start(live, IfUnsent.KEEP, enqueued=False)
        elif record.status is not JobStatus.RUNNING:
            self._live.fail(live, why_untaken(job, record))
        return record

    async def _known(self, job: JobRecord) -> JobRecord:
        """Find the job that has the key of ``job``.

        Raises:
            InvalidRequestError: there is none, or it asks for another request by now.
        """
        known = None if job.key is None else await self._ledger.find_key(job.batch, job.key)
        if known is None or known.fingerprint != job.fingerprint:
            problem = "is not known" if known is None else "was used for another request"
            raise InvalidRequestError.because("key", job.key, problem, "record the job first")
        return known

    async def _retried(self, record: JobRecord, *, pay_again: bool) -> JobRecord:
        try:
            # As it was seen: another process may have had it sent again meanwhile.
            again = events.Retried.of(record, pay_again=pay_again)
            return await self._ledger.record(record.id, again)
        except ContradictionError:
            # Somebody else asked for the same, and was faster: it is as they left it.
            return await self._ledger.find(record.id) or record

    async def _withdraw_unowned(self, job_id: str) -> None:
        try:
            await self._recorder.withdraw(job_id)
        except LedgerError:
            return  # it was not recorded, or somebody has sent it


def check_request(request: Request, callback_url: str | None = None) -> None:
    """Check the type of a request, and the user's own callback URL.

    Raises:
        InvalidRequestError: one of them is not valid.
    """
    if not isinstance(request, Sora2 | Generation):
        raise InvalidRequestError.because(
            "request", request, "is not a request", "give Sora2(...) or Generation(...)"
        )
    if callback_url is not None and not is_web_url(callback_url):
        raise InvalidRequestError.because(
            "callback_url", callback_url, "must be an http:// or https:// URL", "give a whole URL"
        )


def content_of(request: Request) -> str:
    """Return the fingerprint of a request.

    Raises:
        InvalidRequestError: the ``input`` of a :class:`Generation` was changed after it was made,
            and is not JSON any more.
    """
    try:
        return fingerprint(request)
    except TypeError as error:
        raise InvalidRequestError.because(
            "input",
            request.input,
            f"is not JSON ({error})",
            "use str, int, float, bool, list, dict",
        ) from None


def check_key(key: object) -> str | None:
    """Check a key: a str that is not blank and that every ledger can store, or None.

    Returns:
        The key. A subclass of str (a ``StrEnum``) becomes a plain str: a ledger must not call its
        methods.

    Raises:
        InvalidRequestError: it is neither.
    """
    if key is None:
        return None
    if not isinstance(key, str) or not is_name(key):
        rule = "must be a str that is not blank, without NUL and lone surrogates"
        raise InvalidRequestError.because("key", key, rule, "use str(…)")
    return str.__str__(key)
