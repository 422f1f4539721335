"""Detect and keep a limit on creates alone: a cap on running jobs, or a rate.

Such a limit is not documented, and a 429 does not say which limit it comes from. The evidence is
that creates are rejected while polls sent in between are accepted; a shared limit would reject
both. After ``PROOF_PATTERNS`` such patterns without an exception the limit is assumed to be on
creates alone, and the shared pace is no longer slowed by its rejections.

Then the kind must be found, since each needs its own treatment. **Under a cap, places become free
when jobs end; under a rate, with time.** While the kind is unsure, one create at a time is tried:
one after each job that ends, and now and then one because of time alone. Each result is a point
for one kind:

==================  ==========  ==========
create tried …      accepted    rejected
==================  ==========  ==========
after a job ended   cap         rate
by time alone       rate        cap
==================  ==========  ==========

A lead of ``DECIDING_LEAD`` points decides. Under a cap, each job that ends admits the next create
at once, and a create above the cap is tried every ``RETRY_ABOVE_CAP`` seconds (each time twice as
long, up to ten minutes), in case the cap was raised. Under a rate, creates have a pace of their
own (:mod:`~aivideo._pacing.learned`). Neither decision is final: several creates in a row that are
accepted above the cap mean a rate; a rate that rejects probe after probe until a job ends means a
cap.

The end of a job that is not known here yet looks like time. So one point is not enough.
"""

from __future__ import annotations

from enum import Enum

from attrs import define

from aivideo._pacing.learned import LearnedPace
from aivideo._pacing.protocol import SentRequest

PROOF_PATTERNS = 3
"""Patterns of "create rejected, poll accepted, create rejected" that show a limit on creates. Also:
creates in a row accepted above a cap that show a rate."""

DECIDING_LEAD = 2
"""Points by which one kind must lead."""

FIRST_RETRY = 2.0
"""Seconds until the first create that is tried by time alone while the kind is unsure."""

RETRY_ABOVE_CAP, LONGEST_RETRY = 30.0, 600.0
"""Seconds between creates tried above a known cap: at first, and at most."""

DOUBTFUL_REJECTIONS = 4
"""Consecutive rejections under a rate that make it doubtful."""


class CreateLimitKind(Enum):
    """What is known about a limit on creates alone."""

    NONE = "none"
    UNSURE = "unsure"
    CAP = "cap"
    RATE = "rate"


class _Reason(Enum):
    """Why a create was allowed."""

    BELOW_LIMIT = "below limit"
    JOB_ENDED = "job ended"
    TIME = "time"


@define
class SentCreate:
    """One sent create, as this limit recorded it.

    Attributes:
        reason: why it was allowed.
        paced: its entry in the pace of creates, if the limit is a rate.
    """

    reason: _Reason
    paced: SentRequest | None = None


_UNLIMITED = SentCreate(_Reason.BELOW_LIMIT)
"""Shared by all creates while there is no such limit; never changed."""


@define
class CreateLimit:
    """Decides when a create may be sent as far as a limit on creates alone is concerned.

    ``running`` is always the number of jobs known to run, including creates in flight.

    Attributes:
        kind: what is known about the limit.
        cap: running jobs that it allows, if it is a cap or unsure.
        pace: the pace of creates, if it is a rate.
    """

    kind: CreateLimitKind = CreateLimitKind.NONE
    cap: int | None = None
    pace: LearnedPace | None = None
    _patterns: int = 0
    _rejected_at: float | None = None
    """When the latest rejected create of a pattern was sent; None: there is no pattern."""
    _poll_accepted_since: bool = False
    _points: int = 0
    """Positive for a cap, negative for a rate."""
    _ended_jobs: int = 0
    """Jobs that ended since the last rejection; each may admit a create."""
    _try_at: float = float("inf")
    _try_after: float = FIRST_RETRY
    """Seconds between creates tried by time alone."""
    _is_trying: bool = False
    _accepted_above_cap: int = 0
    _rejections: int = 0

    def ready_at(self, now: float, running: int) -> float:
        """Return when a create may be sent; ``inf``: only after a job ends or an answer."""
        if self.kind is CreateLimitKind.NONE:
            return now
        if self.kind is CreateLimitKind.RATE:
            assert self.pace is not None
            return self.pace.ready_at(now)
        assert self.cap is not None
        if self._is_trying:
            return float("inf")
        if running < self.cap or self._ended_jobs > 0:
            return now
        return self._try_at

    def sent(self, now: float, running: int) -> SentCreate:
        """Record that a create is being sent; ``running`` does not count it yet."""
        if self.kind is CreateLimitKind.NONE:
            return _UNLIMITED
        if self.kind is CreateLimitKind.RATE:
            assert self.pace is not None
            return SentCreate(_Reason.BELOW_LIMIT, self.pace.sent(now))
        assert self.cap is not None
        if self._ended_jobs > 0:
            self._ended_jobs -= 1
            self._is_trying = self.kind is CreateLimitKind.UNSURE
            return SentCreate(_Reason.JOB_ENDED)
        if running < self.cap:
            return SentCreate(_Reason.BELOW_LIMIT)
        self._is_trying = True
        return SentCreate(_Reason.TIME)

    def accepted(self, create: SentCreate, now: float, running: int) -> None:
        """Record that a create was accepted; ``running`` counts it."""
        self._rejected_at = None
        self._rejections = 0
        if self.kind is CreateLimitKind.NONE:
            return
        if create.paced is not None and self.pace is not None:
            self.pace.accepted(create.paced, now)
        if self.kind not in (CreateLimitKind.UNSURE, CreateLimitKind.CAP):
            return
        assert self.cap is not None
        if create.reason is _Reason.TIME:
            self._is_trying = False
            self._accepted_above_cap += 1
            self._add_point(-1, now)
            # The cap may have been raised by more than one: try again soon.
            self._try_after = FIRST_RETRY
            self._try_at = now + self._try_after
        elif create.reason is _Reason.JOB_ENDED:
            self._is_trying = False
            self._add_point(+1, now)
        if self.pace is None:  # unless that point has just decided for a rate
            self.cap = max(self.cap or 1, running)

    def rejected(
        self,
        create: SentCreate,
        sent_at: float,
        now: float,
        running: int,
        retry_after: float | None,
        draw: float,
    ) -> bool:
        """Record a 429 to a create.

        Args:
            create: what :meth:`sent` returned.
            sent_at: when it was sent, in seconds of the loop's clock.
            now: the same clock.
            running: jobs known to run, without this create.
            retry_after: seconds that the response asked to wait, or None.
            draw: a random number from 0 to 1, for jitter.

        Returns:
            Whether it came from the limit on creates, so that the shared pace must ignore it.
        """
        if create.paced is not None and self.pace is not None:
            self._rejections += 1
            self.cap = running
            self.pace.rejected(create.paced, now, retry_after, draw)
            return True
        if self.kind in (CreateLimitKind.UNSURE, CreateLimitKind.CAP):
            return self._rejected_by_cap(create, now, running)
        if self._rejected_at is None:
            self._patterns, self._poll_accepted_since = 0, False
            self._rejected_at = sent_at
        else:
            if self._poll_accepted_since and sent_at > self._rejected_at:
                self._patterns += 1
                self._poll_accepted_since = False
            self._rejected_at = max(self._rejected_at, sent_at)
        if self._patterns < PROOF_PATTERNS or self.kind is not CreateLimitKind.NONE:
            return False
        self._become_unsure(now, running)
        return True

    def lost(self, create: SentCreate, now: float) -> None:
        """Record that no answer arrived."""
        if create.paced is not None and self.pace is not None:
            self.pace.lost(create.paced, now)
        if create.reason is not _Reason.BELOW_LIMIT:
            self._is_trying = False
            self._try_at = min(self._try_at, now + FIRST_RETRY)

    def unsent(self, create: SentCreate) -> None:
        """Undo :meth:`sent`: nothing left."""
        if create.paced is not None and self.pace is not None:
            self.pace.unsent(create.paced)
        if create.reason is not _Reason.BELOW_LIMIT:
            self._is_trying = False
        if create.reason is _Reason.JOB_ENDED:
            self._ended_jobs += 1

    def poll_accepted(self, sent_at: float) -> None:
        """Record that a poll, sent at ``sent_at``, was accepted."""
        if self._rejected_at is not None and sent_at > self._rejected_at:
            self._poll_accepted_since = True

    def poll_rejected(self) -> None:
        """Record that a poll was rejected: the limit is a shared one."""
        self._rejected_at = None

    def job_ended(self, now: float) -> None:
        """Record that a job ended."""
        if self.kind in (CreateLimitKind.UNSURE, CreateLimitKind.CAP):
            self._ended_jobs = min(self._ended_jobs + 1, self.cap or 1)
        elif self.kind is CreateLimitKind.RATE and self._rejections >= DOUBTFUL_REJECTIONS:
            # Rejected time after time until a job ended: it may be a cap after all.
            self._become_unsure(now, 1 if self.cap is None else self.cap)
            self._ended_jobs = 1

    def _become_unsure(self, now: float, running: int) -> None:
        self.kind, self.pace = CreateLimitKind.UNSURE, None
        self.cap = max(1, running)
        self._points = self._ended_jobs = self._accepted_above_cap = self._rejections = 0
        self._is_trying = False
        self._try_after = FIRST_RETRY
        self._try_at = now + self._try_after

    def _become_rate(self) -> None:
        self.kind, self.cap = CreateLimitKind.RATE, None
        self.pace = LearnedPace()
        self._rejections = 0

    def _rejected_by_cap(self, create: SentCreate, now: float, running: int) -> bool:
        assert self.cap is not None
        if create.reason is _Reason.BELOW_LIMIT and running < self.cap - 1:
            return False  # far below the cap: another limit rejected it
        self._ended_jobs = 0
        self._accepted_above_cap = 0
        self.cap = max(1, min(self.cap, running))
        if create.reason is _Reason.TIME:
            self._is_trying = False
            self._add_point(+1, now)
            self._try_after = min(LONGEST_RETRY, 2 * self._try_after)
        elif create.reason is _Reason.JOB_ENDED:
            self._is_trying = False
            self._add_point(-1, now)
        self._try_at = max(now + self._try_after, min(self._try_at, now + LONGEST_RETRY))
        return True

    def _add_point(self, point: int, now: float) -> None:
        if self.kind is CreateLimitKind.CAP:
            if self._accepted_above_cap >= PROOF_PATTERNS:
                self._become_rate()
            return
        self._points += point
        if self._points >= DECIDING_LEAD:
            self.kind = CreateLimitKind.CAP
            self._try_after = max(RETRY_ABOVE_CAP, self._try_after)
            self._try_at = now + self._try_after
        elif self._points <= -DECIDING_LEAD:
            self._become_rate()
