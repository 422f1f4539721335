"""HTTP: the Protocol of a transport, and the implementation over aiohttp.

This is the one module that uses aiohttp's client. Everything above it calls a :class:`Transport`,
a Protocol of three methods, so a test or a user can supply another. aiohttp's exceptions are
converted here, each with the one fact that money depends on: may a byte of the request have been
written?

How :class:`AiohttpTransport` knows: aiohttp writes a request only after its connector has returned
a connection. So whatever fails before ``connect`` returns (no route, DNS, TLS, a proxy that refuses
``CONNECT``, a timeout while connecting) is proved unsent. Whatever fails later is not, with
whichever exception. This errs on the safe side: a connection that breaks between ``connect`` and
the first byte counts as written.

A POST whose claim lapses must not be written any more (:mod:`aivideo._api.send_deadline`). This is
checked directly before the first byte is handed to the socket: aiohttp keeps the head of a request
until its body is written, and asks the body to write itself (:func:`_body_class`). Nothing is
awaited between the check and the write.

Three habits of HTTP clients are turned off, since each of them would send a paid POST twice or lose
it (observed with aiohttp 3.14, and held by ``tests/api/test_transport.py``):

* Redirects are not followed: after a 307 the POST's body would be sent again, to another origin.
* aiohttp repeats a GET by itself when a reused connection turns out to be closed. Here the second
  ``connect`` of one request is refused, so one permit of the rate limiter is one request.
* Servers close idle connections. A POST that is written while the server closes is lost, and cannot
  be told from one that was taken. So a POST uses only a connection that is new or was in use a
  moment ago (:data:`POST_MAX_IDLE`).

Deadlines are not anyio timeouts, since those would take a tenth of a request's CPU (see
``_Deadlines``).

The file is long because it is the one border to aiohttp: the Protocol, and all that keeps it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from aivideo import catalog
from aivideo._api import send_deadline
from aivideo._api.messages import Answer
from aivideo._redaction import scrub
from aivideo.errors import APIConnectionError, APITimeoutError, ConfigurationError

if TYPE_CHECKING:
    import ssl as ssl_module

    import aiohttp
    import yarl

POST_MAX_IDLE = 0.5
"""Seconds for which a connection may have been idle and still be used for a POST. Common servers
close idle connections after 5 s or more, so a younger one is hardly ever being closed."""

_KEPT_HEADERS = ("retry-after", "date", "x-request-id", "content-type", "location")


class Incoming(Protocol):
    """A response whose body is still to be read.

    Attributes:
        status: the HTTP status; 206 for a range.
        headers: all headers, with lower-case names.
    """

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives, without undoing a content encoding; call it once.

        Raises:
            APIConnectionError: the body ended before its announced length, no byte came for
                ``timeout`` seconds, or the connection broke.
        """
        ...


class Transport(Protocol):
    """What carries requests: the interface to implement for another HTTP library or a test.

    The caller decides what is sent, when, and how often. A transport sends one request per call,
    and keeps these rules, on which money depends:

    * **Send once.** Never repeat a request, on a broken connection either; never follow a redirect.
    * **Report ``written`` truthfully.** Every failure of :meth:`send` is an
      :class:`~aivideo.APIConnectionError`. Its ``written`` is False only if it is certain that no
      byte of the request was handed to the network: the caller then sends the POST again. If in
      doubt, True: the job becomes ``unknown``, and is not sent again.
    * **Return any HTTP response** as an answer, whatever its status; raise only without one.
    * **Keep secrets.** Headers contain the API key, and URLs of results are signed: neither may be
      logged or appear in a message.

    All calls come from one event loop, many at a time. A cancelled call must give up its
    connection. The transport is closed by whoever created it.
    """

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """Send one request exactly once and return the whole answer.

        Args:
            method: "GET" or "POST".
            url: the absolute URL, percent-encoded; send it unchanged.
            headers: all headers to send besides those of HTTP itself (``Host``,
                ``Content-Length``); ``Authorization`` is among them.
            body: JSON, or None for a request without a body.
            timeout: seconds for the whole call: connecting, sending and receiving.

        Returns:
            An :class:`Answer` with the body decoded (gzip undone) and lower-case header names. Of a
            status other than 200, ``retry-after``, ``date`` and ``x-request-id`` are needed.

        Raises:
            APIConnectionError: no complete answer; ``written`` as described above. A body that
                breaks off is such a failure, with ``written=True``.
            APITimeoutError: no complete answer within ``timeout``; ``written`` likewise.
        """
        ...

    def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AbstractAsyncContextManager[Incoming]:
        """Start a ``GET`` of a result, and return an async context manager of its response.

        Results lie on other hosts than the API: the API key must never be sent to them. Redirects
        may be followed here, and a GET may be repeated: it costs nothing.

        Args:
            url: the absolute URL, signed: not a character may be changed.
            headers: all headers to send, a ``Range`` for example; never an ``Authorization``.
            timeout: seconds without a byte, connecting included, after which the call fails.
                There is no limit for the whole body.

        Raises:
            APIConnectionError: no response, on entering the context; ``written`` is not used.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections. Calling it twice is allowed; later calls of ``send`` fail."""
        ...


class _TooLateError(Exception):
    """The deadline for writing the first byte has passed."""


class _Exchange:
    """State of one request: whether it was assigned a connection, and its deadline (loop time)."""

    __slots__ = ("due", "expired", "not_after", "protocol", "task", "too_late", "written")

    def __init__(self, task: asyncio.Task[Any], due: float) -> None:
        self.task = task
        self.due = due
        self.not_after = send_deadline.CURRENT.get()
        self.expired = False
        self.too_late = False
        self.written = False
        self.protocol: Any = None

    def check_not_too_late(self, *, bytes_written: int) -> None:
        """Refuse to write once the deadline for the first byte has passed.

        Raises:
            _TooLateError: it has. ``written`` is then whether a byte was written before.
        """
        if self.not_after is not None and self.not_after.has_passed():
            self.written = bytes_written > 0
            self.too_late = not self.written
            raise _TooLateError


_exchange: ContextVar[_Exchange] = ContextVar("aivideo_exchange")


class _Deadlines:
    """The deadlines of all requests, with a single timer.

    Not ``anyio.fail_after``, whose timer and scope per request take a tenth of a request's CPU
    (10 µs of 90, measured; ``asyncio.timeout`` 5 µs, this 1 µs). Like them, this cancels the task
    whose deadline has passed; ``expired`` then tells it from a task that its caller cancelled.
    """

    __slots__ = ("_open", "_timer")

    def __init__(self) -> None:
        self._open: dict[_Exchange, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, exchange: _Exchange) -> None:
        self._open[exchange] = None
        timer = self._timer
        if timer is None or exchange.due < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(exchange.due, self._expire)

    def remove(self, exchange: _Exchange) -> None:
        del self._open[exchange]
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now, soonest = asyncio.get_running_loop().time(), float("inf")
        for exchange in self._open:
            if exchange.expired:
                continue
            if exchange.due <= now:
                exchange.expired = True
                exchange.task.cancel()
            else:
                soonest = min(soonest, exchange.due)
        if soonest < float("inf"):
            self._timer = asyncio.get_running_loop().call_at(soonest, self._expire)


@lru_cache(maxsize=1024)
def _url(text: str) -> yarl.URL:
    """Parse a URL without changing it; cached, since every create has the same URL."""
    import yarl

    return yarl.URL(text, encoded=True)


@cache
def _connector_class() -> type[aiohttp.TCPConnector]:
    import aiohttp  # here: importing aivideo must not cost what aiohttp costs

    class Connector(aiohttp.TCPConnector):
        """Records that a request was assigned a connection, and assigns at most one per request."""

        async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
            exchange = _exchange.get()
            if exchange.written:
                raise aiohttp.ClientConnectionError(
                    "the connection was closed; the request is not repeated"
                )
            while True:
                connection = await super().connect(req, traces, timeout)
                protocol = connection.protocol
                since = getattr(protocol, "aivideo_last_used", None)
                if (
                    since is None
                    or req.method != "POST"
                    or 0 <= asyncio.get_running_loop().time() - since <= POST_MAX_IDLE
                ):
                    break
                connection.close()
            exchange.protocol = protocol
            exchange.written = True
            return connection

    return Connector


@cache
def _body_class() -> type[aiohttp.BytesPayload]:
    import aiohttp

    class Body(aiohttp.BytesPayload):
        """The body of a request that has a deadline for its first byte."""

        async def write_with_length(self, writer: Any, content_length: int | None) -> None:
            # The head is still in the writer: it is written together with this body. If aiohttp
            # should write it earlier, output_size tells, and the request does not count as unsent.
            _exchange.get().check_not_too_late(bytes_written=writer.output_size)
            await super().write_with_length(writer, content_length)

    return Body


def _checked_proxy(proxy: str, name: str) -> str:
    if not catalog.is_web_url(proxy):
        shown = f"…@{proxy.rpartition('@')[2]}" if "@" in proxy else proxy  # no password
        raise ConfigurationError(
            f"{name}={shown!r} must be an http:// or https:// URL, such as http://proxy.example:3128"
        )
    return _Proxy(proxy)


class _Proxy(str):
    """A proxy's URL, whose ``repr`` hides the password: tracebacks may show local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(scrub(str(self)))


def _proxies_of_environment() -> dict[str, str]:
    from urllib.request import getproxies

    found = getproxies()
    chosen = {scheme: found.get(scheme) or found.get("all") for scheme in ("http", "https")}
    return {
        scheme: _checked_proxy(proxy, f"{scheme}_proxy")
        for scheme, proxy in chosen.items()
        if proxy
    }


class AiohttpTransport:
    """The default transport of a :class:`~aivideo.Session`, over aiohttp.

    Args:
        proxy: the URL of an HTTP proxy for all requests; it may contain a user and a password.
        ssl: an ``ssl.SSLContext``, for a private certificate authority for example.
        trust_env: read ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` from the
            environment. Nothing else is read: no password from a ``.netrc``, for example.

    Raises:
        ConfigurationError: ``proxy``, or a proxy in the environment, is not an http(s) URL.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ssl: ssl_module.SSLContext | None = None,
        trust_env: bool = False,
    ) -> None:
        self._proxy = None if proxy is None else _checked_proxy(proxy, "proxy")
        self._ssl = ssl
        self._proxies = _proxies_of_environment() if trust_env else {}
        self._api: aiohttp.ClientSession | None = None
        self._results: aiohttp.ClientSession | None = None
        self._deadlines = _Deadlines()
        self._closed = False

    def __repr__(self) -> str:
        return f"<AiohttpTransport {'closed' if self._closed else 'open'}>"

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """Send one request exactly once; see :meth:`Transport.send`."""
        session = self._api or self._open()

        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        exchange = _Exchange(task, loop.time() + timeout)
        cancels = task.cancelling()
        token = _exchange.set(exchange)
        self._deadlines.add(exchange)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await session.request(
                method,
                _url(url),
                headers=headers,
                data=body if exchange.not_after is None or not body else _body_class()(body),
                allow_redirects=False,
                proxy=self._proxy_for(url),
            )
            content = await response.read()
        except asyncio.CancelledError:
            if response is not None:
                response.close()
            if not exchange.expired or task.uncancel() > cancels:
                raise  # the caller was cancelled, not (only) this request
            raise APITimeoutError(
                f"no answer to {method} within {timeout:g} s"
                + ("" if exchange.written else " (no connection)"),
                written=exchange.written,
            ) from None
        except Exception as error:
            # Not only ClientError and OSError: an answer that is not HTTP is a ValueError, for
            # example. An error without `written` would leave a POST without a verdict.
            if response is not None:
                response.close()
            if exchange.too_late:
                raise send_deadline.too_late() from None
            raise APIConnectionError(
                f"{method} failed: {type(error).__name__}: {error}", written=exchange.written
            ) from None
        finally:
            self._deadlines.remove(exchange)
            _exchange.reset(token)
        if exchange.protocol is not None:
            exchange.protocol.aivideo_last_used = loop.time()
        kept: dict[str, str] = {}
        if response.status != 200:
            found = response.headers
            kept = {name: found[name] for name in _KEPT_HEADERS if name in found}
        return Answer(response.status, content, kept)

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AsyncGenerator[Incoming]:
        """Start a ``GET`` of a result; see :meth:`Transport.stream`."""
        if self._results is None:
            self._open()
        session = self._results
        assert session is not None
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        try:
            response = await session.get(
                _url(url), headers=headers, timeout=limits, proxy=self._proxy_for(url)
            )
        except Exception as error:
            # Not chained, and without its text: both may contain the signed URL.
            raise APIConnectionError(
                f"no response from the result's server: {type(error).__name__}", written=True
            ) from None
        try:
            yield _AiohttpIncoming(response)
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def aclose(self) -> None:
        """Close all connections; a closed transport sends no more requests."""
        self._closed = True
        sessions, self._api, self._results = (self._api, self._results), None, None
        for session in sessions:
            if session is not None:
                await session.close()

    def _proxy_for(self, url: str) -> str | None:
        if self._proxy is not None or not self._proxies:
            return self._proxy
        from urllib.request import proxy_bypass  # NO_PROXY

        parts = urlsplit(url)
        bypassed = proxy_bypass(parts.netloc.rpartition("@")[2])
        return None if bypassed else self._proxies.get(parts.scheme)

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise APIConnectionError("the transport is closed", written=False)
        import aiohttp

        settings: dict[str, Any] = {"limit": 0}  # the rate limiter bounds the requests in flight
        if self._ssl is not None:
            settings["ssl"] = self._ssl
        connector = _connector_class()(**settings)
        common: dict[str, Any] = {
            "cookie_jar": aiohttp.DummyCookieJar(),
            "timeout": aiohttp.ClientTimeout(total=None),  # send() sets the deadline
            # Never aiohttp's own trust_env: it also reads passwords from ~/.netrc, which would
            # conflict with the API key, or be sent to the servers of results.
            "trust_env": False,
        }
        self._api = aiohttp.ClientSession(connector=connector, **common)
        self._results = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(**settings), auto_decompress=False, **common
        )
        return self._api


class _AiohttpIncoming:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in response.headers.items()
        }

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except Exception as error:
            raise APIConnectionError(
                f"the result's body broke off: {type(error).__name__}", written=True
            ) from None
