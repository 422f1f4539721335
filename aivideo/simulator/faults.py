"""Which faults happen, and when.

Each field of `Faults` is named `<endpoint>_<fault>`. The endpoint is `create`, `poll`, `download`
or `callback`; the fault is a `Fault`. The value states when it happens: a probability from 0 to 1,
drawn for each request from the scenario's seed, or `Nth(3, 7)`, the 3rd and the 7th request to that
endpoint.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable

import attrs


class Endpoint(enum.StrEnum):
    """The kind of a request. Creates of videos and of images are both `CREATE`."""

    CREATE = "create"
    POLL = "poll"
    CREDITS = "credits"
    DOWNLOAD = "download"
    CALLBACK = "callback"
    TRUTH = "truth"
    OTHER = "other"


class Fault(enum.StrEnum):
    """A kind of fault. For a create, “taken” means that a task was created and charged."""

    NONE = "none"
    CUT_BEFORE = "cut_before"
    """The connection is closed before the request is processed: not taken."""
    CUT_AFTER = "cut_after"
    """The request is carried out (taken), then the connection is closed without an answer."""
    RESET = "reset"
    """Like `CUT_BEFORE`, with a TCP reset."""
    HANG = "hang"
    """Carried out (taken), but not answered for `Faults.hang_seconds`."""
    SLOW = "slow"
    """Carried out, and answered after `Faults.slow_seconds`."""
    TRUNCATED = "truncated"
    """Carried out, but the connection is closed in the middle of the answer's body."""
    MALFORMED = "malformed"
    """Carried out, but the answer's body is not valid JSON. Its length matches `Content-Length`."""
    HTML_502 = "html_502"
    """A gateway's 502 page: not taken."""
    HTML_502_TAKEN = "html_502_taken"
    """A gateway's 502 page, but the request was taken."""
    WRONG_ENVELOPE = "wrong_envelope"
    """HTTP 200 with `code: 402` in the body: not taken."""
    MISSING_TASK_ID = "missing_task_id"
    """HTTP 200 with `code: 200` and no `taskId`: taken."""
    REDIRECT = "redirect"
    """307 to the results' origin: not taken. An API key sent there is counted in the truth."""
    INTERNAL_ERROR = "internal_error"
    """500 `internal_error`: not taken."""
    INTERNAL_ERROR_TAKEN = "internal_error_taken"
    """500 `internal_error`, but the request was taken."""
    UPSTREAM_ERROR = "upstream_error"
    """503 `upstream_error`: not taken."""
    UPSTREAM_ERROR_TAKEN = "upstream_error_taken"
    """503 `upstream_error`, but the request was taken."""
    CUT = "cut"
    """The connection of a download is closed in the middle."""
    IGNORE_RANGE = "ignore_range"
    """The `Range` of a download is ignored: 200 and the complete file."""
    LOST = "lost"
    """A callback is never sent, not even by a retry."""
    DOUBLED = "doubled"
    """A callback is sent twice."""
    LATE = "late"
    """A callback is first sent `Faults.late_seconds` after the end of its task."""
    DISORDERED = "disordered"
    """A callback is delayed by a random part of `Faults.late_seconds`: the order changes."""
    FORGED = "forged"
    """While the task runs, a third party POSTs a false outcome of it to the same URL."""


@attrs.frozen(init=False)
class Nth:
    """The numbers of the requests that get a fault, from 1: `Nth(3)`, `Nth(1, 2, 5)`."""

    numbers: frozenset[int]

    def __init__(self, *numbers: int) -> None:
        """Take the numbers of the requests.

        Raises:
            ValueError: if there is no number, or one is below 1.
        """
        if not numbers or min(numbers) < 1:
            raise ValueError("Nth counts requests from 1: Nth(3), Nth(1, 2, 5)")
        self.__attrs_init__(frozenset(numbers))  # pyright: ignore[reportAttributeAccessIssue]  attrs generates it


When = float | Nth
"""When a fault happens: a probability, or the numbers of the requests."""


@attrs.frozen(kw_only=True)
class Faults:
    """Which faults happen, and when. None by default. See the module docstring."""

    create_cut_before: When = 0.0
    create_cut_after: When = 0.0
    create_reset: When = 0.0
    create_hang: When = 0.0
    create_slow: When = 0.0
    create_truncated: When = 0.0
    create_malformed: When = 0.0
    create_html_502: When = 0.0
    create_html_502_taken: When = 0.0
    create_wrong_envelope: When = 0.0
    create_missing_task_id: When = 0.0
    create_redirect: When = 0.0
    create_internal_error: When = 0.0
    create_internal_error_taken: When = 0.0
    create_upstream_error: When = 0.0
    create_upstream_error_taken: When = 0.0

    poll_cut_before: When = 0.0
    poll_reset: When = 0.0
    poll_hang: When = 0.0
    poll_slow: When = 0.0
    poll_truncated: When = 0.0
    poll_malformed: When = 0.0
    poll_html_502: When = 0.0
    poll_internal_error: When = 0.0
    poll_upstream_error: When = 0.0

    download_cut: When = 0.0
    download_reset: When = 0.0
    download_ignore_range: When = 0.0
    download_html_502: When = 0.0

    callback_lost: When = 0.0
    callback_doubled: When = 0.0
    callback_late: When = 0.0
    callback_disordered: When = 0.0
    callback_forged: When = 0.0

    slow_seconds: float = 10.0
    """Delay of a slow answer in seconds. Not divided by the scenario's speed."""
    hang_seconds: float = 3600.0
    """Delay of a hanging answer in seconds. Not divided by the scenario's speed."""
    late_seconds: float = 900.0
    """Delay of a late callback in seconds. Divided by the scenario's speed."""

    def __attrs_post_init__(self) -> None:
        for endpoint in (Endpoint.CREATE, Endpoint.POLL, Endpoint.DOWNLOAD, Endpoint.CALLBACK):
            total = 0.0
            for fault, when in self.of(endpoint):
                if isinstance(when, Nth):
                    continue
                if not 0 <= when <= 1:
                    raise ValueError(
                        f"{endpoint}_{fault} must be a probability (0 to 1) or an Nth, not {when!r}"
                    )
                total += when
            if total > 1 + 1e-9:
                raise ValueError(
                    f"the {endpoint} faults have a total probability of {total:g}, above 1"
                )

    def of(self, endpoint: Endpoint) -> list[tuple[Fault, When]]:
        """The fault fields of one endpoint, each with when it happens."""
        prefix = f"{endpoint}_"
        return [
            (Fault(field.name.removeprefix(prefix)), getattr(self, field.name))
            for field in attrs.fields(type(self))
            if field.name.startswith(prefix)
        ]


@attrs.frozen
class Occasion:
    """A request or callback that may get a fault: the argument of a hook."""

    endpoint: Endpoint
    nth: int
    """Number of the request, counted from 1 for each endpoint."""
    path: str
    """Path of the request; for a callback, its URL."""
    body: bytes = b""


Hook = Callable[[Occasion], Fault | None]
"""Decides the fault of one request. None: the scenario decides. `Fault.NONE`: no fault."""


class FaultStream:
    """Decides the fault of each request to one endpoint, in order."""

    __slots__ = ("_by_number", "_count", "_endpoint", "_random", "_thresholds")

    def __init__(self, faults: Faults, endpoint: Endpoint, seed: int) -> None:
        self._endpoint = endpoint
        self._count = 0
        # One random stream per endpoint: more polls do not change the faults of the creates.
        self._random = random.Random(f"{seed} {endpoint}")
        self._by_number: dict[int, Fault] = {}
        self._thresholds: list[tuple[float, Fault]] = []
        total = 0.0
        for fault, when in faults.of(endpoint):
            if isinstance(when, Nth):
                self._by_number.update(dict.fromkeys(when.numbers, fault))
            elif when > 0:
                total += when
                self._thresholds.append((total, fault))

    def decide(self, hook: Hook | None, path: str, body: bytes = b"") -> Fault:
        """Decide the fault of the next request."""
        self._count += 1
        if hook is not None:
            decided = hook(Occasion(self._endpoint, self._count, path, body))
            if decided is not None:
                return decided
        if self._count in self._by_number:
            return self._by_number[self._count]
        if self._thresholds:
            draw = self._random.random()
            for threshold, fault in self._thresholds:
                if draw < threshold:
                    return fault
        return Fault.NONE
