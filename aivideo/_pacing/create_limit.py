"""A limit of creates' own: a cap on running jobs, or a rate for creates alone.

Nothing documents such a limit, and a 429 does not say which limit it is of. What tells is that
creates are refused while polls, sent in between, pass: a shared limit would refuse both alike.
After ``PROOF`` such alternations without a single exception it is taken for a fact, and the shared
pace is no longer slowed by refusals that are not about it.

Then the two kinds must be told apart, for the right thing to do about one is wrong about the
other. **A cap frees with completions, a rate with time.** So while it is unsure, one create at a
time is tried after each completion, and one now and then by time alone; each result is a point
for the one or the other:

===================  ==============  ==============
tried …              passed          refused
===================  ==============  ==============
after a completion   cap             rate
by time alone        rate            cap
===================  ==============  ==============

Two points ahead decide. Under a cap, each completion admits the next create at once, and every
``RETRY`` seconds (twice as long each time, ten minutes at most) one is tried above it: it may have
been raised. Under a rate, creates get a pace of their own (:mod:`~aivideo._pacing.learned`).
Neither is final: passes above a cap, one after the other, are a rate's; a rate that refuses probe
after probe until something completes is a cap.

A completion that nobody has seen yet looks like time; that is why one point does not decide.
"""

from __future__ import annotations

from enum import Enum

from attrs import define

from aivideo._pacing.learned import LearnedPace
from aivideo._pacing.ticket import Ticket

PROOF = 3
"""Polls that passed between creates that were refused, without exception."""

AHEAD = 2
"""Points by which a kind must lead."""

FIRST_TRY, RETRY, LONGEST_RETRY = 2.0, 30.0, 600.0
"""Seconds: between tries by time while unsure, at first; above a known cap, at first; at most."""

DOUBTS = 4
"""Probes refused in a row that make a rate doubtful."""


class CreateLimitKind(Enum):
    """What is known of a limit of creates' own."""

    NONE = "none"
    UNSURE = "unsure"
    CAP = "cap"
    RATE = "rate"


class _Try(Enum):
    """Why a create was sent."""

    ROOM = "room"
    COMPLETION = "completion"
    TIME = "time"


@define
class CreatePass:
    """One create on its way, as this limit knows it."""

    reason: _Try
    own: Ticket | None = None


_FREE = CreatePass(_Try.ROOM)
"""While there is no such limit, which is nearly always: nobody changes it."""


@define
class CreateLimit:
    """Says when a create may go as far as creates' own limit is concerned.

    ``running`` is always the number of jobs known to run, creates on their way included.
    """

    kind: CreateLimitKind = CreateLimitKind.NONE
    cap: int | None = None
    pace: LearnedPace | None = None
    _alternations: int = 0
    _refused_at: float | None = None
    """When the latest refused create of the pattern was sent; None: there is no pattern."""
    _passed_since: bool = False
    _points: int = 0
    """Above 0 for a cap, below for a rate."""
    _freed: int = 0
    """Completions since the last refusal, each of which may admit a create."""
    _try_at: float = float("inf")
    _try_after: float = FIRST_TRY
    _trying: bool = False
    _passes_above: int = 0
    _refusals: int = 0

    def ready_at(self, now: float, running: int) -> float:
        """When a create may go; ``inf`` while only a completion or an answer can tell."""
        if self.kind is CreateLimitKind.NONE:
            return now
        if self.kind is CreateLimitKind.RATE:
            assert self.pace is not None
            return self.pace.ready_at(now)
        assert self.cap is not None
        if self._trying:
            return float("inf")
        if running < self.cap or self._freed > 0:
            return now
        return self._try_at

    def sent(self, now: float, running: int) -> CreatePass:
        """Note a create that goes out; ``running`` does not count it yet."""
        if self.kind is CreateLimitKind.NONE:
            return _FREE
        if self.kind is CreateLimitKind.RATE:
            assert self.pace is not None
            return CreatePass(_Try.ROOM, self.pace.sent(now))
        assert self.cap is not None
        if self._freed > 0:
            self._freed -= 1
            self._trying = self.kind is CreateLimitKind.UNSURE
            return CreatePass(_Try.COMPLETION)
        if running < self.cap:
            return CreatePass(_Try.ROOM)
        self._trying = True
        return CreatePass(_Try.TIME)

    def accepted(self, create: CreatePass, now: float, running: int) -> None:
        """Note that a create was let through; ``running`` counts it."""
        self._refused_at = None
        self._refusals = 0
        if self.kind is CreateLimitKind.NONE:
            return
        if create.own is not None and self.pace is not None:
            self.pace.accepted(create.own, now)
        if self.kind not in (CreateLimitKind.UNSURE, CreateLimitKind.CAP):
            return
        assert self.cap is not None
        if create.reason is _Try.TIME:
            self._trying = False
            self._passes_above += 1
            self._point(-1, now)
            # It may have been raised, by how much is not known: the next try comes soon.
            self._try_after = FIRST_TRY
            self._try_at = now + self._try_after
        elif create.reason is _Try.COMPLETION:
            self._trying = False
            self._point(+1, now)
        if self.pace is None:  # it has not just turned out to be a rate
            self.cap = max(self.cap or 1, running)

    def refused(
        self,
        create: CreatePass,
        sent_at: float,
        now: float,
        running: int,
        retry_after: float | None,
        draw: float,
    ) -> bool:
        """Note a 429 to a create; ``running`` does not count it.

        Returns:
            Whether it is of creates' own limit, and no news for the shared pace.
        """
        if create.own is not None and self.pace is not None:
            return self._refused_at_rate(create.own, now, running, retry_after, draw)
        if self.kind in (CreateLimitKind.UNSURE, CreateLimitKind.CAP):
            return self._refused_at_cap(create, now, running)
        if self._refused_at is None:
            self._alternations, self._passed_since = 0, False
        elif self._passed_since and sent_at > self._refused_at:
            self._alternations += 1
            self._passed_since = False
        self._refused_at = sent_at if self._refused_at is None else max(self._refused_at, sent_at)
        if self._alternations < PROOF or self.kind is not CreateLimitKind.NONE:
            return False
        self._unsure(now, running)
        return True

    def lost(self, create: CreatePass, now: float) -> None:
        """Note that no answer came."""
        if create.own is not None and self.pace is not None:
            self.pace.lost(create.own, now)
        if create.reason is not _Try.ROOM:
            self._trying = False
            self._try_at = min(self._try_at, now + FIRST_TRY)

    def unsent(self, create: CreatePass) -> None:
        """Take it back: nothing went out."""
        if create.own is not None and self.pace is not None:
            self.pace.unsent(create.own)
        if create.reason is not _Try.ROOM:
            self._trying = False
        if create.reason is _Try.COMPLETION:
            self._freed += 1

    def poll_passed(self, sent_at: float) -> None:
        """Note that a request of the other class was let through."""
        if self._refused_at is not None and sent_at > self._refused_at:
            self._passed_since = True

    def poll_refused(self) -> None:
        """Note that a request of the other class was refused: the limit is a shared one."""
        self._refused_at = None

    def job_ended(self, now: float) -> None:
        """Note that a job has ended."""
        if self.kind in (CreateLimitKind.UNSURE, CreateLimitKind.CAP):
            self._freed = min(self._freed + 1, self.cap or 1)
        elif self.kind is CreateLimitKind.RATE and self._refusals >= DOUBTS:
            # Refused time after time, and now a job has ended: is it a cap after all?
            self._unsure(now, 1 if self.cap is None else self.cap)
            self._freed = 1

    def _unsure(self, now: float, running: int) -> None:
        self.kind, self.pace = CreateLimitKind.UNSURE, None
        self.cap = max(1, running)
        self._points = self._freed = self._passes_above = self._refusals = 0
        self._trying = False
        self._try_after = FIRST_TRY
        self._try_at = now + self._try_after

    def _refused_at_cap(self, create: CreatePass, now: float, running: int) -> bool:
        assert self.cap is not None
        if create.reason is _Try.ROOM and running < self.cap - 1:
            return False  # far below the cap: that was about something else
        self._freed = 0
        self._passes_above = 0
        self.cap = max(1, min(self.cap, running))
        if create.reason is _Try.TIME:
            self._trying = False
            self._point(+1, now)
            self._try_after = min(LONGEST_RETRY, 2 * self._try_after)
        elif create.reason is _Try.COMPLETION:
            self._trying = False
            self._point(-1, now)
        self._try_at = max(now + self._try_after, min(self._try_at, now + LONGEST_RETRY))
        return True

    def _refused_at_rate(
        self, own: Ticket, now: float, running: int, retry_after: float | None, draw: float
    ) -> bool:
        assert self.pace is not None
        self._refusals += 1
        self.cap = running
        self.pace.rejected(own, now, retry_after, draw)
        return True

    def _point(self, point: int, now: float) -> None:
        if self.kind is CreateLimitKind.CAP:
            if self._passes_above >= PROOF:
                self._rate()
            return
        self._points += point
        if self._points >= AHEAD:
            self.kind = CreateLimitKind.CAP
            self._try_after = max(RETRY, self._try_after)
            self._try_at = now + self._try_after
        elif self._points <= -AHEAD:
            self._rate()

    def _rate(self) -> None:
        self.kind, self.cap = CreateLimitKind.RATE, None
        self.pace = LearnedPace()
        self._refusals = 0
