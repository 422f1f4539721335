"""Why a job has no task, as errors; pure."""

from __future__ import annotations

from aivideo._api import wire
from aivideo._session.job import Job
from aivideo.errors import (
    AIVideoError,
    JobWithdrawnError,
    SessionClosedError,
    SubmitUnknownError,
)
from aivideo.ledger.records import JobRecord, JobStatus, Reason


def still_faulted(fault: AIVideoError, later: Exception | None) -> AIVideoError:
    """Return the error of a job answered by 500 or 503, given how sending it again ended."""
    if later is None or later is fault:
        return fault
    return with_note(fault, f"sent again as allowed, and then: {later}")


def why_untaken(job: Job, record: JobRecord) -> AIVideoError | None:
    """Return, as an error, why a job has no task; None where it has one, or waits for one."""
    reason = record.reason or Reason(message="no reason was recorded")
    match record.status:
        case JobStatus.UNKNOWN:
            return SubmitUnknownError(reason.message, job=job)
        case JobStatus.FAULTED | JobStatus.REFUSED:
            return wire.error_as(reason.status or 0, reason.code, reason.message)
        case JobStatus.WITHDRAWN:
            return withdrawn(job)
        case _:
            return None


def sent_elsewhere(job: Job, record: JobRecord) -> AIVideoError:
    """Return the error of a job that another process has sent, and that has no task yet."""
    text = f"job {job.id} is being sent by another process: find it again later"
    return why_untaken(job, record) or SessionClosedError(text, job=job)


def withdrawn(job: Job) -> JobWithdrawnError:
    """Return the error of a job that was withdrawn."""
    return JobWithdrawnError(f"job {job.id} was withdrawn; nothing was sent", job=job)


def who_sends_it(record: JobRecord) -> str:
    """Say who may send a job later that stays planned."""
    if record.batch is not None:
        text = f"not sent yet: the batch {record.batch!r} sends it"
    elif record.resumable:
        text = "not sent yet: session.resume() sends it"
    else:
        text = f"not sent yet: submit it again with key={record.key!r}"
    return f"{text}; an earlier create of it may have been charged" if record.doubts else text


def not_withdrawn(record: JobRecord) -> str:
    """Say who may send a job that was to be withdrawn, which could not be recorded."""
    return (
        f"it was not sent, and its withdrawal could not be recorded yet: if this process ends "
        f"before that, session.resume() may send it; see job {record.id}"
    )


def with_note(error: AIVideoError, note: str) -> AIVideoError:
    """Add a note in brackets to an error, and return it."""
    error.args = (f"{error} ({note})", *error.args[1:])
    return error
