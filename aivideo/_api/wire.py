"""The service's protocol: requests built from values, and answers read into values.

This is the one module that knows the envelope of a create and the paths of the endpoints. (The
fields of a model's ``input`` are data, in :mod:`aivideo.catalog`.) Each function names the part of
the provider's page that it follows.

Task objects and balances are read twice at most: by :mod:`~aivideo._api.converters`, fast, where
they have the documented shape, and else by :mod:`~aivideo._api.tolerant`. A field that neither can
read is a :class:`~aivideo.ResponseError` that names its path (``$.output.urls[0]``), never a
``KeyError``.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import orjson

from aivideo import catalog
from aivideo._api import tolerant
from aivideo._api.answer_errors import answered_error, error_as, error_of, retry_after, throttled
from aivideo._api.converters import credits_hook, task_hook
from aivideo._api.messages import Answer, Message, json_object
from aivideo.errors import ResponseError
from aivideo.models import Credits, Request, Task, TaskId

__all__ = [
    "Answer",
    "Message",
    "answered_error",
    "balance",
    "create",
    "error_as",
    "error_of",
    "json_object",
    "read_callback",
    "read_credits",
    "read_task",
    "retrieve",
    "retry_after",
    "stray_task_id",
    "task_id_of",
    "throttled",
]

CREDITS = "/v1/credits"
TASKS = "/v1/tasks/"


# --- requests ---------------------------------------------------------------------------------


def create(
    request: Request, callback_url: str | None = None, *, endpoint: str | None = None
) -> Message:
    """Build the ``POST`` of a generation ("创建任务").

    Args:
        request: what to make.
        callback_url: told by the service when the task has ended, or None.
        endpoint: the path of the model's endpoint; by default, the catalogue's for its model.
    """
    body: dict[str, Any] = {"model": request.model, "input": request.input}
    if callback_url is not None:
        body["callback_url"] = callback_url
    if endpoint is None:
        endpoint = catalog.default_catalog().find(request.model).endpoint
    return Message("POST", endpoint, orjson.dumps(body))


def retrieve(task_id: TaskId) -> Message:
    """Build the ``GET`` of a task ("查询任务"), with the id percent-encoded."""
    return Message("GET", TASKS + quote(task_id, safe=""))


def balance() -> Message:
    """Build the ``GET`` of the balance (named under "insufficient_credits (402)")."""
    return Message("GET", CREDITS)


# --- the answer to a create -------------------------------------------------------------------


def task_id_of(body: dict[str, Any] | None) -> TaskId | None:
    """Return ``data.taskId``, which proves that a create was taken ("响应"), or None.

    Nothing else in the answer is looked at: neither its status nor its ``code``.
    """
    data = body.get("data") if body is not None else None
    return _as_task_id(data.get("taskId")) if isinstance(data, dict) else None


_ID_IN_BROKEN_JSON = re.compile(rb'"task_?id"\s*:\s*"?[^\s",}]', re.IGNORECASE)


def stray_task_id(answer: Answer) -> TaskId | None:
    """Return a task id from an undocumented place: any field of that name, at any depth.

    An answer that contains one does not prove that no task was made. In a body that is not JSON
    only the field's name can be recognised; the id is then returned as ``"?"``.
    """
    try:
        pending: list[object] = [orjson.loads(answer.body)]
    except orjson.JSONDecodeError:
        return "?" if _ID_IN_BROKEN_JSON.search(answer.body) else None
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            for name, value in part.items():
                if name.replace("_", "").lower() == "taskid" and (found := _as_task_id(value)):
                    return found
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
    return None


def _as_task_id(value: object) -> TaskId | None:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # not documented, but an answer that carries an id was taken and charged
    return None


# --- tasks and the balance --------------------------------------------------------------------


def read_task(answer: Answer) -> Task:
    """Read a task object ("处理中", "完成", "失败").

    Raises:
        APIStatusError: the service answered with an error.
        ResponseError: the answer is not a task object; the message names the field's path.
    """
    if answer.status != 200:
        raise answered_error(answer)
    task = _documented_task(answer.body)
    return _tolerant_task(answer) if task is None else task


def read_callback(body: bytes) -> Task:
    """Read the body of a callback: a task object too ("回调").

    Raises:
        ResponseError: the body is not a task object.
    """
    return read_task(Answer(200, body))


def read_credits(answer: Answer) -> Credits:
    """Read the balance: ``{"code": 200, "data": {"balance", "total_purchased", …}}``.

    Raises:
        APIStatusError: the service answered with an error.
        ResponseError: the answer is not a balance; the message names the field's path.
    """
    if answer.status != 200:
        raise answered_error(answer)
    found = _documented_credits(answer.body)
    return _tolerant_credits(answer) if found is None else found


# A refusal of the fast reading is handled outside its `except` block: an exception raised later
# would carry the refusal, and with it frames whose locals hold signed URLs.


def _documented_task(body: bytes) -> Task | None:
    try:
        return task_hook()(orjson.loads(body), Task)
    except Exception:
        return None


def _documented_credits(body: bytes) -> Credits | None:
    try:
        return credits_hook()(orjson.loads(body), Credits)
    except Exception:
        return None


def _tolerant_task(answer: Answer) -> Task:
    try:
        return tolerant.task(_checked(answer, tolerant.task_object(answer.body)))
    except tolerant.UnreadableFieldError as error:
        raise _unreadable(answer, f"not a task object: {error}") from None


def _tolerant_credits(answer: Answer) -> Credits:
    try:
        return tolerant.account_credits(
            _checked(answer, tolerant.object_with_decimals(answer.body))
        )
    except tolerant.UnreadableFieldError as error:
        raise _unreadable(answer, f"not a balance: {error}") from None


def _checked(answer: Answer, body: dict[str, Any] | None) -> dict[str, Any]:
    if body is None:
        raise _unreadable(answer, "not a JSON object")
    return body


def _unreadable(answer: Answer, problem: str) -> ResponseError:
    return ResponseError(problem, status=answer.status, body=answer.body)
