"""Tokens in callback URLs, and the check of the task that a callback names.

The service does not sign its callbacks, so anyone who learns a URL can post to it. The URL of each
attempt therefore ends in a token: the job's id, the attempt's number and a MAC over both. A
callback with an invalid token is dropped before anything is looked up.

A valid token proves only that the sender knew the URL, so the body of a callback is never
believed. The task that it names is fetched with a ``GET``, and :func:`mismatch` checks that it can
be the one that was paid for.

A token is ``<job>.<attempt>.<mac>``, in characters that are safe in a URL's path.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from attrs import frozen

from aivideo.models import CompletedTask, Request, Task

_TOKEN = re.compile(r"([0-9a-f]{1,64})\.([1-9][0-9]{0,8})\.([A-Za-z0-9_-]{22})")

CLOCKS_APART = 900.0
"""Seconds by which the service's clock and ours may differ when times are compared."""


@frozen
class Attribution:
    """The job and the attempt that a valid token names."""

    job_id: str
    attempt: int


def derived_secret(api_key: str) -> bytes:
    """Return the default secret: derived from the API key, so that all its processes share it."""
    return hmac.digest(api_key.encode(), b"aivideo callback tokens", "sha256")


def token(secret: bytes, job_id: str, attempt: int) -> str:
    """Return the token of one attempt."""
    return f"{job_id}.{attempt}.{_mac(secret, job_id, attempt)}"


def read_token(secret: bytes, text: str) -> Attribution | None:
    """Return what a token names, or None where it is not valid for this secret."""
    match = _TOKEN.fullmatch(text)
    if match is None:
        return None
    job_id, attempt = match[1], int(match[2])
    if not hmac.compare_digest(match[3], _mac(secret, job_id, attempt)):
        return None
    return Attribution(job_id, attempt)


def _mac(secret: bytes, job_id: str, attempt: int) -> str:
    digest = hmac.digest(secret, f"{job_id}.{attempt}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def mismatch(request: Request, task: Task, *, sent_at: float) -> str | None:
    """Return why ``task`` cannot be the result of a POST of ``request``, or None where it can.

    The model must be the same, and the task must not be older than the POST by more than
    :data:`CLOCKS_APART`. Prompt and duration must match where the service reports them: only
    ``output.metadata`` of a completed task does.

    Args:
        request: what was POSTed.
        task: the answer to a ``GET`` of the task that the callback named.
        sent_at: when the POST was sent, Unix seconds by our clock.
    """
    if task.model != request.model:
        return f"its model is {task.model}, not {request.model}"
    if task.created_at.timestamp() < sent_at - CLOCKS_APART:
        return "it was created before the POST"
    reported = task.metadata if isinstance(task, CompletedTask) else {}
    for name in ("prompt", "duration"):
        if name in reported and name in request.input and reported[name] != request.input[name]:
            return f"its {name} differs from the request's"
    return None
