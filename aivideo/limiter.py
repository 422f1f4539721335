"""The waiters around the pace: who may send now, and who waits for what.

Every request takes a :class:`Slot` before it is sent and says afterwards what came of it. At most
``max_in_flight`` slots are out; the pace says when the next may go; creates and polls share it
three to one when both wait, so neither starves; creates may wait for a running job to end. One
timer serves all waiters. A waiter that is cancelled leaves no trace: it holds nothing until it is
granted, and a grant that meets a cancelled waiter goes to the next.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from heapq import heappop, heappush
from itertools import count

from attrs import frozen

from aivideo.errors import AIVideoError
from aivideo.sansio.pace import LearnedPace, Pacing, RateLimit, StatedPace, Ticket


class RequestKind(Enum):
    """What a request is: a create costs money, a poll looks at a task, other is the rest."""

    CREATE = "create"
    POLL = "poll"
    OTHER = "other"


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
        waiting_creates: creates that wait for a slot.
        waiting_polls: everything else that waits.
        accepted: requests that the limit let through.
        rejected: 429s.
        running_jobs: jobs taken and not ended.
        held_until: loop time until which a 429 holds everybody, or None.
    """

    pace: float
    in_flight: int
    waiting_creates: int
    waiting_polls: int
    accepted: int
    rejected: int
    running_jobs: int
    held_until: float | None


CREATES_PER_POLL = 3


class Limiter:
    """Grants slots; see the module."""

    def __init__(
        self,
        *,
        max_in_flight: int = 64,
        max_running_jobs: int | None = None,
        rate_limit: RateLimit | None = None,
        max_requests_per_minute: float | None = None,
        clock: Callable[[], float] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if rate_limit is None and max_requests_per_minute is not None:
            rate_limit = RateLimit(max_requests_per_minute / 60, 1.0, 1)
        self._pace: Pacing = LearnedPace() if rate_limit is None else StatedPace(rate_limit)
        self._max_in_flight = max_in_flight
        self._max_running_jobs = max_running_jobs
        self._clock = clock
        self._draw = draw
        self._creates: deque[asyncio.Future[Slot]] = deque()
        self._polls: deque[asyncio.Future[Slot]] = deque()
        self._later: list[tuple[float, int, asyncio.Future[Slot]]] = []
        self._order = count()
        self._in_flight = 0
        self._creates_in_flight = 0
        self._running_jobs = 0
        self._creates_in_a_row = 0
        self._accepted = 0
        self._rejected = 0
        self._closed_by: AIVideoError | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Limiter {self.statistics()}>"

    async def acquire(self, kind: RequestKind, *, retry_after: float | None = None) -> Slot:
        """Wait until a request of ``kind`` may be sent.

        Args:
            kind: a create waits behind the gate too.
            retry_after: seconds this very request was asked to wait, when it was refused before.

        Raises:
            GateClosed: a create, and creates are closed or become so while it waits.
        """
        if kind is RequestKind.CREATE and self._closed_by is not None:
            raise GateClosed(self._closed_by)
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        if kind is RequestKind.CREATE and retry_after is not None and retry_after > 0:
            heappush(
                self._later, (self._now() + min(retry_after, 3600.0), next(self._order), waiter)
            )
        else:
            (self._creates if kind is RequestKind.CREATE else self._polls).append(waiter)
        self._pump()
        try:
            return await waiter
        except asyncio.CancelledError:
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

    @property
    def creates_closed_by(self) -> AIVideoError | None:
        """Why creates are closed, or None."""
        return self._closed_by

    def job_ended(self) -> None:
        """Note that a running job has ended: its place under ``max_running_jobs`` is free."""
        self._running_jobs = max(0, self._running_jobs - 1)
        self._pump()

    def job_adopted(self) -> None:
        """Note a running job that was not taken through a slot of ours."""
        self._running_jobs += 1

    def statistics(self) -> LimiterStatistics:
        """Say what the limiter is doing now."""
        return LimiterStatistics(
            pace=self._pace.rate,
            in_flight=self._in_flight,
            waiting_creates=_alive(self._creates) + len(self._later),
            waiting_polls=_alive(self._polls),
            accepted=self._accepted,
            rejected=self._rejected,
            running_jobs=self._running_jobs,
            held_until=self._pace.held_until,
        )

    def _now(self) -> float:
        return (self._clock or asyncio.get_running_loop().time)()

    def _pump(self) -> None:
        """Grant what may be granted now, and set the timer for the next."""
        now = self._now()
        while self._later and self._later[0][0] <= now:
            self._creates.appendleft(heappop(self._later)[2])
        while True:
            queue = self._next_queue()
            if queue is None:
                if self._in_flight < self._max_in_flight:
                    self._pace.idle(now)
                self._set_timer(self._later[0][0] if self._later else None)
                return
            if self._in_flight >= self._max_in_flight:
                self._set_timer(None)
                return
            ready_at = self._pace.ready_at(now)
            if ready_at > now:
                self._set_timer(None if ready_at == float("inf") else ready_at)
                return
            waiter = queue.popleft()
            is_create = queue is self._creates
            self._creates_in_a_row = self._creates_in_a_row + 1 if is_create else 0
            self._in_flight += 1
            self._creates_in_flight += is_create
            waiter.set_result(Slot(self, self._pace.sent(now), is_create))

    def _next_queue(self) -> deque[asyncio.Future[Slot]] | None:
        creates, polls = self._creates, self._polls
        for waiters in (creates, polls):
            while waiters and waiters[0].done():  # cancelled while it waited
                del waiters[0]
        room = (
            self._max_running_jobs is None
            or self._running_jobs + self._creates_in_flight < self._max_running_jobs
        )
        if creates and room and not (polls and self._creates_in_a_row >= CREATES_PER_POLL):
            return creates
        return polls or None

    def _set_timer(self, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._later:
            when = self._later[0][0] if when is None else min(when, self._later[0][0])
        if when is not None:
            loop = asyncio.get_running_loop()
            delay = when - self._now()
            self._timer = loop.call_later(max(0.0, delay), self._pump)


class Slot:
    """The right to send one request now. End it once, by what came of it."""

    __slots__ = ("_ended", "_is_create", "_limiter", "_ticket")

    def __init__(self, limiter: Limiter, ticket: Ticket, is_create: bool) -> None:
        self._limiter = limiter
        self._ticket = ticket
        self._is_create = is_create
        self._ended = False

    def accepted(self, *, job_taken: bool = False) -> None:
        """The limit let it through; ``job_taken``: and it made a job that now runs."""
        if not self._ended:
            limiter = self._limiter
            limiter._accepted += 1
            limiter._running_jobs += job_taken
            limiter._pace.accepted(self._ticket, limiter._now())
            self._end()

    def rejected(self, retry_after: float | None = None) -> None:
        """It got a 429, which asked for ``retry_after`` seconds."""
        if not self._ended:
            limiter = self._limiter
            limiter._rejected += 1
            limiter._pace.rejected(self._ticket, limiter._now(), retry_after, limiter._draw())
            self._end()

    def lost(self) -> None:
        """No answer came."""
        if not self._ended:
            self._limiter._pace.lost(self._ticket, self._limiter._now())
            self._end()

    def unused(self) -> None:
        """Nothing was sent after all."""
        self.lost()

    def _end(self) -> None:
        self._ended = True
        self._limiter._in_flight -= 1
        self._limiter._creates_in_flight -= self._is_create
        self._limiter._pump()


def _alive(waiters: deque[asyncio.Future[Slot]]) -> int:
    return sum(not waiter.done() for waiter in waiters)
