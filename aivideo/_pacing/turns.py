"""Decide which kind of request goes next: creates and polls share one pace.

If creates always went first, no result would be seen until the last create is sent. If polls
always went first, ten thousand running tasks would delay the creates for hours (7304 s instead of
950 s for 1,000 jobs at 5/s). So while both wait, three creates go per poll, and neither starves.
Creates are served in order of arrival. Which poll is worth most is decided only when a poll may go
(:mod:`aivideo._polling.agenda`).

After a hold one probe is sent alone. It is of the kind that was rejected, since the other kind may
have a limit of its own; if both were rejected it is a poll, since polls are free. If a create is
rejected again as a probe, the next probe is a poll: only a poll accepted in between can show that
the limit applies to creates alone.
"""

from __future__ import annotations

from enum import Enum

from attrs import define

CREATES_PER_POLL = 3


class RequestKind(Enum):
    """The kind of a request: a create costs money, a poll gets a task, other is everything else."""

    CREATE = "create"
    POLL = "poll"
    OTHER = "other"


@define
class Turns:
    """The order of creates and polls. Everything that is not a create counts as a poll."""

    _creates_in_a_row: int = 0
    _create_was_rejected: bool = False
    _poll_was_rejected: bool = False
    _last_probe_was_create: bool = False

    def next_is_create(self, create_waits: bool, poll_waits: bool, *, probe: bool) -> bool | None:
        """Choose the kind of the next request.

        Args:
            create_waits: whether a create waits and may be sent.
            poll_waits: whether anything else waits.
            probe: whether it is the only request that a hold allows.

        Returns:
            True for a create, False for a poll, None if nothing waits.
        """
        if not create_waits or not poll_waits:
            return True if create_waits else (False if poll_waits else None)
        if probe:
            return (
                self._create_was_rejected
                and not self._poll_was_rejected
                and not self._last_probe_was_create
            )
        return self._creates_in_a_row < CREATES_PER_POLL

    def granted(self, is_create: bool, *, probe: bool) -> None:
        """Record which kind was chosen."""
        self._creates_in_a_row = self._creates_in_a_row + 1 if is_create else 0
        # A request that is not a probe ends the hold: the next hold is a different one.
        self._last_probe_was_create = is_create and probe

    def rejected(self, is_create: bool) -> None:
        """Record a 429."""
        if is_create:
            self._create_was_rejected = True
        else:
            self._poll_was_rejected = True

    def hold_ended(self) -> None:
        """Record that a probe was accepted: rejections from before it no longer count."""
        self._create_was_rejected = self._poll_was_rejected = False
