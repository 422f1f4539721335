"""Helpers that call a `Service` without sockets."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import orjson

from aivideo.simulator import Service, SimAnswer, SimRequest

KEY = "sk-your-api-key"
HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
# From the provider's own example.
PROMPT = "无人机航拍日落时分的山脉,电影级光影效果"


def order(**changes: Any) -> dict[str, Any]:
    """A valid body of a create. Each keyword replaces a field of its input; None removes it."""
    given: dict[str, Any] = {"prompt": PROMPT, "duration": 8, "aspect_ratio": "16:9", **changes}
    return {
        "model": "sora-2",
        "input": {name: value for name, value in given.items() if value is not None},
    }


def create(
    service: Service,
    now: float,
    body: dict[str, Any] | None = None,
    *,
    key: str = KEY,
    path: str = "/v1/videos/generations",
) -> SimAnswer:
    headers = {"Authorization": f"Bearer {key}"}
    content = orjson.dumps(order() if body is None else body)
    return service.handle(SimRequest("POST", path, headers, content), now)


def get(service: Service, path: str, now: float, *, key: str = KEY) -> SimAnswer:
    return service.handle(SimRequest("GET", path, {"Authorization": f"Bearer {key}"}), now)


def taken(answer: SimAnswer) -> str:
    """Assert that a create succeeded and return its task id."""
    assert answer.status == 200, answer
    task_id = orjson.loads(answer.body)["data"]["taskId"]
    assert isinstance(task_id, str)
    return task_id


def poll(service: Service, task_id: str, now: float) -> dict[str, Any]:
    answer = get(service, f"/v1/tasks/{task_id}", now)
    assert answer.status == 200, answer
    shown: dict[str, Any] = orjson.loads(answer.body)
    return shown


def credit_balance(service: Service, now: float) -> dict[str, int]:
    answer = get(service, "/v1/credits", now)
    assert answer.status == 200, answer
    data: dict[str, int] = orjson.loads(answer.body)["data"]
    return data


def error(answer: SimAnswer) -> tuple[int, str, str, str]:
    """Status, code, type and message of an error answer."""
    body = orjson.loads(answer.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "type"}
    return answer.status, body["error"]["code"], body["error"]["type"], body["error"]["message"]


def fetch(service: Service, url: str, now: float, method: str = "GET", **headers: str) -> SimAnswer:
    """Send a request to the results' origin. `If_Range=` sets the header `If-Range`."""
    parts = urlsplit(url)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.handle_result(SimRequest(method, parts.path, named, query=parts.query), now)
