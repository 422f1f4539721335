"""Requests to the service and its answers, as values without sockets."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from typing import Literal

import attrs
import orjson

_NO_HEADERS: Mapping[str, str] = {}


@attrs.frozen
class SimRequest:
    """One HTTP request. `path` excludes the query. Header names may be in any case."""

    method: str
    path: str
    headers: Mapping[str, str] = _NO_HEADERS
    body: bytes = b""
    query: str = ""

    def header(self, name: str) -> str | None:
        """The value of a header, or None. Write `name` in Title-Case: it is found faster."""
        value = self.headers.get(name)
        if value is None:
            lowered = name.lower()
            for key, candidate in self.headers.items():
                if key.lower() == lowered:
                    return candidate
        return value


Cut = Literal["before", "after", "body", "reset"]


@attrs.frozen
class SimAnswer:
    """One HTTP answer, with the delay and the connection fault to apply to it.

    `delay` is in seconds, before the answer is sent or the connection is cut. `cut` states how the
    connection is cut:

    * None: it is not; the answer arrives complete
    * `before`: closed before the service processed the request
    * `after`: closed without an answer, after the service carried the request out
    * `body`: closed after the headers and `sent_body` were sent
    * `reset`: like `before`, with a TCP reset
    """

    status: int
    headers: Mapping[str, str] = _NO_HEADERS
    body: bytes = b""
    delay: float = 0.0
    cut: Cut | None = None

    @property
    def sent_body(self) -> bytes:
        """The bytes of the body that are sent: all of them, or half if `cut` is `body`."""
        return self.body[: len(self.body) // 2] if self.cut == "body" else self.body


JSON_HEADERS: Mapping[str, str] = {"Content-Type": "application/json"}


def json_answer(status: int, value: object) -> SimAnswer:
    """Return an answer whose body is `value` as JSON."""
    return SimAnswer(status, JSON_HEADERS, orjson.dumps(value))


def http_date(unix: float) -> str:
    """Format a Unix time for an HTTP header, in whole seconds."""
    return email.utils.formatdate(unix, usegmt=True)
