"""What the verdict on a create leads to, taken apart once.

A verdict says what an answer means for the user's money (:mod:`aivideo._api.verdict`). This table
says what the session does about it; :func:`of` returns its row.

===============  ============  ================  ==================  =========================
verdict          ledger event  permit            gate                what next
===============  ============  ================  ==================  =========================
Accepted         Taken         accepted, a job   answered            the job runs
Throttled        Released      rejected          –                   sent again, when allowed
Exhausted        Released      accepted          closed              the job's error
Refused          Refused       accepted          answered            the job's error
Refused 401/403  Released      accepted          answered, closed    the job's error
Unsent           Released      lost              unconnected, but    sent again, a few times
                                                 not if its claim
                                                 had lapsed
Faulted          Faulted       accepted          doubted             the job's error; sent again
                                                                     if the user allowed it
Unknown          Doubted       lost              doubted             the job is unknown
Unknown, a 4xx   Doubted       accepted          –; a 402: closed    the job is unknown
===============  ============  ================  ==================  =========================

``Released`` means proved not taken: the job is planned again and its credits are free. A 401 or a
403 is about the key, not about the job, so the job stays planned too. A create is doubted if a task
may have been made, and if other creates would end in the same way: five in a row are an outage.
"""

from __future__ import annotations

from enum import Enum
from typing import assert_never

from attrs import evolve, frozen

from aivideo._api import verdict
from aivideo._api.send_deadline import ClaimLapsedError
from aivideo.errors import (
    AIVideoError,
    APIStatusError,
    AuthenticationError,
    InsufficientCreditsError,
    PermissionDeniedError,
    ResponseError,
)
from aivideo.ledger import events
from aivideo.ledger.events import AttemptEvent
from aivideo.ledger.records import Reason


class PermitEnd(Enum):
    """What the limiter is told about the permit."""

    ACCEPTED = "accepted"
    JOB_TAKEN = "accepted, and a job runs"
    REJECTED = "rejected by a 429"
    LOST = "no answer"


class GateEffect(Enum):
    """What the gate for creates is told."""

    NONE = "nothing"
    ANSWERED = "a create was answered"
    CLOSED = "no further create may be sent"
    ANSWERED_AND_CLOSED = "a create was answered, and no further one may be sent"
    UNCONNECTED = "a create found no connection"
    DOUBTED = "a create may have been taken, as it happens in an outage"


class Then(Enum):
    """What happens to the job next."""

    RUNS = "the job runs"
    SEND_WHEN_ALLOWED = "send again when the 429 allows it"
    SEND_IF_NOT_CONNECTED = "send again, unless it failed to connect too often"
    SEND_IF_USER_ALLOWED = "send again if the user allowed it beforehand"
    FAIL = "raise the verdict's error"
    UNKNOWN = "raise SubmitUnknownError"


@frozen(kw_only=True)
class Consequence:
    """One row of the table, with the facts of one verdict.

    Attributes:
        event: what the ledger records.
        permit: what the limiter is told.
        gate: what the gate is told.
        then: what happens to the job.
        error: why it was not taken, or may not have been; None if it was.
        gate_error: why the gate closes, where that is not ``error``; or None.
        retry_after: seconds that a 429 asked to wait, or None.
    """

    event: AttemptEvent
    permit: PermitEnd
    gate: GateEffect = GateEffect.NONE
    then: Then
    error: AIVideoError | None = None
    gate_error: AIVideoError | None = None
    retry_after: float | None = None


def of(heard: verdict.Verdict, *, retry: bool = False) -> Consequence:
    """Return the row of a verdict.

    Args:
        heard: the verdict.
        retry: whether the POST repeated one that was answered by 500 or 503. If it was not taken,
            the job is not planned again: it is what the earlier POST made it.
    """
    row = _row(heard)
    if retry and isinstance(row.event, events.Released):
        return evolve(row, event=events.Released(again=False))
    return row


def held_back(*, again: bool) -> Consequence:
    """Return what follows for a create that was claimed and not sent, as an outage had begun."""
    return Consequence(
        event=events.Released(again=again), permit=PermitEnd.LOST, then=Then.SEND_WHEN_ALLOWED
    )


def contradicted(text: str) -> Consequence:
    """Return what follows for a create whose response names the task of another job."""
    error = verdict.Unknown(ResponseError(text, status=200))
    return evolve(_row(error), permit=PermitEnd.ACCEPTED)


def _row(heard: verdict.Verdict) -> Consequence:
    match heard:
        case verdict.Accepted(task_id):
            return Consequence(
                event=events.Taken(task_id),
                permit=PermitEnd.JOB_TAKEN,
                gate=GateEffect.ANSWERED,
                then=Then.RUNS,
            )
        case verdict.Throttled(error, retry_after):
            return Consequence(
                event=events.Released(),
                permit=PermitEnd.REJECTED,
                then=Then.SEND_WHEN_ALLOWED,
                error=error,
                retry_after=retry_after,
            )
        case verdict.Exhausted(error):
            return Consequence(
                event=events.Released(),
                permit=PermitEnd.ACCEPTED,
                gate=GateEffect.CLOSED,
                then=Then.FAIL,
                error=error,
            )
        case verdict.Refused(error):
            about_key = isinstance(error, AuthenticationError | PermissionDeniedError)
            return Consequence(
                event=events.Released() if about_key else events.Refused(reason_of(error)),
                permit=PermitEnd.ACCEPTED,
                gate=GateEffect.ANSWERED_AND_CLOSED if about_key else GateEffect.ANSWERED,
                then=Then.FAIL,
                error=error,
            )
        case verdict.Unsent(error):
            lapsed = isinstance(error, ClaimLapsedError)
            return Consequence(
                event=events.Released(),
                permit=PermitEnd.LOST,
                gate=GateEffect.NONE if lapsed else GateEffect.UNCONNECTED,
                then=Then.SEND_IF_NOT_CONNECTED,
                error=error,
            )
        case verdict.Faulted(error):
            return Consequence(
                event=events.Faulted(reason_of(error)),
                permit=PermitEnd.ACCEPTED,
                gate=GateEffect.DOUBTED,
                then=Then.SEND_IF_USER_ALLOWED,
                error=error,
            )
        case verdict.Unknown(error) if heard.is_outage:
            return Consequence(
                event=events.Doubted(reason_of(error)),
                permit=PermitEnd.LOST,
                gate=GateEffect.DOUBTED,
                then=Then.UNKNOWN,
                error=error,
            )
        case verdict.Unknown(error, status):
            return Consequence(
                event=events.Doubted(reason_of(error)),
                permit=PermitEnd.ACCEPTED,
                gate=GateEffect.CLOSED if status == 402 else GateEffect.NONE,
                then=Then.UNKNOWN,
                error=error,
                gate_error=_payment_required() if status == 402 else None,
            )
        case _:
            assert_never(heard)


def _payment_required() -> InsufficientCreditsError:
    text = "payment required, in an answer that is not in this API's own words"
    return InsufficientCreditsError(text, status=402)


def reason_of(error: AIVideoError) -> Reason:
    """Return an error as the reason that a ledger keeps."""
    if isinstance(error, APIStatusError):
        return Reason(message=error.message, status=error.status, code=error.code)
    return Reason(message=str(error))
