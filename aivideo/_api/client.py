"""One coroutine per endpoint: no waiting, no repeating, no memory.

:class:`Client` is for those who bring their own pace and their own books; everybody else wants
:class:`~aivideo.Session`, which is built on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Self, TypeVar
from urllib.parse import urlsplit

from aivideo import catalog
from aivideo._api import callback_tokens as callbacks
from aivideo._api import verdict, wire
from aivideo._api.transport import AiohttpTransport, Transport
from aivideo._redaction import scrub
from aivideo._version import __version__
from aivideo.errors import (
    APIConnectionError,
    APIStatusError,
    ConfigurationError,
    InvalidRequestError,
    ResponseError,
)
from aivideo.models import Credits, Request, Task, TaskId

DEFAULT_BASE_URL = "https://api.aivideoapi.ai"
DEFAULT_REQUEST_TIMEOUT = 60.0
_USER_AGENT = f"aivideo-python/{__version__}"


class Secret:
    """A text that shows itself to nobody who did not ask for it by name."""

    __slots__ = ("_text",)

    def __init__(self, text: object) -> None:
        self._text = text.strip() if isinstance(text, str) else text

    def reveal(self) -> str:
        """Give the text itself."""
        return str(self._text)

    def problem(self) -> str | None:
        """Say why this can be no API key, or None where it can."""
        key = self._text
        if not isinstance(key, str):
            return f"the API key must be a str, not {type(key).__name__}"
        if not key:
            return (
                "no API key: set AIVIDEO_API_KEY, or pass api_key=… "
                "(to try without one: `aivideo demo`, or `aivideo simulate` and any key sk-…)"
            )
        if not key.startswith("sk-") or len(key) < 4:
            return "the API key must start with 'sk-': copy it whole from the dashboard"
        if not key.isascii() or not key.isprintable() or " " in key:
            return "the API key holds a space or an unprintable character: copy it again"
        return None

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> tuple[type[Secret], tuple[object]]:
        raise TypeError(
            "an API key is not pickled; take it from AIVIDEO_API_KEY where it is needed"
        )


class SecretHeaders(dict[str, str]):
    """Headers with the key among them; shows itself to nobody, be it in a traceback with locals."""

    def __repr__(self) -> str:
        return "<headers with the key>"


def seal(api_key: str | Secret | None) -> Secret | None:
    """Close a key up as soon as it comes: a traceback with locals shows what a frame holds."""
    return api_key if isinstance(api_key, Secret | None) else Secret(api_key)


def read_key(given: Secret | None) -> Secret:
    """Take the key from the argument, else from ``AIVIDEO_API_KEY``.

    Raises:
        ConfigurationError: there is none, or it is none (it must start with ``sk-``).
    """
    key = Secret(os.environ.get("AIVIDEO_API_KEY", "")) if given is None else given
    problem = key.problem()
    if problem is not None:
        raise ConfigurationError(problem)
    return key


def read_base_url(base_url: str | None, *, insecure: bool = False) -> str:
    """Take the base URL from the argument, else ``AIVIDEO_BASE_URL``, else the service's own.

    Args:
        base_url: scheme, host and perhaps a port and a path.
        insecure: allow ``http://`` to hosts that are not this machine.

    Raises:
        ConfigurationError: no scheme, no host, or the key would travel in clear.
    """
    url = os.environ.get("AIVIDEO_BASE_URL") or DEFAULT_BASE_URL if base_url is None else base_url
    url = url.strip()
    shown = scrub(repr(url))  # a key in the wrong place is a key all the same
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(
            f"base_url={shown} holds a character that no URL may; percent-encode the path, and "
            "write the host in its xn-- form"
        )
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"base_url={shown} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(
            f"base_url={shown} needs a scheme and a host, such as {DEFAULT_BASE_URL}"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("base_url must not hold a user, a query or a fragment")
    if parts.scheme == "http" and not insecure and not _is_loopback(host):
        raise ConfigurationError(
            f"base_url={shown} would send the key in clear: use https://, or pass "
            "allow_insecure=True if you must"
        )
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    import ipaddress

    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Client:
    """The endpoints, one coroutine each.

    ::

        async with Client() as client:
            task_id = await client.create(Sora2("A paper boat", duration=4, aspect_ratio="16:9"))
            task = await client.retrieve(task_id)
            balance = (await client.credits()).balance

    Args:
        api_key: ``sk-…``; by default ``AIVIDEO_API_KEY``.
        base_url: by default ``AIVIDEO_BASE_URL``, else the service's own.
        request_timeout: seconds for one request, connecting included.
        transport: what carries the requests; it is closed with the client only if the client
            made it.
        allow_insecure: allow a plain ``http://`` base URL that is not this machine.

    Raises:
        ConfigurationError: a key or base URL that cannot work.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str | None = None,
        request_timeout: float = DEFAULT_REQUEST_TIMEOUT,
        transport: Transport | None = None,
        allow_insecure: bool = False,
    ) -> None:
        sealed = seal(api_key)
        del api_key
        self._key = read_key(sealed)
        if not request_timeout > 0:
            raise ConfigurationError(
                f"request_timeout={request_timeout!r} must be more than 0 seconds"
            )
        self.base_url = read_base_url(base_url, insecure=allow_insecure)
        self.request_timeout = request_timeout
        self.transport: Transport = AiohttpTransport() if transport is None else transport
        self._owns_transport = transport is None
        self._get_headers = SecretHeaders(
            {"Authorization": f"Bearer {self._key.reveal()}", "User-Agent": _USER_AGENT}
        )
        self._post_headers = SecretHeaders(self._get_headers | {"Content-Type": "application/json"})

    def __repr__(self) -> str:
        return f"<Client {getattr(self, 'base_url', 'not made')}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections of a transport that this client made."""
        if self._owns_transport:
            await self.transport.aclose()

    def callback_secret(self, stated: Secret | None) -> bytes:
        """Give what callback tokens are made with: as stated, else derived from the key."""
        if stated is None:
            return callbacks.derived_secret(self._key.reveal())
        return stated.reveal().encode()

    async def create(self, request: Request, *, callback_url: str | None = None) -> TaskId:
        """``POST`` a paid generation, once, and return the id of the task it made.

        Args:
            request: what to make; it costs ``request.credits``.
            callback_url: told by the service when the task has ended.

        Raises:
            APIStatusError: the service said no; its class tells which row of the error table. Of
                a 500 or 503 it is not documented whether the create was taken.
            APIConnectionError: no answer. If its ``written`` is True, the create may have been
                taken and charged: do not send it again.
            ResponseError: an answer that does not say whether it was taken. Do not send it again.
        """
        match await self.submit(request, callback_url=callback_url):
            case verdict.Accepted(task_id):
                return task_id
            case other:
                raise other.error

    async def submit(self, request: Request, *, callback_url: str | None = None) -> verdict.Verdict:
        """``POST`` a paid generation, once, and judge what came of it; raises nothing of ours."""
        heard: wire.Answer | APIConnectionError
        message = wire.create(request, callback_url)
        try:
            try:
                heard = await self._send(message)
            except APIConnectionError as error:
                heard = error
            return verdict.of_create(heard, wall_now=time.time())
        except Exception as error:
            # A transport of somebody's own that breaks in a way of its own: nothing is proved.
            what = f"the transport broke with {type(error).__name__}: {error}"
            return verdict.Unknown(APIConnectionError(what, written=True))

    async def retrieve(self, task_id: TaskId) -> Task:
        """``GET`` a task.

        Raises:
            APIStatusError: the service said no (:class:`~aivideo.TaskNotFoundError`, say).
            APIConnectionError: no answer.
            ResponseError: an answer that is no task.
            InvalidRequestError: ``task_id`` is blank; nothing was sent.
        """
        if not catalog.is_name(task_id):
            raise InvalidRequestError.because(
                "task_id", task_id, "must be the id of a task", "take it from job.task_id"
            )
        answer = await self._send(wire.retrieve(task_id))
        task = _read(answer, wire.read_task)
        if task.id != task_id:
            raise ResponseError(
                f"asked for task {task_id}, told of another", status=answer.status, body=answer.body
            )
        return task

    async def credits(self) -> Credits:
        """``GET`` the balance; raises like :meth:`retrieve`."""
        return _read(await self._send(wire.balance()), wire.read_credits)

    async def _send(self, message: wire.Message) -> wire.Answer:
        return await self.transport.send(
            message.method,
            self.base_url + message.path,
            self._get_headers if message.body is None else self._post_headers,
            message.body,
            self.request_timeout,
        )


_T = TypeVar("_T")


def _read(answer: wire.Answer, reader: Callable[[wire.Answer], _T]) -> _T:
    """Read an answer; a refusal learns how long it asked us to wait."""
    try:
        return reader(answer)
    except APIStatusError as error:
        error.retry_after = wire.retry_after(answer, wall_now=time.time())
        raise
