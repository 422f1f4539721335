"""What goes wrong, and when.

Each field of `Faults` is named `<where>_<what>`: where is `create`, `poll`, `download` or
`callback`; what is a `Fault`. Its value says when: a probability from 0 to 1, drawn for each
request from the scenario's seed, or `Nth(3, 7)`: the 3rd and the 7th request of that kind.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable

import attrs


class Endpoint(enum.StrEnum):
    """What a request is for. Both creates (videos and images) are `CREATE`."""

    CREATE = "create"
    POLL = "poll"
    CREDITS = "credits"
    DOWNLOAD = "download"
    CALLBACK = "callback"
    TRUTH = "truth"
    OTHER = "other"


class Fault(enum.StrEnum):
    """One thing that goes wrong. For a create, “taken” means that a task was made and charged."""

    NONE = "none"
    CUT_BEFORE = "cut_before"
    """The connection is closed before the request was looked at: not taken."""
    CUT_AFTER = "cut_after"
    """The request is carried out (taken), then the connection is closed without an answer."""
    RESET = "reset"
    """As `CUT_BEFORE`, by a TCP reset."""
    HANG = "hang"
    """Carried out (taken), and not answered for `Faults.hang_seconds`."""
    SLOW = "slow"
    """Carried out, answered after `Faults.slow_seconds`."""
    TRUNCATED = "truncated"
    """Carried out; the connection is closed in the middle of the answer's body."""
    MALFORMED = "malformed"
    """Carried out; the answer's body is whole by its length and is not JSON."""
    HTML_502 = "html_502"
    """A gateway's 502 page: not taken."""
    HTML_502_TAKEN = "html_502_taken"
    """The same page, after the service took the request."""
    WRONG_ENVELOPE = "wrong_envelope"
    """HTTP 200 whose envelope says `code: 402`: not taken."""
    MISSING_TASK_ID = "missing_task_id"
    """HTTP 200, `code: 200`, no `taskId`: taken."""
    REDIRECT = "redirect"
    """307 to the results' origin: not taken (nor there, but a key that comes along is noted)."""
    INTERNAL_ERROR = "internal_error"
    """500 `internal_error`: not taken."""
    INTERNAL_ERROR_TAKEN = "internal_error_taken"
    """500 `internal_error`, and yet taken."""
    UPSTREAM_ERROR = "upstream_error"
    """503 `upstream_error`: not taken."""
    UPSTREAM_ERROR_TAKEN = "upstream_error_taken"
    """503 `upstream_error`, and yet taken."""
    CUT = "cut"
    """A download's connection is closed in the middle."""
    IGNORE_RANGE = "ignore_range"
    """A download's `Range` is ignored: 200 and the whole file."""
    LOST = "lost"
    """A callback is never sent, nor tried again."""
    DOUBLED = "doubled"
    """A callback is sent twice."""
    LATE = "late"
    """A callback is first tried `Faults.late_seconds` after the task's end."""
    DISORDERED = "disordered"
    """A callback is held for a random part of `Faults.late_seconds`: later ones overtake it."""
    FORGED = "forged"
    """While the task runs, somebody else posts a false ending of it to the same URL."""


@attrs.frozen(init=False)
class Nth:
    """The requests of a kind on which a fault happens, counted from 1: `Nth(3)`, `Nth(1, 2, 5)`."""

    numbers: frozenset[int]

    def __init__(self, *numbers: int) -> None:
        """State the numbers.

        Raises:
            ValueError: if there is none, or one below 1.
        """
        if not numbers or min(numbers) < 1:
            raise ValueError("Nth counts requests from 1: Nth(3), Nth(1, 2, 5)")
        self.__attrs_init__(frozenset(numbers))  # pyright: ignore[reportAttributeAccessIssue]  attrs makes it


When = float | Nth
"""When a fault happens: a probability, or the numbers of the requests."""


@attrs.frozen(kw_only=True)
class Faults:
    """Which faults happen, and when; by default none. See the top of this file."""

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
    """Seconds until a slow answer. Real seconds, whatever the scenario's speed."""
    hang_seconds: float = 3600.0
    """Seconds until an answer that hangs. Real seconds."""
    late_seconds: float = 900.0
    """Seconds by which a callback is late. Divided by the scenario's speed."""

    def __attrs_post_init__(self) -> None:
        for endpoint in (Endpoint.CREATE, Endpoint.POLL, Endpoint.DOWNLOAD, Endpoint.CALLBACK):
            total = 0.0
            for fault, when in self.of(endpoint):
                if isinstance(when, Nth):
                    continue
                if not 0 <= when <= 1:
                    raise ValueError(
                        f"{endpoint}_{fault} is a probability from 0 to 1 or an Nth, not {when!r}"
                    )
                total += when
            if total > 1 + 1e-9:
                raise ValueError(f"the {endpoint} faults add up to a probability of {total:g}")

    def of(self, endpoint: Endpoint) -> list[tuple[Fault, When]]:
        """The faults stated for one kind of request, with when each happens."""
        prefix = f"{endpoint}_"
        return [
            (Fault(field.name.removeprefix(prefix)), getattr(self, field.name))
            for field in attrs.fields(type(self))
            if field.name.startswith(prefix)
        ]


@attrs.frozen
class Occasion:
    """One chance for a fault: what a hook is asked about."""

    endpoint: Endpoint
    nth: int
    """Counted from 1, over all requests of this endpoint."""
    path: str
    """The request's path; for a callback, the URL it goes to."""
    body: bytes = b""


Hook = Callable[[Occasion], Fault | None]
"""Decides the fault of one occasion; None leaves it to the scenario, `Fault.NONE` rules it out."""


class FaultStream:
    """Decides, request after request of one kind, which fault happens."""

    __slots__ = ("_count", "_endpoint", "_planned", "_random", "_thresholds")

    def __init__(self, faults: Faults, endpoint: Endpoint, seed: int) -> None:
        self._endpoint = endpoint
        self._count = 0
        # A stream per endpoint: a fault more among polls does not move those of the creates.
        self._random = random.Random(f"{seed} {endpoint}")
        self._planned: dict[int, Fault] = {}
        self._thresholds: list[tuple[float, Fault]] = []
        total = 0.0
        for fault, when in faults.of(endpoint):
            if isinstance(when, Nth):
                self._planned.update(dict.fromkeys(when.numbers, fault))
            elif when > 0:
                total += when
                self._thresholds.append((total, fault))

    def decide(self, hook: Hook | None, path: str, body: bytes = b"") -> Fault:
        """The fault of the next request."""
        self._count += 1
        if hook is not None:
            decided = hook(Occasion(self._endpoint, self._count, path, body))
            if decided is not None:
                return decided
        if self._count in self._planned:
            return self._planned[self._count]
        if self._thresholds:
            draw = self._random.random()
            for threshold, fault in self._thresholds:
                if draw < threshold:
                    return fault
        return Fault.NONE
