"""What instrumentation is told: frozen values, and one Protocol.

Pass any callable as ``Session(instrumentation=…)``::

    def count(event: SessionEvent) -> None:
        if isinstance(event, JobChanged):
            METRICS[event.after] += 1


    session = Session(instrumentation=count)

It is called in the session's event loop, after the change has been recorded in the ledger, and
must return at once. An exception that it raises is logged and affects no job. No event holds an API
key or the URL of a result.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from attrs import field, frozen

from aivideo.errors import AIVideoError
from aivideo.ledger.records import JobStatus
from aivideo.models import TaskId


@frozen(kw_only=True)
class JobChanged:
    """A job has another status.

    Attributes:
        job_id: our id of the job.
        batch: its batch, or None.
        key: its key, or None.
        model: the model it asks for.
        task_id: the service's id of its task, or None while it has none.
        credits: its price, or None where it is not known.
        before: its status before; ``planned`` for a job that was just taken on.
        after: its status now.
    """

    job_id: str
    batch: str | None
    key: str | None
    model: str
    task_id: TaskId | None
    credits: Decimal | None
    before: JobStatus
    after: JobStatus


@frozen(kw_only=True)
class GateChanged:
    """Creates are sent again, are stopped, or are held until the service answers.

    Attributes:
        state: "open", "closed" (no create is sent until somebody opens the gate), "held" (an
            outage: creates wait until the service answers) or "probing" (it answers: a few creates
            are sent, to see whether it takes them).
        error: why it is closed, or None.
    """

    state: Literal["open", "closed", "held", "probing"]
    error: AIVideoError | None = None


@frozen(kw_only=True)
class FileSaved:
    """A result was saved, whole, and is on disk.

    Attributes:
        job_id: our id of the job.
        task_id: the service's id of its task.
        path: the file.
        size: its length in bytes.
    """

    job_id: str
    task_id: TaskId
    path: Path = field(converter=Path)
    size: int


SessionEvent: TypeAlias = JobChanged | GateChanged | FileSaved
"""Everything that instrumentation may be told."""


class Instrumentation(Protocol):
    """What a session tells of its jobs; see the module."""

    def __call__(self, event: SessionEvent, /) -> None:
        """Take one event in. It must not wait and should not raise."""
        ...
