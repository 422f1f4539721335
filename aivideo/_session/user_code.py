"""What is done with an exception that a function of the user raises.

A session calls such functions in its own tasks: ``on_job``, ``key`` and ``save_to`` of
``generate_many``, and ``on_update``. None of their exceptions may leave those tasks. asyncio lets a
``SystemExit`` or ``KeyboardInterrupt`` of any task stop the event loop, while POSTs are under way;
and a task that raises ``CancelledError`` looks as if it had been cancelled.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from aivideo._redaction import one_line, scrub, shown
from aivideo._session.job import Job
from aivideo.errors import ConfigurationError, UserCodeError
from aivideo.ledger.records import JobStatus
from aivideo.models import Request

T = TypeVar("T")

EXITS = (SystemExit, KeyboardInterrupt)
"""Exceptions that ask for the end of the program."""


def call(function: str, called: Callable[[], T], index: int, job: Job | None = None) -> T:
    """Call a function of the user.

    Args:
        function: the argument of ``generate_many`` that is the function.
        called: calls it.
        index: the request's position in the input.
        job: the request's job; None: there is none yet.

    Raises:
        UserCodeError: it raised an exception, of whatever class.
    """
    try:
        return called()
    except BaseException as raised:
        raise error_of(function, raised, index, job) from raised


def raised_by(on_job: Callable[[Job], object], job: Job) -> BaseException | None:
    """Call ``on_job``; return what it raised, or None."""
    try:
        on_job(job)
    except BaseException as raised:
        return raised
    return None


def path_from(
    save_to: Callable[[int, Request], object], request: Request, index: int, job: Job
) -> Path:
    """Ask ``save_to`` where a result is to be saved.

    Raises:
        UserCodeError: it raised an exception, or returned no path.
    """
    return call("save_to", lambda: _path_of(save_to(index, request)), index, job)


def check_functions(save_to: object, key: object, on_job: object) -> None:
    """Check what the user gave before any request is read.

    Raises:
        ConfigurationError: one of them has another type.
    """
    if save_to is not None and not callable(save_to):
        try:
            _path_of(save_to)
        except (TypeError, ValueError):
            rule = "must be a folder, or a function from index and request to a path"
            raise ConfigurationError.because(
                "save_to", save_to, rule, 'give "videos", for example, or None'
            ) from None
    for name, function, example in (
        ("key", key, "lambda index, request: str(index)"),
        ("on_job", on_job, "print"),
    ):
        if function is not None and not callable(function):
            raise ConfigurationError.because(
                name, function, "must be a function", f"give {example}, for example, or None"
            )


def _path_of(value: object) -> Path:
    """Return a path that a file may have.

    Raises:
        TypeError: it is no path.
        ValueError: the operating system has no such path.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"it returned {shown(value)}, which is not a path")
    path = Path(value)
    if b"\0" in os.fsencode(path):
        raise ValueError(f"the path {shown(str(path))} contains a NUL character")
    return path


def is_cancellation(error: BaseException) -> bool:
    """Return whether an exception cancels the running task: user code may raise the same class."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an exception for a log, without secrets."""
    return scrub("".join(traceback.format_exception(error)))


def error_of(
    function: str, raised: BaseException, index: int, job: Job | None = None
) -> UserCodeError:
    """Return the error of a request for which a function of the user raised.

    Args:
        function: the argument of ``generate_many`` that is the function.
        raised: what it raised; it becomes the error's ``__cause__``.
        index: the request's position in the input.
        job: the request's job in its present state; None: none was recorded.
    """
    # Unlike str(), this cannot raise, whatever the class of the exception does.
    what = one_line("".join(traceback.format_exception_only(raised)), 200).rstrip(".")
    whose = f"request {index}"
    task_id = None
    if job is not None:
        task_id = job.task_id
        whose += f" (job {job.id})" if task_id is None else f" (job {job.id}, task {task_id})"
    error = UserCodeError(
        f"{function} raised an exception for {whose}: {what}. {_state_of(job)}",
        function=function,
        index=index,
        job=job,
        task_id=task_id,
    )
    error.__cause__ = raised
    return error


def _state_of(job: Job | None) -> str:
    """Say what became of a job, and what to do next."""
    if job is None:
        return "The request was not sent. Correct the function, and give the request again"
    if job.task_id is not None and job.status is not JobStatus.FAILED:
        return f"The task is not lost: fetch its result with session.job({job.task_id!r}).save(…)"
    match job.status:
        case JobStatus.WITHDRAWN:
            return "The job was not sent, and is withdrawn. Give the request again"
        case JobStatus.PLANNED:
            return "The job is not sent yet: its batch sends it when the request is given again"
        case _:
            return f"The job's status is {job.status}"
