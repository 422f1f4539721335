"""One sending, as the pace knows it, and what every pace answers."""

from __future__ import annotations

from typing import Protocol

from attrs import define

LONGEST_HOLD = 3600.0
"""Seconds: an absurd ``Retry-After`` is cut to an hour, after which one probe asks again."""


@define
class Ticket:
    """One sending. Not frozen, which would cost a microsecond a request; nobody changes it.

    Attributes:
        sent_at: when, seconds of the loop's clock.
        rate: the pace it was sent at, requests a second.
        serial: its number, from 1.
        probe: whether it was the one probe of a hold.
    """

    sent_at: float
    rate: float
    serial: int
    probe: bool = False


class Pacing(Protocol):
    """What the limiter asks: when the next request may go, and what came of the earlier ones."""

    @property
    def rate(self) -> float:
        """Requests a second, now."""
        ...

    @property
    def held_until(self) -> float | None:
        """When a hold for all ends, or None."""
        ...

    @property
    def is_shut(self) -> bool:
        """Whether only one probe at a time may go."""
        ...

    def ready_at(self, now: float) -> float:
        """When the next request may be sent; ``inf`` while an answer must be awaited first."""
        ...

    def sent(self, now: float) -> Ticket:
        """Note a sending."""
        ...

    def accepted(self, ticket: Ticket, now: float) -> None:
        """Note that the limit let it through."""
        ...

    def rejected(self, ticket: Ticket, now: float, retry_after: float | None, draw: float) -> None:
        """Note a 429. ``retry_after`` in seconds; ``draw`` from 0 to 1 for jitter."""
        ...

    def lost(self, ticket: Ticket, now: float) -> None:
        """Note that no answer came: it says nothing about the limit."""
        ...

    def unsent(self, ticket: Ticket) -> None:
        """Take a sending back: nothing went out, and its place is the next one's."""
        ...

    def idle(self) -> None:
        """Note that the pace is not what holds sending back: growth stands still."""
        ...
