"""A request to the service and its answer, as values: what passes between the API and a transport.

Three modules work on them: :mod:`~aivideo._api.wire` builds requests and reads answers,
:mod:`~aivideo._api.answer_errors` turns answers that report a failure into exceptions, and
:mod:`~aivideo._api.verdict` decides what an answer to a paid POST means for the user's money.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from attrs import field, frozen


@frozen
class Message:
    """A request, without the API key.

    Attributes:
        method: "GET" or "POST".
        path: the path below the base URL, percent-encoded.
        body: JSON, or None where the request has no body.
    """

    method: str
    path: str
    body: bytes | None = None


def _no_headers() -> dict[str, str]:
    return {}


@frozen
class Answer:
    """A complete answer. Its ``repr`` shows the status alone: a body may hold signed URLs.

    Attributes:
        status: the HTTP status.
        body: the whole body, with any content encoding (gzip, say) undone.
        headers: the headers that are used, with lower-case names: ``retry-after``, ``date`` and
            ``x-request-id``. A transport may leave out all others.
    """

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(factory=_no_headers, repr=False)


def json_object(answer: Answer) -> dict[str, Any] | None:
    """Return the body as a JSON object, or None where it is not one."""
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None
