"""Bytes to the service and back: the one file that names aiohttp's client.

Everything above asks a :class:`Transport`, a Protocol of three methods, so a test or a proxy of
one's own can stand in its place. aiohttp's errors become ours here, each with the one fact that
money depends on: may a byte of the request have been written?

How :class:`AiohttpTransport` knows: a request's bytes are written only after the connector has
handed out a connection, so its ``connect`` is where "not a byte" ends. Whatever fails before that
(no route, DNS, TLS, a proxy that refused ``CONNECT``, a timeout while connecting) is provably
unsent; whatever fails after it is not, whichever exception it raises. This errs on the safe side
only: a connection that dies between the two counts as written.

Three habits of HTTP clients are switched off, since each would send a paid POST twice or unseen
(tried against aiohttp 3.14; pinned by ``tests/api/test_transport.py``):

* A redirect is an answer, not an order: a 307 would carry the POST's body to another origin.
* aiohttp silently sends a GET again when a reused connection turns out dead. Here the second
  ``connect`` of one request is refused, so each request the pace granted is at most one request.
* Servers close idle connections, and a POST that meets the closing one is lost in a way nobody
  can tell from taken. So a POST goes only over a connection that is fresh or was in use a moment
  ago (``POST_MAX_IDLE``).
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
from aivideo._api.wire import Answer
from aivideo._redaction import scrub
from aivideo.errors import APIConnectionError, APITimeoutError, ConfigurationError

if TYPE_CHECKING:
    import ssl as ssl_module

    import aiohttp
    import yarl

POST_MAX_IDLE = 0.5
"""Seconds a connection may have lain idle and still carry a POST. Common servers close after 5 s
and more; under half a second of it, the race is theirs to lose."""

_KEPT_HEADERS = ("retry-after", "date", "x-request-id", "content-type", "location")


class Incoming(Protocol):
    """A streamed answer: ``status``, ``headers`` with lower-case names, and the body in chunks."""

    status: int
    headers: Mapping[str, str]

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            APIConnectionError: the connection broke before the body's promised end.
        """
        ...


class Transport(Protocol):
    """What carries requests. A fake in a test needs no more than these."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        """Send one request exactly once, follow nothing, and return the whole answer.

        Args:
            method: "GET" or "POST".
            url: the absolute URL, percent-encoded.
            headers: to be sent as they are; the key is among them.
            body: JSON, or None.
            timeout: seconds for all of it, connecting included.

        Raises:
            APIConnectionError: no answer; ``written`` says whether a byte may have left.
            APITimeoutError: no answer within ``timeout``; likewise.
        """
        ...

    def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AbstractAsyncContextManager[Incoming]:
        """Open ``url``, which is a stranger's (a result's): no key goes there.

        Args:
            url: the absolute URL, used as it is.
            headers: to be sent as they are; never an ``Authorization``.
            timeout: seconds without a byte after which it counts as broken.

        Raises:
            APIConnectionError: no answer.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...


class _Passage:
    """One request on its way: whether a connection was handed out for it, and until when it may."""

    __slots__ = ("due", "expired", "protocol", "task", "written")

    def __init__(self, task: asyncio.Task[Any], due: float) -> None:
        self.task = task
        self.due = due
        self.expired = False
        self.written = False
        self.protocol: Any = None


_passage: ContextVar[_Passage] = ContextVar("aivideo_passage")


class _Deadlines:
    """One timer for all requests. ``asyncio.timeout`` makes one each: a tenth of a request's CPU.

    An expired request is cancelled, as ``asyncio.timeout`` does it, and told apart from one whose
    caller was cancelled by ``expired``.
    """

    __slots__ = ("_open", "_timer")

    def __init__(self) -> None:
        self._open: dict[_Passage, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, passage: _Passage) -> None:
        self._open[passage] = None
        timer = self._timer
        if timer is None or passage.due < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(passage.due, self._expire)

    def remove(self, passage: _Passage) -> None:
        del self._open[passage]
        if not self._open and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now, soonest = asyncio.get_running_loop().time(), float("inf")
        for passage in self._open:
            if passage.expired:
                continue
            if passage.due <= now:
                passage.expired = True
                passage.task.cancel()
            else:
                soonest = min(soonest, passage.due)
        if soonest < float("inf"):
            self._timer = asyncio.get_running_loop().call_at(soonest, self._expire)


@lru_cache(maxsize=1024)
def _url(text: str) -> yarl.URL:
    """Parse a URL as it is; every create has the same one."""
    import yarl

    return yarl.URL(text, encoded=True)


@cache
def _connector_class() -> type[aiohttp.TCPConnector]:
    import aiohttp  # here: importing aivideo must not cost what aiohttp costs

    class Connector(aiohttp.TCPConnector):
        """Notes when a connection is handed out, and hands out one a request."""

        async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
            passage = _passage.get()
            if passage.written:
                raise aiohttp.ClientConnectionError("not sent again: one request, one sending")
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
            passage.protocol = protocol
            passage.written = True
            return connection

    return Connector


def _checked_proxy(proxy: str, name: str) -> str:
    if not catalog.is_web_url(proxy):
        shown = f"…@{proxy.rpartition('@')[2]}" if "@" in proxy else proxy  # no password
        raise ConfigurationError(
            f"{name}={shown!r} must be an http:// or https:// URL, such as http://proxy.example:3128"
        )
    return _Proxy(proxy)


class _Proxy(str):
    """A proxy's URL; its password is not shown by tracebacks with locals."""

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
    """The transport that a :class:`~aivideo.Session` uses unless it is given another.

    Args:
        proxy: URL of an HTTP proxy for all requests; it may hold a user and a password.
        ssl: an ``ssl.SSLContext`` of your own (a private certificate authority, say).
        trust_env: take proxies from ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
            ``NO_PROXY``. Nothing else is taken from there: no password from a ``.netrc``.

    Raises:
        ConfigurationError: ``proxy``, or one that the environment names, is no http(s) URL.
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
        passage = _Passage(task, loop.time() + timeout)
        cancels = task.cancelling()
        token = _passage.set(passage)
        self._deadlines.add(passage)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await session.request(
                method,
                _url(url),
                headers=headers,
                data=body,
                allow_redirects=False,
                proxy=self._proxy_for(url),
            )
            content = await response.read()
        except asyncio.CancelledError:
            if response is not None:
                response.close()
            if not passage.expired or task.uncancel() > cancels:
                raise  # its caller was cancelled
            raise APITimeoutError(
                f"no answer to {method} within {timeout:g} s"
                + ("" if passage.written else " (never connected)"),
                written=passage.written,
            ) from None
        except Exception as error:
            # Whatever it is: ClientError and OSError are not all (an answer that is no HTTP is a
            # ValueError, say), and an error without `written` would leave a POST without a verdict.
            if response is not None:
                response.close()
            raise APIConnectionError(
                f"{method} failed: {type(error).__name__}: {error}", written=passage.written
            ) from None
        finally:
            self._deadlines.remove(passage)
            _passage.reset(token)
        if passage.protocol is not None:
            passage.protocol.aivideo_last_used = loop.time()
        kept: dict[str, str] = {}
        if response.status != 200:
            found = response.headers
            kept = {name: found[name] for name in _KEPT_HEADERS if name in found}
        return Answer(response.status, content, kept)

    @asynccontextmanager
    async def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AsyncGenerator[Incoming]:
        """Open a result's URL without a key; see :meth:`Transport.stream`."""
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
            # Not chained, and without its text: both may hold the signed URL.
            raise APIConnectionError(
                f"the result's origin did not answer: {type(error).__name__}", written=True
            ) from None
        try:
            yield _AiohttpIncoming(response)
        finally:
            response.release() if response.content.at_eof() else response.close()

    async def aclose(self) -> None:
        """Close every connection; a closed transport sends nothing more."""
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

        settings: dict[str, Any] = {"limit": 0}  # the limiter bounds what is in flight
        if self._ssl is not None:
            settings["ssl"] = self._ssl
        connector = _connector_class()(**settings)
        common: dict[str, Any] = {
            "cookie_jar": aiohttp.DummyCookieJar(),
            "timeout": aiohttp.ClientTimeout(total=None),  # send() has the one deadline
            # Never aiohttp's own trust_env: it reads passwords from ~/.netrc too, which then
            # collide with our key, or travel to the results' origin.
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
                f"the result broke off: {type(error).__name__}", written=True
            ) from None
