"""The waiters around the pace: who may send now, and who waits for what.

Every request takes a :class:`Permit` before it is sent and says afterwards what came of it. Plain
code decides, and this shell waits: :mod:`aivideo._pacing.learned` (or ``stated``) when the next may
go, :mod:`aivideo._pacing.turns` who that is, :mod:`aivideo._pacing.create_limit` whether creates
have a limit of their own. At most ``max_in_flight`` permits are out. One timer serves all waiters.

A waiter that is cancelled leaves no trace: it holds nothing until it is granted, a grant that
meets a cancelled waiter goes to the next, and the queue forgets it at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from attrs import frozen

from aivideo._pacing.create_limit import CreateLimit, CreateLimitKind, CreatePass
from aivideo._pacing.learned import LearnedPace
from aivideo._pacing.stated import StatedPace
from aivideo._pacing.ticket import LONGEST_HOLD, Pacing, Ticket
from aivideo._pacing.turns import RequestKind, Turns
from aivideo.errors import AIVideoError
from aivideo.settings import RateLimit


class GateClosed(Exception):  # noqa: N818  it says what is, and never leaves this package
    """Creates are not sent now; ``error`` says why."""

    def __init__(self, error: AIVideoError) -> None:
        super().__init__(str(error))
        self.error = error


@frozen(kw_only=True)
class LimiterStatistics:
    """What the limiter is doing now.

    Attributes:
        pace: requests a second that may be sent.
        in_flight: requests sent and not answered.
        waiting_creates: creates that wait for a permit.
        waiting_polls: everything else that waits.
        accepted: requests that the limit let through.
        rejected: 429s.
        running_jobs: jobs taken and not ended.
        held_until: loop time until which a 429 holds everybody, or None.
        create_limit: whether creates have a limit of their own: "none", "unsure", "cap", "rate".
        running_jobs_cap: the cap on running jobs, stated or learned, or None.
    """

    pace: float
    in_flight: int
    waiting_creates: int
    waiting_polls: int
    accepted: int
    rejected: int
    running_jobs: int
    held_until: float | None
    create_limit: str
    running_jobs_cap: int | None


_Waiter = asyncio.Future["Permit"]


class Limiter:
    """Grants permits; see the module.

    Args:
        max_in_flight: permits out at once.
        max_running_jobs: jobs running at once, at most; None: as many as the service takes.
        rate_limit: the limit, if it is known; or
        max_requests_per_minute: the same, said roughly. Neither: it is learned.
        draw: numbers from 0 to 1, for jitter.
    """

    def __init__(
        self,
        *,
        max_in_flight: int = 64,
        max_running_jobs: int | None = None,
        rate_limit: RateLimit | None = None,
        max_requests_per_minute: float | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._learns = rate_limit is None and max_requests_per_minute is None
        self._pace: Pacing = (
            LearnedPace()
            if self._learns
            else StatedPace(rate_limit, per_minute=max_requests_per_minute)
        )
        self._turns = Turns()
        self._create_limit = CreateLimit()
        self._max_in_flight = max_in_flight
        self._max_running_jobs = max_running_jobs
        self._draw = draw
        self._creates: OrderedDict[_Waiter, None] = OrderedDict()
        self._polls: OrderedDict[_Waiter, None] = OrderedDict()
        self._later: list[tuple[float, int, _Waiter]] = []
        self._order = count()
        self._in_flight = 0
        self._creates_in_flight = 0
        self._running_jobs = 0
        self._accepted = 0
        self._rejected = 0
        self._closed_by: AIVideoError | None = None
        self._held = False
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Limiter {self.statistics()}>"

    async def acquire(self, kind: RequestKind, *, retry_after: float | None = None) -> Permit:
        """Wait until a request of ``kind`` may be sent.

        Args:
            kind: a create waits behind the gate too.
            retry_after: of a create that was refused before, the seconds it was asked to wait (0:
                it was not said); after them it is first in line.

        Raises:
            GateClosed: a create, and creates are closed or become so while it waits.
        """
        loop = asyncio.get_running_loop()
        is_create = kind is RequestKind.CREATE
        if is_create and self._closed_by is not None:
            raise GateClosed(self._closed_by)
        if not (self._creates or self._polls or self._later or retry_after):
            permit = self._grant_at_once(loop.time(), is_create)
            if permit is not None:
                return permit
        waiter: _Waiter = loop.create_future()
        queue = self._creates if is_create else self._polls
        if is_create and retry_after is not None:
            due = loop.time() + min(max(0.0, retry_after), LONGEST_HOLD)
            heappush(self._later, (due, next(self._order), waiter))
        else:
            queue[waiter] = None
        self._pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            queue.pop(waiter, None)
            if is_create and retry_after is not None:
                self._later = [each for each in self._later if each[2] is not waiter]
                heapify(self._later)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().unused()  # granted and cancelled at once: it goes to the next
            self._pump()
            raise

    def close_creates(self, error: AIVideoError) -> None:
        """Let no further create go: those that wait, and those that come, get GateClosed."""
        self._closed_by = error
        waiters = [*self._creates, *(waiter for _, _, waiter in self._later)]
        self._creates.clear()
        self._later.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(GateClosed(error))

    def open_creates(self) -> None:
        """Let creates go again."""
        self._closed_by = None

    def hold_creates(self) -> None:
        """Let creates wait, however long; one that is closed meanwhile waits no more."""
        self._held = True

    def release_creates(self) -> None:
        """Let creates that were held go on."""
        self._held = False
        self._pump()

    @property
    def creates_closed_by(self) -> AIVideoError | None:
        """Why creates are closed, or None."""
        return self._closed_by

    @property
    def creates_wait(self) -> bool:
        """Whether creates wait for the pace: each poll that goes now is one create later."""
        if (
            not self._creates
            or self._pace.is_shut  # only a poll that passes can tell what kind of limit it is
            or self._create_limit.kind is not CreateLimitKind.NONE  # an end lets the next one go
        ):
            return False
        now = asyncio.get_running_loop().time()
        return self._create_ready_at(now) <= now

    def job_ended(self) -> None:
        """Note that a running job has ended: its place under a cap is free."""
        self._running_jobs = max(0, self._running_jobs - 1)
        self._create_limit.job_ended(asyncio.get_running_loop().time())
        self._pump()

    def job_adopted(self) -> None:
        """Note a running job that was not taken through a permit of ours."""
        self._running_jobs += 1

    def statistics(self) -> LimiterStatistics:
        """Say what the limiter is doing now."""
        learned = self._create_limit
        cap = self._max_running_jobs
        if learned.kind is CreateLimitKind.CAP and learned.cap is not None:
            cap = learned.cap if cap is None else min(cap, learned.cap)
        return LimiterStatistics(
            pace=self._pace.rate,
            in_flight=self._in_flight,
            waiting_creates=len(self._creates) + len(self._later),
            waiting_polls=len(self._polls),
            accepted=self._accepted,
            rejected=self._rejected,
            running_jobs=self._running_jobs,
            held_until=self._pace.held_until,
            create_limit=learned.kind.value,
            running_jobs_cap=cap,
        )

    # --- granting ---------------------------------------------------------------------------

    def _pump(self) -> None:
        """Grant what may be granted now, and set the timer for the next."""
        now = asyncio.get_running_loop().time()
        while self._later and self._later[0][0] <= now:
            waiter = heappop(self._later)[2]
            if not waiter.done():
                self._creates[waiter] = None
                self._creates.move_to_end(waiter, last=False)
        while True:
            if self._in_flight >= self._max_in_flight:
                self._pace.idle()  # not the pace, but the service is what makes us wait
                self._set_timer(float("inf"))
                return
            create_at = self._create_ready_at(now) if self._creates else float("inf")
            create, poll = create_at <= now, bool(self._polls)
            if not create and not poll:
                self._pace.idle()
                self._set_timer(create_at)
                return
            ready_at = self._pace.ready_at(now)
            if ready_at > now:
                self._set_timer(ready_at)
                return
            probe = self._pace.is_shut
            is_create = self._turns.next_is_create(create, poll, probe=probe)
            assert is_create is not None
            waiter, _ = (self._creates if is_create else self._polls).popitem(last=False)
            if waiter.done():  # cancelled in this very turn of the loop
                continue
            self._turns.went(is_create, probe=probe)
            waiter.set_result(self._grant(now, is_create))

    def _grant_at_once(self, now: float, is_create: bool) -> Permit | None:
        """Grant a permit to who comes while nobody waits, if there is one: no future, no queue."""
        if self._in_flight >= self._max_in_flight:
            return None
        if is_create and self._create_ready_at(now) > now:
            return None
        pace = self._pace
        if pace.ready_at(now) > now:
            return None
        if pace.is_shut:
            self._turns.went(is_create, probe=True)
        return self._grant(now, is_create)

    def _create_ready_at(self, now: float) -> float:
        """When a create may go, as far as the pace is not asked; ``inf``: not by time alone."""
        if self._held:
            return float("inf")
        limit, most = self._create_limit, self._max_running_jobs
        if most is None and limit.kind is CreateLimitKind.NONE:
            return now
        running = self._running_jobs + self._creates_in_flight
        if most is not None and running >= most:
            return float("inf")
        return limit.ready_at(now, running)

    def _grant(self, now: float, is_create: bool) -> Permit:
        create = None
        if is_create:
            running = self._running_jobs + self._creates_in_flight
            create = self._create_limit.sent(now, running)
            self._creates_in_flight += 1
        self._in_flight += 1
        return Permit(self, self._pace, self._pace.sent(now), create)

    def _set_timer(self, when: float) -> None:
        if self._later:
            when = min(when, self._later[0][0])
        timer = self._timer
        if timer is not None:
            if timer.when() == when:
                return
            timer.cancel()
            self._timer = None
        if when < float("inf"):
            self._timer = asyncio.get_running_loop().call_at(when, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._pump()


class Permit:
    """The right to send one request now. End it once, by what came of it."""

    __slots__ = ("_create", "_ended", "_limiter", "_pace", "_ticket")

    def __init__(
        self, limiter: Limiter, pace: Pacing, ticket: Ticket, create: CreatePass | None
    ) -> None:
        self._limiter = limiter
        self._pace = pace
        self._ticket = ticket
        self._create = create
        self._ended = False

    def accepted(self, *, job_taken: bool = False) -> None:
        """The limit let it through; ``job_taken``: and it made a job that now runs."""
        if self._ended:
            return
        limiter, now = self._limiter, asyncio.get_running_loop().time()
        limiter._accepted += 1
        limiter._running_jobs += job_taken
        if self._create is None:
            limiter._create_limit.poll_passed(self._ticket.sent_at)
        else:
            running = limiter._running_jobs + limiter._creates_in_flight - job_taken
            limiter._create_limit.accepted(self._create, now, running)
        if self._ticket.probe:
            limiter._turns.passed()
        self._pace.accepted(self._ticket, now)
        self._end()

    def rejected(self, retry_after: float | None = None) -> None:
        """It got a 429, which asked for ``retry_after`` seconds."""
        if self._ended:
            return
        limiter, now = self._limiter, asyncio.get_running_loop().time()
        limiter._rejected += 1
        draw = limiter._draw()
        if self._create is None:
            limiter._create_limit.poll_refused()
        else:
            running = limiter._running_jobs + limiter._creates_in_flight - 1
            knew = limiter._create_limit.kind is not CreateLimitKind.NONE
            if limiter._create_limit.refused(
                self._create, self._ticket.sent_at, now, running, retry_after, draw
            ):
                self._pace.lost(self._ticket, now)
                if not knew and limiter._learns:
                    # What it has learned from refusals was not about it: it starts anew.
                    limiter._pace = LearnedPace()
                self._end()
                return
        limiter._turns.refused(self._create is not None)
        self._pace.rejected(self._ticket, now, retry_after, draw)
        self._end()

    def lost(self) -> None:
        """No answer came."""
        if not self._ended:
            now = asyncio.get_running_loop().time()
            if self._create is not None:
                self._limiter._create_limit.lost(self._create, now)
            self._pace.lost(self._ticket, now)
            self._end()

    def unused(self) -> None:
        """Nothing was sent after all: its place is the next one's."""
        if not self._ended:
            if self._create is not None:
                self._limiter._create_limit.unsent(self._create)
            self._pace.unsent(self._ticket)
            self._end()

    def _end(self) -> None:
        self._ended = True
        limiter = self._limiter
        limiter._in_flight -= 1
        limiter._creates_in_flight -= self._create is not None
        if limiter._creates or limiter._polls or limiter._later:
            limiter._pump()
        else:
            limiter._pace.idle()
