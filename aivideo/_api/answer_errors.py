"""Answers that report a failure, as exceptions; and how long they ask us to wait.

The table of error codes is the provider's page, "错误码一览"; the shape of an error's body is
"常见错误码" on the same page.
"""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime

from aivideo._api.messages import Answer, json_object
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
    """Return the error that the service reports in ``{"error": {"code", "message", "type"}}``.

    None where the body does not have that shape: a gateway's error page, whatever its status, is
    not an answer of the service.
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
    """Create the exception for a row of the error table.

    A code of the table decides the class, then a ``billing_error`` under 429, which is a spend cap
    whatever its code. Any other code is classed by its HTTP status, and by an unknown status it is
    a plain :class:`~aivideo.APIStatusError`.
    """
    if status == 429 and type == "billing_error" and code != "insufficient_credits":
        return SpendLimitError(message, status=status, code=code, type=type, request_id=request_id)
    cls = _BY_CODE.get(code or "") or _BY_STATUS.get(status) or APIStatusError
    return cls(message, status=status, code=code, type=type, request_id=request_id)


def throttled(answer: Answer) -> RateLimitError:
    """Return the error of a 429 as a :class:`~aivideo.RateLimitError`, whatever its body holds."""
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


def answered_error(answer: Answer) -> APIStatusError | ResponseError:
    """Return the exception for an answer that is not a success.

    It is the service's own error where the body has its shape, a rate limit for any other 429,
    and else a :class:`~aivideo.ResponseError`: a server in between (a proxy, a gateway) answered.
    """
    error = error_of(answer)
    if error is not None:
        return error
    if answer.status == 429:
        return throttled(answer)
    return ResponseError(
        "not an answer of this API: check base_url, and any proxy on the way to it",
        status=answer.status,
        body=answer.body,
    )


def retry_after(answer: Answer, *, wall_now: float) -> float | None:
    """Return the seconds that ``Retry-After`` asks us to wait, or None where it is absent.

    Args:
        answer: any answer; most have no such header.
        wall_now: Unix seconds by our clock. RFC 9110 allows seconds or a date. A date is compared
            with the answer's own ``Date``, so that a difference between the clocks cancels out;
            with ``wall_now`` only where the answer has no ``Date``.

    Returns:
        Seconds, 0 or more and finite. None too where the value cannot be read.
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
        sent = _http_date(answer.headers.get("date", ""))
        seconds = until - (wall_now if sent is None else sent)
    return max(0.0, seconds) if math.isfinite(seconds) else None  # float() accepts "inf" and "nan"


def _http_date(value: str) -> float | None:
    try:
        parsed = parsedate_to_datetime(value)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
