"""The values that users hold: requests, tasks, outcomes and credits. All frozen.

Requests are checked and priced when they are made (:mod:`aivideo.catalog.requests`), so an invalid
one is never sent. Tasks hold what the service reported (:mod:`aivideo.tasks`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TypeAlias

import orjson
from attrs import field, frozen

from aivideo.catalog.requests import (
    Generation,
    Request,
    Sora2,
    Sora2AspectRatio,
    Sora2Duration,
    kept_request,
)
from aivideo.errors import AIVideoError
from aivideo.tasks import (
    RESULT_LIFETIME,
    CompletedTask,
    Credits,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Task,
    TaskFailure,
    TaskId,
    TaskStatus,
    UnrecognizedTask,
)

__all__ = [
    "RESULT_LIFETIME",
    "CompletedTask",
    "Credits",
    "Failed",
    "FailedTask",
    "Generation",
    "Outcome",
    "PendingTask",
    "ProcessingTask",
    "Request",
    "Sora2",
    "Sora2AspectRatio",
    "Sora2Duration",
    "Succeeded",
    "Task",
    "TaskFailure",
    "TaskId",
    "TaskStatus",
    "UnrecognizedTask",
    "fingerprint",
    "kept_request",
]


def fingerprint(request: Request) -> str:
    """Return a hash of a request's content (model and input, not the price), as 32 hex digits.

    Requests that send the same content have the same fingerprint: two lines of a manifest, or two
    uses of a key, are the same request if their fingerprints are equal.
    """
    content = orjson.dumps([request.model, request.input], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


@frozen
class Succeeded:
    """A job that ended with a result.

    Attributes:
        request: the request.
        task: the completed task, with its URLs.
        path: the saved file, or None if it was not to be saved.
        index: the request's position in the input of ``generate_many``, from 0.
    """

    request: Request
    task: CompletedTask
    path: Path | None = None
    index: int = field(kw_only=True, default=0)


@frozen
class Failed:
    """A job that ended without a result.

    Attributes:
        request: the request.
        error: why; its class tells whether credits were charged.
        task_id: the task, if one was created (a file that could not be written, for example).
        index: the request's position in the input of ``generate_many``, from 0.
    """

    request: Request
    error: AIVideoError
    task_id: TaskId | None = field(kw_only=True, default=None)
    index: int = field(kw_only=True, default=0)


Outcome: TypeAlias = Succeeded | Failed
"""How a job ended, as a value."""
