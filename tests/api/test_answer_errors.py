from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from aivideo import errors
from aivideo._api import answer_errors, wire
from aivideo._api.messages import Answer
from aivideo.errors import APIStatusError, RateLimitError, ResponseError

NOW = 1_700_000_000.0


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(body).encode(), headers)


def error_body(code: str, kind: str = "api_error") -> dict[str, Any]:
    return {"error": {"code": code, "message": "as reported", "type": kind}}


@pytest.mark.parametrize(
    ("status", "code", "cls"),
    [
        (400, "invalid_request", errors.BadRequestError),
        (401, "invalid_api_key", errors.AuthenticationError),
        (402, "insufficient_credits", errors.InsufficientCreditsError),
        (403, "ip_not_allowed", errors.PermissionDeniedError),
        (404, "model_not_found", errors.ModelNotFoundError),
        (404, "task_not_found", errors.TaskNotFoundError),
        (429, "rate_limit_exceeded", errors.RateLimitError),
        (429, "spend_limit_exceeded", errors.SpendLimitError),
        (500, "internal_error", errors.InternalServerError),
        (503, "upstream_error", errors.UpstreamError),
    ],
)
def test_each_row_of_the_error_table_has_its_own_class(
    status: int, code: str, cls: type[APIStatusError]
) -> None:
    with pytest.raises(cls) as caught:
        wire.read_task(answer(error_body(code, "a_type"), status, **{"x-request-id": "r-9"}))
    error = caught.value
    assert type(error) is cls
    assert (error.status, error.code, error.type) == (status, code, "a_type")
    assert error.message == "as reported"
    assert error.request_id == "r-9"
    assert error.cure
    assert error.cure in str(error)


def test_an_undocumented_code_is_classed_by_its_http_status() -> None:
    with pytest.raises(errors.AuthenticationError):
        wire.read_credits(answer(error_body("key_rotated"), 401))
    with pytest.raises(APIStatusError) as caught:
        wire.read_credits(answer(error_body("teapot"), 418))
    assert type(caught.value) is APIStatusError


@pytest.mark.parametrize("status", [301, 400, 404, 500, 502, 503, 504])
def test_a_gateway_page_is_not_an_answer_of_the_service(status: int) -> None:
    with pytest.raises(ResponseError):
        wire.read_task(Answer(status, b"<html>Bad Gateway</html>"))


def test_any_429_but_a_spend_cap_is_a_rate_limit() -> None:
    for body in (b"", b"<html>", b'{"error": "slow"}', b"[]"):
        with pytest.raises(RateLimitError):
            wire.read_task(Answer(429, body))
    with pytest.raises(errors.SpendLimitError):
        wire.read_task(answer(error_body("spend_limit_exceeded"), 429))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("99999999", 99999999.0),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Thu, 01 Dec 1994 16:00:00 +99999999999999", None),
        ("", None),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90.0),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0.0),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(value: str, seconds: float | None) -> None:
    assert (
        answer_errors.retry_after(Answer(429, b"", {"retry-after": value}), wall_now=NOW) == seconds
    )


def test_a_retry_after_date_is_compared_with_the_date_header() -> None:
    def stamp(at: float) -> str:
        return format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)

    skewed = {"retry-after": stamp(NOW + 3600 + 30), "date": stamp(NOW + 3600)}
    assert answer_errors.retry_after(Answer(429, b"", skewed), wall_now=NOW) == 30.0


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"error": "slow"}', b'{"error": {"code": 5, "message": "m"}}', b'{"error": {}}'],
)
def test_only_the_documented_shape_is_an_error_of_the_service(body: bytes) -> None:
    assert answer_errors.error_of(Answer(400, body)) is None
    assert answer_errors.error_of(answer(error_body("invalid_request"), 200)) is None
    assert isinstance(answer_errors.answered_error(Answer(400, body)), ResponseError)
