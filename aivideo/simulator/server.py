"""An HTTP server around `Service`: two origins, callbacks, and connection faults.

All times come from the clock of the running event loop. The only other threads are those of the
loop's default executor, where videos are made. So the server also works on a virtual-time loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from weakref import WeakKeyDictionary

import aiohttp
import attrs
from aiohttp import web

from aivideo.simulator.callbacks import Callback
from aivideo.simulator.exchange import SimAnswer, SimRequest
from aivideo.simulator.faults import Hook
from aivideo.simulator.scenario import Scenario
from aivideo.simulator.service import Service
from aivideo.simulator.truth import Truth

_IDLE_CLOSE = 75.0
_LAST_PORT = 65_535
_CALLBACK_TIMEOUT = 10.0
_GRACE = 1.0


class PortInUseError(OSError):
    """The server cannot listen on the requested address or port."""


@attrs.define(eq=False)
class Simulator:
    """A running server.

    Attributes:
        url: origin of the API, the base URL for clients: `http://127.0.0.1:PORT`.
        results_url: origin of the results, on another port.
        service: the service behind the server, with `service.scenario`.
    """

    url: str
    results_url: str
    service: Service
    _start: float = attrs.field(repr=False, alias="start")

    @property
    def truth(self) -> Truth:
        """What really happened so far. Updated while the server runs."""
        return self.service.truth

    @property
    def hook(self) -> Hook | None:
        """Decides faults before the scenario does. May be set at any time."""
        return self.service.hook

    @hook.setter
    def hook(self, hook: Hook | None) -> None:
        self.service.hook = hook

    def now(self) -> float:
        """Seconds since the service started."""
        return asyncio.get_running_loop().time() - self._start


class _Connections(web.Server):
    """An aiohttp server that counts its connections and the requests on each of them."""

    def __init__(
        self,
        handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        opened: Callable[[], None],
        *,
        idle_close: float | None,
        max_requests: int | None,
    ) -> None:
        super().__init__(
            self._counted,
            # Cancel a slow answer when the client disconnects, so that `in_flight` stays correct.
            handler_cancellation=True,
            keepalive_timeout=idle_close or _IDLE_CLOSE,
            access_log=None,
        )
        self._handle = handle
        self._opened = opened
        self._max_requests = max_requests
        self._served: WeakKeyDictionary[object, int] = WeakKeyDictionary()

    def __call__(self) -> web.RequestHandler:
        self._opened()
        return super().__call__()

    async def stop(self) -> None:
        """Close all connections, also those with a request in progress."""
        for connection in self.connections:
            connection.force_close()
        await self.shutdown(_GRACE)

    async def _counted(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await self._handle(request)
        if self._max_requests is not None and request.transport is not None:
            served = self._served.get(request.transport, 0) + 1
            self._served[request.transport] = served
            if served >= self._max_requests:
                response.force_close()
        return response


async def _read(request: web.BaseRequest) -> SimRequest:
    url, body = request.rel_url, await request.read()
    return SimRequest(request.method, url.path, request.headers, body, url.raw_query_string)


async def _send(answer: SimAnswer, request: web.BaseRequest) -> web.StreamResponse:
    """Send an answer, with its delay and connection cut."""
    if answer.delay > 0:
        await asyncio.sleep(answer.delay)
    if answer.cut is None:
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
    transport = request.transport
    if answer.cut == "body":
        head = {**answer.headers, "Content-Length": str(len(answer.body))}
        response = web.StreamResponse(status=answer.status, headers=head)
        await response.prepare(request)
        await response.write(answer.sent_body)
        if transport is not None:
            transport.close()  # still sends what was written
        return response
    if transport is not None:
        if answer.cut == "reset":
            _reset_on_close(transport)
        transport.abort()
    return web.Response(status=500)  # never sent: the connection is closed


def _reset_on_close(transport: asyncio.Transport) -> None:
    connected = transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _send_callbacks(service: Service, now: Callable[[], float]) -> None:
    """Send each callback when it is due, until cancelled."""
    loop = asyncio.get_running_loop()
    sending: set[asyncio.Task[None]] = set()
    timeout = aiohttp.ClientTimeout(total=_CALLBACK_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def send(callback: Callback) -> None:
            status = None
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                async with session.post(
                    callback.url,
                    data=callback.body,
                    headers=callback.headers,
                    allow_redirects=False,
                ) as response:
                    status = response.status
            service.callback_answered(callback, status, now())
            wake()

        woken = asyncio.Event()
        wake = woken.set
        service.on_callback_planned = wake
        try:
            while True:
                woken.clear()
                for callback in service.due_callbacks(now()):
                    task = loop.create_task(send(callback))
                    sending.add(task)
                    task.add_done_callback(sending.discard)
                at = service.next_callback()
                pause = None if at is None else max(0.0, at - now())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), pause)
        finally:
            service.on_callback_planned = None
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)


async def _listen(server: web.Server, host: str, port: int, name: str) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    if not 0 <= port <= _LAST_PORT:
        raise ValueError(
            f"{port} is not a valid port for {name}: use 1 to {_LAST_PORT}, or 0 for any free port"
        )
    try:
        return await loop.create_server(server, host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror):
            reason = "no such host"
        else:
            reason = str(error) if error.errno is None else os.strerror(error.errno)
        raise PortInUseError(
            f"cannot listen on {host}:{port} for {name}: {reason}; choose another port"
        ) from None


def _origin(server: asyncio.Server) -> str:
    host, port = server.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def serve(
    scenario: Scenario | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    results_port: int = 0,
) -> AsyncIterator[Simulator]:
    """Run a service over HTTP inside an `async with` block.

    Args:
        scenario: how the service behaves. None: `Scenario()`.
        host: address to listen on.
        port: port of the API. 0: any free port.
        results_port: port of the results. 0: any free port.

    Raises:
        ValueError: if a port is not between 0 and 65535.
        PortInUseError: if the server cannot listen on the address or a port.
    """
    scenario = Scenario() if scenario is None else scenario
    loop = asyncio.get_running_loop()
    start = loop.time()
    if scenario.epoch is None:
        # The system clock is read only once: later times are counted with the loop's clock.
        scenario = attrs.evolve(scenario, epoch=time.time())
    service = Service(scenario)
    truth = service.truth

    def now() -> float:
        return loop.time() - start

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        truth.request_begins()
        try:
            return await _send(service.handle(await _read(request), now()), request)
        finally:
            truth.request_ends()

    async def handle_result(request: web.BaseRequest) -> web.StreamResponse:
        sim_request = await _read(request)
        found = service.find_result(sim_request, now())
        if isinstance(found, SimAnswer):
            return await _send(found, request)
        media = service.library.get_if_ready(found)
        if media is None:
            media = await asyncio.to_thread(service.library.get, found)
        return await _send(service.send_result(sim_request, found, media), request)

    def api_opened() -> None:
        truth.connections += 1

    def results_opened() -> None:
        truth.result_connections += 1

    api = _Connections(
        handle,
        api_opened,
        idle_close=scenario.idle_close,
        max_requests=scenario.max_requests_per_connection,
    )
    results = _Connections(
        handle_result,
        results_opened,
        idle_close=scenario.idle_close,
        max_requests=scenario.max_requests_per_connection,
    )
    async with contextlib.AsyncExitStack() as stack:
        api_listener = await _listen(api, host, port, "the API")
        stack.callback(api_listener.close)
        results_listener = await _listen(results, host, results_port, "the results")
        stack.callback(results_listener.close)
        stack.push_async_callback(api.stop)
        stack.push_async_callback(results.stop)
        service.results_url = _origin(results_listener)
        callback_sender = loop.create_task(_send_callbacks(service, now))
        try:
            yield Simulator(_origin(api_listener), service.results_url, service, start)
        finally:
            callback_sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await callback_sender


async def serve_forever(
    scenario: Scenario | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8811,
    results_port: int = 0,
    on_ready: Callable[[Simulator], None] | None = None,
) -> dict[str, object]:
    """Run a service until SIGINT or SIGTERM, then return `Truth.summary()`.

    Args:
        scenario: how the service behaves. None: `Scenario()`.
        host: address to listen on.
        port: port of the API. 0: any free port.
        results_port: port of the results. 0: any free port.
        on_ready: called once with the simulator, when it is listening.

    Raises:
        ValueError: if a port is not between 0 and 65535.
        PortInUseError: if the server cannot listen on the address or a port.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    async with serve(scenario, host=host, port=port, results_port=results_port) as simulator:
        for number in signals:
            with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C interrupts the loop
                loop.add_signal_handler(number, stopped.set)
        try:
            if on_ready is not None:
                on_ready(simulator)
            await stopped.wait()
        finally:
            for number in signals:
                with contextlib.suppress(NotImplementedError):
                    loop.remove_signal_handler(number)
        return simulator.truth.summary()
