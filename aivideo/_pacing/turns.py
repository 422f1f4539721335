"""Who is next: creates and polls share one pace.

Creates first would hide every result until the last create is out; polls first would let ten
thousand watched tasks keep the creates waiting for hours (7304 s instead of 950 s for 1,000 jobs
at 5/s). So both go in turn, three creates to a poll while both wait, and neither starves. Inside
creates it is first come, first served. Inside polls it is the most valuable one, which is decided
only when its turn has come (:mod:`aivideo._polling.agenda`).

After a hold one probe goes out alone. It is of the class that was refused, since the other may
have a limit of its own, and a poll where both were refused, since that is free of charge. A create
that is refused again as a probe takes turns with a poll: only a poll that passes in between can
tell that the limit is one of creates alone.
"""

from __future__ import annotations

from enum import Enum

from attrs import define

CREATES_PER_POLL = 3


class RequestKind(Enum):
    """What a request is: a create costs money, a poll looks at a task, other is the rest."""

    CREATE = "create"
    POLL = "poll"
    OTHER = "other"


@define
class Turns:
    """Whose turn it is: True for a create, False for a poll, None when nobody may go."""

    _creates_in_a_row: int = 0
    _create_refused: bool = False
    _poll_refused: bool = False
    _probed_create: bool = False

    def next_is_create(self, creates: bool, polls: bool, *, probe: bool) -> bool | None:
        """Say who goes next, of those who wait and may.

        Args:
            creates: whether a create waits and may go.
            polls: whether anything else waits.
            probe: whether it is the one probe of a hold.
        """
        if not creates or not polls:
            return True if creates else (False if polls else None)
        if probe:
            return self._create_refused and not self._poll_refused and not self._probed_create
        return self._creates_in_a_row < CREATES_PER_POLL

    def went(self, create: bool, *, probe: bool) -> None:
        """Note who went."""
        self._creates_in_a_row = self._creates_in_a_row + 1 if create else 0
        if probe:
            self._probed_create = create
        else:
            # The gate is open: the next closure is another one.
            self._probed_create = False

    def refused(self, create: bool) -> None:
        """Note a 429, and to which class."""
        if create:
            self._create_refused = True
        else:
            self._poll_refused = True

    def passed(self) -> None:
        """Note that the hold is over: what was refused in it is forgotten."""
        self._create_refused = self._poll_refused = False
