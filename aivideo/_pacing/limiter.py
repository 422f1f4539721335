"""The limiter: makes each request wait until it may be sent.

Each request acquires a :class:`Permit` before it is sent, and afterwards reports its result to the
permit. Pure modules decide and this one waits: :mod:`aivideo._pacing.learned` (or ``stated``)
decides when the next request may be sent, :mod:`aivideo._pacing.turns` which kind it is, and
:mod:`aivideo._pacing.create_limit` whether creates have a limit of their own. At most
``max_in_flight`` permits are in use. One timer serves all waiters.

A cancelled waiter has no effect: it holds nothing until it is granted a permit, a permit granted
to a cancelled waiter is passed on, and the queue forgets the waiter at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

from attrs import frozen

from aivideo._pacing.create_limit import CreateLimit, CreateLimitKind, SentCreate
from aivideo._pacing.learned import LearnedPace
from aivideo._pacing.protocol import LONGEST_HOLD, Pacing, SentRequest
from aivideo._pacing.stated import StatedPace
from aivideo._pacing.turns import RequestKind, Turns
from aivideo.errors import AIVideoError
from aivideo.settings import RateLimit


class GateClosed(Exception):  # noqa: N818  it names a state, and never leaves the package
    """Creates are not sent now; ``error`` says why."""

    def __init__(self, error: AIVideoError) -> None:
        super().__init__(str(error))
        self.error = error


@frozen(kw_only=True)
class LimiterStatistics:
    """The state of a limiter.

    Attributes:
        pace: requests per second that may be sent.
        in_flight: requests sent and not answered.
        waiting_creates: creates that wait for a permit.
        waiting_polls: other requests that wait for a permit.
        accepted: requests accepted by the rate limit so far.
        rejected: 429s so far.
        running_jobs: jobs accepted by the service and not ended.
        held_until: loop time (seconds) until which a 429 holds all requests, or None.
        create_limit: the limit on creates alone: "none", "unsure", "cap" or "rate".
        running_jobs_cap: the stated or learned cap on running jobs, or None.
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
    """Grants permits. The module's docstring explains how.

    Without ``rate_limit`` and ``max_requests_per_minute`` the limit is learned from 429s.

    Args:
        max_in_flight: permits in use at once, at most.
        max_running_jobs: jobs running at once, at most; None: as many as the service accepts.
        rate_limit: the limit, if it is known exactly.
        max_requests_per_minute: the limit, if its kind is not known.
        draw: returns random numbers from 0 to 1, for jitter.
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
        self._delayed_creates: list[tuple[float, int, _Waiter]] = []
        """A heap of (loop time, order of arrival, waiter)."""
        self._order = count()
        self._in_flight = 0
        self._creates_in_flight = 0
        self._running_jobs = 0
        self._accepted = 0
        self._rejected = 0
        self._closed_by: AIVideoError | None = None
        self._all_closed_by: AIVideoError | None = None
        self._creates_bound: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Limiter {self.statistics()}>"

    async def acquire(self, kind: RequestKind, *, retry_after: float | None = None) -> Permit:
        """Wait until a request of ``kind`` may be sent.

        Args:
            kind: of the request; creates are also subject to :meth:`close_creates`.
            retry_after: for a create that was rejected before, the seconds it was asked to wait
                (0 if none were given). After them it is the first in the queue.

        Raises:
            GateClosed: the limiter, or for a create the creates, are closed now or become closed
                while it waits.
        """
        loop = asyncio.get_running_loop()
        is_create = kind is RequestKind.CREATE
        closed_by = self._all_closed_by or (self._closed_by if is_create else None)
        if closed_by is not None:
            raise GateClosed(closed_by)
        if not (self._creates or self._polls or self._delayed_creates or retry_after):
            permit = self._grant_at_once(loop.time(), is_create)
            if permit is not None:
                return permit
        waiter: _Waiter = loop.create_future()
        queue = self._creates if is_create else self._polls
        is_delayed = is_create and retry_after is not None
        if is_create and retry_after is not None:
            due = loop.time() + min(max(0.0, retry_after), LONGEST_HOLD)
            heappush(self._delayed_creates, (due, next(self._order), waiter))
        else:
            queue[waiter] = None
        self._pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            queue.pop(waiter, None)
            if is_delayed:
                self._delayed_creates = [
                    each for each in self._delayed_creates if each[2] is not waiter
                ]
                heapify(self._delayed_creates)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().unused()  # granted and cancelled at once: pass it on
            self._pump()
            raise

    def close_creates(self, error: AIVideoError) -> None:
        """Send no more creates. Those that wait now or come later get GateClosed(error)."""
        self._closed_by = error
        waiters = [*self._creates, *(waiter for _, _, waiter in self._delayed_creates)]
        self._creates.clear()
        self._delayed_creates.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(GateClosed(error))

    def close(self, error: AIVideoError) -> None:
        """Grant nothing more. All that wait now or come later get GateClosed(error)."""
        self._all_closed_by = error
        self.close_creates(error)
        waiters = [*self._polls]
        self._polls.clear()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(GateClosed(error))

    def open_creates(self) -> None:
        """Undo :meth:`close_creates`."""
        self._closed_by = None

    def limit_creates(self, in_flight: int | None) -> None:
        """Bound the creates in flight, besides all other limits.

        Args:
            in_flight: how many at once; 0: creates wait, until another call of this method or
                :meth:`close_creates`; None: no bound.
        """
        self._creates_bound = in_flight
        if in_flight != 0:
            self._pump()

    @property
    def creates_closed_by(self) -> AIVideoError | None:
        """The error passed to :meth:`close_creates`, or None."""
        return self._closed_by

    @property
    def creates_wait(self) -> bool:
        """Whether creates wait for the pace, so that each poll sent now delays a create."""
        if (
            not self._creates
            or self._pace.is_on_hold  # an accepted poll tells which kind of limit it is
            or self._create_limit.kind is not CreateLimitKind.NONE  # polls see jobs end
        ):
            return False
        now = asyncio.get_running_loop().time()
        return self._create_ready_at(now) <= now

    def job_ended(self) -> None:
        """Record that a running job ended, which frees its place under a cap."""
        self._running_jobs = max(0, self._running_jobs - 1)
        self._create_limit.job_ended(asyncio.get_running_loop().time())
        self._pump()

    def job_adopted(self) -> None:
        """Record a running job that was not started with a permit of this limiter."""
        self._running_jobs += 1

    def statistics(self) -> LimiterStatistics:
        """Return the current state."""
        limit = self._create_limit
        cap = self._max_running_jobs
        if limit.kind is CreateLimitKind.CAP and limit.cap is not None:
            cap = limit.cap if cap is None else min(cap, limit.cap)
        return LimiterStatistics(
            pace=self._pace.rate,
            in_flight=self._in_flight,
            waiting_creates=len(self._creates) + len(self._delayed_creates),
            waiting_polls=len(self._polls),
            accepted=self._accepted,
            rejected=self._rejected,
            running_jobs=self._running_jobs,
            held_until=self._pace.held_until,
            create_limit=limit.kind.value,
            running_jobs_cap=cap,
        )

    # --- granting permits ---------------------------------------------------------------------

    def _pump(self) -> None:
        """Grant all permits that may be granted now, and set the timer for the next."""
        now = asyncio.get_running_loop().time()
        while self._delayed_creates and self._delayed_creates[0][0] <= now:
            waiter = heappop(self._delayed_creates)[2]
            if not waiter.done():
                self._creates[waiter] = None
                self._creates.move_to_end(waiter, last=False)
        while True:
            if self._in_flight >= self._max_in_flight:
                self._pace.idle()  # the answers of the service delay sending, not the pace
                self._set_timer(float("inf"))
                return
            create_at = self._create_ready_at(now) if self._creates else float("inf")
            create_waits, poll_waits = create_at <= now, bool(self._polls)
            if not create_waits and not poll_waits:
                self._pace.idle()
                self._set_timer(create_at)
                return
            ready_at = self._pace.ready_at(now)
            if ready_at > now:
                self._set_timer(ready_at)
                return
            probe = self._pace.is_on_hold
            is_create = self._turns.next_is_create(create_waits, poll_waits, probe=probe)
            assert is_create is not None
            waiter, _ = (self._creates if is_create else self._polls).popitem(last=False)
            if waiter.done():  # cancelled in this iteration of the event loop
                continue
            self._turns.granted(is_create, probe=probe)
            waiter.set_result(self._grant(now, is_create))

    def _grant_at_once(self, now: float, is_create: bool) -> Permit | None:
        """Grant a permit without a future or a queue, if nothing waits and one is available."""
        if self._in_flight >= self._max_in_flight:
            return None
        if is_create and self._create_ready_at(now) > now:
            return None
        pace = self._pace
        if pace.ready_at(now) > now:
            return None
        if pace.is_on_hold:
            self._turns.granted(is_create, probe=True)
        return self._grant(now, is_create)

    def _create_ready_at(self, now: float) -> float:
        """Return when a create may be sent, apart from the pace; ``inf``: not by time alone."""
        bound = self._creates_bound
        if bound is not None and self._creates_in_flight >= bound:
            return float("inf")
        limit, cap = self._create_limit, self._max_running_jobs
        if cap is None and limit.kind is CreateLimitKind.NONE:
            return now
        running = self._running_jobs + self._creates_in_flight
        if cap is not None and running >= cap:
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
        if self._delayed_creates:
            when = min(when, self._delayed_creates[0][0])
        timer = self._timer
        if timer is not None:
            if timer.when() == when:
                return
            timer.cancel()
            self._timer = None
        if when < float("inf"):
            self._timer = asyncio.get_running_loop().call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    # --- results of permits; only Permit calls these, once each -----------------------------------

    def permit_accepted(self, permit: Permit, *, job_taken: bool) -> None:
        """Record that the rate limit accepted the request."""
        now = asyncio.get_running_loop().time()
        self._accepted += 1
        self._running_jobs += job_taken
        request, create = permit.request, permit.create
        if create is None:
            self._create_limit.poll_accepted(request.sent_at)
        else:
            running = self._running_jobs + self._creates_in_flight - job_taken
            self._create_limit.accepted(create, now, running)
        if request.probe:
            self._turns.hold_ended()
        permit.pace.accepted(request, now)
        self._release(permit)

    def permit_rejected(self, permit: Permit, retry_after: float | None) -> None:
        """Record a 429, of the limit on creates or of the shared limit."""
        now, draw = asyncio.get_running_loop().time(), self._draw()
        self._rejected += 1
        if self._is_by_create_limit(permit, now, retry_after, draw):
            permit.pace.lost(permit.request, now)
        else:
            self._turns.rejected(permit.create is not None)
            permit.pace.rejected(permit.request, now, retry_after, draw)
        self._release(permit)

    def permit_lost(self, permit: Permit) -> None:
        """Record that no answer arrived."""
        now = asyncio.get_running_loop().time()
        if permit.create is not None:
            self._create_limit.lost(permit.create, now)
        permit.pace.lost(permit.request, now)
        self._release(permit)

    def permit_unused(self, permit: Permit) -> None:
        """Record that nothing was sent."""
        if permit.create is not None:
            self._create_limit.unsent(permit.create)
        permit.pace.unsent(permit.request)
        self._release(permit)

    def _is_by_create_limit(
        self, permit: Permit, now: float, retry_after: float | None, draw: float
    ) -> bool:
        limit = self._create_limit
        if permit.create is None:
            limit.poll_rejected()
            return False
        running = self._running_jobs + self._creates_in_flight - 1
        was_known = limit.kind is not CreateLimitKind.NONE
        sent_at = permit.request.sent_at
        is_own = limit.rejected(permit.create, sent_at, now, running, retry_after, draw)
        if is_own and not was_known and self._learns:
            # The shared pace learned from rejections that were not about it: start again.
            self._pace = LearnedPace()
        return is_own

    def _release(self, permit: Permit) -> None:
        self._in_flight -= 1
        self._creates_in_flight -= permit.create is not None
        if self._creates or self._polls or self._delayed_creates:
            self._pump()
        else:
            self._pace.idle()


class Permit:
    """The right to send one request now. Report its result once; later reports are ignored.

    Attributes:
        pace: the pace that counted the request.
        request: its entry in that pace.
        create: its entry in the limit on creates; None if it is not a create.
    """

    __slots__ = ("_limiter", "create", "pace", "request")

    def __init__(
        self, limiter: Limiter, pace: Pacing, request: SentRequest, create: SentCreate | None
    ) -> None:
        self._limiter: Limiter | None = limiter
        self.pace = pace
        self.request = request
        self.create = create

    def accepted(self, *, job_taken: bool = False) -> None:
        """Report that the rate limit accepted it; ``job_taken``: and a job now runs."""
        if (limiter := self._end()) is not None:
            limiter.permit_accepted(self, job_taken=job_taken)

    def rejected(self, retry_after: float | None = None) -> None:
        """Report a 429 that asked to wait ``retry_after`` seconds."""
        if (limiter := self._end()) is not None:
            limiter.permit_rejected(self, retry_after)

    def lost(self) -> None:
        """Report that no answer arrived."""
        if (limiter := self._end()) is not None:
            limiter.permit_lost(self)

    def unused(self) -> None:
        """Report that nothing was sent: the next request may use its place."""
        if (limiter := self._end()) is not None:
            limiter.permit_unused(self)

    def _end(self) -> Limiter | None:
        limiter, self._limiter = self._limiter, None
        return limiter
