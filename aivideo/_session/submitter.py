"""Submits jobs: permit, claim, one POST, consequences. The one place that spends money.

1. The limiter grants a permit. Only then is the attempt recorded as ``submitting`` and its credits
   reserved (``ledger.claim``, a compare-and-set), so that a crash leaves at most as many unknown
   outcomes as POSTs were in flight.
2. One POST, in a task that the session owns. Cancelling a caller does not cancel it, and closing
   waits for it.
3. Its verdict is recorded before anything else happens; what follows is one row of the table in
   :mod:`aivideo._session.consequences`. Only a job that is proved not taken is sent again.

A submission that ends before its POST has left raises an error to whoever waits. What happens to
the job then is decided by :class:`~aivideo._session.live.IfUnsent`: it is withdrawn, so that nobody
sends later what was said to be unsent, or it stays planned and the error says who will send it.

The file is long because one submission is one path: every point where it may end between the claim
and the consequence is decided here, and a reader who checks that no POST goes out twice reads it
from top to bottom.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import random

from attrs import define, evolve, field, frozen

from aivideo._api import callback_tokens
from aivideo._api.client import Client
from aivideo._api.send_deadline import SendDeadline
from aivideo._pacing.limiter import GateClosed, Limiter, Permit
from aivideo._pacing.turns import RequestKind
from aivideo._session import consequences, reasons
from aivideo._session.consequences import Consequence, GateEffect, PermitEnd, Then
from aivideo._session.gate import Gate, OutageProbe
from aivideo._session.live import IfUnsent, LiveJob, LiveJobs, Submission
from aivideo._session.recorder import Recorder
from aivideo._session.supervisor import Supervisor
from aivideo._session.watching import Watching
from aivideo.errors import (
    AIVideoError,
    APIConnectionError,
    APIStatusError,
    ContradictionError,
    InvalidRequestError,
    LedgerError,
    SessionClosedError,
    SubmitUnknownError,
)
from aivideo.ledger import events
from aivideo.ledger.events import AttemptEvent
from aivideo.ledger.records import AttemptStatus, JobRecord, JobStatus, Reason
from aivideo.ledger.totals import Holding
from aivideo.ledger.transitions import apply

log = logging.getLogger("aivideo.session")

UNSENT_ATTEMPTS = 6
"""POSTs of a job, in a row, that found no connection, before it fails (after some 15 s)."""

FAULTED_ATTEMPTS = 4
"""POSTs of a job answered by 500 or 503, where the user allowed to send those again."""

LEASE_MARGIN = 30.0
"""Seconds by which a claim outlives the request timeout, for its verdict to be recorded."""

UNREACHABLE_PATIENCE = 15.0
"""Seconds that ``submit`` and ``generate`` wait for a service that cannot be reached. Jobs of
``generate_many``, and enqueued ones, wait until it can."""

WRITE_MARGIN = 5.0
"""Seconds before its claim lapses after which a POST is not written any more."""

FOLLOW_INTERVAL = 2.0
"""Seconds between two reads of a record whose POST another process has under way."""


@frozen
class CallbackURLs:
    """Where the service is asked to call back (None: nowhere), and the secret of the tokens."""

    base: str | None
    secret: bytes = field(repr=False)

    def of(self, record: JobRecord, number: int) -> str | None:
        """Return the callback URL of one attempt: the user's own, else ours with its token."""
        if record.callback_url is not None or self.base is None:
            return record.callback_url
        return f"{self.base}/{callback_tokens.token(self.secret, record.id, number)}"


@define
class _Counts:
    """How often a submission was sent again, by reason."""

    unsent: int = 0
    faulted: int = 0

    @property
    def repeats_fault(self) -> bool:
        """Whether the next POST repeats one that was answered by 500 or 503."""
        return self.faulted > 0


class Submitter:
    """Submits jobs; see the module.

    Args:
        client: sends the POST.
        limiter: grants the permits.
        gate: told of verdicts that stop or hold creates.
        live: the live jobs.
        recorder: claims, and records verdicts.
        watching: polls the task that a job becomes.
        supervisor: owns the submissions.
        probe: asks whether an outage is over.
        urls: the callback URLs.
        resubmit_server_errors: whether a create answered by 500 or 503 is sent again.
    """

    def __init__(
        self,
        client: Client,
        limiter: Limiter,
        gate: Gate,
        live: LiveJobs,
        recorder: Recorder,
        watching: Watching,
        supervisor: Supervisor,
        probe: OutageProbe,
        *,
        urls: CallbackURLs,
        resubmit_server_errors: bool,
    ) -> None:
        self._client = client
        self._limiter = limiter
        self._gate = gate
        self._live = live
        self._recorder = recorder
        self._watching = watching
        self._supervisor = supervisor
        self._probe = probe
        self._urls = urls
        self._resubmit_server_errors = resubmit_server_errors

    # --- starting and withdrawing ---------------------------------------------------------------

    def start(self, live: LiveJob, if_unsent: IfUnsent, *, enqueued: bool) -> None:
        """Start submitting a job: one that is planned, or ``submitting`` in another process.

        Args:
            live: the job.
            if_unsent: what becomes of it if this fails before the POST has left.
            enqueued: whether it stays in the queue although nobody waits for it.
        """
        submission = live.submission = Submission(if_unsent, enqueued=enqueued)
        submission.start(self._supervisor.start_submission(self._run(live, submission)))

    def interrupt(self, live: LiveJob) -> None:
        """Stop submitting a job whose POST is not under way; one whose POST is goes on.

        It is then withdrawn or stays planned, as :class:`IfUnsent` says.
        """
        if live.submission is not None:
            live.submission.interrupt()

    async def withdraw(self, live: LiveJob) -> bool:
        """Withdraw a job that has not been sent.

        Returns:
            Whether it was withdrawn; False: its POST is under way, or it was taken or has ended.
        """
        if live.is_posting:
            return False
        try:
            record = await self._recorder.withdraw(live.id)
        except ContradictionError:
            return False
        self._live.apply(live, record)
        self.interrupt(live)
        return True

    # --- one submission -------------------------------------------------------------------------

    async def _run(self, live: LiveJob, submission: Submission) -> None:
        """Submit a job until it runs or has an error; release who waits. Never raises."""
        submission.begun = True
        try:
            error = await self._outcome(live, submission)
            if error is not None:
                self._live.fail(live, error)
        finally:
            live.submission = None
            submission.end()

    async def _outcome(self, live: LiveJob, submission: Submission) -> AIVideoError | None:
        """Submit a job; return why it was not taken, or may not have been. None: it runs."""
        error: Exception | None = None
        try:
            await self._submit(live, submission)
        except (asyncio.CancelledError, _InterruptedError):
            pass
        except Exception as failed:
            error = failed
        else:
            return None
        if live.job.task_id is not None:
            return None  # a callback has reported what the response did not
        if isinstance(error, SubmitUnknownError):
            return error
        if submission.fault is not None and live.record.status is JobStatus.FAULTED:
            return reasons.still_faulted(submission.fault, error)
        if live.may_be_bought and not isinstance(error, APIStatusError):
            return await self._in_doubt(live, error)
        if live.job.status is JobStatus.WITHDRAWN:
            return reasons.withdrawn(live.job)
        if error is None:
            error = SessionClosedError("submitting stopped", job=live.job)
        elif not isinstance(error, AIVideoError):
            log.error("submitting job %s failed; this is a defect", live.id, exc_info=error)
            error = SessionClosedError(f"submitting failed: {error!r}", job=live.job)
        return await self._unsent(live, submission, error)

    async def _in_doubt(self, live: LiveJob, error: Exception | None) -> AIVideoError:
        """Return the error of a job of which a POST may have been taken."""
        if error is None:
            text = "it was interrupted by the end of its event loop"
            return SubmitUnknownError(text, job=live.job)
        return self._not_recorded(live, error)

    def _not_recorded(self, live: LiveJob, error: Exception) -> SubmitUnknownError:
        """Return the error of a POST after which something failed: nobody may send it again."""
        text = f"its POST was sent, and no verdict was recorded: {error}"
        log.error("job %s: %s", live.id, text)
        return SubmitUnknownError(text, job=live.job)

    async def _unsent(
        self, live: LiveJob, submission: Submission, error: AIVideoError
    ) -> AIVideoError | None:
        """Return the error of a job that was not taken; withdraw the job where it was promised.

        None: it was not sent here, and another process had it taken meanwhile.
        """
        submission.ending = True
        if live.job.status is not JobStatus.PLANNED:
            if (
                submission.if_unsent is IfUnsent.WITHDRAW
                and live.job.status is JobStatus.SUBMITTING
                and live.held is Holding.NONE
            ):  # proved not taken, which could not be recorded yet
                self._recorder.withdraw_later(live.id)
                return reasons.with_note(error, reasons.not_withdrawn(live.record))
            return error
        keeps = submission.if_unsent is IfUnsent.KEEP
        try:
            record = await (self._found(live) if keeps else self._withdrawn_or_sent(live))
        except LedgerError:
            if keeps:
                return reasons.with_note(error, reasons.who_sends_it(live.record))
            self._recorder.withdraw_later(live.id)
            return reasons.with_note(error, reasons.not_withdrawn(live.record))
        try:
            _check_unchanged(live.record, record)
        except InvalidRequestError as changed:
            return changed
        self._watching.follow(live, record)
        if record.status is JobStatus.PLANNED:
            return reasons.with_note(error, reasons.who_sends_it(record))
        if record.task_id is not None:
            return None
        if record.status is not JobStatus.WITHDRAWN:
            return reasons.sent_elsewhere(live.job, record)
        if keeps:  # a person has withdrawn it
            return reasons.withdrawn(live.job)
        if isinstance(error, SessionClosedError):
            return reasons.with_note(error, "it was not sent")
        return error

    async def _found(self, live: LiveJob) -> JobRecord:
        """Return what a job is now: another process may have sent it meanwhile.

        Raises:
            LedgerError: it cannot be read.
        """
        record = await self._recorder.find(live.id)
        if record is None:
            raise LedgerError(f"job {live.id} is no longer in the ledger")
        return record

    async def _withdrawn_or_sent(self, live: LiveJob) -> JobRecord:
        """Withdraw a job; return what it is now, which is not ``planned``.

        Another process may have been faster, and have sent it: its ``resume()``, say.

        Raises:
            LedgerError: it could not be withdrawn.
        """
        while True:
            try:
                return await self._recorder.withdraw(live.id)
            except ContradictionError:
                record = await self._found(live)
                if record.status is not JobStatus.PLANNED:
                    return record

    async def _submit(self, live: LiveJob, submission: Submission) -> None:
        """Send a job's create until it has a verdict that ends the submission.

        Raises:
            AIVideoError: why it was not taken, or may not have been.
        """
        counts = _Counts()
        asked: float | None = None
        ours = live.record.status is JobStatus.PLANNED
        while True:
            _check_interrupted(submission)
            if not ours and await self._follow(live):
                return
            permit = await self._permit(live, submission, asked)
            if submission.interrupted:
                permit.unused()
                raise _InterruptedError
            asked = None
            # From here to the verdict nobody may cancel this task.
            submission.begin_post()
            try:
                what = await self._post(live, permit, retry=counts.repeats_fault)
            finally:
                submission.end_post()
            ours = what is not None
            if what is None:
                continue  # another process has the job
            match what.then:
                case Then.RUNS:
                    return
                case Then.UNKNOWN:
                    if live.job.task_id is not None:
                        return  # a callback has told meanwhile
                    raise SubmitUnknownError(str(what.error), job=live.job) from what.error
                case Then.SEND_WHEN_ALLOWED:
                    asked = what.retry_after or 0.0
                case Then.SEND_IF_NOT_CONNECTED if counts.unsent + 1 < UNSENT_ATTEMPTS:
                    _check_interrupted(submission)
                    counts.unsent += 1
                    await asyncio.sleep(min(8.0, 0.5 * 2**counts.unsent) * random.uniform(0.5, 1.0))
                case Then.SEND_IF_USER_ALLOWED if (
                    self._resubmit_server_errors and counts.faulted + 1 < FAULTED_ATTEMPTS
                ):
                    _check_interrupted(submission)
                    counts.faulted += 1
                    # The attempt stays faulted, its credits held: it may have been charged. Nothing
                    # is recorded before the next claim, so that no later run repeats it.
                    submission.fault = what.error
                    await asyncio.sleep(2.0**counts.faulted * random.uniform(0.5, 1.0))
                case _:
                    assert what.error is not None
                    raise what.error

    async def _post(self, live: LiveJob, permit: Permit, *, retry: bool) -> Consequence | None:
        """Claim, POST once, and record the verdict; None: somebody else has the job.

        Args:
            live: the job.
            permit: to send one create.
            retry: whether this repeats a POST that was answered by 500 or 503.
        """
        planned = live.record
        claimed: JobRecord | None = None
        try:
            lease = self._client.request_timeout + LEASE_MARGIN
            # Before the claim: writing it may take long, where the ledger is locked.
            not_after = SendDeadline.after(lease - WRITE_MARGIN)
            claimed = await self._recorder.claim(live, lease=lease, retry_faulted=retry)
        finally:
            if claimed is None:
                permit.unused()
        if claimed is None:
            return None
        try:
            _check_unchanged(planned, claimed)
        except InvalidRequestError:
            permit.unused()
            await self._record(live, claimed, events.Released(again=not retry))
            raise
        interrupted = live.submission is not None and live.submission.interrupted
        if interrupted or self._gate.outage.is_held:  # since the claim was begun
            permit.unused()
            held = consequences.held_back(again=not retry)
            await self._record(live, claimed, held.event)
            return held
        url = self._urls.of(claimed, claimed.latest)
        try:
            heard = await self._client.submit(
                claimed.request, callback_url=url, not_after=not_after
            )
        except BaseException as error:
            # Only the tear-down of the event loop gets here. What has left, has left.
            permit.lost()
            log.warning(
                "job %s: its POST was interrupted (%s); whether it was taken is unknown",
                *(live.id, type(error).__name__),
            )
            reason = Reason(message=f"interrupted by {type(error).__name__}")
            await self._record(live, claimed, events.Doubted(reason))
            raise
        what = consequences.of(heard, retry=retry)
        record: JobRecord | None = None
        try:
            record = await self._written(live, claimed, what.event)
            if record is not None:
                what = _checked(what, record, claimed.latest)
        finally:
            self._tell_limiter(permit, what)  # before a task that has ended already is noticed
            self._tell_gate(what)
        if record is not None:
            self._watching.follow(live, record)
        if isinstance(what.event, events.Released):
            # Where the claim had lapsed, the job may have been settled and replaced meanwhile.
            _check_unchanged(claimed, live.record)
        return what

    async def _record(self, live: LiveJob, claimed: JobRecord, event: AttemptEvent) -> None:
        record = await self._written(live, claimed, event)
        if record is not None:
            self._watching.follow(live, record)

    async def _written(
        self, live: LiveJob, claimed: JobRecord, event: AttemptEvent
    ) -> JobRecord | None:
        """Record an event of this POST; return what the job is now, None where it is not known."""
        record = await self._recorder.record(live, event, claimed.latest)
        if record is None and isinstance(event, events.Taken):
            # Not on disk, and bought all the same: this process goes on with it.
            return apply(claimed, event)
        return record

    def _tell_limiter(self, permit: Permit, what: Consequence) -> None:
        match what.permit:
            case PermitEnd.JOB_TAKEN:
                permit.accepted(job_taken=True)
            case PermitEnd.ACCEPTED:
                permit.accepted()
            case PermitEnd.REJECTED:
                permit.rejected(what.retry_after)
            case PermitEnd.LOST:
                permit.lost()

    def _tell_gate(self, what: Consequence) -> None:
        if what.gate in (GateEffect.ANSWERED, GateEffect.ANSWERED_AND_CLOSED):
            self._gate.answered(accepted=what.then is Then.RUNS)
        if what.gate in (GateEffect.CLOSED, GateEffect.ANSWERED_AND_CLOSED):
            error = what.gate_error or what.error
            assert error is not None
            self._gate.close(error)
        holds = (what.gate is GateEffect.DOUBTED and self._gate.doubted()) or (
            what.gate is GateEffect.UNCONNECTED and self._gate.unconnected()
        )
        if holds:
            self._supervisor.start_cancellable(self._probe.run)

    async def _follow(self, live: LiveJob) -> bool:
        """Wait for the verdict of a POST that another process has under way.

        Returns:
            Whether it was taken; False: it was not, and is to be sent by this session.

        Raises:
            AIVideoError: why it was not taken, or may not have been.
        """
        ledger, planned = self._recorder.ledger, live.record
        while True:
            await ledger.lapse()
            record = await ledger.find(live.id)
            if record is None:
                raise LedgerError(f"job {live.id} is no longer in the ledger")
            _check_unchanged(planned, record)
            self._watching.follow(live, record)
            if record.task_id is not None:
                return True
            match record.status:
                case JobStatus.PLANNED:
                    return False
                case JobStatus.SUBMITTING:
                    await asyncio.sleep(FOLLOW_INTERVAL)
                case JobStatus.WITHDRAWN:
                    raise reasons.withdrawn(live.job)
                case _:
                    raise reasons.why_untaken(live.job, record) or LedgerError(
                        f"job {live.id} is {record.status}"
                    )

    async def _permit(
        self, live: LiveJob, submission: Submission, retry_after: float | None
    ) -> Permit:
        """Wait until this create may be sent.

        Raises:
            AIVideoError: the gate is closed, or nobody may wait any longer for the service.
        """
        outage = self._gate.outage
        is_patient = submission.enqueued or live.job.index is not None
        while True:
            limit = UNREACHABLE_PATIENCE if outage.is_unreachable and not is_patient else None
            try:
                async with asyncio.timeout(limit):
                    permit = await self._limiter.acquire(
                        RequestKind.CREATE, retry_after=retry_after
                    )
            except GateClosed as closed:
                # A copy for each: one error raised a thousand times would grow its traceback.
                raise copy.copy(closed.error) from None
            except TimeoutError:
                text = f"no connection to the service for the last {UNREACHABLE_PATIENCE:g} s"
                raise APIConnectionError(text, written=False) from None
            if not outage.is_held:
                return permit
            permit.unused()  # granted just before the outage was noticed


class _InterruptedError(Exception):
    """The submission was told to stop; it has no POST under way."""


def _check_interrupted(submission: Submission) -> None:
    if submission.interrupted:
        raise _InterruptedError


def _checked(what: Consequence, record: JobRecord, number: int) -> Consequence:
    """Return the consequence of a POST, given what the ledger recorded of it.

    A response may name the task of another job: then the ledger has recorded a doubt, and no task
    of this job runs.
    """
    event = what.event
    if not isinstance(event, events.Taken):
        return what
    attempt = record.attempt(number)
    if attempt.task_id == event.task_id:
        # A callback may have reported its end meanwhile: then it takes no place.
        runs = attempt.status is AttemptStatus.RUNNING
        return what if runs else evolve(what, permit=PermitEnd.ACCEPTED)
    text = f"the response names task {event.task_id}, which is the task of another job"
    return consequences.contradicted(text)


def _check_unchanged(planned: JobRecord, now: JobRecord) -> None:
    """Check that a job still is what was to be sent, at the price that was admitted.

    Raises:
        InvalidRequestError: its key was used for another request meanwhile, as by an edited
            manifest in another process: whoever did so sends that request.
    """
    if (planned.fingerprint, planned.credits) != (now.fingerprint, now.credits):
        raise InvalidRequestError.because(
            "key", now.key, "was used for another request meanwhile", "use a key per request"
        )
