"""Every error this package raises, and what to do about each.

::

    AIVideoError
    ├── ConfigurationError          a setting is invalid: no API key, a malformed base URL …
    ├── InvalidRequestError         the request breaks a rule: detected before it is sent …
    │   └── BadRequestError         … or by the service (HTTP 400); also an APIStatusError
    ├── APIStatusError              the service answered with an error
    │   ├── BadRequestError         400 invalid_request
    │   ├── AuthenticationError     401 invalid_api_key
    │   ├── InsufficientCreditsError 402 insufficient_credits
    │   ├── PermissionDeniedError   403 ip_not_allowed
    │   ├── NotFoundError           404
    │   │   ├── ModelNotFoundError  404 model_not_found
    │   │   └── TaskNotFoundError   404 task_not_found
    │   ├── RateLimitError          429 rate_limit_exceeded: temporary; send more slowly
    │   ├── SpendLimitError         429 spend_limit_exceeded: sending more slowly does not help
    │   ├── InternalServerError     500 internal_error
    │   └── UpstreamError           503 upstream_error
    ├── APIConnectionError          no response: connecting failed, or the connection broke
    │   └── APITimeoutError         no response in time
    ├── ResponseError               a response that this API does not document
    ├── SubmitUnknownError          a paid POST with an unknown outcome; never re-sent
    ├── TaskFailedError             the task failed (its credits are refunded automatically)
    ├── JobWithdrawnError           the job was withdrawn before it was sent; nothing was charged
    ├── WaitTimeoutError            ``wait_timeout`` expired; the job continues
    ├── SessionClosedError          the session closed during the call; the job continues
    ├── BudgetExceededError         the next POST would exceed ``max_credits``
    ├── QueueFullError              more jobs are queued than allowed
    ├── UserCodeError               ``on_job``, ``save_to`` or ``key`` raised an exception
    ├── DownloadError               a result could not be downloaded or written
    │   └── ResultExpiredError      its URL has expired
    └── LedgerError                 the ledger cannot be read, written or trusted
        └── ContradictionError      an event that cannot follow the recorded state

Each error has the facts to act on as attributes, says in one line what happened and what to do
next, and can be pickled (a job inside comes back detached: with its id, task id and request). No
message contains an API key or the query of a signed URL: text from the service or from a library
is scrubbed first. The table of the service's own errors is the provider's page, "错误码一览".

This module imports only values that stand below it, even for type checkers. So the job of an
error is typed by a Protocol, :class:`JobHandle`, which :class:`aivideo.Job` satisfies. (The file
is long because it lists every error; each class is short.)
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Protocol

from aivideo._amounts import exact
from aivideo._redaction import one_line, scrub, shown
from aivideo.tasks import CompletedTask, FailedTask, Task, TaskId


class RequestLike(Protocol):
    """The part of a request that every model's has: model, input and price."""

    @property
    def model(self) -> str:
        """The service's name of the model."""
        ...

    @property
    def input(self) -> Mapping[str, Any]:
        """The model's ``input`` object."""
        ...

    @property
    def credits(self) -> Decimal | None:
        """The price in credits, or None if it is not known."""
        ...


class JobHandle(Protocol):
    """The job that an error carries: an :class:`aivideo.Job`, described without importing it.

    ``task = await error.job`` waits for the result again.
    """

    @property
    def id(self) -> str:
        """This package's id of the job."""
        ...

    @property
    def task_id(self) -> TaskId | None:
        """The service's id of the task, or None while the service has not accepted the job."""
        ...

    @property
    def status(self) -> str:
        """The job's status: an :class:`aivideo.JobStatus`, which is a str."""
        ...

    @property
    def key(self) -> str | None:
        """The key given by the caller, or None."""
        ...

    @property
    def index(self) -> int | None:
        """The request's position in the input of ``generate_many``, or None."""
        ...

    @property
    def request(self) -> RequestLike | None:
        """The request, or None for a task that this session did not submit."""
        ...

    @property
    def credits(self) -> Decimal | None:
        """The price in credits, or None if it is not known."""
        ...

    @property
    def dollars(self) -> Decimal | None:
        """The price in US dollars, or None if it is not known."""
        ...

    @property
    def task(self) -> Task | None:
        """The latest known state of the task; sends no request."""
        ...

    @property
    def error(self) -> AIVideoError | None:
        """Why the job was not accepted, or None."""
        ...

    def __await__(self) -> Generator[Any, None, CompletedTask]:
        """Wait for the result without a time limit."""
        ...

    async def result(self, *, wait_timeout: float | None = None) -> CompletedTask:
        """Wait for the result, at most ``wait_timeout`` seconds; None: without a time limit."""
        ...

    async def submitted(self) -> TaskId:
        """Wait until the service has accepted the job, and return the task's id."""
        ...

    def updates(self) -> AsyncIterator[Task]:
        """Yield the task each time its status or progress changes, up to its end."""
        ...

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Wait for the result and download it to ``path``."""
        ...

    async def cancel(self) -> bool:
        """Withdraw the job if it was not sent; return whether it was withdrawn."""
        ...


def _restore(cls: type[AIVideoError], args: tuple[Any, ...], facts: dict[str, Any]) -> AIVideoError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class AIVideoError(Exception):
    """The base of every error of this package.

    ``str(error)`` is one line: what happened, and what to do next.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes; the constructors of subclasses have keyword-only arguments."""
        return _restore, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(AIVideoError, ValueError):
    """A setting is invalid: no API key, a key in another format, a base URL without a scheme.

    Attributes:
        field: the setting's name (``max_credits``), or the environment variable's, or None.
        value: the invalid value, scrubbed: a number, a str, or the repr of another object; None
            for a secret.
        rule: the rule it breaks, or None.
        cure: what is accepted instead, or None.
    """

    field: str | None = None
    value: object = None
    rule: str | None = None
    cure: str | None = None

    @classmethod
    def because(cls, field: str, value: object, rule: str, cure: str) -> ConfigurationError:
        """Make the error for one setting, whose value may be shown after scrubbing."""
        error = cls(one_line(f"{field}={shown(value)}: {rule}; {cure}"))
        error.field, error.rule, error.cure = field, rule, cure
        match value:
            case None | bool() | int() | float() | Decimal():
                error.value = value
            case str():
                error.value = scrub(value)
            case _:
                error.value = shown(value)
        return error

    @classmethod
    def of_secret(cls, field: str, rule: str, cure: str) -> ConfigurationError:
        """Make the error for one setting, whose value must not be shown."""
        error = cls(one_line(f"{field}: {rule}; {cure}"))
        error.field, error.rule, error.cure = field, rule, cure
        return error


class InvalidRequestError(AIVideoError, ValueError):
    """A request breaks a rule of its model.

    Raised before anything is sent; a 400 of the service is the subclass :class:`BadRequestError`.

    Attributes:
        field: the invalid field, by the name that the caller wrote (``duration``), or None.
        value: its value as given.
        rule: the rule it breaks.
        cure: what is accepted instead.
    """

    field: str | None = None
    value: object = None
    rule: str | None = None
    cure: str | None = None

    @classmethod
    def because(cls, field: str, value: object, rule: str, cure: str) -> InvalidRequestError:
        """Make the error for one field: its value, the rule it breaks and the cure, in one line."""
        error = cls(one_line(f"{field}={shown(value)}: {rule}; {cure}"))
        error.field, error.value, error.rule, error.cure = field, value, rule, cure
        return error


class APIStatusError(AIVideoError):
    """The service answered with an error (``{"error": {"code", "message", "type"}}``).

    Attributes:
        status: the HTTP status.
        code: the service's code (``rate_limit_exceeded``), or None if the body has none.
        type: the service's type (``rate_limit_error``), or None.
        message: the service's message, scrubbed.
        request_id: the service's id of this request, or None if it sent none.
        retry_after: seconds to wait, as the service asked, or None.
    """

    cure: str | None = None
    _cure: ClassVar[str] = "See the message."

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  the service's own name
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message: str = one_line(message)
        self.status = status
        self.code = code
        self.type = type
        self.request_id = request_id
        self.retry_after = retry_after
        self.cure = self._cure
        what = f"HTTP {status} {code or 'without a code'}: {self.message.rstrip('.')}. {self._cure}"
        super().__init__(what if request_id is None else f"{what} (request {request_id})")


class BadRequestError(InvalidRequestError, APIStatusError):
    """HTTP 400 ``invalid_request``: a parameter is missing or invalid."""

    _cure = "Nothing was charged. Correct the request."


class AuthenticationError(APIStatusError):
    """HTTP 401 ``invalid_api_key``: the key is invalid, disabled or deleted; account blocked."""

    _cure = (
        "Check AIVIDEO_API_KEY: it must start with 'sk-', the key must be enabled, and the "
        "account must not be blocked."
    )


class InsufficientCreditsError(APIStatusError):
    """HTTP 402 ``insufficient_credits``: the balance is too low."""

    _cure = (
        "See the balance with GET /v1/credits (`aivideo credits`), top up under "
        "Dashboard > Billing, then call session.resume_submits()."
    )


class PermissionDeniedError(APIStatusError):
    """HTTP 403 ``ip_not_allowed``: the caller's IP is not on the key's allow-list."""

    _cure = "Add this machine's IP to the key's allow-list, or use another key."


class NotFoundError(APIStatusError):
    """HTTP 404."""

    _cure = "Check the base URL and the path."


class ModelNotFoundError(NotFoundError):
    """HTTP 404 ``model_not_found``: the model does not exist or was withdrawn. Final."""

    _cure = "The model does not exist or was withdrawn. Use another model."


class TaskNotFoundError(NotFoundError):
    """HTTP 404 ``task_not_found``: no such task."""

    _cure = "Check the task id, and that the key belongs to the account that created the task."


class RateLimitError(APIStatusError):
    """HTTP 429 ``rate_limit_exceeded``: too many requests. Nothing was charged."""

    _cure = "Send requests more slowly. A Session does so automatically."


class SpendLimitError(APIStatusError):
    """HTTP 429 ``spend_limit_exceeded``: the key reached its hourly, daily or total spend cap.

    Not a :class:`RateLimitError`: sending more slowly does not help.
    """

    _cure = "Raise the key's spend cap or wait until it resets, then call session.resume_submits()."


class InternalServerError(APIStatusError):
    """HTTP 500 ``internal_error``: the service failed. It may or may not have created a task."""

    _cure = (
        "If this was a create request, the service may have charged it, so it is not sent again "
        "automatically."
    )


class UpstreamError(APIStatusError):
    """HTTP 503 ``upstream_error``: the AI provider failed, or refused the content."""

    _cure = (
        "The provider is down, or it refuses the prompt or the image. If this was a create "
        "request, the service may have charged it, so it is not sent again automatically."
    )


class APIConnectionError(AIVideoError):
    """No response was received.

    Attributes:
        written: whether any byte of the request may have left this machine. If False, the service
            received nothing, and sending the request again is safe.
    """

    def __init__(self, message: str, *, written: bool) -> None:
        super().__init__(one_line(message))
        self.written = written


class APITimeoutError(APIConnectionError):
    """No response was received within ``request_timeout``."""


class ResponseError(AIVideoError):
    """A response that this API does not document: HTML, invalid JSON, a missing field.

    Attributes:
        status: the HTTP status.
        body: the response's body in bytes. It is not scrubbed: do not log it.
    """

    def __init__(self, message: str, *, status: int, body: bytes = b"") -> None:
        excerpt = one_line(body[:2000].decode("utf-8", "replace"), 120)
        quoted = f": {excerpt}" if excerpt else " (empty body)"
        super().__init__(one_line(f"HTTP {status}, {message}{quoted}", 600))
        self.status = status
        self.body = body


class JobError(AIVideoError):
    """An error about one job.

    Attributes:
        job: the job's handle. After unpickling it is detached: it has its id, task id and request,
            and waiting for it is an error.
    """

    def __init__(self, message: str, *, job: JobHandle) -> None:
        super().__init__(one_line(message))
        self.job = job


class SubmitUnknownError(JobError):
    """The service may or may not have accepted a paid POST. It is never re-sent automatically.

    Attributes:
        job: the job, whose status is ``unknown``.
        reason: what happened to the POST.
    """

    def __init__(self, reason: str, *, job: JobHandle) -> None:
        super().__init__(
            f"job {job.id}: the POST may or may not have been taken ({one_line(reason, 200)}). "
            "It is not sent again automatically. Compare the dashboard or `aivideo credits`, then "
            "settle the job (`aivideo jobs settle`).",
            job=job,
        )
        self.reason: str = one_line(reason)


class WaitTimeoutError(JobError):
    """``wait_timeout`` expired. The job continues: wait again with ``await error.job``."""


class SessionClosedError(AIVideoError):
    """The session closed before the call finished.

    Attributes:
        job: the job that the caller waited for, or None. A job that the service has accepted
            continues there: get it from another session with ``session.job(error.job.task_id)``.
    """

    def __init__(self, message: str, *, job: JobHandle | None = None) -> None:
        super().__init__(one_line(message))
        self.job = job


class JobWithdrawnError(JobError):
    """The job was withdrawn before it was sent; nothing was sent, and nothing was charged."""


class TaskFailedError(AIVideoError):
    """The task failed. The service refunds its credits automatically.

    Attributes:
        task: the :class:`~aivideo.FailedTask`, with ``error.code`` and ``error.message``.
    """

    def __init__(self, task: FailedTask) -> None:
        super().__init__(
            one_line(
                f"task {task.id} failed: {task.error.code}: {task.error.message.rstrip('.')}. "
                "Its credits are refunded. Change the prompt, or try again."
            )
        )
        self.task = task


class BudgetExceededError(AIVideoError):
    """The next POST would exceed ``max_credits``; it was not sent.

    Attributes:
        needed: the request's price in credits, or None if it is not known.
        held: credits that are charged, reserved or of unknown outcome.
        ceiling: ``max_credits``.
        unpriced: how many POSTs of unknown price are charged, reserved or of unknown outcome; if
            there is one, nothing more is bought under a ceiling.
        unpriced_jobs: the ids of a few of their jobs.
    """

    def __init__(
        self,
        message: str,
        *,
        needed: Decimal | int | None,
        held: Decimal | int,
        ceiling: Decimal | int,
        unpriced: int = 0,
        unpriced_jobs: Sequence[str] = (),
    ) -> None:
        super().__init__(one_line(message))
        self.needed: Decimal | None = None if needed is None else exact(needed)
        self.held: Decimal = exact(held)
        self.ceiling: Decimal = exact(ceiling)
        self.unpriced: int = unpriced
        self.unpriced_jobs: tuple[str, ...] = tuple(unpriced_jobs)


class QueueFullError(AIVideoError):
    """The queue of ``enqueue`` is full; the job was not recorded. Try again later.

    Attributes:
        limit: the largest number of queued jobs.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} jobs are waiting to be submitted, which is the limit. Try again later."
        )
        self.limit = limit


class UserCodeError(AIVideoError):
    """A function that the caller passed to ``generate_many`` raised an exception.

    The message names the function, the job and its task, the exception, and what became of the
    job. ``__cause__`` is the exception itself (pickling does not keep it).

    Attributes:
        function: the name of the argument: ``on_job``, ``save_to`` or ``key``.
        index: the request's position in the input of ``generate_many``, from 0.
        job: the job, or None if ``key`` raised: no job was recorded.
        task_id: the service's id of the job's task, or None if the job was not sent.
    """

    def __init__(
        self,
        message: str,
        *,
        function: str,
        index: int,
        job: JobHandle | None = None,
        task_id: TaskId | None = None,
    ) -> None:
        super().__init__(one_line(message, 600))
        self.function = function
        self.index = index
        self.job = job
        self.task_id = task_id


class DownloadError(AIVideoError):
    """A result could not be downloaded or written. The task is not lost: save it again.

    Attributes:
        task: the completed task, or None.
        status: the HTTP status of the server that holds the result, or None.
        errno: the operating system's error (``errno.ENOSPC``, for example), or None if writing to
            the disk did not fail.
    """

    def __init__(
        self,
        message: str,
        *,
        task: Task | CompletedTask | None = None,
        status: int | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(one_line(message))
        self.task = task
        self.status = status
        self.errno = errno


class ResultExpiredError(DownloadError):
    """The result's URL has expired: URLs work for 24 hours after completion."""


class LedgerError(AIVideoError):
    """The ledger cannot be opened, read or written, or its content is inconsistent."""


class ContradictionError(LedgerError):
    """An event cannot follow the recorded state of its job. Recording it again does not help."""
