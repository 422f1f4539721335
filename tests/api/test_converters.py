"""The fast reading and the tolerant one agree on every documented answer."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import cattrs
import orjson
import pytest
from attrs import asdict, frozen
from hypothesis import given
from hypothesis import strategies as st

from aivideo import catalog
from aivideo._api import converters, tolerant
from aivideo.models import (
    CompletedTask,
    Credits,
    FailedTask,
    PendingTask,
    ProcessingTask,
    Task,
)

TEXTS = st.text(min_size=1, max_size=12)
TIMES = st.integers(0, 4_000_000_000)
URLS = st.from_regex(
    r"https?://[a-z0-9]([a-z0-9.-]{0,12}[a-z0-9])?(:[1-9][0-9]{0,3})?(/[!-~]{0,20})?",
    fullmatch=True,
)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
METADATA = st.dictionaries(TEXTS, st.none() | TEXTS | NUMBERS, max_size=3)
EXTRA = st.dictionaries(
    st.sampled_from(["queue", "raw", "user", "type"]), METADATA | TEXTS, max_size=2
)
COMMON = {"id": TEXTS, "model": TEXTS, "created_at": TIMES}

DOCUMENTED = st.one_of(
    st.fixed_dictionaries(
        {**COMMON, "status": st.sampled_from(["pending", "processing"])},
        optional={"progress": st.none() | NUMBERS},
    ),
    st.fixed_dictionaries(
        {
            **COMMON,
            "status": st.just("completed"),
            "completed_at": TIMES,
            "output": st.fixed_dictionaries(
                {"urls": st.lists(URLS, max_size=3), "metadata": METADATA}
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            **COMMON,
            "status": st.just("failed"),
            "error": st.fixed_dictionaries({"code": TEXTS, "message": TEXTS}),
        }
    ),
)
CLASSES = {
    "pending": PendingTask,
    "processing": ProcessingTask,
    "completed": CompletedTask,
    "failed": FailedTask,
}


@given(DOCUMENTED, EXTRA)
def test_both_readings_agree_on_a_documented_task(body: dict[str, Any], extra: Any) -> None:
    body = orjson.loads(orjson.dumps({**extra, **body}))
    fast = converters.task_hook()(body, Task)
    assert type(fast) is CLASSES[body["status"]]
    slow = tolerant.task(body)
    assert fast == slow
    assert asdict(fast) == asdict(slow)  # `raw` and `metadata` take no part in equality
    assert fast.raw == body


@given(*[st.integers(0, 10**9)] * 3)
def test_both_readings_agree_on_a_documented_balance(left: int, bought: int, used: int) -> None:
    data = {"balance": left, "total_purchased": bought, "total_consumed": used}
    body = {"code": 200, "msg": "success", "data": data}
    fast = converters.credits_hook()(body, Credits)
    assert fast == tolerant.account_credits(body)
    assert asdict(fast) == data
    assert all(type(amount) is Decimal for amount in asdict(fast).values())


COMPLETED: dict[str, Any] = {
    "id": "task-1",
    "status": "completed",
    "model": "sora-2",
    "created_at": 1757165031,
    "completed_at": 1757171333,
    "output": {"urls": ["https://cdn.example/a.mp4"], "metadata": {}},
}


@pytest.mark.parametrize(
    "changed",
    [
        {"id": 7},
        {"id": ""},
        {"model": None},
        {"created_at": True},
        {"created_at": 1757165031.5},
        {"created_at": "1757165031"},
        {"completed_at": None},
        {"output": None},
        {"output": {"urls": "https://cdn.example/a.mp4", "metadata": {}}},
        {"output": {"urls": [None], "metadata": {}}},
        {"output": {"urls": ["file:///etc/passwd"], "metadata": {}}},
        {"output": {"urls": []}},
        {"output": {"urls": [], "metadata": []}},
        {"status": "cancelled"},
        {"status": "COMPLETED"},
        {"status": ["completed"]},
        {"status": "processing", "progress": True},
        {"status": "failed", "error": None},
        {"status": "failed", "error": {"code": 5, "message": "m"}},
        {"status": "failed", "error": {"code": "c", "message": ""}},
    ],
)
def test_the_fast_reading_coerces_nothing(changed: dict[str, Any]) -> None:
    hook = converters.task_hook()
    hook(COMPLETED, Task)
    with pytest.raises((TypeError, ValueError, LookupError)):
        hook({**COMPLETED, **changed}, Task)


@pytest.mark.parametrize("amount", [9847.5, 9800.0, "9800", True, None, Decimal("9847.5")])
def test_the_fast_reading_of_a_balance_takes_integers_alone(amount: object) -> None:
    data = {"balance": amount, "total_purchased": 1, "total_consumed": 0}
    with pytest.raises(TypeError):
        converters.credits_hook()({"code": 200, "data": data}, Credits)


@given(st.text(max_size=30) | URLS | URLS.map(lambda url: url + "\n"))
def test_a_plain_url_is_a_web_url(url: str) -> None:
    if converters._PLAIN_URL(url):
        assert catalog.is_web_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://h:0/a",
        "http://h:65536/a",
        "http:///a",
        "http://u:p@h/a",
        "http://[::1]/a",
        "https://cdn.example/a b",
        "https://cdn.example/\x7f",
        "https://cdn.example/ä",
        "https://cdn.example/a\n",
    ],
)
def test_a_url_that_is_not_plain_is_left_to_the_tolerant_reading(url: str) -> None:
    assert converters._PLAIN_URL(url) is None


@frozen
class _Pair:
    """Stands for a type that a later feature wants read."""

    task: Task
    seen_at: datetime


def test_a_converter_that_was_taught_tasks_structures_types_that_contain_them() -> None:
    converter = cattrs.Converter()
    converters.configure_tasks(converter)
    pair = converter.structure({"task": COMPLETED, "seen_at": 0}, _Pair)
    assert isinstance(pair.task, CompletedTask)
    assert pair.seen_at == datetime.fromtimestamp(0, UTC)


def test_cattrs_is_imported_by_the_first_answer_that_is_read() -> None:
    program = """
import sys
from aivideo._api import wire
assert "cattrs" not in sys.modules
wire.task_id_of({"data": {"taskId": "t"}})
assert "cattrs" not in sys.modules
wire.read_callback(b'{"id":"t","status":"pending","model":"m","created_at":1}')
assert "cattrs" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
