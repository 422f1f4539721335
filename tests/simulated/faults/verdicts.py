"""What the response to a create means: a second implementation of the table of `API.md`."""

from __future__ import annotations

import orjson

from aivideo import APIConnectionError
from aivideo._api.wire import Answer

FINAL_CODES = {
    *("invalid_request", "invalid_api_key", "ip_not_allowed", "model_not_found", "task_not_found"),
}
SPENT_CODES = {"insufficient_credits", "spend_limit_exceeded"}
SERVER_CODES = {(500, "internal_error"), (503, "upstream_error")}


def verdict_of(response: Answer | APIConnectionError) -> tuple[str, str | None]:
    """Classify the response to a create; also return its task id, if it has one.

    The verdicts are "taken", "no" (refused), "spent" (no credits or spend limit reached), "again"
    (rate-limited), "faulted" (server error), "unlisted" (a 4xx that proves nothing) and "unknown".
    """
    if isinstance(response, APIConnectionError):
        return "unknown", None
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        body = None
    body = body if isinstance(body, dict) else {}
    data, error = body.get("data"), body.get("error")
    if isinstance(data, dict) and data.get("taskId"):
        return "taken", data["taskId"]
    code = error.get("code") if isinstance(error, dict) else None
    if code in SPENT_CODES and response.status in (402, 429):
        return "spent", None
    if response.status == 429:
        return "again", None
    if code in FINAL_CODES and 400 <= response.status < 500:
        return "no", None
    if (response.status, code) in SERVER_CODES:
        return "faulted", None
    if 400 <= response.status < 500:
        return "unlisted", None
    return "unknown", None
