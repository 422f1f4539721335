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


def drive(  # noqa: C901  one branch per kind of event
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
    draw = random.Random(seed)
    server = limit.start()
    paces = [make() for _ in range(clients)]
    flying, version = [0] * clients, [0] * clients
    left: list[float] = [requests or math.inf] * clients
    out = Drive([[] for _ in paces], [[] for _ in paces], [[] for _ in paces], None, paces)
    events: list[tuple[float, int, str, int, Any]] = []
    order = 0

    def push(at: float, kind: str, client: int, payload: Any) -> None:
        nonlocal order
        order += 1
        heappush(events, (at, order, kind, client, payload))

    def way() -> float:
        return round_trip / 2 * math.exp(sigma * draw.gauss(0, 1))

    def plan(client: int, now: float) -> None:
        if flying[client] >= in_flight or not left[client]:
            paces[client].idle()
            return
        at = paces[client].ready_at(now)
        if at < math.inf:
            version[client] += 1
            push(max(at, now), "try", client, version[client])

    for client in range(clients):
        push(start + 20.0 * client, "try", client, 0)
    while events:
        now, _, kind, client, payload = heappop(events)
        if now > start + seconds:
            break
        pace = paces[client]
        if kind == "try":
            if payload != version[client] or flying[client] >= in_flight or not left[client]:
                continue
            if pace.ready_at(now) > now + 1e-9:
                plan(client, now)
                continue
            request = pace.sent(now)
            out.sent[client].append(now - start)
            flying[client] += 1
            left[client] -= 1
            push(now + way(), "arrive", client, request)
            plan(client, now)
        elif kind == "arrive":
            if later is not None and now - start >= later[0]:
                server, later = later[1].start(), None
            wait = server.take(now)
            (out.rejected if wait else out.accepted)[client].append(now - start)
            push(now + way(), "answer", client, (payload, wait))
        elif kind == "again":
            left[client] += 1
            plan(client, now)
        else:
            answered, wait = payload
            assert isinstance(answered, SentRequest)
            flying[client] -= 1
            if not wait:
                pace.accepted(answered, now)
            else:
                asked = float(math.ceil(wait)) if header else None
                pace.rejected(answered, now, asked, draw.random())
                push(now + (asked or 0.0), "again", client, None)
            if requests and len(out.accepted[client]) == requests and not flying[client]:
                out.makespan = now - start
                break
            plan(client, now)
    return out


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
