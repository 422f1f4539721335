from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo import errors, models
from aivideo._api import wire
from aivideo._api.wire import Answer
from aivideo.errors import AIVideoError, APIStatusError, RateLimitError, ResponseError
from aivideo.models import (
    CompletedTask,
    FailedTask,
    Generation,
    PendingTask,
    ProcessingTask,
    Sora2,
    UnrecognizedTask,
)

BOAT = Sora2("一只纸船 🚣", duration=8, aspect_ratio="16:9")

# The provider's page, "查询任务".
RUNNING = {
    "id": "task-1",
    "status": "processing",
    "model": "sora-2",
    "progress": None,
    "created_at": 1757165031,
}
COMPLETED = {
    "id": "task-1",
    "status": "completed",
    "model": "sora-2",
    "created_at": 1757165031,
    "completed_at": 1757171333,
    "output": {
        "urls": ["https://cdn.example/a.mp4?sig=1"],
        "metadata": {"duration": 8, "prompt": "…"},
    },
}
FAILED = {
    "id": "task-1",
    "status": "failed",
    "model": "sora-2",
    "created_at": 1757165031,
    "error": {"code": "upstream_error", "message": "Video generation failed"},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
FIELDS = [*RUNNING, *COMPLETED, *FAILED, "urls", "metadata", "code", "message", "data", "taskId"]


def answer(body: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(body).encode(), headers)


def error_body(code: str, kind: str = "api_error") -> dict[str, Any]:
    return {"error": {"code": code, "message": "said so", "type": kind}}


def test_a_create_sends_the_documented_fields_and_no_other() -> None:
    message = wire.create(BOAT)
    assert (message.method, message.path) == ("POST", "/v1/videos/generations")
    assert json.loads(message.body or b"") == {
        "model": "sora-2",
        "input": {"prompt": "一只纸船 🚣", "duration": 8, "aspect_ratio": "16:9"},
    }
    with_callback = wire.create(BOAT, "https://me.example/hook")
    assert json.loads(with_callback.body or b"")["callback_url"] == "https://me.example/hook"


def test_an_image_model_has_its_own_endpoint() -> None:
    assert wire.create(Generation("nano-banana-2", {})).path == "/v1/images/generations"


def test_a_task_id_cannot_leave_its_place_in_the_path() -> None:
    assert wire.retrieve("a/../b?c#d e").path == "/v1/tasks/a%2F..%2Fb%3Fc%23d%20e"


def test_a_fingerprint_is_of_the_content() -> None:
    assert models.fingerprint(BOAT) == models.fingerprint(Generation("sora-2", dict(BOAT.input)))
    assert models.fingerprint(BOAT) != models.fingerprint(
        Sora2("一只纸船", duration=8, aspect_ratio="16:9")
    )


def test_the_documented_tasks_are_read_field_for_field() -> None:
    running = wire.read_task(answer(RUNNING))
    assert isinstance(running, ProcessingTask)
    assert running.created_at == datetime.fromtimestamp(1757165031, UTC)
    assert running.progress is None
    assert isinstance(wire.read_task(answer({**RUNNING, "status": "pending"})), PendingTask)
    done = wire.read_task(answer(COMPLETED))
    assert isinstance(done, CompletedTask)
    assert done.urls == ("https://cdn.example/a.mp4?sig=1",)
    assert (done.completed_at - done.created_at).total_seconds() == 6302
    assert done.metadata["duration"] == 8
    failed = wire.read_task(answer(FAILED))
    assert isinstance(failed, FailedTask)
    assert (failed.error.code, failed.error.message) == (
        "upstream_error",
        "Video generation failed",
    )


def test_extra_fields_and_unheard_of_states_do_no_harm() -> None:
    task = wire.read_task(answer({**RUNNING, "status": "cancelled", "queue": {"place": 3}}))
    assert isinstance(task, UnrecognizedTask)
    assert task.status == "cancelled"
    assert task.raw["queue"] == {"place": 3}


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"id": None}, "$.id"),
        ({"id": ""}, "$.id"),
        ({"status": 3}, "$.status"),
        ({"model": None}, "$.model"),
        ({"created_at": "yesterday"}, "$.created_at"),
        ({"created_at": True}, "$.created_at"),
        ({"created_at": 1e300}, "$.created_at"),
        ({"completed_at": None}, "$.completed_at"),
        ({"output": {"urls": "https://x.example/a"}}, "$.output.urls"),
        ({"output": {"urls": [1, None]}}, "$.output.urls[0]"),
        ({"output": {"urls": ["https://x.example/a", "file:///etc/passwd"]}}, "$.output.urls[1]"),
    ],
)
def test_a_broken_field_is_named_by_its_path(changed: dict[str, Any], path: str) -> None:
    with pytest.raises(ResponseError) as caught:
        wire.read_task(answer({**COMPLETED, **changed}))
    assert path in str(caught.value)


def test_completed_without_urls_and_failed_without_reason_are_still_tasks() -> None:
    bare = wire.read_task(answer({**COMPLETED, "output": None}))
    assert isinstance(bare, CompletedTask)
    assert bare.urls == ()
    failed = wire.read_task(answer({**FAILED, "error": None}))
    assert isinstance(failed, FailedTask)
    assert failed.error.code == "unspecified"


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_body_breaks_a_reader(body: bytes) -> None:
    for status in (200, 404, 502):
        for read in (wire.read_task, wire.read_credits):
            with contextlib.suppress(AIVideoError):
                read(Answer(status, body))


@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON), st.sampled_from([RUNNING, COMPLETED, FAILED])
)
def test_no_mix_of_fields_breaks_a_reader(changed: dict[str, Any], task: dict[str, Any]) -> None:
    with contextlib.suppress(AIVideoError):
        wire.read_task(answer({**task, **changed}))


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
def test_each_row_of_the_error_table_is_its_own_class(
    status: int, code: str, cls: type[APIStatusError]
) -> None:
    with pytest.raises(cls) as caught:
        wire.read_task(answer(error_body(code, "a_type"), status, **{"x-request-id": "r-9"}))
    error = caught.value
    assert type(error) is cls
    assert (error.status, error.code, error.type) == (status, code, "a_type")
    assert error.message == "said so"
    assert error.request_id == "r-9"
    assert error.cure
    assert error.cure in str(error)


def test_a_code_that_nobody_documents_is_read_by_its_status() -> None:
    with pytest.raises(errors.AuthenticationError):
        wire.read_credits(answer(error_body("key_rotated"), 401))
    with pytest.raises(APIStatusError) as caught:
        wire.read_credits(answer(error_body("teapot"), 418))
    assert type(caught.value) is APIStatusError


@pytest.mark.parametrize("status", [301, 400, 404, 500, 502, 503, 504])
def test_a_gateway_s_page_is_no_answer_of_the_service(status: int) -> None:
    with pytest.raises(ResponseError):
        wire.read_task(Answer(status, b"<html>Bad Gateway</html>"))


def test_any_429_is_a_slow_down_but_the_one_about_money() -> None:
    for body in (b"", b"<html>", b'{"error": "slow"}', b"[]"):
        with pytest.raises(RateLimitError):
            wire.read_task(Answer(429, body))
    with pytest.raises(errors.SpendLimitError):
        wire.read_task(answer(error_body("spend_limit_exceeded"), 429))


def test_a_balance_is_read() -> None:
    data = {"balance": 9800, "total_purchased": 10000, "total_consumed": 200}
    assert wire.read_credits(answer({"code": 200, "msg": "success", "data": data})).balance == 9800


@pytest.mark.parametrize(
    "body",
    [
        {"code": 402, "msg": "no", "data": None},
        {"code": 200, "data": {"balance": "9800"}},
        {"code": 200, "data": {"balance": True, "total_purchased": 1, "total_consumed": 0}},
        {"code": 200},
        [],
    ],
)
def test_a_200_that_is_no_balance_is_a_response_error(body: Any) -> None:
    with pytest.raises(ResponseError):
        wire.read_credits(answer(body))


NOW = 1_700_000_000.0


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
def test_retry_after_in_seconds_and_as_a_date(value: str, seconds: float | None) -> None:
    assert wire.retry_after(Answer(429, b"", {"retry-after": value}), wall_now=NOW) == seconds


def test_a_retry_after_date_is_read_by_the_server_s_own_clock() -> None:
    def stamp(at: float) -> str:
        return format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)

    skewed = {"retry-after": stamp(NOW + 3600 + 30), "date": stamp(NOW + 3600)}
    assert wire.retry_after(Answer(429, b"", skewed), wall_now=NOW) == 30.0
