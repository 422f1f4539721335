from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivideo._api import tolerant
from aivideo.models import CompletedTask, FailedTask, ProcessingTask, UnrecognizedTask

RUNNING: dict[str, Any] = {
    "id": "task-1",
    "status": "processing",
    "model": "sora-2",
    "created_at": 1757165031,
}


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": "boat \\ud83d"}', {"a": "boat \N{REPLACEMENT CHARACTER}"}),
        (b'{"boat \\ude00": ["\\ud83d"]}', {"boat \ufffd": ["\ufffd"]}),
        (b'{"a": "\\ud83d\\ude00 \\ud83d"}', {"a": "😀 \ufffd"}),
        (b'{"a": "boat \xf0\x9f\x98"}', {"a": "boat \ufffd"}),
        (b'{"a": "tab\there"}', {"a": "tab\there"}),
        (b'{"a": NaN, "b": [-Infinity]}', {"a": None, "b": [None]}),
        (b"[]", None),
        (b'"text"', None),
        (b"", None),
        (b'{"a": 1', None),
        (b"<html>", None),
        (b"[" * 100_000, None),
        (b'{"a":' * 100_000, None),
        (b'{"a": ' + b"9" * 5000 + b"x}", None),
    ],
)
def test_almost_valid_json_is_read(body: bytes, value: object) -> None:
    assert tolerant.task_object(body) == value


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: json.dumps([text]).encode()))
def test_parsing_never_raises_and_its_text_can_always_be_stored(body: bytes) -> None:
    value = tolerant.task_object(b'{"a": ' + body + b"}")
    if value is not None:
        orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)


def test_fractions_are_decimals_of_the_written_digits() -> None:
    found = tolerant.object_with_decimals(b'{"a": 0.1, "b": [9847.50], "c": 3, "d": 1e99999999999}')
    assert found is not None
    assert found["a"] == Decimal("0.1")
    assert str(found["b"][0]) == "9847.50"
    assert type(found["c"]) is int


@pytest.mark.parametrize(
    ("progress", "read"),
    [
        (None, None),
        (40, 40.0),
        (0.4, 0.4),
        (True, None),
        ("40 %", None),
        ([1], None),
        (10**400, None),
        (float("inf"), None),
    ],
)
def test_progress_that_is_not_a_number_is_none(progress: object, read: float | None) -> None:
    task = tolerant.task({**RUNNING, "progress": progress})
    assert isinstance(task, ProcessingTask)
    assert task.progress == read
    assert task.raw["progress"] == progress


def test_an_unknown_status_keeps_its_text() -> None:
    task = tolerant.task({**RUNNING, "status": "cancelled", "progress": 3})
    assert isinstance(task, UnrecognizedTask)
    assert (task.status, task.progress) == ("cancelled", 3.0)


@pytest.mark.parametrize("output", [None, {}, [], "text", {"urls": None, "metadata": "text"}])
def test_a_completed_task_may_lack_its_urls(output: object) -> None:
    body = {**RUNNING, "status": "completed", "completed_at": 1757171333.5, "output": output}
    task = tolerant.task(body)
    assert isinstance(task, CompletedTask)
    assert (task.urls, task.metadata) == ((), {})
    assert task.completed_at.microsecond == 500_000


def test_a_url_that_is_not_plain_is_read() -> None:
    urls = ["https://cdn.example:65000/ä.mp4", "HTTPS://[::1]/a.mp4"]
    body = {
        **RUNNING,
        "status": "completed",
        "completed_at": 1757171333,
        "output": {"urls": urls},
    }
    task = tolerant.task(body)
    assert isinstance(task, CompletedTask)
    assert list(task.urls) == urls


@pytest.mark.parametrize("error", [None, {}, "no", {"code": "", "message": ""}, {"code": 5}])
def test_a_failed_task_may_lack_its_reason(error: object) -> None:
    task = tolerant.task({**RUNNING, "status": "failed", "error": error})
    assert isinstance(task, FailedTask)
    assert (task.error.code, task.error.message) == ("unspecified", "the service gave no reason")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"id": None}, "$.id is missing or null, expected a non-empty string"),
        ({"id": ""}, "$.id is empty, expected a non-empty string"),
        ({"model": {}}, "$.model is an object, expected a non-empty string"),
        ({"status": 3}, "$.status is the number 3, expected a non-empty string"),
        ({"created_at": True}, "$.created_at is a boolean, expected a time in Unix seconds"),
        ({"created_at": 10**40}, "$.created_at is a number, expected a time in Unix seconds"),
        (
            {"status": "completed", "completed_at": 1, "output": {"urls": ["https://h/?Sig=1", 2]}},
            "$.output.urls[1] is the number 2, expected an http(s) URL",
        ),
        (
            {"status": "completed", "completed_at": 1, "output": {"urls": ["no://h/?Sig=1"]}},
            "$.output.urls[0] is a string, expected an http(s) URL",
        ),
    ],
)
def test_the_message_names_path_found_and_expected(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(tolerant.UnreadableFieldError) as caught:
        tolerant.task({**RUNNING, **changed})
    assert str(caught.value) == message
