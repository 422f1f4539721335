from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import astuple
from hypothesis import given
from hypothesis import strategies as st

from aivideo import models
from aivideo._api import wire
from aivideo._api.wire import Answer
from aivideo.errors import AIVideoError, ResponseError
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


def test_a_create_sends_the_documented_fields_and_no_other() -> None:
    message = wire.create(BOAT)
    assert (message.method, message.path) == ("POST", "/v1/videos/generations")
    assert json.loads(message.body or b"") == {
        "model": "sora-2",
        "input": {"prompt": "一只纸船 🚣", "duration": 8, "aspect_ratio": "16:9"},
    }
    with_callback = wire.create(BOAT, "https://me.example/hook")
    assert json.loads(with_callback.body or b"")["callback_url"] == "https://me.example/hook"


def test_the_endpoint_is_the_catalogue_s_unless_it_is_given() -> None:
    picture = Generation("nano-banana-2", {})
    assert wire.create(picture).path == "/v1/images/generations"
    assert wire.create(picture, endpoint="/v2/pictures").path == "/v2/pictures"
    assert wire.create(BOAT, endpoint="/v2/clips").path == "/v2/clips"


def test_a_task_id_is_one_percent_encoded_segment_of_the_path() -> None:
    assert wire.retrieve("a/../b?c#d e").path == "/v1/tasks/a%2F..%2Fb%3Fc%23d%20e"


def test_a_fingerprint_depends_on_the_content_alone() -> None:
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


def test_extra_fields_and_unknown_statuses_are_kept() -> None:
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
def test_an_unreadable_field_is_named_by_its_path(changed: dict[str, Any], path: str) -> None:
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
def test_any_body_is_read_or_refused_with_an_error_of_ours(body: bytes) -> None:
    for status in (200, 404, 502):
        for read in (wire.read_task, wire.read_credits):
            with contextlib.suppress(AIVideoError):
                read(Answer(status, body))


@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON), st.sampled_from([RUNNING, COMPLETED, FAILED])
)
def test_any_mix_of_fields_is_read_or_refused_with_an_error_of_ours(
    changed: dict[str, Any], task: dict[str, Any]
) -> None:
    with contextlib.suppress(AIVideoError):
        wire.read_task(answer({**task, **changed}))


def balance_body(**amounts: object) -> bytes:
    data = {"balance": 9800, "total_purchased": 10000, "total_consumed": 200, **amounts}
    return json.dumps({"code": 200, "msg": "success", "data": data}).encode()


def test_a_balance_is_read_as_exact_decimals() -> None:
    amounts = astuple(wire.read_credits(Answer(200, balance_body())))
    assert amounts == (9800, 10000, 200)
    assert {type(each).__name__ for each in amounts} == {"Decimal"}


@pytest.mark.parametrize(
    ("written", "balance"),
    [
        ("9847.5", "9847.5"),
        ("0.1", "0.1"),
        ("9847.50", "9847.5"),
        ("123456789012.000001", "123456789012.000001"),  # more digits than a float holds
        ("1e3", "1000"),
        ("-0.0", "0"),
    ],
)
def test_a_fraction_of_a_credit_is_read_from_its_text(written: str, balance: str) -> None:
    body = balance_body(balance="HERE").replace(b'"HERE"', written.encode())
    assert str(wire.read_credits(Answer(200, body)).balance) == balance


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"code": 402, "msg": "no", "data": null}', "$.code"),
        (b'{"code": 200}', "$.data"),
        (b"[]", "not a JSON object"),
        (b"<html>", "not a JSON object"),
        (balance_body(balance="9800"), "$.data.balance"),
        (balance_body(balance=True), "$.data.balance"),
        (balance_body(balance=None), "$.data.balance"),
        (balance_body(total_purchased=[]), "$.data.total_purchased"),
        (balance_body(total_consumed=0.0000001), "$.data.total_consumed"),
        (balance_body(total_consumed=10**15), "$.data.total_consumed"),
        (balance_body(balance=float("nan")), "$.data.balance"),
        (balance_body(balance="X").replace(b'"X"', b"1e" + b"9" * 30), "$.data.balance"),
    ],
)
def test_a_200_that_is_not_a_balance_names_the_field_at_fault(body: bytes, path: str) -> None:
    with pytest.raises(ResponseError) as caught:
        wire.read_credits(Answer(200, body))
    assert path in str(caught.value)


def test_a_refused_answer_carries_no_frame_that_holds_its_body() -> None:
    for read in (wire.read_task, wire.read_credits):
        with pytest.raises(ResponseError) as caught:
            read(answer([]))
        error = caught.value
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
