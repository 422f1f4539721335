"""Client: valid API keys and base URLs, secrets in tracebacks, and idle connections."""

from __future__ import annotations

import asyncio
import itertools
import json
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from aivideo import (
    Client,
    ConfigurationError,
    DownloadError,
    ResponseError,
    Session,
    Sora2,
    SubmitUnknownError,
)
from aivideo._api import transport, verdict, wire
from aivideo._api.send_deadline import ClaimLapsedError, SendDeadline
from aivideo._api.transport import Incoming
from aivideo._api.wire import Answer
from aivideo.catalog import Model, default_catalog
from aivideo.delivery import download
from aivideo.simulator import Fault, Scenario, serve

pytestmark = pytest.mark.anyio

BOAT = Sora2("A paper boat", duration=4, aspect_ratio="16:9")


def shown_by_our_frames(error: BaseException) -> str:
    """Return what a traceback with locals shows of this package's frames."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    package = str(Path(transport.__file__).parents[1])
    ours = [frame for frame in told.stack if frame.filename.startswith(package)]
    assert ours
    values = [value for frame in ours for value in (frame.locals or {}).values()]
    return "\n".join([*values, str(error), repr(error)])


@pytest.mark.parametrize(
    "settings",
    [{"max_running_jobs": -1}, {"base_url": "ftp://x"}, {"request_timeout": 0.0}],
    ids=["session", "base url", "client"],
)
def test_an_error_about_a_setting_does_not_show_the_key(settings: dict[str, object]) -> None:
    key = "sk-" + "0123456789"
    with pytest.raises(ConfigurationError) as caught:
        Session(key, **settings)  # type: ignore[arg-type]
    assert "0123456789" not in shown_by_our_frames(caught.value)


@pytest.mark.parametrize("ending", [" x", "\n2", "é"])
def test_an_invalid_key_is_not_shown(ending: str) -> None:
    key = "sk-" + "0123456789" + ending
    for maker in (Session, Client):
        with pytest.raises(ConfigurationError) as caught:
            maker(key)
        assert "0123456789" not in shown_by_our_frames(caught.value)


def test_a_key_passed_as_base_url_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="needs a scheme") as caught:
        Client("sk-x", base_url="sk-" + "0123456789")
    assert "0123456789" not in str(caught.value)


def test_a_key_must_be_a_str() -> None:
    with pytest.raises(ConfigurationError, match="must be a str, not bytes"):
        Client(b"sk-bytes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "base_url",
    ["http://127.0.0.1:1/a b", "http://127.0.0.1:1/\r\nX-Injected: y", "https://例え.example"],
)
def test_a_base_url_with_a_character_that_no_url_may_contain_is_refused(base_url: str) -> None:
    with pytest.raises(ConfigurationError, match="no URL may"):
        Client("sk-x", base_url=base_url)


@pytest.mark.parametrize(
    "base_url",
    ["http://127.0.0.1:8811/", "http://[::1]:8811", "http://localhost:8811/behind/a/prefix/"],
)
def test_a_loopback_url_may_be_plain_http_and_have_a_path(base_url: str) -> None:
    assert Client("sk-x", base_url=base_url).base_url == base_url.rstrip("/")


def test_a_trailing_version_is_not_sent_twice() -> None:
    assert Client("sk-x", base_url="http://localhost:8811/v1/").base_url == "http://localhost:8811"


async def test_a_create_goes_to_the_endpoint_of_the_client_s_catalogue() -> None:
    mine = default_catalog().with_models(Model(name="song-1", endpoint="/v1/music/generations"))
    sent: list[str] = []

    class Recorder(Broken):
        async def send(
            self,
            method: str,
            url: str,
            headers: Mapping[str, str],
            body: bytes | None,
            timeout: float,
        ) -> Answer:
            sent.append(url)
            return Answer(200, b'{"code":200,"data":{"taskId":"t"}}')

    client = Client("sk-x", base_url="http://localhost", transport=Recorder(), catalog=mine)
    assert await client.create(mine.request("song-1", prompt="A boat")) == "t"
    assert sent == ["http://localhost/v1/music/generations"]


async def test_a_response_for_another_task_is_an_error() -> None:
    other = b'{"id":"t2","status":"pending","model":"m","created_at":1}'

    class Mistaken(Broken):
        async def send(
            self,
            method: str,
            url: str,
            headers: Mapping[str, str],
            body: bytes | None,
            timeout: float,
        ) -> Answer:
            return Answer(200, other)

    client = Client("sk-x", base_url="http://localhost", transport=Mistaken())
    with pytest.raises(ResponseError, match="response is for task t2, expected t1"):
        await client.retrieve("t1")


async def test_a_failed_download_does_not_show_the_signed_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    scenario = Scenario(media="stub", task_seconds=5.0, failure_rate=0.0)
    async with serve(scenario) as sim, Session("sk-x", base_url=sim.url) as session:
        job = await session.submit(BOAT)
        signature = (await job).urls[0].partition("X-Signature=")[2]
        assert signature
        sim.hook = lambda *_: Fault.RESET
        for target in (tmp_path / "boat.mp4", tmp_path):
            with pytest.raises(DownloadError) as caught:
                await job.save(target)
            assert signature not in shown_by_our_frames(caught.value)
            sim.hook = None


@asynccontextmanager
async def closing_idle_connections(idle_close: float) -> AsyncIterator[tuple[str, list[int]]]:
    """Serve creates; close a connection that was idle too long when its next request arrives.

    The client of a distant server sees the same: its request and the server's close cross on the
    way. On loopback with a virtual clock, a client always sees a close that comes in time.
    """
    lost: list[int] = []
    counter = itertools.count()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        used: float | None = None
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].split()[0])
                await reader.readexactly(length)
                number = next(counter)
                now = asyncio.get_running_loop().time()
                if used is not None and now - used >= idle_close:
                    lost.append(number)
                    return
                used = now
                body = json.dumps({"code": 200, "data": {"taskId": f"t-{number}"}}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lost
        await asyncio.sleep(0.01)


async def slow_creates(base_url: str, callers: int, creates: int) -> list[verdict.Verdict]:
    """Let each caller send a create every 7 s; all share the connections of one client."""
    async with Client("sk-x", base_url=base_url) as client:

        async def caller(number: int) -> list[verdict.Verdict]:
            heard: list[verdict.Verdict] = []
            await asyncio.sleep(number * 0.31)
            for _ in range(creates):
                heard.append(await client.submit(BOAT))
                await asyncio.sleep(7.0)
            return heard

        told = await asyncio.gather(*(caller(number) for number in range(callers)))
        await asyncio.sleep(1)
    return [each for one in told for each in one]


@pytest.mark.parametrize("callers", [1, 10])
async def test_slow_creates_never_use_a_connection_that_the_server_closes(callers: int) -> None:
    async with closing_idle_connections(5.0) as (base_url, lost):
        heard = await slow_creates(base_url, callers, 1000 // callers)
    assert len(heard) == 1000
    assert all(isinstance(each, verdict.Accepted) for each in heard)
    assert lost == []


async def test_reusing_any_open_connection_would_lose_creates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "POST_MAX_IDLE", 60.0)
    async with closing_idle_connections(5.0) as (base_url, lost):
        heard = await slow_creates(base_url, 1, 10)
    assert len(lost) == 5  # every second one: the next finds no connection, and opens one
    assert sum(isinstance(each, verdict.Unknown) for each in heard) == 5


class Broken:
    """A custom transport that raises after the request was sent."""

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, timeout: float
    ) -> Answer:
        raise RuntimeError("a defect")

    def stream(
        self, url: str, headers: Mapping[str, str], timeout: float
    ) -> AbstractAsyncContextManager[Incoming]:
        raise NotImplementedError

    async def aclose(self) -> None:
        return None


async def test_a_late_create_does_not_reach_any_transport() -> None:
    clock = iter([(0.0, 0.0), (0.0, 85.0)])
    late = SendDeadline.after(85.0, clock.__next__)
    heard = await Client("sk-x", transport=Broken()).submit(BOAT, not_after=late)
    assert isinstance(heard, verdict.Unsent)
    assert isinstance(heard.error, ClaimLapsedError)
    assert "nothing was sent" in str(heard.error)


@pytest.fixture
async def broken() -> AsyncIterator[Session]:
    async with Session("sk-x", transport=Broken()) as session:
        yield session


async def test_an_unexpected_error_of_a_transport_makes_the_create_unknown(
    broken: Session,
) -> None:
    heard = await Client("sk-x", transport=Broken()).submit(BOAT)
    assert isinstance(heard, verdict.Unknown)
    job = await broken.enqueue(BOAT)
    with pytest.raises(SubmitUnknownError, match="a defect"):
        await job.submitted()
    assert job.status == "unknown"


def test_an_error_about_an_invalid_task_does_not_show_its_signed_url() -> None:
    body = b'{"id":"t","status":"completed","model":"m","created_at":1,"output":{"urls":["'
    body += b'https://results.example/a.mp4?X-Signature=0123456789"]}}'
    with pytest.raises(ResponseError, match="completed_at") as caught:
        wire.read_task(Answer(200, body))
    assert "0123456789" not in shown_by_our_frames(caught.value)


@pytest.mark.parametrize(
    "base", ["https://me.example/x?tenant=0123456789", "https://me.example/#x"]
)
def test_a_callback_base_url_with_a_query_is_refused_and_not_shown(base: str) -> None:
    with pytest.raises(ConfigurationError, match="without a query") as caught:
        Session("sk-test", callback_base_url=base)
    assert "0123456789" not in str(caught.value)
