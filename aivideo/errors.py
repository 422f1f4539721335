"""Every error this package raises, and what to do about each.

::

    AIVideoError
    ├── ConfigurationError          no key, a key without "sk-", a base URL that cannot be right
    ├── InvalidRequestError         the request breaks a rule: found here, before the network …
    │   └── BadRequestError         … or by the service (HTTP 400); also an APIStatusError
    ├── APIStatusError              the service said no
    │   ├── BadRequestError         400 invalid_request
    │   ├── AuthenticationError     401 invalid_api_key
    │   ├── InsufficientCreditsError 402 insufficient_credits
    │   ├── PermissionDeniedError   403 ip_not_allowed
    │   ├── NotFoundError           404
    │   │   ├── ModelNotFoundError  404 model_not_found
    │   │   └── TaskNotFoundError   404 task_not_found
    │   ├── RateLimitError          429 rate_limit_exceeded: slow down, then it passes
    │   ├── SpendLimitError         429 spend_limit_exceeded: slowing down does not help
    │   ├── InternalServerError     500 internal_error
    │   └── UpstreamError           503 upstream_error
    ├── APIConnectionError          no answer: no connection, or one that broke
    │   └── APITimeoutError         no answer in time
    ├── ResponseError               an answer, but not one that this API documents
    ├── SubmitUnknownError          a paid POST whose fate is not known; never sent again by itself
    ├── TaskFailedError             the task ended as failed (its credits come back by themselves)
    ├── WaitTimeoutError            we stopped waiting; the job goes on
    ├── SessionClosedError          the session closed while somebody waited; the job goes on
    ├── BudgetExceededError         the next POST would pass ``max_credits``
    ├── QueueFullError              more work is queued than was allowed
    ├── DownloadError               a result could not be fetched or written
    │   └── ResultExpiredError      its URL has expired
    └── LedgerError                 the ledger cannot be read, written or trusted
        └── ContradictionError      an event that cannot follow what the ledger knows

Each carries the facts to act on as attributes, says in one line what happened and what to do
next, and pickles (a job inside comes back detached: its id, task id and request). None ever
shows an API key or the query of a signed URL: what the service or a library wrote goes through
:func:`scrub` first. The table of the service's own errors is the provider's page, "错误码一览".
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from aivideo._session.job import Job
    from aivideo.models import CompletedTask, FailedTask, Task

_KEY = re.compile(r"\b(?:sk-|Bearer\s+)[^\s\"'<>,;)\]}]{3,}", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s\"'<>?#]*)[?#][^\s\"'<>]*", re.IGNORECASE)
_USERINFO = re.compile(r"(https?://)[^\s\"'<>/@]+@", re.IGNORECASE)


def scrub(text: str) -> str:
    """Take out of ``text`` what must not be shown: API keys, URL queries, URL passwords.

    >>> scrub("key sk-abcdef refused for https://bucket.example/a.mp4?X-Signature=1f")
    'key sk-… refused for https://bucket.example/a.mp4?…'
    """
    text = _KEY.sub(lambda found: "sk-…" if found[0][:3].lower() == "sk-" else "Bearer …", text)
    return _USERINFO.sub(r"\1…@", _QUERY.sub(r"\1?…", text))


def _one_line(text: str, limit: int = 400) -> str:
    line = " ".join(scrub(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


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
        """Pickle by facts, not by constructor: subclasses have keyword-only ones."""
        return _restore, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(AIVideoError, ValueError):
    """A setting that cannot work: no key, a key of another shape, a base URL without a scheme."""


class InvalidRequestError(AIVideoError, ValueError):
    """A request that breaks a rule of its model.

    Raised before anything is sent; a 400 of the service is the subclass :class:`BadRequestError`.

    Attributes:
        field: the field at fault, by the name its user wrote (``duration``), or None.
        value: its value as given.
        rule: the rule it breaks.
        cure: what would be accepted.
    """

    field: str | None = None
    value: object = None
    rule: str | None = None
    cure: str | None = None

    @classmethod
    def because(cls, field: str, value: object, rule: str, cure: str) -> InvalidRequestError:
        """Make the error for ``field``: its value, the rule it breaks and the cure, in one line."""
        shown = repr(value)
        if len(shown) > 80:
            length = len(value) if isinstance(value, str) else len(shown)
            shown = f"{shown[:60]}… ({length} characters)"
        error = cls(_one_line(f"{field}={shown}: {rule}; {cure}"))
        error.field, error.value, error.rule, error.cure = field, value, rule, cure
        return error


class APIStatusError(AIVideoError):
    """The service answered with an error (``{"error": {"code", "message", "type"}}``).

    Attributes:
        status: the HTTP status.
        code: the service's code (``rate_limit_exceeded``), or None where the body had none.
        type: the service's type (``rate_limit_error``), or None.
        message: the service's own words, scrubbed.
        request_id: what the service calls this request, if it said so.
        retry_after: seconds it asked us to wait, if it said so.
    """

    cure: str | None = None
    _cure: ClassVar[str] = "See the message."

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  the service's own name for it
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.message = _one_line(message)
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

    _cure = "Nothing was charged; correct the request."


class AuthenticationError(APIStatusError):
    """HTTP 401 ``invalid_api_key``: the key is invalid, disabled or deleted; account blocked."""

    _cure = (
        "Check AIVIDEO_API_KEY: it must start with 'sk-', be enabled, and its account not blocked."
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

    _cure = "Check the base URL and what was asked for."


class ModelNotFoundError(NotFoundError):
    """HTTP 404 ``model_not_found``: no such model, or withdrawn. Final."""

    _cure = "The model does not exist or was withdrawn; name another one."


class TaskNotFoundError(NotFoundError):
    """HTTP 404 ``task_not_found``: no such task."""

    _cure = "Check the task id, and that the key belongs to the account that made the task."


class RateLimitError(APIStatusError):
    """HTTP 429 ``rate_limit_exceeded``: too many requests. Nothing was charged."""

    _cure = "Send more slowly; a Session does so by itself."


class SpendLimitError(APIStatusError):
    """HTTP 429 ``spend_limit_exceeded``: the key's hourly, daily or total spend cap.

    Not a :class:`RateLimitError`: slowing down does not help.
    """

    _cure = "Raise the key's spend cap or wait until it resets, then call session.resume_submits()."


class InternalServerError(APIStatusError):
    """HTTP 500 ``internal_error``: the service's fault. Whether a task was made is undocumented."""

    _cure = (
        "Of a create, it is not documented whether it was charged: it is not sent again by itself."
    )


class UpstreamError(APIStatusError):
    """HTTP 503 ``upstream_error``: the AI provider failed, or refused the content."""

    _cure = (
        "The prompt or image may be refused, or the provider be down. Of a create, it is not "
        "documented whether it was charged: it is not sent again by itself."
    )


class APIConnectionError(AIVideoError):
    """No answer came.

    Attributes:
        written: whether a byte of the request may have been handed to the network. Where it is
            False, nothing was asked of the service, and sending again is safe.
    """

    def __init__(self, message: str, *, written: bool) -> None:
        super().__init__(_one_line(message))
        self.written = written


class APITimeoutError(APIConnectionError):
    """No answer came within ``request_timeout``."""


class ResponseError(AIVideoError):
    """An answer came that this API does not document: HTML, broken JSON, a missing field.

    Attributes:
        status: the HTTP status.
        body: the answer's body as bytes, unscrubbed: do not log it.
    """

    def __init__(self, message: str, *, status: int, body: bytes = b"") -> None:
        excerpt = _one_line(body[:2000].decode("utf-8", "replace"), 120)
        shown = f": {excerpt}" if excerpt else " (empty body)"
        super().__init__(_one_line(f"HTTP {status}, {message}{shown}", 600))
        self.status = status
        self.body = body


class JobError(AIVideoError):
    """An error about one job; ``job`` is its live handle (detached after unpickling)."""

    def __init__(self, message: str, *, job: Job) -> None:
        super().__init__(_one_line(message))
        self.job = job


class SubmitUnknownError(JobError):
    """A paid POST may or may not have been taken by the service. It is never sent again by itself.

    Attributes:
        job: the job, whose status is ``unknown``.
        reason: what happened to the POST.
    """

    def __init__(self, reason: str, *, job: Job) -> None:
        super().__init__(
            f"job {job.id}: the POST may or may not have been taken ({_one_line(reason, 200)}). "
            "It is not sent again by itself: compare the dashboard or `aivideo credits`, then "
            "settle it by hand.",
            job=job,
        )
        self.reason = _one_line(reason)


class WaitTimeoutError(JobError):
    """``wait_timeout`` passed. The job goes on: wait again with ``await error.job``."""


class SessionClosedError(AIVideoError):
    """The session closed before this was over.

    Attributes:
        job: the job somebody waited for, or None. A job that was taken goes on at the service:
            ``session.job(error.job.task_id)`` of another session finds it again.
    """

    def __init__(self, message: str, *, job: Job | None = None) -> None:
        super().__init__(_one_line(message))
        self.job = job


class TaskFailedError(AIVideoError):
    """The task ended as failed. Its credits come back by themselves.

    Attributes:
        task: the :class:`~aivideo.FailedTask`, with ``error.code`` and ``error.message``.
    """

    def __init__(self, task: FailedTask) -> None:
        super().__init__(
            _one_line(
                f"task {task.id} failed: {task.error.code}: {task.error.message.rstrip('.')}. "
                "Its credits are refunded; change the prompt or try again."
            )
        )
        self.task = task


class BudgetExceededError(AIVideoError):
    """The next POST would pass ``max_credits``; it was not sent.

    Attributes:
        needed: credits of the request.
        held: credits charged, reserved or of unknown fate so far.
        ceiling: ``max_credits``.
    """

    def __init__(
        self, message: str, *, needed: Decimal | None, held: Decimal, ceiling: Decimal
    ) -> None:
        super().__init__(_one_line(message))
        self.needed = needed
        self.held = held
        self.ceiling = ceiling


class QueueFullError(AIVideoError):
    """``enqueue`` found its queue full; nothing was written down. Try again later."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} jobs wait to be submitted, which is the limit; try again when some are sent."
        )
        self.limit = limit


class DownloadError(AIVideoError):
    """A result could not be fetched or written. The task is not lost: save it again.

    Attributes:
        task: the completed task, where there was one.
        status: the HTTP status of the result's origin, or None where none came.
        errno: what the local disk said (``errno.ENOSPC``, say), or None where it was not the disk.
    """

    def __init__(
        self,
        message: str,
        *,
        task: Task | CompletedTask | None = None,
        status: int | None = None,
        errno: int | None = None,
    ) -> None:
        super().__init__(_one_line(message))
        self.task = task
        self.status = status
        self.errno = errno


class ResultExpiredError(DownloadError):
    """The result's URL has expired: it lives 24 hours from completion."""


class LedgerError(AIVideoError):
    """The ledger cannot be opened, read, written or trusted."""


class ContradictionError(LedgerError):
    """An event that cannot follow what the ledger knows; to record it again changes nothing."""
