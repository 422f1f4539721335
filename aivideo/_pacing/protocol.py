"""The interface between the limiter and a pace, and the record of one sent request."""

from __future__ import annotations

from typing import Protocol

from attrs import define

LONGEST_HOLD = 3600.0
"""Seconds. A longer ``Retry-After`` is cut to one hour, after which one probe is sent."""


@define
class SentRequest:
    """One sent request, as the pace recorded it.

    Treat it as immutable. It is not frozen because creating a frozen instance costs one
    microsecond more per request.

    Attributes:
        sent_at: when it was sent, in seconds of the loop's clock.
        rate: the pace at that moment, in requests per second.
        serial: its sequence number, counted from 1.
        probe: whether it is the only request that a hold allows.
    """

    sent_at: float
    rate: float
    serial: int
    probe: bool = False


class Pacing(Protocol):
    """Decides when the next request may be sent, from the results of earlier requests.

    All times are seconds of one monotonic clock.
    """

    @property
    def rate(self) -> float:
        """The current pace, in requests per second."""
        ...

    @property
    def held_until(self) -> float | None:
        """The time at which a hold on all requests ends, or None."""
        ...

    @property
    def is_on_hold(self) -> bool:
        """Whether only one probe may be in flight at a time."""
        ...

    def ready_at(self, now: float) -> float:
        """Return when the next request may be sent; ``inf``: only after an answer arrives."""
        ...

    def sent(self, now: float) -> SentRequest:
        """Record that a request is being sent."""
        ...

    def accepted(self, request: SentRequest, now: float) -> None:
        """Record that the rate limit let the request through."""
        ...

    def rejected(
        self, request: SentRequest, now: float, retry_after: float | None, draw: float
    ) -> None:
        """Record a 429. ``retry_after`` is in seconds; ``draw`` (0 to 1) adds jitter."""
        ...

    def lost(self, request: SentRequest, now: float) -> None:
        """Record that no answer arrived, which says nothing about the rate limit."""
        ...

    def unsent(self, request: SentRequest) -> None:
        """Undo :meth:`sent`: nothing left, so the next request may use its place."""
        ...

    def idle(self) -> None:
        """Record that something other than the pace delays sending: the pace must not grow."""
        ...
