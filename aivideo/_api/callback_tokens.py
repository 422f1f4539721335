"""Tokens for callback URLs: made and checked. And: what a callback must match to be believed.

The service does not sign its callbacks, so whoever learns a URL can post to it. Each attempt's URL
therefore ends in a token that names job and attempt and carries a MAC: a callback without a right
one is nobody's business, and is dropped before anything is looked up. A right token still proves
only that somebody knew the URL. What the callback says is never believed; the task that it names
is asked for (``GET``), and must be the one that was bought (:func:`mismatch`).

A token is ``<job>.<attempt>.<mac>``, all of it safe in a URL's path.
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
"""Seconds by which the service's clock and ours may differ, in a check that has no better fact."""


@frozen
class Attribution:
    """What a right token names: a job, and the number of its attempt."""

    job_id: str
    attempt: int


def derived_secret(api_key: str) -> bytes:
    """Make the secret of who states none: the same in every process of the same key."""
    return hmac.digest(api_key.encode(), b"aivideo callback tokens", "sha256")


def token(secret: bytes, job_id: str, attempt: int) -> str:
    """Make the token of one attempt."""
    return f"{job_id}.{attempt}.{_mac(secret, job_id, attempt)}"


def read_token(secret: bytes, text: str) -> Attribution | None:
    """Say what a token names, or None where it is not one of ours."""
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
    """Say why ``task`` cannot be what became of a POST of ``request``; None: it may well be.

    Model, prompt and length must match wherever the service tells them: a completed task's
    ``output.metadata`` does, a failed one's tells no more than its model, and then at least it
    must not be older than the POST.

    Args:
        request: what was POSTed.
        task: what a GET of the named task brought.
        sent_at: when it was POSTed, Unix seconds by our clock.
    """
    if task.model != request.model:
        return f"its model is {task.model}, not {request.model}"
    if task.created_at.timestamp() < sent_at - CLOCKS_APART:
        return "it is older than the POST"
    told = task.metadata if isinstance(task, CompletedTask) else {}
    for name in ("prompt", "duration"):
        if name in told and name in request.input and told[name] != request.input[name]:
            return f"its {name} is another"
    return None
