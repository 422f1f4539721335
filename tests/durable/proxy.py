"""A wire that is watched: what has left a process, and what has come back to it.

It stands between a process and the stand-in service, and knows of each create how far it got. So a
kill is timed by what has happened instead of by a clock, and hits the narrow moments on a slow
machine as often as on a fast one; and what it left open is counted by somebody who is neither the
client nor its ledger.
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

from tests.durable.processes import Stand

LINGER = 0.05
"""Seconds between the halves of a result. It decides what a kill finds, and no test's outcome."""


class Moment(StrEnum):
    """What can be seen on the wire."""

    POST_LEFT = "a POST has left"
    POST_ANSWERED = "its answer is on its way"
    POST_HEARD = "its answer has come"
    POLL_LEFT = "a poll has left"
    RESULT_BEGUN = "half a result has come"
    RESULT_HEARD = "a whole result has come"


@define
class Post:
    """A create, by its prompt, and how far it got."""

    prompt: str
    answered: bool = False


Carry: TypeAlias = Callable[
    [StreamReader, StreamWriter, StreamReader, StreamWriter], Awaitable[None]
]


@define
class Wire:
    """Both origins of a service, watched.

    Attributes:
        stand: the service.
        posts: each create that has left, in order.
        on_moment: told of each moment, before what is in hand goes on; True: it is lost instead.
    """

    stand: Stand
    posts: list[Post] = field(factory=list)
    on_moment: Callable[[Moment], bool] = lambda _: False
    url: str = ""
    _era: int = 0
    _results: tuple[bytes, bytes] = (b"", b"")

    def begin(self) -> None:
        """Forget what was seen; what is still on its way for those before is none of the next's."""
        self.posts.clear()
        self._era += 1

    def _saw(self, moment: Moment, era: int) -> bool:
        return era == self._era and self.on_moment(moment)

    async def carry_api(
        self, client: StreamReader, back: StreamWriter, service: StreamReader, on: StreamWriter
    ) -> None:
        """Carry whole requests and whole answers, for as long as the connection is used."""
        era = self._era
        while True:
            request = await _message(client)
            post = None
            if request.startswith(b"POST "):
                post = Post(orjson.loads(request.partition(b"\r\n\r\n")[2])["input"]["prompt"])
                if era == self._era:
                    self.posts.append(post)
            if self._saw(Moment.POLL_LEFT if post is None else Moment.POST_LEFT, era):
                return
            on.write(request)
            answer = await _message(service)
            if post is not None and self._saw(Moment.POST_ANSWERED, era):
                return
            # Results are fetched past this watch too. Ports are of one length, so the answer's is
            # what it was.
            back.write(answer.replace(*self._results))
            if post is not None:
                post.answered = True
                self._saw(Moment.POST_HEARD, era)

    async def carry_results(
        self, client: StreamReader, back: StreamWriter, service: StreamReader, on: StreamWriter
    ) -> None:
        """Carry results, each in two halves."""
        era = self._era
        while True:
            on.write(await _message(client))
            answer = await _message(service)
            half = len(answer) // 2
            back.write(answer[:half])
            await back.drain()
            await asyncio.sleep(LINGER)  # time to write it, so that a kill finds it on the disk
            if self._saw(Moment.RESULT_BEGUN, era):
                return
            back.write(answer[half:])
            self._saw(Moment.RESULT_HEARD, era)


@asynccontextmanager
async def watched(stand: Stand) -> AsyncIterator[Wire]:
    """Watch a service; ``url`` is where it is to be asked from then on."""
    wire = Wire(stand)
    carrying: set[asyncio.Task[object]] = set()
    results = await _listen(stand.results_url, wire.carry_results, carrying)
    api = await _listen(stand.url, wire.carry_api, carrying)
    wire.url = f"http://127.0.0.1:{_port(api)}"
    there, here = stand.results_url.encode(), f"http://127.0.0.1:{_port(results)}".encode()
    assert len(there) == len(here)
    wire._results = (there, here)
    try:
        yield wire
    finally:
        for server in (api, results):
            server.close()
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)


async def _listen(origin: str, carry: Carry, carrying: set[asyncio.Task[object]]) -> asyncio.Server:
    async def connected(client: StreamReader, back: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        carrying.add(task)
        address = urlsplit(origin)
        service, on = await asyncio.open_connection(address.hostname, address.port)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await carry(client, back, service, on)
        finally:
            back.close()
            on.close()
            carrying.discard(task)

    # A port of as many digits as the service's own.
    for _ in range(100):
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        if len(str(_port(server))) == len(str(urlsplit(origin).port)):
            return server
        server.close()
    raise AssertionError("no port of that length")


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _message(reader: StreamReader) -> bytes:
    """Read one HTTP/1.1 message whose length is stated."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return head + await reader.readexactly(int(length[1]) if length else 0)
