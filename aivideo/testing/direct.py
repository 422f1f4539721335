"""A session and the simulator's core without a socket between them.

A test over HTTP sees what aiohttp really does; a test of 20,000 jobs over six virtual hours, or of
10,000 seeds of misfortune, wants none of it. Here a request is a function call: what the
simulator's answer says about delays and cuts is enacted on the loop's clock, with the one fact
that money depends on (was a byte written?) told as the real transport would tell it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import define

from aivideo._api.transport import Incoming
from aivideo._api.wire import Answer
from aivideo.errors import APIConnectionError, APITimeoutError

if TYPE_CHECKING:
    from aivideo.simulator import Service, SimAnswer

CHUNK = 65_536


class DirectTransport:
    """A :class:`~aivideo.Transport` that calls a :class:`~aivideo.simulator.Service`.

    ::

        service = Service(Scenario(rate_limit=TokenBucket(50, 10), media="stub"))
        async with Session("sk-test", transport=DirectTransport(service)) as session:
            ...
        assert service.truth.creates_taken == 1

    Args:
        service: the core that answers; its clock is the running loop's, from the first request.
        way_there: seconds, or what draws them, until a request reaches the service; the way back
            is the scenario's ``latency``.
        refuse: asked of each request's method and path before it is sent; True: no connection, not
            a byte was written.
    """

    def __init__(
        self,
        service: Service,
        *,
        way_there: float | Callable[[], float] = 0.0,
        refuse: Callable[[str, str], bool] | None = None,
    ) -> None:
        self.service = service
        self._way_there = way_there
        self._refuse = refuse
        self._began: float | None = None

    def now(self) -> float:
        """Seconds of the service's clock."""
        now = asyncio.get_running_loop().time()
        if self._began is None:
            self._began = now
        return now - self._began

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """Have one request answered; see :meth:`aivideo.Transport.send`."""
        from aivideo.simulator import SimRequest

        parts = urlsplit(url)
        if self._refuse is not None and self._refuse(method, parts.path):
            raise APIConnectionError("no connection: refused", written=False)
        left = timeout - await self._travel(timeout)
        self.service.truth.request_begins()
        try:
            request = SimRequest(method, parts.path, headers, body or b"", parts.query)
            answer = self.service.handle(request, self.now())
            if answer.delay >= left:
                await asyncio.sleep(left)
                raise APITimeoutError(f"no answer within {timeout:g} s", written=True)
            if answer.delay > 0:
                await asyncio.sleep(answer.delay)
        finally:
            self.service.truth.request_ends()
        if answer.cut is not None:
            raise APIConnectionError("the connection was cut", written=True)
        return Answer(answer.status, answer.body, _lowered(answer))

    async def _travel(self, timeout: float) -> float:
        way = self._way_there() if callable(self._way_there) else self._way_there
        if way > 0:
            await asyncio.sleep(min(way, timeout))
            if way >= timeout:
                # It may still arrive, for all the caller can tell; here it does not.
                raise APITimeoutError(f"no answer within {timeout:g} s", written=True)
        return way

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ARG002  part of the protocol; nothing here stalls
    ) -> AsyncGenerator[Incoming]:
        """Open a result; see :meth:`aivideo.Transport.stream`."""
        from aivideo.simulator import SimRequest

        parts = urlsplit(url)
        request = SimRequest("GET", parts.path, headers, b"", parts.query)
        answer = self.service.handle_result(request, self.now())
        if answer.cut == "reset":
            raise APIConnectionError("the connection was reset", written=True)
        yield _Incoming(answer.status, _lowered(answer), answer.sent_body, answer.cut is not None)

    async def aclose(self) -> None:
        """Nothing to close."""


@define
class _Incoming:
    status: int
    headers: Mapping[str, str]
    _body: bytes
    _cut: bool

    async def chunks(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self._body), CHUNK):
            yield self._body[at : at + CHUNK]
        if self._cut:
            raise APIConnectionError("the connection was cut", written=True)


def _lowered(answer: SimAnswer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}
