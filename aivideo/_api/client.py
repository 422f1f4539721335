"""One coroutine per endpoint: no waiting, no retries, no state.

:class:`Client` is for programs that pace their requests and record their jobs themselves; most
programs want :class:`~aivideo.Session`, which is built on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self, TypeVar

from aivideo import catalog as catalogs
from aivideo._api import callback_tokens as callbacks
from aivideo._api import send_deadline, verdict, wire
from aivideo._api.send_deadline import SendDeadline
from aivideo._api.transport import AiohttpTransport, Transport
from aivideo._secrets import Secret, SecretHeaders, seal
from aivideo._version import __version__
from aivideo.errors import APIConnectionError, APIStatusError, InvalidRequestError, ResponseError
from aivideo.models import Credits, Request, Task, TaskId
from aivideo.settings import DEFAULT_REQUEST_TIMEOUT, SessionSettings

_USER_AGENT = f"aivideo-python/{__version__}"


class Client:
    """The endpoints, one coroutine each.

    ::

        async with Client() as client:
            task_id = await client.create(Sora2("A paper boat", duration=4, aspect_ratio="16:9"))
            task = await client.retrieve(task_id)
            balance = (await client.credits()).balance

    Args:
        api_key: ``sk-…``; by default ``AIVIDEO_API_KEY``.
        base_url: by default ``AIVIDEO_BASE_URL``, otherwise the service's own. A trailing ``/v1``
            is dropped.
        request_timeout: seconds for one request, connecting included.
        transport: what sends the requests; the client closes only a transport that it created.
        catalog: where the endpoint of each model is found; None: the built-in catalogue.
        allow_insecure: allow an ``http://`` base URL to a host other than this machine.

    Raises:
        ConfigurationError: an argument is invalid.
    """

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str | None = None,
        request_timeout: float = DEFAULT_REQUEST_TIMEOUT,
        transport: Transport | None = None,
        catalog: catalogs.Catalog | None = None,
        allow_insecure: bool = False,
    ) -> None:
        api_key = seal(api_key)  # first: a traceback may show this frame's locals
        self._use(
            SessionSettings(
                api_key=api_key,
                base_url=base_url,
                request_timeout=request_timeout,
                transport=transport,
                catalog=catalog,
                allow_insecure=allow_insecure,
            )
        )

    @classmethod
    def of(cls, settings: SessionSettings) -> Self:
        """Make a client with validated settings; it uses those that concern single requests.

        Raises:
            ConfigurationError: with ``trust_env``, a proxy that the environment names is invalid.
        """
        client = cls.__new__(cls)
        client._use(settings)
        return client

    def _use(self, settings: SessionSettings) -> None:
        self._key = settings.api_key
        self._catalog = settings.catalog
        self.base_url: str = settings.base_url
        self.request_timeout: float = settings.request_timeout
        self._owns_transport = settings.transport is None
        self.transport: Transport = _transport_of(settings)
        self._get_headers = SecretHeaders(
            {"Authorization": f"Bearer {self._key.reveal()}", "User-Agent": _USER_AGENT}
        )
        self._post_headers = SecretHeaders(self._get_headers | {"Content-Type": "application/json"})

    def __repr__(self) -> str:
        return f"<Client {getattr(self, 'base_url', 'not initialized')}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the transport's connections, if this client created the transport."""
        if self._owns_transport:
            await self.transport.aclose()

    def callback_secret(self, stated: Secret | None) -> bytes:
        """Return what callback tokens are made with: as given, otherwise derived from the key."""
        if stated is None:
            return callbacks.derived_secret(self._key.reveal())
        return stated.reveal().encode()

    async def create(self, request: Request, *, callback_url: str | None = None) -> TaskId:
        """``POST`` a paid generation, once, and return the id of the new task.

        Args:
            request: the request; it costs ``request.credits``.
            callback_url: where the service reports the end of the task, or None.

        Raises:
            APIStatusError: the service answered with an error; its class names the row of the
                error table. After a 500 or 503 the task may or may not have been created.
            APIConnectionError: no response. If its ``written`` is True, the task may have been
                created and charged: do not send the request again.
            ResponseError: a response that does not say whether the task was created. Do not send
                the request again.
        """
        match await self.submit(request, callback_url=callback_url):
            case verdict.Accepted(task_id):
                return task_id
            case other:
                raise other.error

    async def submit(
        self,
        request: Request,
        *,
        callback_url: str | None = None,
        not_after: SendDeadline | None = None,
    ) -> verdict.Verdict:
        """``POST`` a paid generation, once, and return what became of it as a verdict.

        Arguments as for :meth:`create`. Errors of this package become part of the verdict.

        Args:
            request: the request; it costs ``request.credits``.
            callback_url: where the service reports the end of the task, or None.
            not_after: until when the first byte may be written; later, nothing is written, and the
                verdict is ``Unsent``. None: there is no such limit.
        """
        response: wire.Answer | APIConnectionError
        endpoint = self._catalog.find(request.model).endpoint
        message = wire.create(request, callback_url, endpoint=endpoint)
        try:
            token = send_deadline.CURRENT.set(not_after)
            try:
                # A transport may wait before it writes; ours checks this again then.
                if not_after is not None and not_after.has_passed():
                    raise send_deadline.too_late()
                response = await self._send(message)
            except APIConnectionError as error:
                response = error
            finally:
                send_deadline.CURRENT.reset(token)
            return verdict.of_create(response, wall_now=time.time())
        except Exception as error:
            # A custom transport raised an error that is not ours: the POST may have been sent.
            what = f"the transport raised {type(error).__name__}: {error}"
            return verdict.Unknown(APIConnectionError(what, written=True))

    async def retrieve(self, task_id: TaskId) -> Task:
        """``GET`` a task.

        Raises:
            APIStatusError: the service answered with an error (:class:`~aivideo.TaskNotFoundError`,
                for example).
            APIConnectionError: no response.
            ResponseError: the response is not a task, or is another task.
            InvalidRequestError: ``task_id`` is blank; nothing was sent.
        """
        if not catalogs.is_name(task_id):
            raise InvalidRequestError.because(
                "task_id", task_id, "must be the id of a task", "take it from job.task_id"
            )
        answer = await self._send(wire.retrieve(task_id))
        task = _read(answer, wire.read_task)
        if task.id != task_id:
            raise ResponseError(
                f"response is for task {task.id}, expected {task_id}",
                status=answer.status,
                body=answer.body,
            )
        return task

    async def credits(self) -> Credits:
        """``GET`` the account's credits; raises like :meth:`retrieve`."""
        return _read(await self._send(wire.balance()), wire.read_credits)

    async def _send(self, message: wire.Message) -> wire.Answer:
        return await self.transport.send(
            message.method,
            self.base_url + message.path,
            self._get_headers if message.body is None else self._post_headers,
            message.body,
            self.request_timeout,
        )


def _transport_of(settings: SessionSettings) -> Transport:
    if settings.transport is not None:
        return settings.transport
    return AiohttpTransport(
        proxy=None if settings.proxy is None else settings.proxy.reveal(),
        trust_env=settings.trust_env,
    )


_T = TypeVar("_T")


def _read(answer: wire.Answer, reader: Callable[[wire.Answer], _T]) -> _T:
    """Read a response; add to an error how long the service asked to wait."""
    try:
        return reader(answer)
    except APIStatusError as error:
        error.retry_after = wire.retry_after(answer, wall_now=time.time())
        raise
