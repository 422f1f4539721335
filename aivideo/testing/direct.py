"""A transport that connects a session to the simulator without sockets.

A test over HTTP also covers aiohttp, but is too slow for 20,000 jobs over six virtual hours or for
10,000 random seeds of faults. Here a request is a function call. The delay and the connection cut
that the simulator's answer states are applied on the loop's clock. Errors report whether a byte was
written, as those of the real transport do: whether a request may be sent again depends on it.
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
        service: the service that answers. Its time is that of the running loop, counted from the
            first request.
        way_there: seconds until a request reaches the service, or a function that draws them. The
            delay of the answer is the scenario's ``latency``.
        refuse: called with the method and path of each request before it is sent. If it returns
            True, the connection is refused and no byte is written.
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
        self._start: float | None = None

    def now(self) -> float:
        """The service's time: seconds since the first request."""
        now = asyncio.get_running_loop().time()
        if self._start is None:
            self._start = now
        return now - self._start

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """Send one request to the service; see :meth:`aivideo.Transport.send`.

        Raises:
            APIConnectionError: if the connection is refused or cut.
            APITimeoutError: if there is no answer within ``timeout`` seconds.
        """
        from aivideo.simulator import SimRequest

        parts = urlsplit(url)
        if self._refuse is not None and self._refuse(method, parts.path):
            raise APIConnectionError("the connection was refused", written=False)
        left = timeout - await self._delay_request(timeout)
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
        return Answer(answer.status, answer.body, _lowercase_headers(answer))

    async def _delay_request(self, timeout: float) -> float:
        """Wait until the request reaches the service; return the seconds it took."""
        way = self._way_there() if callable(self._way_there) else self._way_there
        if way > 0:
            await asyncio.sleep(min(way, timeout))
            if way >= timeout:
                # A real request might still arrive later, so the caller must assume it was written.
                raise APITimeoutError(f"no answer within {timeout:g} s", written=True)
        return way

    @asynccontextmanager
    async def stream(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ARG002  part of the protocol; this transport never stalls
    ) -> AsyncGenerator[Incoming]:
        """Start downloading a result; see :meth:`aivideo.Transport.stream`."""
        from aivideo.simulator import SimRequest

        parts = urlsplit(url)
        request = SimRequest("GET", parts.path, headers, b"", parts.query)
        answer = self.service.handle_result(request, self.now())
        if answer.cut == "reset":
            raise APIConnectionError("the connection was reset", written=True)
        yield _Incoming(
            answer.status, _lowercase_headers(answer), answer.sent_body, answer.cut is not None
        )

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close."""


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


def _lowercase_headers(answer: SimAnswer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}
