"""A proxy between a process and the simulator that records how far each create got.

A test can kill the process at a certain event instead of after a certain time, so that short
intervals are hit as often on a slow machine as on a fast one. The record of unanswered creates is
independent of the client and its ledger.
"""

from __future__ import annotations

import asyncio
import re
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import TypeAlias
from urllib.parse import urlsplit

import orjson
from attrs import define, field

from tests.durable.processes import RunningSimulator

HALF_DELAY = 0.05
"""Seconds between the halves of a result. It affects what a kill finds, but not the outcome."""


class WireEvent(StrEnum):
    """An event that the proxy sees."""

    POST_SENT = "the client sent a POST"
    POST_ANSWERED = "the service answered a POST"
    POST_DELIVERED = "the answer to a POST was forwarded"
    POLL_SENT = "the client sent a poll"
    RESULT_HALF = "half of a result was forwarded"
    RESULT_COMPLETE = "a complete result was forwarded"


@define
class Post:
    """A create, identified by its prompt, and whether its answer was forwarded."""

    prompt: str
    answered: bool = False


Forward: TypeAlias = Callable[
    [StreamReader, StreamWriter, StreamReader, StreamWriter], Awaitable[None]
]


@define
class Proxy:
    """A proxy in front of both origins of a simulator.

    Attributes:
        simulator: the simulator.
        posts: the creates that were sent, in order.
        on_event: called for each event, before the request or answer is forwarded. If it returns
            True, the request or answer is dropped.
        url: origin of the proxied API.
    """

    simulator: RunningSimulator
    posts: list[Post] = field(factory=list)
    on_event: Callable[[WireEvent], bool] = lambda _: False
    url: str = ""
    _run_number: int = 0
    _result_origins: tuple[bytes, bytes] = (b"", b"")

    def begin(self) -> None:
        """Start a new run: clear the record and ignore events of connections opened before."""
        self.posts.clear()
        self._run_number += 1

    def _report(self, event: WireEvent, run_number: int) -> bool:
        return run_number == self._run_number and self.on_event(event)

    async def forward_api(
        self,
        from_client: StreamReader,
        to_client: StreamWriter,
        from_service: StreamReader,
        to_service: StreamWriter,
    ) -> None:
        """Forward complete requests and answers until the connection is closed."""
        run_number = self._run_number
        while True:
            request = await _message(from_client)
            post = None
            if request.startswith(b"POST "):
                post = Post(orjson.loads(request.partition(b"\r\n\r\n")[2])["input"]["prompt"])
                if run_number == self._run_number:
                    self.posts.append(post)
            if self._report(
                WireEvent.POLL_SENT if post is None else WireEvent.POST_SENT, run_number
            ):
                return
            to_service.write(request)
            answer = await _message(from_service)
            if post is not None and self._report(WireEvent.POST_ANSWERED, run_number):
                return
            # Replace the origin in result URLs, so that downloads use the proxy too. Both origins
            # have the same length, so Content-Length stays correct.
            to_client.write(answer.replace(*self._result_origins))
            if post is not None:
                post.answered = True
                self._report(WireEvent.POST_DELIVERED, run_number)

    async def forward_results(
        self,
        from_client: StreamReader,
        to_client: StreamWriter,
        from_service: StreamReader,
        to_service: StreamWriter,
    ) -> None:
        """Forward results, each in two halves."""
        run_number = self._run_number
        while True:
            to_service.write(await _message(from_client))
            answer = await _message(from_service)
            half = len(answer) // 2
            to_client.write(answer[:half])
            await to_client.drain()
            await asyncio.sleep(HALF_DELAY)  # gives the client time to write the half to disk
            if self._report(WireEvent.RESULT_HALF, run_number):
                return
            to_client.write(answer[half:])
            self._report(WireEvent.RESULT_COMPLETE, run_number)


@asynccontextmanager
async def proxy_for(simulator: RunningSimulator) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a simulator. Clients must use the proxy's ``url``."""
    proxy = Proxy(simulator)
    connections: set[asyncio.Task[object]] = set()
    results = await _listen(simulator.results_url, proxy.forward_results, connections)
    api = await _listen(simulator.url, proxy.forward_api, connections)
    proxy.url = f"http://127.0.0.1:{_port(api)}"
    original = simulator.results_url.encode()
    proxied = f"http://127.0.0.1:{_port(results)}".encode()
    assert len(original) == len(proxied)
    proxy._result_origins = (original, proxied)
    try:
        yield proxy
    finally:
        for server in (api, results):
            server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _listen(
    origin: str, forward: Forward, connections: set[asyncio.Task[object]]
) -> asyncio.Server:
    async def connected(from_client: StreamReader, to_client: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        address = urlsplit(origin)
        from_service, to_service = await asyncio.open_connection(address.hostname, address.port)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await forward(from_client, to_client, from_service, to_service)
        finally:
            to_client.close()
            to_service.close()
            connections.discard(task)

    # The port needs as many digits as the simulator's, see forward_api.
    for _ in range(100):
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        if len(str(_port(server))) == len(str(urlsplit(origin).port)):
            return server
        server.close()
    raise AssertionError("found no port with the same number of digits")


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _message(reader: StreamReader) -> bytes:
    """Read one HTTP/1.1 message with a Content-Length, or without a body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return head + await reader.readexactly(int(length[1]) if length else 0)
