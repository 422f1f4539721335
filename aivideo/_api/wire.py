"""Models to bytes and back: the one file that knows the service's envelope and its task object.

(The fields of a model's ``input`` stand in :mod:`aivideo.catalog`, which is data.) Each function
names the part of the provider's page it rests on. Reading is tolerant of what is extra and strict
about what is promised: a missing or mistyped field is a :class:`~aivideo.ResponseError` that
names its path (``$.output.urls[0]``), never a ``KeyError``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import orjson
from attrs import field, frozen

from aivideo import catalog
from aivideo.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InsufficientCreditsError,
    InternalServerError,
    ModelNotFoundError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ResponseError,
    SpendLimitError,
    TaskNotFoundError,
    UpstreamError,
)
from aivideo.models import (
    CompletedTask,
    Credits,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Request,
    Task,
    TaskFailure,
    TaskId,
    UnrecognizedTask,
)

CREDITS = "/v1/credits"
TASKS = "/v1/tasks/"


@frozen
class Message:
    """A request to the service, without the key: ``path`` is encoded, ``body`` is JSON."""

    method: str
    path: str
    body: bytes | None = None


def _no_headers() -> dict[str, str]:
    return {}


@frozen
class Answer:
    """An answer of the service: ``status``, ``body``, and ``headers`` with lower-case names."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(factory=_no_headers, repr=False)


# --- requests ---------------------------------------------------------------------------------


def create(
    request: Request, callback_url: str | None = None, *, endpoint: str | None = None
) -> Message:
    """``POST`` a generation ("创建任务") to a path; None: the built-in catalogue's."""
    body: dict[str, Any] = {"model": request.model, "input": request.input}
    if callback_url is not None:
        body["callback_url"] = callback_url
    if endpoint is None:
        endpoint = catalog.default_catalog().find(request.model).endpoint
    return Message("POST", endpoint, orjson.dumps(body))


def retrieve(task_id: TaskId) -> Message:
    """``GET`` a task ("查询任务"). The id is somebody else's text, so it is percent-encoded."""
    return Message("GET", TASKS + quote(task_id, safe=""))


def balance() -> Message:
    """``GET`` the balance (named under "insufficient_credits (402)")."""
    return Message("GET", CREDITS)


# --- answers ----------------------------------------------------------------------------------


def json_object(answer: Answer) -> dict[str, Any] | None:
    """Read the body as a JSON object, or None where it is not one."""
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def task_id_of(body: Mapping[str, Any] | None) -> TaskId | None:
    """Find the ``data.taskId`` that says a create was taken ("响应"), whatever stands around it."""
    data = body.get("data") if body is not None else None
    return _as_task_id(data.get("taskId")) if isinstance(data, Mapping) else None


_ID_IN_WRECKAGE = re.compile(rb'"task_?id"\s*:\s*"?[^\s",}]', re.IGNORECASE)


def stray_task_id(answer: Answer) -> TaskId | None:
    """Find a task id that stands elsewhere than documented: by the name of its field, at any depth.

    Such an answer must not pass for one that proves that nothing was made. Of a body that is no
    JSON it is only said that an id seems to be in it; the id is then ``"?"``.
    """
    try:
        left: list[object] = [orjson.loads(answer.body)]
    except orjson.JSONDecodeError:
        return "?" if _ID_IN_WRECKAGE.search(answer.body) else None
    while left:
        part = left.pop()
        if isinstance(part, dict):
            for name, value in part.items():
                if name.replace("_", "").lower() == "taskid" and (found := _as_task_id(value)):
                    return found
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return None


def _as_task_id(value: object) -> TaskId | None:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # not documented, but an answer that carries an id was taken and charged
    return None


def read_task(answer: Answer) -> Task:
    """Read a task object ("处理中", "完成", "失败").

    Raises:
        APIStatusError: the service answered with an error.
        ResponseError: the answer is no task object.
    """
    try:
        # In no local of this frame: tracebacks that show locals would show signed URLs.
        return task_of(_success(answer))
    except _BrokenContractError as error:
        raise ResponseError(
            f"not a task object, {error}", status=answer.status, body=answer.body
        ) from None


def read_callback(body: bytes) -> Task:
    """Read a callback's body: a task object too ("回调").

    Raises:
        ResponseError: the body is no task object.
    """
    return read_task(Answer(200, body))


def task_of(body: Mapping[str, Any]) -> Task:
    """Turn a task object into its value; see :func:`read_task` for the checked entrance."""
    status = _text(body, "status")
    common: dict[str, Any] = {
        "id": _text(body, "id"),
        "model": _text(body, "model"),
        "created_at": _moment(body, "created_at"),
        "raw": body,
    }
    match status:
        case "pending":
            return PendingTask(progress=_progress(body), **common)
        case "processing":
            return ProcessingTask(progress=_progress(body), **common)
        case "completed":
            output = body.get("output")
            output = output if isinstance(output, dict) else {}
            metadata = output.get("metadata")
            return CompletedTask(
                completed_at=_moment(body, "completed_at"),
                urls=_urls(output.get("urls")),
                metadata=metadata if isinstance(metadata, dict) else {},
                **common,
            )
        case "failed":
            return FailedTask(error=_failure(body.get("error")), **common)
        case _:
            return UnrecognizedTask(status=status, progress=_progress(body), **common)


def read_credits(answer: Answer) -> Credits:
    """Read the balance: ``{"code": 200, "data": {"balance", "total_purchased", …}}``.

    Raises:
        APIStatusError: the service answered with an error.
        ResponseError: the answer is no balance.
    """
    body = _success(answer)
    data = body.get("data")
    try:
        if body.get("code") != 200 or not isinstance(data, dict):
            raise _BrokenContractError("$.code is not 200, or $.data is no object")
        return Credits(
            balance=_integer(data, "balance"),
            total_purchased=_integer(data, "total_purchased"),
            total_consumed=_integer(data, "total_consumed"),
        )
    except _BrokenContractError as error:
        raise ResponseError(
            f"not a balance, {error}", status=answer.status, body=answer.body
        ) from None


_BY_CODE: dict[str, type[APIStatusError]] = {
    "invalid_request": BadRequestError,
    "invalid_api_key": AuthenticationError,
    "insufficient_credits": InsufficientCreditsError,
    "ip_not_allowed": PermissionDeniedError,
    "model_not_found": ModelNotFoundError,
    "task_not_found": TaskNotFoundError,
    "rate_limit_exceeded": RateLimitError,
    "spend_limit_exceeded": SpendLimitError,
    "internal_error": InternalServerError,
    "upstream_error": UpstreamError,
}
_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitError,
    500: InternalServerError,
    503: UpstreamError,
}


def error_of(answer: Answer) -> APIStatusError | None:
    """Read ``{"error": {"code", "message", "type"}}`` ("常见错误码"), or None where it is not that.

    A code of the table decides the class; an unknown code, the status does; else it is a plain
    :class:`~aivideo.APIStatusError`. The body must have the documented shape: a gateway's page
    with the same status is not the service's word.
    """
    body = json_object(answer)
    error = body.get("error") if body is not None else None
    if answer.status < 400 or not isinstance(error, dict):
        return None
    code, message, kind = error.get("code"), error.get("message"), error.get("type")
    if not isinstance(code, str) or not isinstance(message, str):
        return None
    return error_as(
        answer.status,
        code,
        message,
        type=kind if isinstance(kind, str) else None,
        request_id=answer.headers.get("x-request-id"),
    )


def error_as(
    status: int,
    code: str | None,
    message: str,
    *,
    type: str | None = None,  # noqa: A002  the service's own name for it
    request_id: str | None = None,
) -> APIStatusError:
    """Make the error of a row of "错误码一览": by its code, else by its status."""
    cls = _BY_CODE.get(code or "") or _BY_STATUS.get(status) or APIStatusError
    return cls(message, status=status, code=code, type=type, request_id=request_id)


def throttled(answer: Answer) -> RateLimitError:
    """Name a 429 of whatever body, a gateway's too, as the slow-down it is."""
    error = error_of(answer)
    if isinstance(error, RateLimitError):
        return error
    return RateLimitError(
        error.message if error else "too many requests",
        status=answer.status,
        code=error.code if error else None,
        type=error.type if error else None,
        request_id=answer.headers.get("x-request-id"),
    )


def retry_after(answer: Answer, *, wall_now: float) -> float | None:
    """Seconds to wait by ``Retry-After`` (RFC 9110: seconds or a date), or None where it is absent.

    Args:
        answer: any answer; most have none.
        wall_now: Unix seconds by our clock, used for a date where the answer has no ``Date`` of
            its own; with one, the difference of the two is free of clock skew.
    """
    value = answer.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        until = _http_date(value)
        if until is None:
            return None
        said = _http_date(answer.headers.get("date", ""))
        seconds = until - (wall_now if said is None else said)
    return max(0.0, seconds) if math.isfinite(seconds) else None  # "inf" is a float, and no wait


def answered_error(answer: Answer) -> APIStatusError | ResponseError:
    """Say what an answer that is no success says: the service's own error, or not this API's."""
    if answer.status == 429:
        error = error_of(answer)
        return throttled(answer) if error is None else error
    return error_of(answer) or ResponseError(
        "not an answer of this API; check the base URL, and what stands between",
        status=answer.status,
        body=answer.body,
    )


def _success(answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        raise answered_error(answer)
    body = json_object(answer)
    if body is None:
        raise ResponseError("not a JSON object", status=answer.status, body=answer.body)
    return body


# --- fields -----------------------------------------------------------------------------------


class _BrokenContractError(Exception):
    """A field that is missing or of another type; the message begins with its path."""


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if isinstance(value, str) and value:
        return value
    raise _BrokenContractError(f"$.{name} is {_shown(value)}, not a text")


def _integer(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _BrokenContractError(f"$.data.{name} is {_shown(value)}, not an integer")


def _moment(body: Mapping[str, Any], name: str) -> datetime:
    value = body.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            pass
    raise _BrokenContractError(f"$.{name} is {_shown(value)}, not a time in Unix seconds")


def _progress(body: Mapping[str, Any]) -> float | None:
    # Documented as null alone; anything but a number is left in ``raw``.
    value = body.get("progress")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _urls(value: object) -> tuple[str, ...]:
    if value is None:
        return ()  # completed, and its URLs are not there yet: the lifecycle decides
    if not isinstance(value, list):
        raise _BrokenContractError(f"$.output.urls is {_shown(value)}, not a list")
    for place, url in enumerate(value):
        if not catalog.is_web_url(url):
            raise _BrokenContractError(f"$.output.urls[{place}] is no http(s) URL")
    return tuple(value)


def _failure(value: object) -> TaskFailure:
    error = value if isinstance(value, dict) else {}
    code, message = error.get("code"), error.get("message")
    # A failed task without its reason is still a failed task: it must not be watched for ever.
    return TaskFailure(
        code if isinstance(code, str) and code else "unspecified",
        message if isinstance(message, str) and message else "the service gave no reason",
    )


def _shown(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def _http_date(value: str) -> float | None:
    try:
        parsed = parsedate_to_datetime(value)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
