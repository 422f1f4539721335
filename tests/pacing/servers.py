"""Simulate rate-limited servers and several clients of one key, to test paces.

Without asyncio: an event queue drives pure objects through thousands of requests in milliseconds.
The limits are those of the simulator. Round trips are lognormal, half each way, so that requests
arrive unevenly and overtake each other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from attrs import define, field, frozen

from aivideo._pacing.learned import LearnedPace
from aivideo._pacing.protocol import Pacing, SentRequest
from aivideo.simulator import FixedWindow, SlidingWindow, TokenBucket
from aivideo.simulator.limits import Limiter


@frozen
class Both:
    """Two limits in a row: a request rejected by the second has counted at the first."""

    first: TokenBucket | FixedWindow
    second: FixedWindow | SlidingWindow

    def start(self) -> _Both:
        """Return a server with both limits unused."""
        return _Both(self.first.start(), self.second.start())


@frozen
class _Both:
    first: Limiter
    second: Limiter

    def take(self, now: float) -> float:
        return self.first.take(now) or self.second.take(now)


Limit = TokenBucket | FixedWindow | SlidingWindow | Both


@define
class Drive:
    """The results per client.

    Attributes:
        accepted: when requests were accepted, in seconds since the start of the simulation.
        rejected: when requests were rejected.
        sent: when requests were sent.
        makespan: seconds until the last acceptance was known, or None.
        paces: the clients' paces.
    """

    accepted: list[list[float]]
    rejected: list[list[float]]
    sent: list[list[float]] = field(factory=list)
    makespan: float | None = None
    paces: list[Any] = field(factory=list)

    @property
    def rejections(self) -> float:
        """429s per accepted request."""
        return sum(map(len, self.rejected)) / max(1, sum(map(len, self.accepted)))


@define
class _Simulation:
    """The event queue of :func:`drive`. Each event is handled by the method of its name."""

    server: Limiter
    paces: list[Pacing]
    requests: int | None
    start: float
    median_way: float
    sigma: float
    sends_header: bool
    max_in_flight: int
    later: tuple[float, Limit] | None
    draw: random.Random
    _events: list[tuple[float, int, Callable[[float, int, Any], None], int, Any]] = field(
        factory=list
    )
    _order: int = 0
    _in_flight: list[int] = field(init=False)
    _version: list[int] = field(init=False)
    """Of a client's latest plan to send: earlier plans are void."""
    _left: list[float] = field(init=False)
    _results: Drive = field(init=False)

    def __attrs_post_init__(self) -> None:
        clients = len(self.paces)
        self._in_flight, self._version = [0] * clients, [0] * clients
        self._left = [self.requests or math.inf] * clients
        times: list[list[list[float]]] = [[[] for _ in self.paces] for _ in range(3)]
        self._results = Drive(times[0], times[1], times[2], None, list(self.paces))

    def run(self, seconds: float) -> Drive:
        for client in range(len(self.paces)):
            self._push(self.start + 20.0 * client, self._try_to_send, client, 0)
        while self._events and self._results.makespan is None:
            now, _, handle, client, payload = heappop(self._events)
            if now > self.start + seconds:
                break
            handle(now, client, payload)
        return self._results

    def _push(
        self, at: float, handle: Callable[[float, int, Any], None], client: int, payload: Any
    ) -> None:
        self._order += 1
        heappush(self._events, (at, self._order, handle, client, payload))

    def _way(self) -> float:
        return self.median_way * math.exp(self.sigma * self.draw.gauss(0, 1))

    def _may_send(self, client: int) -> bool:
        return self._in_flight[client] < self.max_in_flight and self._left[client] > 0

    def _plan(self, now: float, client: int) -> None:
        if not self._may_send(client):
            self.paces[client].idle()
            return
        at = self.paces[client].ready_at(now)
        if at < math.inf:
            self._version[client] += 1
            self._push(max(at, now), self._try_to_send, client, self._version[client])

    def _try_to_send(self, now: float, client: int, version: int) -> None:
        if version != self._version[client] or not self._may_send(client):
            return
        pace = self.paces[client]
        if pace.ready_at(now) <= now + 1e-9:
            request = pace.sent(now)
            self._results.sent[client].append(now - self.start)
            self._in_flight[client] += 1
            self._left[client] -= 1
            self._push(now + self._way(), self._arrive, client, request)
        self._plan(now, client)

    def _arrive(self, now: float, client: int, request: SentRequest) -> None:
        if self.later is not None and now - self.start >= self.later[0]:
            self.server, self.later = self.later[1].start(), None
        wait = self.server.take(now)
        results = self._results.rejected if wait else self._results.accepted
        results[client].append(now - self.start)
        self._push(now + self._way(), self._answer, client, (request, wait))

    def _answer(self, now: float, client: int, payload: tuple[SentRequest, float]) -> None:
        request, wait = payload
        pace = self.paces[client]
        self._in_flight[client] -= 1
        if not wait:
            pace.accepted(request, now)
        else:
            asked = float(math.ceil(wait)) if self.sends_header else None
            pace.rejected(request, now, asked, self.draw.random())
            self._push(now + (asked or 0.0), self._send_again, client, None)
        is_complete = len(self._results.accepted[client]) == self.requests
        if self.requests and is_complete and not self._in_flight[client]:
            self._results.makespan = now - self.start
            return
        self._plan(now, client)

    def _send_again(self, now: float, client: int, payload: None) -> None:
        self._left[client] += 1
        self._plan(now, client)


def drive(
    limit: Limit,
    *,
    requests: int | None = None,
    seconds: float = 3600.0,
    clients: int = 1,
    make: Callable[[], Pacing] = LearnedPace,
    seed: int = 1,
    start: float = 0.0,
    round_trip: float = 0.15,
    sigma: float = 0.25,
    header: bool = False,
    in_flight: int = 64,
    later: tuple[float, Limit] | None = None,
) -> Drive:
    """Simulate paces against a server until ``requests`` were accepted, or for ``seconds``.

    Args:
        limit: the limit of the server.
        requests: requests per client; None: unlimited.
        seconds: when to stop in any case.
        clients: number of paces on one key; they start 20 s apart.
        make: creates the pace of a client.
        seed: of the random round trips.
        start: server time at which the first client starts.
        round_trip: median, in seconds.
        sigma: standard deviation of the logarithm of a round trip.
        header: whether a 429 carries ``Retry-After``, in whole seconds, rounded up.
        in_flight: requests of one client in flight at once, at most.
        later: after so many seconds, this limit replaces the first.
    """
    simulation = _Simulation(
        server=limit.start(),
        paces=[make() for _ in range(clients)],
        requests=requests,
        start=start,
        median_way=round_trip / 2,
        sigma=sigma,
        sends_header=header,
        max_in_flight=in_flight,
        later=later,
        draw=random.Random(seed),
    )
    return simulation.run(seconds)


def ideal(limit: Limit, requests: int, start: float, round_trip: float) -> float:
    """Return the seconds that ``requests`` take if the limit and its phase are known."""
    if isinstance(limit, TokenBucket):
        return max(0.0, requests - limit.burst) / limit.rate + round_trip
    if isinstance(limit, Both):  # send each as soon as it is accepted
        server, now = limit.start(), start
        for _ in range(requests):
            while wait := server.take(now):
                now += wait
        return now - start + round_trip
    windows = -(-requests // limit.limit) - 1
    if windows and isinstance(limit, FixedWindow):
        return (start // limit.seconds + 1 + windows - 1) * limit.seconds - start + round_trip
    return windows * limit.seconds + round_trip


def rate_of(limit: Limit) -> float:
    """Return the requests per second in the long term."""
    if isinstance(limit, Both):
        return rate_of(limit.second)
    return limit.rate if isinstance(limit, TokenBucket) else limit.limit / limit.seconds


def phase(limit: Limit, seed: int) -> float:
    """Return a start time at a random position within a window."""
    inner = limit.second if isinstance(limit, Both) else limit
    seconds = 10.0 if isinstance(inner, TokenBucket) else inner.seconds
    return 1000 * seconds + random.Random(seed * 7919).random() * seconds
