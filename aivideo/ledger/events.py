"""What can happen to a job and to its attempts, as values.

:func:`aivideo.ledger.transitions.apply` decides what each of them changes.
"""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from aivideo.ledger.records import JobRecord, JobStatus, Reason
from aivideo.models import TaskId


@frozen(kw_only=True)
class Claimed:
    """The claimant may POST the job once.

    Attributes:
        owner: the ledger handle (one per process) that claimed it.
        lease_until: Unix seconds after which the claim counts as abandoned.
        at: Unix seconds of the claim.
        retry_faulted: whether it may also repeat a POST that was answered by 500 or 503.
    """

    owner: str = ""
    lease_until: float = 0.0
    at: float = 0.0
    retry_faulted: bool = False


@frozen
class Taken:
    """The service accepted the POST and charged it."""

    task_id: TaskId


@frozen
class Released:
    """The POST was proved not taken, or a person said so.

    Attributes:
        again: whether the job waits to be POSTed again. False where the POST repeated one that was
            answered by 500 or 503: the job is faulted, as before.
    """

    again: bool = True


@frozen
class Refused:
    """The service refused the POST finally; nothing was charged."""

    reason: Reason


@frozen
class Faulted:
    """The service answered 500 or 503: whether that is charged is not documented."""

    reason: Reason


@frozen
class Doubted:
    """Whether the POST was taken cannot be told."""

    reason: Reason


@frozen
class Completed:
    """The attempt's task completed; times are Unix seconds by the service's clock."""

    created_at: float | None = None
    completed_at: float | None = None


@frozen
class Failed:
    """The attempt's task failed, and its credits were refunded."""

    reason: Reason
    created_at: float | None = None


@frozen
class Saved:
    """The job's file was saved, complete, at ``path``; ``size`` in bytes."""

    path: str
    size: int | None = None


@frozen
class Retried:
    """A person asks for the job to be POSTed again.

    Attributes:
        pay_again: even if an earlier POST of it may have been taken; with ``seen``, even if it
            was: the job is running, completed or saved.
        seen: the job's status and the number of its latest attempt, as the person has seen them.
            A job that has changed since is not POSTed again. None: the status is not compared, and
            a job that was taken is never POSTed again.
    """

    pay_again: bool = False
    seen: tuple[JobStatus, int] | None = None

    @classmethod
    def of(cls, job: JobRecord, *, pay_again: bool) -> Retried:
        """Ask for ``job`` to be POSTed again, provided that it has not changed since."""
        return cls(pay_again, (job.status, job.latest))


@frozen
class Withdrawn:
    """The job, still planned, is not to be sent: a compare-and-set from ``planned``."""


AttemptEvent: TypeAlias = Taken | Released | Refused | Faulted | Doubted | Completed | Failed
"""What can happen to one attempt."""

Event: TypeAlias = Claimed | Saved | Retried | Withdrawn | AttemptEvent
"""What can happen to a job."""

ABANDONED = Doubted(
    Reason(message="its process died, or its lease ran out, before an answer was written down")
)
"""What is recorded of a claim that lapsed."""

LedgerEvent: TypeAlias = Event
"""The same, under its public name: ``from aivideo import LedgerEvent``."""
