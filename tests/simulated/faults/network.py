"""The network of a simulated process: what it sends reaches the simulated service, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from attrs import define

from aivideo import APIConnectionError, APITimeoutError
from aivideo._api.wire import Answer
from aivideo.simulator import SimAnswer, SimRequest
from tests.simulated.faults.process import Post, Process


@define
class ProcessTransport:
    """The network of one process, as a :class:`aivideo.Transport`."""

    process: Process

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """See :meth:`aivideo.Transport.send`."""
        process, loop = self.process, asyncio.get_running_loop()
        world = process.world
        path = urlsplit(url).path
        began = loop.time()
        await process.crash_point(
            "post" if method == "POST" else "get", f"before a {method} is sent"
        )
        post = world.laws.sent(process, method, path, body)
        name = f"{method} {path[:22]}" + (f" {post.content!r}" if post else "")
        if world.connection_fails():
            await asyncio.sleep(world.rng.random())
            await process.crash_point("answer", "while it connects")
            world.laws.unsent(process, post)
            process.log(f"{name}: no connection")
            raise APIConnectionError("no connection: refused", written=False)
        request = SimRequest(method, path, headers, body or b"")
        if post is not None and world.creates.is_late():
            world.creates.deliver_late(process, post, request)
            answer, taken = SimAnswer(504, {}, b"", delay=timeout + 1.0), False
        else:
            answer, taken = await self._delivered(request, post)
        waited = loop.time() - began
        await asyncio.sleep(max(0.0, min(answer.delay, timeout - waited)))
        await process.crash_point("answer", f"before the response to {name} is received")
        if post is not None and process.crashes_at("verdict"):
            process.die(how="before a verdict is recorded")
            await process.hang()
        response: Answer | APIConnectionError
        if answer.delay >= timeout - waited:
            response = APITimeoutError(f"no answer within {timeout:g} s", written=True)
        elif answer.cut is not None:
            response = APIConnectionError("the connection was cut", written=True)
        else:
            response = Answer(answer.status, answer.body, _lowered(answer))
        world.laws.received(process, path, post, response)
        if world.tracing:
            result = f"{response.status}" if isinstance(response, Answer) else str(response)
            process.log(
                f"{name}: {result} after {loop.time() - began:.2f} s{' (taken)' if taken else ''}"
            )
        if isinstance(response, APIConnectionError):
            raise response
        return response

    async def _delivered(self, request: SimRequest, post: Post | None) -> tuple[SimAnswer, bool]:
        """Carry a request to the service; return its answer, and whether a create was taken.

        Once sent, a request arrives, whether its process stands still meanwhile or not.
        """
        world = self.process.world
        loop = self.process.boot.loop
        arrived: asyncio.Future[tuple[SimAnswer, bool]] = loop.create_future()

        def arrive() -> None:
            if not (self.process.boot.over or arrived.done()):
                arrived.set_result(world.creates.serve(self.process, post, request))

        delay = world.rng.uniform(*world.plan.network_delay)
        if delay:
            loop.call_outside(delay, arrive)
        else:
            arrive()
        self.process._hung.append(arrived)
        return await arrived

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AsyncGenerator[Any]:
        """See :meth:`aivideo.Transport.stream`."""
        process, loop = self.process, asyncio.get_running_loop()
        world = process.world
        parts = urlsplit(url)
        await process.crash_point("get", "before a download")
        if world.connection_fails():
            raise APIConnectionError("the result's origin did not answer", written=False)
        request = SimRequest("GET", parts.path, headers, b"", parts.query)
        answer = world.service.handle_result(request, loop.time())
        await asyncio.sleep(world.rng.random() * 0.5)
        await process.crash_point("answer", "while a result is received")
        if answer.cut == "reset":
            raise APIConnectionError("the connection was reset", written=True)
        yield _Incoming(process, answer.status, _lowered(answer), answer)

    async def aclose(self) -> None:
        """Nothing to close."""


@define
class _Incoming:
    process: Process
    status: int
    headers: Mapping[str, str]
    _answer: SimAnswer

    async def chunks(self) -> AsyncIterator[bytes]:
        body = self._answer.sent_body
        for at in range(0, len(body), 600):
            await self.process.crash_point("answer", "in the middle of a result")
            yield body[at : at + 600]
        if self._answer.cut is not None:
            raise APIConnectionError("the connection was cut", written=True)


def _lowered(answer: SimAnswer) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}
