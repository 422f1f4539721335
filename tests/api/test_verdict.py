from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo._api import verdict
from aivideo._api.verdict import (
    Accepted,
    Exhausted,
    Faulted,
    Refused,
    Throttled,
    Unknown,
    Unsent,
    Verdict,
)
from aivideo._api.wire import Answer
from aivideo.errors import APIConnectionError, APITimeoutError, SpendLimitError


def judge(status: int, body: object = None, **headers: str) -> Verdict:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return verdict.of_create(Answer(status, raw, headers), wall_now=0.0)


TYPES = {
    "invalid_request": "invalid_request_error",
    "invalid_api_key": "authentication_error",
    "insufficient_credits": "billing_error",
    "ip_not_allowed": "permission_error",
    "model_not_found": "invalid_request_error",
    "rate_limit_exceeded": "rate_limit_error",
    "spend_limit_exceeded": "billing_error",
    "internal_error": "api_error",
    "upstream_error": "upstream_error",
}
"""The types of the provider's page, by code."""


def error_body(code: str, kind: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(code, "t") if kind is None else kind
    return {"error": {"code": code, "message": "as reported", "type": kind}}


def not_final(status: int) -> list[tuple[int, object, type]]:
    """Return answers of one status that do not prove that no task was made."""
    return [
        (status, error_body("request_timeout", "t"), Unknown),
        (status, error_body("request_timeout", "api_error"), Unknown),
        (status, error_body("request_timeout", "upstream_error"), Unknown),
        (status, {"error": {"code": "invalid_request", "message": "no type"}}, Unknown),
        (status, {"error": {"code": "invalid_request", "message": "m", "type": 5}}, Unknown),
        (status, b"<html>Forbidden</html>", Unknown),
        (status, b"", Unknown),
    ]


TAKEN = {"code": 200, "msg": "success", "data": {"taskId": "t-1"}}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, TAKEN, Accepted),
        (200, {"data": {"taskId": "t-1"}}, Accepted),
        (201, TAKEN, Accepted),
        (202, TAKEN, Accepted),
        (500, {**TAKEN, **error_body("internal_error")}, Accepted),
        (200, {"code": 402, "data": {"taskId": "t-1"}}, Accepted),
        (429, error_body("rate_limit_exceeded"), Throttled),
        (429, b"", Throttled),
        (429, b"<html>Too Many Requests</html>", Throttled),
        (429, error_body("something_else"), Throttled),
        (429, error_body("spend_limit_exceeded"), Exhausted),
        (402, error_body("insufficient_credits"), Exhausted),
        (400, error_body("invalid_request"), Refused),
        (401, error_body("invalid_api_key"), Refused),
        (403, error_body("ip_not_allowed"), Refused),
        (404, error_body("model_not_found"), Refused),
        (422, error_body("unheard_of", "invalid_request_error"), Refused),
        (410, error_body("unheard_of", "permission_error"), Refused),
        (400, error_body("unheard_of", "invalid_request_error"), Refused),
        (403, error_body("unheard_of", "authentication_error"), Refused),
        (402, error_body("unheard_of", "billing_error"), Exhausted),
        (429, error_body("daily_limit_exceeded", "billing_error"), Exhausted),
        (429, error_body("daily_limit_exceeded", "t"), Throttled),
        # The service may have made a task before it, or a server in between, answered so.
        *((status, error_body("invalid_request"), Unknown) for status in (408, 409, 425, 499)),
        (422, error_body("unheard_of", "billing_error"), Unknown),
        *(row for status in (400, 401, 402, 403, 404, 413, 422) for row in not_final(status)),
        (500, error_body("internal_error"), Faulted),
        (503, error_body("upstream_error"), Faulted),
        (500, b"<html>", Unknown),
        (502, b"<html>Bad Gateway</html>", Unknown),
        (502, error_body("internal_error"), Unknown),
        (503, b"Service Unavailable", Unknown),
        (504, b"", Unknown),
        (301, b"", Unknown),
        (307, TAKEN["data"], Unknown),
        (308, b"", Unknown),
        (400, b"<html>", Unknown),
        (404, b"not found", Unknown),
        (402, b"", Unknown),
        (200, b"", Unknown),
        (200, b"{", Unknown),
        (200, {"code": 402, "msg": "no money", "data": None}, Unknown),
        (200, {"code": 200, "data": {}}, Unknown),
        (200, {"code": 200, "data": {"taskId": ""}}, Unknown),
        (200, {"code": 200, "data": {"taskId": None}}, Unknown),
        (200, error_body("rate_limit_exceeded"), Unknown),
        (204, b"", Unknown),
        # A task id in an undocumented place: accepted in a 2xx object, else unknown.
        (200, {"taskId": "t-1"}, Accepted),
        (200, {"code": 200, "data": [{"taskId": "t-1"}]}, Accepted),
        (200, {"code": 200, "data": {"task_id": "t-1"}}, Accepted),
        (200, {"code": 200, "data": {"taskId": 7}}, Accepted),
        (200, [{"taskId": "t-1"}], Unknown),
        (200, json.dumps(TAKEN).encode()[:-2], Unknown),
        (200, {"code": 200, "data": {"taskId": {"id": "t-1"}}}, Unknown),
        (429, {"taskId": "t-1"}, Unknown),
        (429, [{"taskId": "t-1"}], Unknown),
        (429, {**error_body("rate_limit_exceeded"), "result": {"task_id": 7}}, Unknown),
        (429, {**error_body("spend_limit_exceeded"), "taskId": "t-1"}, Unknown),
        (429, json.dumps(TAKEN).encode()[:-2], Unknown),
        (400, {**error_body("invalid_request"), "taskId": "t-1"}, Unknown),
        (503, {**error_body("upstream_error"), "taskId": "t-1"}, Unknown),
        # The name of the field alone is not an id.
        (
            400,
            {
                "error": {
                    "code": "invalid_request",
                    "message": 'no "taskId": x',
                    "type": "invalid_request_error",
                }
            },
            Refused,
        ),
        (429, {**error_body("rate_limit_exceeded"), "taskId": None}, Throttled),
    ],
)
def test_each_answer_has_its_verdict(status: int, body: object, kind: type) -> None:
    assert type(judge(status, body)) is kind


def test_a_4xx_that_proves_nothing_does_not_say_that_nothing_was_charged() -> None:
    for status in (400, 402, 408, 409):
        unknown = judge(status, error_body("request_timeout", "t"))
        assert isinstance(unknown, Unknown)
        assert (unknown.status, unknown.is_outage) == (status, False)
        assert "charged" not in str(unknown.error)
        assert "request_timeout" in str(unknown.error)
    for outage in (judge(502, b""), judge(200, b""), judge(307, b"")):
        assert isinstance(outage, Unknown)
        assert outage.is_outage


def test_a_billing_error_of_any_code_is_a_spend_limit() -> None:
    exhausted = judge(429, error_body("daily_limit_exceeded", "billing_error"))
    assert isinstance(exhausted, Exhausted)
    assert type(exhausted.error) is SpendLimitError


def test_an_error_before_the_first_byte_is_unsent_and_any_later_one_unknown() -> None:
    for cls in (APIConnectionError, APITimeoutError):
        unsent = verdict.of_create(cls("refused", written=False), wall_now=0.0)
        assert type(unsent) is Unsent
        unknown = verdict.of_create(cls("reset", written=True), wall_now=0.0)
        assert type(unknown) is Unknown


def test_an_accepted_create_has_the_task_id() -> None:
    accepted = judge(200, TAKEN)
    assert accepted == Accepted("t-1")


def test_a_throttled_create_has_the_seconds_of_retry_after() -> None:
    throttled = judge(429, error_body("rate_limit_exceeded"), **{"retry-after": "7"})
    assert isinstance(throttled, Throttled)
    assert throttled.retry_after == 7.0
    assert throttled.error.retry_after == 7.0


def test_a_spend_cap_with_retry_after_is_still_exhausted() -> None:
    exhausted = judge(429, error_body("spend_limit_exceeded"), **{"retry-after": "1"})
    assert isinstance(exhausted, Exhausted)
    assert isinstance(exhausted.error, SpendLimitError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "taskId", "code", "error", "msg", "message", "type"]), inner
        )
    ),
    max_leaves=10,
)


@given(st.integers(100, 599), JSON, st.text(min_size=1).filter(str.strip))
def test_an_answer_with_a_task_id_is_accepted_whatever_else_it_contains(
    status: int, noise: Any, task_id: str
) -> None:
    body = {**(noise if isinstance(noise, dict) else {}), "data": {"taskId": task_id}}
    assert judge(status, body) == Accepted(task_id)


@given(st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ (GMT|[+-]\d+)", fullmatch=True))
def test_a_429_is_throttled_whatever_its_retry_after(value: str) -> None:
    throttled = judge(
        429, error_body("rate_limit_exceeded"), **{"retry-after": value, "date": value}
    )
    assert isinstance(throttled, Throttled)
    assert throttled.retry_after is None or 0 <= throttled.retry_after < float("inf")


@given(st.integers(100, 599), JSON.map(lambda body: json.dumps(body).encode()) | st.binary())
def test_of_all_answers_only_a_429_may_be_sent_again(status: int, body: bytes) -> None:
    found = judge(status, body)
    assert not isinstance(found, Unsent)  # there is an answer, so the request was sent
    if isinstance(found, Throttled):
        assert status == 429


@pytest.mark.parametrize("status", [400, 402, 403, 429])
def test_a_spend_cap_is_recognised_by_its_code_with_any_4xx_status(status: int) -> None:
    assert isinstance(judge(status, error_body("spend_limit_exceeded")), Exhausted)
