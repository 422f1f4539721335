"""A request as the service sees it and an answer as it gives it, without sockets."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from typing import Literal

import attrs
import orjson

_NO_HEADERS: Mapping[str, str] = {}


@attrs.frozen
class SimRequest:
    """One HTTP request. `path` is without its query; header names may be in any case."""

    method: str
    path: str
    headers: Mapping[str, str] = _NO_HEADERS
    body: bytes = b""
    query: str = ""

    def header(self, name: str) -> str | None:
        """The value of a header, or None. `name` is written in Title-Case."""
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
    """One HTTP answer, and what goes wrong with it.

    `delay` is in seconds, before the answer or the cut. `cut` says how the connection ends:

    * None: it does not; the answer arrives whole
    * `before`: closed, and the service never looked at the request
    * `after`: closed without an answer; the service carried the request out
    * `body`: the head and `sent_body` arrive, then it is closed
    * `reset`: as `before`, by a TCP reset
    """

    status: int
    headers: Mapping[str, str] = _NO_HEADERS
    body: bytes = b""
    delay: float = 0.0
    cut: Cut | None = None

    @property
    def sent_body(self) -> bytes:
        """The bytes of the body that are sent: all of them, or half when it is cut there."""
        return self.body[: len(self.body) // 2] if self.cut == "body" else self.body


JSON_HEADERS: Mapping[str, str] = {"Content-Type": "application/json"}


def json_answer(status: int, value: object) -> SimAnswer:
    """An answer whose body is `value` as JSON."""
    return SimAnswer(status, JSON_HEADERS, orjson.dumps(value))


def http_date(unix: float) -> str:
    """A Unix time as HTTP headers write it, whole seconds."""
    return email.utils.formatdate(unix, usegmt=True)
